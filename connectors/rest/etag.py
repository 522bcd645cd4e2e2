"""ETags as servers really send them: weak, without quotes, or with a compressor's suffix."""

import re

from connectors.errors import Rejected
from schemas.values import JsonValue

_SUFFIX = re.compile(r"[-;](gzip|br|deflate)(?=\"?$)")


def core(etag: str) -> str:
    """What two forms of one ETag have in common: no `W/`, no quotes, no `-gzip`."""
    return _SUFFIX.sub("", etag.strip().removeprefix("W/")).strip('"')


def same(one: JsonValue, other: JsonValue) -> bool:
    """Weak comparison. An absent ETag equals nothing."""
    return isinstance(one, str) and isinstance(other, str) and core(one) == core(other)


def for_if_match(etag: JsonValue) -> str:
    """The header's value for an ETag from a body or a header: a compressor's suffix goes, missing quotes come.

    `W/` stays: a server that only has weak ETags compares them as texts.

    Raises:
        Rejected: the field holds something else.
    """
    if not isinstance(etag, str) or not etag.strip():
        raise Rejected("the field that if_match names holds no ETag", code="etag")
    text = _SUFFIX.sub("", etag.strip())
    return text if text.startswith(('"', 'W/"')) or text == "*" else f'"{text}"'
