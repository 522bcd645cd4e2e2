"""One round trip: a request that the WSDL allows goes out, and the answer's element comes back or a named failure.

zeep sends nothing here. It loses the status and Retry-After of refusals and takes a cut-off answer for a success, so
the HTTP call, the first parse and the judgement are ours.
"""

from lxml import etree

from connectors.clock import Clock
from connectors.errors import CredentialsRefused, CrossdockError, Retriable, SystemFault, Throttled, Unknown
from connectors.html import is_page
from connectors.http import HttpAnswer, HttpClient
from connectors.limits import RateLimit
from connectors.soap.config import Faults
from connectors.soap.envelope import Unreadable, body_of, local, parse
from connectors.soap.faults import fault_error, fault_in, http_error
from connectors.soap.wsdl import Operation, Request

_A_CHECK = 30.0
"""Seconds."""


class Calls:
    """Calls the operations of one system; safe in many threads."""

    def __init__(self, address: str, client: HttpClient, limit: RateLimit, clock: Clock) -> None:
        self._address, self._client, self._limit, self._clock = address, client, limit, clock

    def deadline(self) -> float:
        """For a call that nobody waits for but a check."""
        return self._clock.monotonic() + _A_CHECK

    def read(self, operation: Operation, request: Request, faults: Faults, deadline: float) -> etree._Element:
        """The answer's element of an operation that changes nothing, so that every doubt means: ask again.

        Raises:
            Retriable, Throttled: the system is away or busy, or its answer did not arrive whole.
            CredentialsRefused, SystemFault: the system refuses everything, or answers something else.
            Rejected: it refuses these arguments.
        """
        try:
            return self._call(operation, request, faults, deadline)
        except Unknown as error:
            raise Retriable(error.message, detail=error.detail) from error
        except _Unusable as error:
            if error.cut_off:
                raise Retriable(error.message) from error
            raise SystemFault(error.message, code="answer") from error

    def write(
        self, operation: Operation, request: Request, faults: Faults, deadline: float, *, once: bool = False
    ) -> etree._Element:
        """The answer's element of an operation that has an effect. Raises as `read`, and:

        Args:
            once: a repetition could be a second effect: a fault of the server's own is believed to mean "nothing
                happened" only where its code is listed under `faults.retry`, or it names a time.

        Raises:
            Unknown: it was sent, and no answer tells whether it happened: none came, or none that can be read, or a
                gateway or a crashed server answered in its place.
        """
        try:
            return self._call(operation, request, faults, deadline)
        except _Unusable as error:
            raise Unknown(error.message) from error
        except _Faltered as error:
            if once:
                raise Unknown(error.message, detail=error.detail) from error
            raise

    def knock(self, request: Request, faults: Faults, deadline: float) -> str | None:
        """Sends a call that has no operation, to see whether the service listens and takes our login.

        Returns:
            None if a SOAP service answered, whatever it said; else what is there in its place.

        Raises:
            Retriable, Throttled: it is away or busy.
            CredentialsRefused: as it says.
        """
        try:
            answer = self._client.request(
                "POST", self._address, headers=request.headers, content=request.content, deadline=deadline
            )
        except Unknown as error:
            raise Retriable(error.message, detail=error.detail) from error
        try:
            body = body_of(parse(answer.body))
        except Unreadable:
            body = None
        fault, now = (None if body is None else fault_in(body)), self._clock.now()
        if fault is not None:
            said = fault_error(fault, answer.status, answer.headers, faults, now)
        elif body is None or answer.status == 401:
            said = http_error(answer.status, answer.headers, answer.body, now)
        else:
            return None
        away = isinstance(said, Retriable) and answer.status != 500  # 500 is how SOAP 1.1 says anything at all
        if away or isinstance(said, CredentialsRefused):
            raise said
        return said.message if body is None and answer.status != 500 else None

    def _call(self, operation: Operation, request: Request, faults: Faults, deadline: float) -> etree._Element:
        answer = self._client.request(
            "POST", self._address, headers=request.headers, content=request.content, deadline=deadline
        )
        try:
            return self._answer(operation, answer, faults)
        except Throttled as error:
            self._limit.close_for(error.retry_after or 0.0)
            raise
        except CrossdockError as error:
            error.detail = error.detail or f"{operation.name}: HTTP {answer.status}, {answer.body[:300]!r}"
            raise

    def _answer(self, operation: Operation, answer: HttpAnswer, faults: Faults) -> etree._Element:
        try:
            body = body_of(parse(answer.body))
        except Unreadable as error:
            if not _may_be_ours(answer):
                raise self._refused(answer) from error
            raise _Unusable(f"{operation.name}: the answer is {error}", cut_off=error.cut_off) from error
        if body is None:
            if not _may_be_ours(answer):
                raise self._refused(answer)
            raise _Unusable(f"{operation.name}: the answer is no SOAP envelope")
        fault = fault_in(body)
        if fault is not None:
            said = fault_error(fault, answer.status, answer.headers, faults, self._clock.now())
            if type(said) is Retriable and not frozenset(fault.codes) & faults.retry:
                raise _Faltered(said.message)
            raise said
        if not 200 <= answer.status < 300:
            raise self._refused(answer)
        wanted = operation.answer
        for node in body:
            if local(node) == wanted.qname.localname:
                return node
        raise _Unusable(f"{operation.name}: the answer has no {wanted.qname.localname}")

    def _refused(self, answer: HttpAnswer) -> CrossdockError:
        error = http_error(answer.status, answer.headers, answer.body, self._clock.now())
        if answer.status in {500, 502, 504}:  # the request may have been worked on before this was said
            return Unknown(error.message)
        return _Faltered(error.message) if answer.status == 408 else error


class _Unusable(CrossdockError):
    """A success by its status, and an answer that does not say what it should."""

    def __init__(self, message: str, *, cut_off: bool = False) -> None:
        super().__init__(message)
        self.cut_off = cut_off


class _Faltered(Retriable):
    """The server gave up on a call: it may have been in the middle of it."""


def _may_be_ours(answer: HttpAnswer) -> bool:
    """Whether the service itself may have said this; a refusal and a login page come from somebody before it."""
    return 200 <= answer.status < 300 and not is_page(answer.body)
