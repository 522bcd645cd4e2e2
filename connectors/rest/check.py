"""Whether a pipeline's REST blocks fit the server: read-only calls, and sentences about what holds."""

from zoneinfo import ZoneInfo

from connectors.contract import Idempotency, Problem, Report
from connectors.errors import CredentialsRefused, CrossdockError, SystemFault
from connectors.guarantees import IN_DOUBT, ONE_SENDER
from connectors.rest.config import PageNumber, RecordOffset, RestSourceConfig, RestWritebackConfig
from connectors.rest.pages import Pages
from connectors.rest.position import CursorReader
from connectors.rest.rules import Action, Rules, failure_of
from connectors.rest.wire import Wire
from schemas.values import Record

_LOOKED_AT = 20


def check_source(config: RestSourceConfig, wire: Wire, zone: ZoneInfo | None) -> Report:
    """Asks for the first page and looks at its first records.

    Raises:
        Retriable, CredentialsRefused: the system cannot be asked now.
    """
    reader = CursorReader(config.cursor, zone) if config.cursor is not None else None
    pages = Pages(config, wire)
    walk = pages.walk("" if reader is None else reader.asked(None), config.page)
    try:
        records = pages.read(walk, wire.clock.monotonic() + wire.patience)
    except CredentialsRefused:
        raise
    except SystemFault as fault:
        return Report([Problem(_place_of(fault), fault.message)])
    report = Report(guarantees=_of_source(config))
    if not records:
        report.guarantees.append("the listing is empty now: key and cursor could not be looked at")
    for record in records[:_LOOKED_AT]:
        problems = _of_record(record, config, reader)
        if problems:
            report.problems.extend(problems)
            break
    return report


def check_sink(config: RestWritebackConfig, wire: Wire) -> Report:
    """Asks for the collection, as no record is known here: any answer but a refusal of everything is good.

    Raises:
        Retriable, CredentialsRefused: the system cannot be reached, or does not let us in.
    """
    collection = config.path.partition("{")[0].rstrip("/") or "/"
    answer = wire.call("GET", collection, deadline=wire.clock.monotonic() + wire.patience)
    action = Rules(()).action(answer)
    report = Report(guarantees=[_second_effects(config)])
    if action in {Action.AUTH, Action.FAULT}:
        failure = failure_of(action, answer, f"GET {collection}", None)
        if isinstance(failure, CredentialsRefused):
            raise failure
        report.problems.append(Problem(("system",), failure.message))
    if config.undo:
        report.guarantees.append(
            f"undo: each record is read before it is written; a field that GET {config.path} does not show cannot be "
            "restored, nor can a record that another changes between, where the server has no ETags"
        )
    if config.if_match is None and config.post is None:
        report.guarantees.append("no if_match: a change that another made meanwhile is overwritten")
    return report


def _second_effects(config: RestWritebackConfig) -> str:
    """Whether a repeated write can be a second effect (I2)."""
    match config.idempotency:
        case Idempotency.NATURAL:
            return "I2 holds if the server honours If-Match: a repetition finds the ETag moved, and its values there"
        case Idempotency.KEY:
            return (
                f"I2 holds if the server checks {config.idempotency_header} before anything else, and remembers a key "
                "for as long as writes are repeated"
            )
        case Idempotency.READBACK if config.readback is not None:
            settle = config.readback.settle.total_seconds()
            return (
                f"I2 holds {ONE_SENDER}: {config.readback.get} is asked for the write before it is sent, and after a "
                f"lost answer once {settle:g} s are over"
            )
        case Idempotency.READBACK:
            return (
                "I2 does not hold if another changes the record between a lost answer and the look: a write is known "
                "by its values alone; an idempotency key or `if_match:` would tell"
            )
    return IN_DOUBT


def _of_record(record: Record, config: RestSourceConfig, reader: CursorReader | None) -> list[Problem]:
    fields = ", ".join(sorted(record))
    problems = [
        Problem(("key", i), f"no usable field {name!r} in the first records; there: {fields}")
        for i, name in enumerate(config.key)
        if record.get(name) is None or isinstance(record[name], dict | list)
    ]
    if reader is not None:
        try:
            reader.mark(record)
        except CrossdockError as error:
            problems.append(Problem(("cursor", "path"), f"{error.message}; there: {fields}"))
    return problems


def _of_source(config: RestSourceConfig) -> list[str]:
    said = ["the cursor is the server's; each look reads the overlap again and drops what was seen"]
    if config.cursor is None:
        said = ["no cursor: everything is read at each look, and versions are numbered as they come"]
    elif config.cursor.type == "text":
        said = ["a text cursor orders the listing only; versions are numbered as they come"]
    if isinstance(config.paging, PageNumber | RecordOffset):
        said.append(
            "counted pages: a listing of several pages is read until a pass finds nothing new (up to 100,000 records); "
            "with more, a record that slips over a page's border is missed until it changes again"
        )
    elif config.sorted and config.cursor is not None:
        said.append(f"the listing must ascend by {config.cursor.path!r}; a page that does not stops the source")
    return said


def _place_of(fault: SystemFault) -> tuple[str | int, ...]:
    return {"records": ("records",), "paging": ("paging",), "foreign-origin": ("paging",), "cursor": ("cursor",)}.get(
        fault.code, ("path",)
    )
