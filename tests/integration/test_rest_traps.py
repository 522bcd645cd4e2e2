"""What real REST servers do to a reader and a writer, each trap played by a small server on a real socket."""

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from connectors.clock import SystemClock
from connectors.contract import Readable, SourceTask, System
from connectors.errors import ConfigError, CredentialsRefused, Retriable, SystemFault, Throttled
from connectors.refusals import is_suspected
from connectors.rest.config import RestSourceConfig, RestSystemConfig, RestWritebackConfig
from schemas.change import Change, Op
from schemas.outcome import Outcome
from schemas.write import Write

CLOCK = SystemClock()


class Asked:
    """One request, as the server saw it."""

    def __init__(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        self.method, self.headers, self.body = method, headers, body
        self.path, query = urlsplit(target).path, urlsplit(target).query
        self.query = {name: values[0] for name, values in parse_qs(query).items()}


Reply = tuple[int, dict[str, str], bytes]


def reply(value: Any, status: int = 200, **headers: str) -> Reply:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return status, {"Content-Type": "application/json", **headers}, body


class Trap:
    """A server whose answers are a function of the request."""

    def __init__(self) -> None:
        trap = self
        self.asked: list[Asked] = []
        self.answer: Callable[[Asked], Reply] = lambda asked: reply({"items": []})

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                asked = Asked(self.command, self.path, dict(self.headers.items()), body)
                trap.asked.append(asked)
                status, headers, content = trap.answer(asked)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PATCH = answer  # noqa: N815 - the library's names

            def log_message(self, *_: Any) -> None: ...

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def trap() -> Iterator[Trap]:
    server = Trap()
    yield server
    server.close()


@pytest.fixture
def system(trap: Trap, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    monkeypatch.setenv("TRAP_TOKEN", "s3cret")
    auth = {"type": "bearer", "token": "${env:TRAP_TOKEN}"}
    config = {"name": "shop", "type": "rest", "base_url": f"{trap.url}/api", "auth": auth}
    made = RestSystemConfig.model_validate(config).build(CLOCK)
    yield made
    made.close()


def soon(seconds: float = 20.0) -> float:
    return CLOCK.monotonic() + seconds


def task_of(system: System, offset: Any = None, **block: Any) -> SourceTask:
    config = RestSourceConfig.model_validate(
        {"system": "shop", "path": "/orders", "records": "items", "key": ["id"], "page": 3, **block}
    )
    source = system.source(config, written=frozenset({"comment"}))
    task = source.task(source.tasks()[0].name)
    task.open(offset)
    return task


def drained(task: SourceTask) -> list[Change]:
    changes: list[Change] = []
    while (batch := task.poll(1000, soon())) is not None:
        changes += batch.changes
    return changes


def ids(changes: list[Change]) -> list[Any]:
    return [change.key["id"] for change in changes]


ROWS = [{"id": i, "modified": f"2013-01-01T06:00:{i:02d}Z"} for i in range(10)]
SINCE = {"params": {"since": "{cursor}"}, "cursor": {"path": "modified", "start": "1970-01-01T00:00:00Z"}}


def paged(asked: Asked, rows: list[dict[str, Any]], start: int, size: int = 3) -> list[dict[str, Any]]:
    return [row for row in rows if row["modified"] >= asked.query.get("since", "")][start : start + size]


# paging


@pytest.mark.parametrize(
    "form", ["{url}/api/orders?after={n}", "/api/orders?after={n}", "orders?after={n}", "?after={n}"]
)
def test_links_to_the_next_page_are_followed_whole_or_relative(trap: Trap, system: System, form: str) -> None:
    def answer(asked: Asked) -> Reply:
        start = int(asked.query.get("after", "0"))
        following = form.format(url=trap.url, n=start + 3) if start + 3 < len(ROWS) else None
        return reply({"items": ROWS[start : start + 3], "links": {"next": [{"uri": following}]}})

    trap.answer = answer
    task = task_of(system, paging={"type": "next_url", "path": "links.next[0].uri"}, **SINCE)
    assert ids(drained(task)) == list(range(10))


def test_the_link_header_is_followed(trap: Trap, system: System) -> None:
    def answer(asked: Asked) -> Reply:
        start = int(asked.query.get("after", "0"))
        link = f'</api/orders?after={start + 3}>; rel="next", </api/orders>; rel="first"'
        return reply({"items": ROWS[start : start + 3]}, **({"Link": link} if start < 9 else {}))

    trap.answer = answer
    assert ids(drained(task_of(system, paging={"type": "link_header"}, **SINCE))) == list(range(10))


def test_a_token_is_sent_until_there_is_none_and_an_empty_page_does_not_end_it(trap: Trap, system: System) -> None:
    pages = {"": ([0, 1], "a"), "a": ([], "b"), "b": ([2], 17), "17": ([3], None)}

    def answer(asked: Asked) -> Reply:
        found, token = pages[asked.query.get("page_token", "")]
        return reply({"items": [ROWS[i] for i in found], "token": token})

    trap.answer = answer
    task = task_of(system, paging={"type": "cursor", "out": "token", "in": "page_token"}, **SINCE)
    assert ids(drained(task)) == [0, 1, 2, 3]


@pytest.mark.parametrize("past_the_end", [reply({"items": []}), reply({"error": "no such page"}, 404)])
@pytest.mark.parametrize("paging", [{"type": "page", "start": 1}, {"type": "offset"}])
def test_counted_pages_end_with_an_empty_one_or_a_404(
    trap: Trap, system: System, paging: dict[str, Any], past_the_end: Reply
) -> None:
    def answer(asked: Asked) -> Reply:
        start = int(asked.query["offset"]) if "offset" in asked.query else (int(asked.query["page"]) - 1) * 3
        found = paged(asked, ROWS, start)
        return reply({"items": found}) if found or start == 0 else past_the_end

    trap.answer = answer
    task = task_of(system, paging=paging, **SINCE)
    assert ids(drained(task)) == list(range(10))


@pytest.mark.parametrize("circle", [1, 3])
def test_pages_that_go_in_a_circle_are_an_error(trap: Trap, system: System, circle: int) -> None:
    def answer(asked: Asked) -> Reply:
        number = int(asked.query.get("n", "0"))
        return reply({"items": [], "next": f"?n={number % circle + 1}"})

    trap.answer = answer
    with pytest.raises(SystemFault, match="circle"):
        task_of(system, paging={"type": "next_url", "path": "next"}).poll(10, soon())
    assert len(trap.asked) <= circle + 2


def test_a_listing_without_an_end_is_an_error(trap: Trap, system: System) -> None:
    trap.answer = lambda asked: reply({"items": [], "next": f"?n={len(trap.asked)}"})
    with pytest.raises(SystemFault, match="max_pages"):
        task_of(system, paging={"type": "next_url", "path": "next"}, max_pages=20).poll(10, soon())
    assert len(trap.asked) == 20


def test_a_foreign_link_is_refused_and_no_token_is_sent(trap: Trap, system: System) -> None:
    thief = Trap()
    try:
        trap.answer = lambda asked: reply({"items": ROWS[:1], "next": f"{thief.url}/api/orders"})
        task = task_of(system, paging={"type": "next_url", "path": "next"}, **SINCE)
        assert ids(task.poll(10, soon()).changes) == [0]  # type: ignore[union-attr]
        with pytest.raises(SystemFault) as refused:
            task.poll(10, soon())
        assert refused.value.code == "foreign-origin"
        assert thief.asked == []
    finally:
        thief.close()


def test_an_expired_page_begins_again_at_the_offset_and_loses_nothing(trap: Trap, system: System) -> None:
    expired = False

    def answer(asked: Asked) -> Reply:
        nonlocal expired
        start = int(asked.query.get("after", "0"))
        if start == 6 and not expired:
            expired = True
            return reply({"error": "token expired"}, 410)
        since = asked.query.get("since", "") if "after" not in asked.query else ""
        first = next((i for i, row in enumerate(ROWS) if row["modified"] >= since), 10) if since else start
        return reply({"items": ROWS[first : first + 3], "next": f"?after={first + 3}" if first + 3 < 10 else None})

    trap.answer = answer
    task = task_of(system, paging={"type": "next_url", "path": "next"}, **SINCE)
    found = [change for _ in range(2) for change in task.poll(1000, soon()).changes]  # type: ignore[union-attr]
    with pytest.raises(Retriable, match="next page is gone"):
        task.poll(1000, soon())
    found += drained(task)
    assert sorted(set(ids(found))) == list(range(10))
    assert len(found) == 10, "the overlap was seen before"


def _listing(rows: list[dict[str, Any]], paging: str, asked: Asked) -> Reply:
    """Four kinds of server over one table; a token is a position (modified, id), a page is a count."""
    size, query = 4, asked.query
    ordered = sorted(
        (row for row in rows if row["modified"] >= query.get("since", "")), key=lambda r: (r["modified"], r["id"])
    )
    if paging in {"page", "offset"}:
        start = int(query["offset"]) if paging == "offset" else (int(query["page"]) - 1) * size
        return reply({"items": ordered[start : start + size]})
    if "after" in query:
        modified, _, number = query["after"].partition("|")
        ordered = [row for row in ordered if (row["modified"], row["id"]) > (modified, int(number))]
    page = ordered[:size]
    token = f"{page[-1]['modified']}|{page[-1]['id']}" if len(ordered) > size else None
    if paging == "cursor":
        return reply({"items": page, "token": token})
    link = f"?since={query.get('since', '')}&after={token}".replace("|", "%7C").replace("+", "%2B") if token else None
    return (
        reply({"items": page, "token": link})
        if paging == "next_url"
        else reply({"items": page}, **({"Link": f'<{link}>; rel="next"'} if link else {}))
    )


PAGINGS: dict[str, dict[str, Any]] = {
    "next_url": {"type": "next_url", "path": "token"},
    "link_header": {"type": "link_header"},
    "cursor": {"type": "cursor", "out": "token", "in": "after"},
    "page": {"type": "page"},
    "offset": {"type": "offset"},
}


class Shop:
    """A table that somebody works on while it is read: rows come, change and go between two pages."""

    def __init__(self, paging: str, seed: int) -> None:
        self._paging, self._chance, self._now, self._next = paging, random.Random(seed), 0, 0
        self.rows: list[dict[str, Any]] = []
        self.busy = 30
        """Answers until the table rests."""
        for _ in range(18):
            self._insert()

    def answer(self, asked: Asked) -> Reply:
        made = _listing(self.rows, self._paging, asked)
        if self.busy:
            self.busy -= 1
            for _ in range(self._chance.randrange(3)):
                self._chance.choice([self._insert, self._change, self._remove])()
        return made

    def _insert(self) -> None:
        self._next += 1
        self.rows.append({"id": self._next, "modified": self._stamp()})

    def _change(self) -> None:
        self._chance.choice(self.rows)["modified"] = self._stamp()

    def _remove(self) -> None:
        if len(self.rows) > 5:
            self.rows.pop(self._chance.randrange(len(self.rows)))

    def _stamp(self) -> str:
        self._now += 3  # seconds: more than the overlap, so that nothing is found by luck
        return f"2013-01-01T06:{self._now // 60:02d}:{self._now % 60:02d}.000000Z"


@pytest.mark.parametrize("paging", list(PAGINGS))
def test_rows_that_change_between_pages_are_not_lost_in_forty_schedules(
    trap: Trap, system: System, paging: str
) -> None:
    """I1: whatever is inserted, changed or removed between two pages, the newest version of each row is read."""
    for seed in range(40):
        shop = Shop(paging, seed)
        trap.answer = shop.answer
        task = task_of(system, paging=PAGINGS[paging], **SINCE)
        newest: dict[Any, str] = {}
        rested = False
        while not rested:
            quiet = not shop.busy
            batch = task.poll(1000, soon())
            newest |= {change.key["id"]: change.time for change in batch.changes} if batch else {}
            rested = quiet and batch is None
        missing = {row["id"] for row in shop.rows if newest.get(row["id"]) != row["modified"]}
        assert missing == set(), f"seed {seed}"


# records


def test_a_page_larger_than_a_batch_is_handed_out_in_parts_and_the_offset_waits(trap: Trap, system: System) -> None:
    trap.answer = lambda asked: reply({"items": paged(asked, ROWS, 0, 100)})
    task = task_of(system, **SINCE)
    batches = []
    while (batch := task.poll(4, soon())) is not None:
        batches.append(batch)
    assert [len(batch.changes) for batch in batches] == [4, 4, 2]
    assert [batch.offset["cursor"] for batch in batches] == [None, None, ROWS[-1]["modified"]]


def test_a_listing_that_is_not_sorted_stops_or_moves_its_offset_at_the_end(trap: Trap, system: System) -> None:
    trap.answer = lambda asked: reply({"items": [ROWS[2], ROWS[0], ROWS[1]]})
    with pytest.raises(SystemFault, match="sorted: false"):
        task_of(system, **SINCE).poll(10, soon())
    batch = task_of(system, sorted=False, **SINCE).poll(10, soon())
    assert batch is not None
    assert batch.offset["cursor"] == ROWS[2]["modified"]


def test_the_overlap_is_read_again_by_the_servers_clock_and_seen_records_are_dropped(
    trap: Trap, system: System
) -> None:
    rows = ROWS[:3]
    trap.answer = lambda asked: reply({"items": paged(asked, rows, 0, 100)})
    task = task_of(system, **SINCE)
    assert ids(drained(task)) == [0, 1, 2]
    rows.insert(2, {"id": 99, "modified": "2013-01-01T06:00:01.500000Z"})  # committed late, below the newest
    assert ids(drained(task)) == [99]
    assert trap.asked[-1].query["since"] == "2013-01-01T06:00:00.000000Z"


def test_without_a_cursor_everything_is_read_and_only_what_changed_is_news(trap: Trap, system: System) -> None:
    rows: list[dict[str, Any]] = [{"id": 1, "city": "Ulm", "comment": "x", "etag": "1"}, {"id": 2, "city": "Bonn"}]
    trap.answer = lambda asked: reply({"items": rows})
    task = task_of(system)
    first = task.poll(10, soon())
    assert first is not None
    assert [change.version for change in first.changes] == [
        "0001.00000000000000000001.0000",
        "0001.00000000000000000002.0000",
    ]
    assert task.poll(10, soon()) is None
    rows[0] |= {"comment": "ours", "etag": "2"}
    assert task.poll(10, soon()) is None, "what the hub writes and the ETag are no content"
    rows[0]["city"] = "Kiel"
    news = task.poll(10, soon())
    assert news is not None
    assert [(change.key["id"], change.version) for change in news.changes] == [(1, "0001.00000000000000000003.0000")]
    resumed = task_of(system, offset=news.offset).poll(10, soon())
    assert resumed is not None
    assert min(change.version for change in resumed.changes) > news.changes[0].version, "versions never go back"


def test_a_tombstone_is_a_delete(trap: Trap, system: System) -> None:
    trap.answer = lambda asked: reply({"items": [{**ROWS[0], "deleted": True}, {**ROWS[1], "deleted": False}]})
    gone, kept = drained(task_of(system, deleted="deleted", **SINCE))
    assert (gone.op, gone.after) == (Op.DELETE, None)
    assert gone.before == {**ROWS[0], "deleted": True}
    assert kept.op is Op.UPSERT


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"items": [{"id": 1, "id": 2}]}', "not JSON"),
        (b'{"items": ' + b"[" * 90_000, "nested"),
        (b'{"items": {"id": 1}}', "no list of records"),
        (b'{"items": [17]}', "no list of records"),
        (b'{"orders": []}', "no list of records"),
        (b'{"items": [{"modified": "2013-01-01T06:00:00Z"}]}', "key field 'id'"),
        (b'{"items": [{"id": {}, "modified": "2013-01-01T06:00:00Z"}]}', "key field 'id'"),
        (b'{"items": [{"id": 1}]}', "'modified' is not a time"),
        (b'{"items": [{"id": 1, "modified": "yesterday"}]}', "holds no time"),
        (b"", "not JSON"),
    ],
)
def test_an_answer_that_is_not_what_was_agreed_stops_the_source(
    trap: Trap, system: System, body: bytes, said: str
) -> None:
    trap.answer = lambda asked: reply(body)
    task = task_of(system, **SINCE)
    for _ in range(2):
        with pytest.raises(SystemFault, match=said):
            task.poll(10, soon())


