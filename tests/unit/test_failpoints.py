"""Failpoints: what may stand in the variable, and that an armed passage fails once in the life of a process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from connectors.errors import ConfigError
from connectors.failpoints import TRANSITIONS, VARIABLE, FailpointError, armed, failpoint

NAME = "ingest_before_commit"
SCRIPT = f"""
from connectors.failpoints import FailpointError, failpoint
for passage in range(1, 6):
    try:
        failpoint({NAME!r})
        failpoint("ingest_before_ack")
    except FailpointError as error:
        print("raised", error, flush=True)
    print(passage, flush=True)
"""


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.failpoints._SEEN", {})
    armed.cache_clear()


def process(entries: str) -> "subprocess.Popen[str]":
    environ = {**os.environ, VARIABLE: entries}
    return subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, env=environ)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ("ingest_before_comit:1:kill", "did you mean 'ingest_before_commit'?"),
        ("nonsense", "no failpoint 'nonsense'; known: ingest_after_take_over"),
        (NAME, "is not of the form name:nth:kill|raise|sleep|stop, nth from 1 on"),
        (f"{NAME}:1", "is not of the form"),
        (f"{NAME}:first:kill", "is not of the form"),
        (f"{NAME}:0:kill", "is not of the form"),
        (f"{NAME}:-1:kill", "is not of the form"),
        (f"{NAME}:1:explode", "is not of the form"),
        (f"{NAME}:1:kill:now", "is not of the form"),
        (f"{NAME}:1:kill,:2:stop", "no failpoint ''"),
    ],
)
def test_a_variable_that_cannot_be_understood_is_one_clear_line(
    entries: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, entries)
    with pytest.raises(ConfigError, match=VARIABLE) as caught:
        failpoint(NAME)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_worker_with_such_a_variable_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "crossdock.yaml").write_text("kafka: {bootstrap: 127.0.0.1:1, insecure: true}\n")
    command = [sys.executable, "-m", "crossdock", "run", str(tmp_path), "--no-supervise"]
    environ = {**os.environ, VARIABLE: f"{NAME}:1:explode"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ, check=False)
    assert done.returncode == 2
    assert "is not of the form" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_happens_where_nothing_is_armed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    for name in TRANSITIONS:
        failpoint(name)


def test_the_nth_passage_fails_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, f"{NAME}:2:raise, {NAME}:4:raise")
    failed = []
    for passage in range(1, 7):
        try:
            failpoint(NAME)
        except FailpointError as error:
            failed.append((passage, str(error)))
    assert failed == [(2, NAME), (4, NAME)]


def test_an_armed_passage_can_kill_the_process() -> None:
    with process(f"{NAME}:3:kill") as found:
        said, _ = found.communicate(timeout=30)
    assert (said.split(), found.returncode) == (["1", "2"], -signal.SIGKILL)


def test_an_armed_passage_can_stop_the_process_until_it_is_continued() -> None:
    with process(f"{NAME}:3:stop") as found:
        _, status = os.waitpid(found.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        os.kill(found.pid, signal.SIGCONT)
        said, _ = found.communicate(timeout=30)
    assert (said.split(), found.returncode) == (["1", "2", "3", "4", "5"], 0)
