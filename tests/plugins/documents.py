"""The code blocks of our pages, so that tests can run what a reader would copy."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w./-]+\.[a-z]+)\n")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block; `file` is the path in its first line, if it is a comment that holds one."""

    page: str
    line: int
    language: str
    text: str
    file: str | None


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        named = _FILE.match(match[2])
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(page.name, line, match[1], match[2], named[1] if named else None))
    return found


def write_files(found: list[Block], folder: Path) -> None:
    """Writes the blocks that are files, each at its path below the folder."""
    for block in found:
        if block.file is not None:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")


@pytest.fixture(scope="session")
def jsonl_connector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The connector of CONTRIBUTING.md, installed from that page: a folder of packages, and on the path."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    write_files([each for each in blocks(ROOT / "CONTRIBUTING.md") if each.language in ("python", "toml")], source)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*install, "--disable-pip-version-check", "--target", str(target), str(source)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sys.path.insert(0, str(target))
    yield target
    sys.path.remove(str(target))


@pytest.fixture
def jsonl_folder(tmp_path: Path) -> Path:
    """A hub's folder with the system and the pipeline of CONTRIBUTING.md, pointed at a folder `drop` in it."""
    write_files([each for each in blocks(ROOT / "CONTRIBUTING.md") if each.language == "yaml"], tmp_path)
    (tmp_path / "crossdock.yaml").write_text("kafka: {bootstrap: 127.0.0.1:19092, insecure: true}\n")
    system = tmp_path / "systems" / "drop.yaml"
    system.write_text(system.read_text().replace("/srv/drop", str(tmp_path / "drop")))
    (tmp_path / "drop").mkdir()
    return tmp_path
