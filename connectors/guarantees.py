"""Sentences about what holds, that several connectors say."""

from typing import Final

IN_DOUBT: Final = (
    "I2 holds: a call without a known end is never made again by itself; it is listed as in doubt, for a person"
)
ONE_SENDER: Final = "for one sender at a time (what a frozen worker still has under way is not seen)"
