"""Pauses: a pipeline whose sources are not read, as a person or the watch over the retention wants it."""

from schemas.control import Pause, PauseCause
from streams.control import Control


def standing(control: Control, pipeline: str) -> Pause | None:
    """The pause that holds now; None = the sources are read."""
    found = (control.find(Pause, f"{pipeline}/{cause.value}") for cause in PauseCause)
    return next((each for each in found if each is not None), None)