def test_a_bad_record_never_lets_the_offset_pass_it(trap: Trap, system: System) -> None:
    rows: list[dict[str, Any]] = [ROWS[0], {"id": None, "modified": ROWS[1]["modified"]}, ROWS[2]]
    trap.answer = lambda asked: reply({"items": paged(asked, rows, 0, 100)})
    task = task_of(system, **SINCE)
    with pytest.raises(SystemFault, match="key field"):
        task.poll(10, soon())
    good = task.poll(10, soon())
    assert good is not None
    assert (ids(good.changes), good.offset["cursor"]) == ([0], None)
    rows[1] = ROWS[1]
    assert ids(drained(task)) == [1, 2]


def test_values_that_no_wire_carries_are_null_before_anybody_sees_them(trap: Trap, system: System) -> None:
    trap.answer = lambda asked: reply(
        b'{"items": [{"id": 1, "modified": "2013-01-01T06:00:00Z", "t": NaN, "u": 1e999}]}'
    )
    after = drained(task_of(system, **SINCE))[0].after
    assert after is not None
    assert (after["t"], after["u"]) == (None, None)


def test_a_time_without_a_zone_is_refused_until_the_system_says_one(trap: Trap, system: System) -> None:
    trap.answer = lambda asked: reply({"items": [{"id": 1, "modified": "2013-01-01T06:00:00"}]})
    with pytest.raises(ConfigError, match="timezone"):
        task_of(system, **SINCE).poll(10, soon())
    config = {"name": "shop", "type": "rest", "base_url": f"{trap.url}/api", "timezone": "America/New_York"}
    local = RestSystemConfig.model_validate(config).build(CLOCK)
    assert drained(task_of(local, **SINCE))[0].time == "2013-01-01T11:00:00.000000Z"
    local.close()


