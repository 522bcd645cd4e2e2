"""The code blocks of our pages, so that tests can run what a reader would copy."""

import re
from dataclasses import dataclass
from pathlib import Path

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
