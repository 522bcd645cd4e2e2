"""The shape of a call that writes: where its records stand in the request, and its results in the answer."""

from typing import Any

from connectors.errors import ConfigError
from connectors.soap.config import SoapWritebackConfig
from connectors.soap.listing import answer_type
from connectors.soap.wsdl import Operation, Service, walk


def record_type(operation: Operation, config: SoapWritebackConfig) -> Any:
    """zeep's type of one record of the request. Raises ConfigError if the path is not in the WSDL."""
    return operation.takes if config.records is None else list(walk(operation.takes, config.records))[-1].type


def result_type(operation: Operation, config: SoapWritebackConfig) -> Any:
    """zeep's type of one result. Raises ConfigError if the path is not in the WSDL."""
    answer = answer_type(operation)
    return answer if config.results.path is None else list(walk(answer, config.results.path))[-1].type


def takes_many(service: Service, config: SoapWritebackConfig) -> bool:
    """Whether a call may have several records, each with a result of its own. False too where the WSDL has no such."""
    try:
        operation = service.operation(config.call)
        paths = (operation.takes, config.records), (answer_type(operation), config.results.path)
        return all(path is not None and any(field.many for field in walk(found, path)) for found, path in paths)
    except ConfigError:
        return False