def test_a_login_page_with_200_stops_the_source_and_says_so(trap: Trap, system: System) -> None:
    form = b"<html><form><input name=user><input type=password></form></html>"
    trap.answer = lambda asked: (200, {"Content-Type": "text/html"}, form)
    with pytest.raises(CredentialsRefused, match="login form"):
        task_of(system, **SINCE).poll(10, soon())


def test_an_offset_of_another_version_is_refused(system: System) -> None:
    with pytest.raises(ConfigError, match="another version"):
        task_of(system, offset={"v": 99})


def test_a_search_by_post_sends_its_parameters_as_json(trap: Trap, system: System) -> None:
    trap.answer = lambda asked: reply({"items": ROWS[:1]})
    assert ids(drained(task_of(system, method="POST", **SINCE))) == [0]
    assert (trap.asked[0].method, json.loads(trap.asked[0].body)) == ("POST", {"since": "1970-01-01T00:00:00Z"})


# writing


def sink_of(system: System, **block: Any) -> Any:
    config = {
        "system": "shop",
        "match": {"id": "key.id"},
        "set": {"comment": "answer.text"},
        "idempotency": "key",
        **block,
    }
    sink = system.sink(RestWritebackConfig.model_validate(config), prefix="hub")
    sink.open()
    return sink


