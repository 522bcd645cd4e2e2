"""A write's id in a form that other systems take: for idempotency keys, and for the field by which a write is found."""

import hashlib
import uuid
from typing import Final, Literal, TypeAlias
from urllib.parse import quote

Form: TypeAlias = Literal["text", "uuid"]

LONGEST: Final = 255
_NAMESPACE: Final = uuid.UUID("6f1b0ee3-0d7c-5f0a-9d0e-7a1c6b2f4a55")
"""Never changes: references of earlier writes could not be found any more."""


def reference_of(write_id: str, form: Form = "text") -> str:
    """The same text for the same write, for ever.

    text: printable ASCII, and a digest of it where it is longer than 255. uuid: 36 characters, RFC 9562 version 5.
    """
    if form == "uuid":
        return str(uuid.uuid5(_NAMESPACE, write_id))
    text = quote(write_id, safe="!#$&'()*+,/:;=?@[]~%{}|^` ")
    return text if len(text) <= LONGEST else f"blake2b:{hashlib.blake2b(text.encode(), digest_size=32).hexdigest()}"
