"""Control records: their bytes, their keys, and causes in headers."""

from schemas.codec import encode
from schemas.control import Credentials, CredentialState, control_key
from schemas.event import CAUSE, WRITEBACK, cause_of
from schemas.write import LIVE
from streams.control import outgoing, read_record

REFUSED = Credentials(
    system="flightops",
    state=CredentialState.REFUSED,
    digest="ab12",
    attempts=1,
    reason="password authentication failed",
    time="2026-01-01T00:00:00.000000Z",
)
GOLDEN = (
    b'{"type":"credentials","cd_schema":1,"system":"flightops","state":"refused","digest":"ab12","attempts":1,'
    b'"reason":"password authentication failed","time":"2026-01-01T00:00:00.000000Z"}'
)


def test_a_control_record_has_the_bytes_of_the_first_release() -> None:
    assert encode(REFUSED) == GOLDEN
    assert read_record(GOLDEN) == REFUSED


def test_a_control_record_lies_under_its_kind_and_name() -> None:
    assert outgoing(REFUSED).key == control_key(Credentials, "flightops") == b"credentials/flightops"


def test_a_cause_is_read_only_where_headers_were_added() -> None:
    plain = [("ce_id", b"1"), ("cd_config", b"c0ffee")]
    assert cause_of(plain) == cause_of([]) == cause_of(plain[:1]) == (LIVE, None)
    assert cause_of([*plain, (CAUSE, b"replay:2"), (WRITEBACK, b"flightops")]) == ("replay:2", "flightops")
    assert cause_of([plain[0], (CAUSE, b"replay:2")]) == ("replay:2", None)