def write(number: int = 1, expected: Any = '"v1"') -> Write:
    return Write(f"hub/p/shop/shop/orders/{number}@1~ab/live", {"id": number}, {"comment": "ok"}, "1", expected)


def test_a_request_carries_what_makes_it_safe(trap: Trap, system: System) -> None:
    trap.answer = lambda asked: reply({}, ETag='"v2"')
    sink = sink_of(system, patch="/orders/{id}", if_match="etag", content_type="application/merge-patch+json")
    strange = Write("hub/x/ü", {"id": "a/b c?d"}, {"comment": "ok"}, "1", "v1-gzip")
    receipt = sink.put([strange], soon())[0]
    asked = trap.asked[0]
    assert (receipt.outcome, receipt.target_version) == (Outcome.APPLIED, '"v2"')
    assert asked.path == "/api/orders/a%2Fb%20c%3Fd"
    assert json.loads(asked.body) == {"comment": "ok"}
    sent = {name.lower(): value for name, value in asked.headers.items()}
    assert (sent["if-match"], sent["idempotency-key"]) == ('"v1"', "hub/x/%C3%BC")
    assert (sent["content-type"], sent["authorization"]) == ("application/merge-patch+json", "Bearer s3cret")
    sink.close()


def test_a_post_sends_key_and_values_and_offers_no_reading(trap: Trap, system: System) -> None:
    trap.answer = lambda asked: reply({}, 201)
    sink = sink_of(system, post="/comments")
    assert sink.put([write()], soon())[0].outcome is Outcome.APPLIED
    assert json.loads(trap.asked[0].body) == {"id": 1, "comment": "ok"}
    assert not isinstance(sink, Readable)
    assert not sink.capabilities.readable
    sink.close()


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (reply({"title": "an idempotent request is being worked on"}, 409), Outcome.RETRY),
        (reply({}, 409, **{"Retry-After": "1"}), Outcome.RETRY),
        (reply({}, 409), Outcome.CONFLICT),
        (reply({}, 304), Outcome.UNCHANGED),
        (reply({}, 200, ETag='"v1"'), Outcome.UNCHANGED),
        (reply({}, 204), Outcome.APPLIED),
        (reply({}, 410), Outcome.REJECTED),
        (reply({}, 413), Outcome.REJECTED),
        (reply({}, 415), Outcome.REJECTED),
        (reply({}, 500), Outcome.RETRY),
    ],
)
def test_the_answer_decides_the_outcome(trap: Trap, system: System, answer: Reply, outcome: Outcome) -> None:
    trap.answer = lambda asked: (
        answer if asked.method == "PATCH" else reply({"id": 1, "comment": "theirs"}, ETag='"v9"')
    )
    sink = sink_of(system, patch="/orders/{id}", if_match="etag")
    receipt = sink.put([write()], soon())[0]
    assert receipt.outcome is outcome
    if outcome is Outcome.CONFLICT:
        assert receipt.target_version == '"v9"'
    sink.close()


