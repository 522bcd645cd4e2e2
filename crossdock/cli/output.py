"""What the verbs share: where the files are, who asks, and how a result is shown."""

import getpass
import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

Folder = Annotated[Path, typer.Argument(help="folder of crossdock.yaml, systems/ and pipelines/")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object as the last line")]
DEFAULT = Path("config")


def show(found: dict[str, Any], text: str, *, as_json: bool) -> None:
    typer.echo(json.dumps(found) if as_json else harmless(text))


def harmless(text: str) -> str:
    """Text for a terminal: what a record brought must not move the cursor or change the colours."""
    return "".join(c if c == "\n" or c.isprintable() else repr(c)[1:-1] for c in text)


def user() -> str:
    """Who asks, for the audit."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
