"""Whether a configuration fits the WSDL: operations, arguments, types, paths. Only `reach` sends anything."""

from collections.abc import Iterable
from typing import Any

from connectors.clock import Clock
from connectors.contract import Problem, Report
from connectors.errors import ConfigError, CredentialsRefused, CrossdockError, Rejected, Retriable
from connectors.soap.config import Cursor, Look, SoapSourceConfig, SoapWritebackConfig
from connectors.soap.guarantees import guarantees_of
from connectors.soap.library import ComplexType, xsd
from connectors.soap.listing import Listing, LocatorExpired, answer_type, arguments
from connectors.soap.rows import Field, fields_of
from connectors.soap.transport import Calls
from connectors.soap.wsdl import Operation, Service, nearest, walk

_CURSOR_TYPES = {"datetime": (xsd.DateTime, xsd.String), "integer": (xsd.Integer, xsd.String)}


class _Findings(Report):
    """A report that is being written."""

    def problem(self, path: tuple[str | int, ...], message: str) -> None:
        self.problems.append(Problem(path, message))

    def operation(self, service: Service, name: str, path: tuple[str | int, ...]) -> Operation | None:
        try:
            return service.operation(name)
        except ConfigError as error:
            self.problem(path, error.message)
            return None

    def field(self, xsd_type: Any, elements: str, path: tuple[str | int, ...]) -> Field | None:
        """The last element of a path in a type."""
        try:
            return list(walk(xsd_type, elements))[-1]
        except ConfigError as error:
            self.problem(path, error.message)
            return None

    def answer(self, operation: Operation, path: tuple[str | int, ...]) -> Any:
        try:
            return answer_type(operation)
        except ConfigError as error:
            self.problem(path, error.message)
            return None


def check_source(service: Service, config: SoapSourceConfig) -> Report:
    """Problems of a `source:` block, and what it guarantees."""
    found = _Findings()
    operation = found.operation(service, config.operation, ("operation",))
    if operation is not None:
        _check_arguments(found, operation, config)
        answer = found.answer(operation, ("operation",))
        if answer is not None:
            _check_records(found, answer, config)
            if config.more is not None:
                found.field(answer, config.more.token_out, ("more", "token_out"))
                if config.more.done is not None:
                    found.field(answer, config.more.done, ("more", "done"))
    if config.more is not None:
        _check_more(found, service, config)
    if config.cursor is None:
        found.guarantees.append(
            f"{config.operation} is read whole each time; after a restart every record is a change once more"
        )
    else:
        found.guarantees.append(_reading_guarantee(config, config.cursor))
    return found


def check_writeback(service: Service, config: SoapWritebackConfig) -> Report:
    """Problems of an entry of `writeback:`, and what it guarantees."""
    found = _Findings()
    operation = found.operation(service, config.call, ("call",))
    if operation is not None:
        _check_records_of(found, operation, config)
        _names(found, fields_of(operation.takes), config.params, ("params",))
        answer = found.answer(operation, ("call",))
        if answer is not None:
            _check_results(found, answer, config)
    if config.results.key is not None and config.results.key not in config.match:
        found.problem(("results", "key"), f"{config.results.key!r} is not under `match`, so it was not sent")
    if config.read is not None:
        _check_look(found, service, config.read, ("read",), config)
    if config.readback is not None:
        shown = _check_look(found, service, config.readback, ("readback",), config)
        shows = config.readback.shows or (config.reference.field if config.reference is not None else "")
        if shown is not None:
            _names(found, shown, [shows], ("readback",), at="shows")
    found.guarantees.extend(guarantees_of(config))
    if service.unchecked:
        found.guarantees.append(
            f"requests are sent unchecked: the WSDL's schema does not compile ({service.unchecked})"
        )
    return found


def reach(listing: Listing, config: SoapSourceConfig, clock: Clock, report: Report) -> None:
    """Reads one page, and adds what stands against it to the report.

    Raises:
        Retriable: the service is away or busy; that says nothing about the configuration.
        CredentialsRefused: nor does this.
    """
    since = config.cursor.start if config.cursor is not None else ""
    try:
        page = listing.page(since, clock.monotonic() + 30.0)
    except (Retriable, CredentialsRefused):
        raise
    except (CrossdockError, LocatorExpired) as error:
        report.problems.append(Problem(("operation",), str(error)))
    else:
        report.guarantees.append(f"{config.operation} answers; its first page has {len(page.rows)} records")


def knock(service: Service, calls: Calls, config: SoapWritebackConfig, deadline: float, report: Report) -> None:
    """An operation that writes cannot be tried: only whether the service is there, and takes our login.

    Raises:
        Retriable, CredentialsRefused: as in `reach`.
    """
    instead = calls.knock(service.knock, config.faults, deadline)
    if instead is None:
        report.guarantees.append("the service answers, and takes the login")
    else:
        report.problems.append(Problem(("system",), f"no SOAP service answers: {instead}"))


def _check_arguments(found: _Findings, operation: Operation, config: SoapSourceConfig) -> None:
    before = len(found.problems)
    _names(found, fields_of(operation.takes), config.params, ("params",))
    start = config.cursor.start if config.cursor is not None else ""
    if len(found.problems) == before:
        try:
            operation.request(arguments(operation, config.params, cursor=start, page=str(config.page)))
        except Rejected as error:
            found.problem(("params",), error.message)