def test_a_gateways_error_is_in_doubt_where_a_repeat_could_do_it_twice(trap: Trap, system: System) -> None:
    trap.answer = lambda asked: reply({}, 502)
    sink = sink_of(system, patch="/orders/{id}", if_match="etag", idempotency="none")
    assert sink.put([write()], soon())[0].outcome is Outcome.UNKNOWN
    sink.close()


def test_a_412_for_the_form_of_the_etag_is_sent_once_more_as_the_server_has_it(trap: Trap, system: System) -> None:
    def answer(asked: Asked) -> Reply:
        if asked.method == "GET":
            return reply({"id": 1}, ETag='W/"v1"')
        return reply({}, 200 if asked.headers.get("If-Match") == 'W/"v1"' else 412)

    trap.answer = answer
    sink = sink_of(system, patch="/orders/{id}", if_match="etag")
    assert sink.put([write(expected="v1")], soon())[0].outcome is Outcome.APPLIED
    assert [asked.method for asked in trap.asked] == ["PATCH", "GET", "PATCH"]
    sink.close()


def test_errors_inside_a_200_are_seen_by_a_rule(trap: Trap, system: System) -> None:
    trap.answer = lambda asked: reply({"return": [{"type": "E"}], "message": "order is closed"})
    rule = {"when": "return[?type=='E']", "action": "rejected"}
    sink = sink_of(system, patch="/orders/{id}", responses=[rule])
    receipt = sink.put([write()], soon())[0]
    assert receipt.outcome is Outcome.REJECTED
    assert receipt.reason is not None
    assert receipt.reason.endswith("order is closed")
    sink.close()


