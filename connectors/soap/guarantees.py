"""What holds for a SOAP write-back, in sentences for people."""

from connectors.contract import Idempotency
from connectors.guarantees import IN_DOUBT, ONE_SENDER
from connectors.soap.config import SoapWritebackConfig


def guarantees_of(config: SoapWritebackConfig) -> list[str]:
    """The idempotency class first: whether a repeated write can be a second effect (I2)."""
    said = [_second_effects(config)]
    if config.read is None and (config.results.conflict or config.results.stale):
        said.append("no `read:`: a conflict with a write of our own, whose answer was lost, is not told from another")
    if config.version is None:
        said.append("stale writes cannot be told: the target compares no version")
    return said


def _second_effects(config: SoapWritebackConfig) -> str:
    match config.idempotency:
        case Idempotency.NATURAL if config.version is not None:
            return (
                f"I2 holds if {config.call} compares {config.version.param}: a repetition finds its own version there, "
                "and nothing older is written"
            )
        case Idempotency.NATURAL:
            return (
                f"I2 holds unless another changes the record between a lost answer and its repetition: "
                f"{config.call} answers that nothing was to be changed"
            )
        case Idempotency.KEY:
            field = config.reference.field if config.reference is not None else ""
            return (
                f"I2 holds if the service does nothing for a {field} that it has seen, and remembers it for as long as "
                "writes are repeated"
            )
        case Idempotency.READBACK if config.readback is not None:
            settle = config.readback.settle.total_seconds()
            return (
                f"I2 holds {ONE_SENDER}: {config.readback.operation} is asked for the write before it is sent, and "
                f"after a lost answer once {settle:g} s are over"
            )
        case Idempotency.READBACK:
            return (
                "I2 does not hold if another changes the record between a lost answer and the look: a write is known "
                "by its values alone; a `reference:` would tell"
            )
    return IN_DOUBT