def _check_records(found: _Findings, answer: Any, config: SoapSourceConfig) -> None:
    records = found.field(answer, config.records, ("records",))
    if records is None:
        return
    if not isinstance(records.type, ComplexType):
        found.problem(("records",), f"{config.records!r} has no fields in the WSDL; name the element of one record")
        return
    for place, name in enumerate(config.key):
        found.field(records.type, name, ("key", place))
    if config.cursor is not None:
        field = found.field(records.type, config.cursor.path, ("cursor", "path"))
        if field is not None and not isinstance(field.type, _CURSOR_TYPES[config.cursor.type]):
            found.problem(("cursor", "type"), f"the WSDL has {type(field.type).__name__} for {config.cursor.path!r}")


def _check_more(found: _Findings, service: Service, config: SoapSourceConfig) -> None:
    assert config.more is not None
    more = found.operation(service, config.more.operation, ("more", "operation"))
    if more is None:
        return
    _names(found, fields_of(more.takes), [config.more.token_in], ("more",), at="token_in")
    answer = found.answer(more, ("more", "operation"))
    if answer is not None:
        for elements, place in (
            (config.records, "operation"),
            (config.more.token_out, "token_out"),
            (config.more.done, "done"),
        ):
            if elements is not None:
                found.field(answer, elements, ("more", place))


def _check_records_of(found: _Findings, operation: Operation, config: SoapWritebackConfig) -> None:
    if config.records is None:
        beside = [field for field in fields_of(operation.takes) if field.name not in config.params]
        _check_fields(found, beside, config)
        return
    records = found.field(operation.takes, config.records, ("records",))
    if records is None:
        return
    if not isinstance(records.type, ComplexType):
        found.problem(("records",), f"{config.records!r} has no fields in the WSDL; name the element of one record")
        return
    most = records.most if records.many else 1
    if most is not None and "batch" in config.model_fields_set and most < config.batch:
        found.problem(("batch",), f"the WSDL allows {most} {config.records} in one call; batch is {config.batch}")
    _check_fields(found, fields_of(records.type), config)


def _check_results(found: _Findings, answer: Any, config: SoapWritebackConfig) -> None:
    path, result = config.results.path, answer
    if path is not None:
        field = found.field(answer, path, ("results", "path"))
        if field is None:
            return
        result = field.type
        many = any(each.many for each in walk(answer, path))
        if not many and "batch" in config.model_fields_set and config.batch > 1:
            found.problem(("batch",), f"the answer has one {path} and not one for each record: say 1, or leave it out")
    for place in ("status", "message", "key"):
        name = getattr(config.results, place)
        if name is not None:
            found.field(result, name, ("results", place))


def _check_look(
    found: _Findings, service: Service, look: Look, path: tuple[str, ...], config: SoapWritebackConfig
) -> list[Field] | None:
    """The fields of the record that it shows."""
    operation = found.operation(service, look.operation, (*path, "operation"))
    if operation is None:
        return None
    _names(found, fields_of(operation.takes), look.params, (*path, "params"))
    answer = found.answer(operation, (*path, "operation"))
    record = found.field(answer, look.record, (*path, "record")) if answer is not None else None
    if record is None:
        return None
    fields = fields_of(record.type)
    hidden = sorted(set(config.set) - {field.name for field in fields})
    if hidden and path == ("read",):
        found.guarantees.append(f"{look.operation} does not show {', '.join(hidden)}: they cannot be compared")
    if config.undo and path == ("read",):
        but = f"; {', '.join(hidden)} cannot be restored, as {look.operation} does not show them" if hidden else ""
        found.guarantees.append(
            "undo: each record is read before its call, and a change of another between the two is not seen" + but
        )
    return fields


def _check_fields(found: _Findings, fields: list[Field], config: SoapWritebackConfig) -> None:
    _names(found, fields, config.match, ("match",))
    _names(found, fields, config.set, ("set",))
    given = {*config.match, *config.set}
    if config.version is not None:
        _names(found, fields, [config.version.param], ("version",), at="param")
        given.add(config.version.param)
    if config.reference is not None:
        _names(found, fields, [config.reference.field], ("reference",), at="field")
        given.add(config.reference.field)
    missing = [field.name for field in fields if not field.optional and field.name not in given]
    if missing:
        found.problem(("set",), f"the WSDL wants {', '.join(missing)} in each record")
    if config.nulls == "nil":
        for name in config.set:
            if any(field.name == name and not field.nillable for field in fields):
                found.problem(("nulls",), f"{name!r} cannot be nil in the WSDL")
    else:
        found.guarantees.append("a null is left out of the request: the target keeps the value that it has")


def _names(
    found: _Findings, fields: list[Field], names: Iterable[str], path: tuple[str, ...], *, at: str | None = None
) -> None:
    """Each name must be a field; its problem is at the name itself, or at the key that holds it."""
    known = [field.name for field in fields]
    for name in names:
        if name not in known:
            found.problem((*path, at or name), f"the WSDL has no argument {name!r} here; {nearest(name, known)}")


def _reading_guarantee(config: SoapSourceConfig, cursor: Cursor) -> str:
    if cursor.overlap:
        return (
            f"a record that appears up to {cursor.overlap.total_seconds():g} s late in {config.operation} is read, "
            "and no later one"
        )
    return f"{config.operation} is read by {cursor.path} alone: a record that appears late is not read"
