"""Ports for servers of our own: on the loopback address, and below the range that the system gives to clients.

A client that connects to a closed port inside that range can be given this very port, and then speaks to itself.
"""

import random
import socket

FIRST, LAST = 20_000, 32_000


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port that nobody listens on now.

    Raises:
        OSError: a hundred tries found none.
    """
    for _ in range(100):
        port = random.randint(FIRST, LAST)  # noqa: S311 - no secret
        if is_free(port):
            return port
    raise OSError(f"no free port on 127.0.0.1 between {FIRST} and {LAST}")
