"""Courtesy in hand-moved time: the rate, and the pause that a system asks for."""

import pytest
from hand_clock import HandClock

from connectors.errors import Retriable
from connectors.limits import RateLimit


def test_a_rate_holds_over_time_after_one_seconds_worth_at_once() -> None:
    clock = HandClock()
    limit = RateLimit(10.0, clock)
    for _ in range(100):
        limit.wait(1e9)
    assert 8.5 <= clock.seconds <= 10.0


def test_a_pause_that_is_heard_while_a_call_waits_holds_for_that_call_too() -> None:
    clock = HandClock()
    limit = RateLimit(None, clock)
    limit.close_for(1.0)
    said = iter([5.0])
    clock.on_sleep = lambda: limit.close_for(next(said, 0.0))
    limit.wait(1e9)
    assert clock.seconds == 5.0


def test_a_wait_that_would_pass_the_deadline_is_an_error_that_names_the_time() -> None:
    clock = HandClock()
    limit = RateLimit(None, clock)
    limit.close_for(30.0)
    with pytest.raises(Retriable) as refused:
        limit.wait(10.0)
    assert refused.value.retry_after == 30.0
    assert clock.seconds == 0.0


def test_a_shorter_pause_never_cuts_a_longer_one() -> None:
    clock = HandClock()
    limit = RateLimit(None, clock)
    limit.close_for(9.0)
    limit.close_for(1.0)
    limit.wait(1e9)
    assert clock.seconds == 9.0