def test_a_server_that_refuses_each_record_is_not_asked_for_all_of_them(trap: Trap, system: System) -> None:
    """I7: after a vendor's deploy 500 records are held, and not refused for good."""
    trap.answer = lambda asked: reply({"title": "unknown field comment"}, 422 if len(trap.asked) > 10 else 200)
    sink = sink_of(system, patch="/orders/{id}")
    receipts = sink.put([write(number) for number in range(500)], soon())
    counts = Counter(receipt.outcome for receipt in receipts)
    assert counts == {Outcome.APPLIED: 10, Outcome.REJECTED: 20, Outcome.RETRY: 470}
    assert all(is_suspected(receipt) for receipt in receipts if receipt.outcome is Outcome.RETRY)
    assert len(trap.asked) <= 10 + 20 + 4, "those that were under way"
    sink.close()


@pytest.mark.parametrize("status", [403, 302])
def test_a_refusal_of_everything_stops_the_batch_and_is_no_rejection(trap: Trap, system: System, status: int) -> None:
    trap.answer = lambda asked: reply({}, status)
    sink = sink_of(system, patch="/orders/{id}")
    with pytest.raises(SystemFault):
        sink.put([write(number) for number in range(200)], soon())
    assert len(trap.asked) <= 8, "the rest was not sent"
    sink.close()


def test_a_system_that_is_away_is_an_error_of_the_call_and_not_of_its_records(trap: Trap, system: System) -> None:
    sink = sink_of(system, patch="/orders/{id}")
    trap.answer = lambda asked: reply({}, 503, **{"Retry-After": "2"})
    began = CLOCK.monotonic()
    with pytest.raises(Throttled) as throttled:
        sink.put([write()], soon())
    assert throttled.value.retry_after == 2.0
    with pytest.raises(Retriable):
        sink.put([write()], soon(0.5))
    assert CLOCK.monotonic() - began < 2.0
    assert len(trap.asked) == 1, "nothing is sent before the time that the system named"
    sink.close()
