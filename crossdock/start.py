"""`crossdock init`: a system and a pipeline that work, to start from."""

import sqlite3
from importlib import resources
from pathlib import Path
from typing import Literal

from connectors.errors import ConfigError
from crossdock.demo.stage import configuration_folder

Kind = Literal["sql", "soap", "rest"]
NAMES: dict[Kind, str] = {"sql": "erp", "soap": "registry", "rest": "stations"}


def start(folder: Path, kind: Kind, name: str | None = None) -> list[Path]:
    """Writes `crossdock.yaml`, a system and a pipeline; for SQL also a small database that they work on.

    Args:
        folder: made if it is not there. A `crossdock.yaml` that is there stays, and the pair is added beside it.
        kind: the connector.
        name: of the system.

    Returns:
        The files that were written.

    Raises:
        ConfigError: one of the files is there already; nothing was written then.
    """
    name = name or NAMES[kind]
    templates = resources.files("crossdock") / "templates"
    pipeline = (templates / kind / "pipeline.yaml").read_text(encoding="utf-8")
    pipeline_name = _filled(pipeline.partition("name: ")[2].partition("\n")[0], name, folder)
    files = {
        folder / "systems" / f"{name}.yaml": _filled((templates / kind / "system.yaml").read_text(), name, folder),
        folder / "pipelines" / f"{pipeline_name}.yaml": _filled(pipeline, name, folder),
    }
    if not (folder / "crossdock.yaml").exists():
        files[folder / "crossdock.yaml"] = (templates / "crossdock.yaml").read_text(encoding="utf-8")
    if kind == "soap":
        files[folder / "wsdl" / f"{name}.wsdl"] = (configuration_folder() / "wsdl" / "registry.wsdl").read_text()
    database = folder / f"{name}.db"
    there = [path for path in (*files, *([database] if kind == "sql" else [])) if path.exists()]
    if there:
        raise ConfigError(f"{there[0]} is there already, and is not overwritten; choose another --name or folder")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if kind == "sql":
        connection = sqlite3.connect(database)
        connection.executescript((templates / "sql" / "orders.sql").read_text(encoding="utf-8"))
        connection.close()
        return [*files, database]
    return list(files)


def _filled(text: str, name: str, folder: Path) -> str:
    variable = name.upper().replace("-", "_")
    return text.replace("env:NAME_", f"env:{variable}_").replace("NAME", name).replace("FOLDER", str(folder.absolute()))
