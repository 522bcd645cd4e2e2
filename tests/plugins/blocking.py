"""Our code may not block an event loop: a call that does raises `BlockingError` at its place, in every test.

Only calls that come from the packages of the data path count: the demo's servers and the tests do as they like.
"""

from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

SCANNED = ["schemas", "connectors", "streams"]


@pytest.fixture(scope="session", autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    with blockbuster_ctx(SCANNED) as active:
        yield active
