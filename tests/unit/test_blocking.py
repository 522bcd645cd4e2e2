"""The watch over the event loop can fail: else every other test of it would be worth nothing."""

import asyncio
import time
from pathlib import Path

import pytest
from blockbuster import BlockingError

from connectors.clock import SystemClock
from connectors.secrets import Secret


async def test_a_wait_of_our_code_in_the_loop_is_caught() -> None:
    with pytest.raises(BlockingError, match=r"time\.sleep"):
        SystemClock().sleep(0.001)


async def test_a_file_that_our_code_reads_in_the_loop_is_caught(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("x")
    with pytest.raises(BlockingError, match="read"):
        Secret(f"${{file:{file}}}").reveal()


async def test_the_same_calls_are_allowed_in_a_thread(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("x")
    assert await asyncio.to_thread(SystemClock().sleep, 0.001) is False
    assert await asyncio.to_thread(Secret(f"${{file:{file}}}").reveal) == "x"


async def test_code_that_is_not_ours_is_not_watched() -> None:
    time.sleep(0.001)  # noqa: ASYNC251 - this is the point
