"""The digest of a secret: asked before each call, so it may cost its tenth of a second only once."""

import hashlib

import pytest

from connectors import login
from connectors.login import digest_of


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The secrets for which the slow function ran."""
    ran: list[bytes] = []
    slow = hashlib.pbkdf2_hmac

    def counted(name: str, secret: bytes, salt: bytes, rounds: int, dklen: int) -> bytes:
        ran.append(secret)
        return slow(name, secret, salt, 10, dklen)

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", counted)
    monkeypatch.setattr(login, "_DIGESTS", {})
    return ran


def test_the_digest_of_a_secret_is_computed_once(computed: list[bytes]) -> None:
    first = [digest_of("one", "erp") for _ in range(100)]
    assert len(set(first)) == 1
    assert computed == [b"one"]


def test_another_secret_or_another_system_has_another_digest(computed: list[bytes]) -> None:
    assert len({digest_of("one", "erp"), digest_of("two", "erp"), digest_of("one", "crm")}) == 3
    assert digest_of("", "erp") == ""


def test_what_is_remembered_is_bounded_and_holds_no_secret(computed: list[bytes]) -> None:
    for number in range(1000):
        digest_of(f"secret {number}", "erp")
    assert len(login._DIGESTS) <= 256
    assert not any(b"secret" in mark for mark in login._DIGESTS)
