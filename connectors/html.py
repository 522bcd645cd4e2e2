"""Pages for people where data was asked for: mostly the login form of somebody who stands before the system."""

import re
from typing import Final

_PAGE: Final = re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!doctype\s+html|<html)", re.IGNORECASE | re.DOTALL)
_PASSWORD_FIELD: Final = re.compile(rb"<input[^>]*\btype\s*=\s*[\"']?password", re.IGNORECASE)


def is_page(body: bytes) -> bool:
    """Whether it is HTML, whatever its content type says."""
    return _PAGE.match(body[:4096]) is not None


def asks_for_password(body: bytes) -> bool:
    """Whether it is a page with a field for a password."""
    return is_page(body) and _PASSWORD_FIELD.search(body) is not None
