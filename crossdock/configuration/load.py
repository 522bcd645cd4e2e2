"""Loading: a folder of files becomes a configuration, or all that is wrong with it, a line for each problem."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from connectors.config import SourceConfig, SystemConfig, WritebackConfig
from connectors.errors import ConfigError
from connectors.registry import known, system_class
from crossdock.configuration.hub import HubConfig
from crossdock.configuration.pipeline import PipelineConfig
from crossdock.configuration.yaml import Document, Where, read, scalar
from streams.topics import PipelineTopics
from streams.words import did_you_mean

OVERRIDE = "CROSSDOCK_"
_T = TypeVar("_T", bound=BaseModel)


@dataclass
class Configuration:
    """All files of one hub, read and checked each by itself."""

    folder: Path
    hub: HubConfig
    systems: dict[str, SystemConfig]
    pipelines: dict[str, PipelineConfig]
    documents: dict[str, Document] = field(default_factory=dict)
    """By pipeline."""
    system_documents: dict[str, Document] = field(default_factory=dict)
    """By system."""
    hub_document: Document | None = None

    @property
    def archive(self) -> Path | None:
        """Folder of the archive; None = there is none."""
        config = self.hub.archive
        return None if config is None else (self.folder / config.folder).absolute()

    @property
    def models(self) -> Path:
        return self.folder / self.hub.models

    def topics(self, pipeline: str) -> PipelineTopics:
        """The topics of a pipeline as they must be."""
        kafka = self.hub.kafka
        return PipelineTopics.of(kafka.prefix, pipeline, kafka.partitions, self.hub.retention.build())

    def pipeline(self, name: str) -> PipelineConfig:
        """Raises ConfigError if there is none of that name."""
        found = self.pipelines.get(name)
        if found is None:
            near = did_you_mean(name, self.pipelines)
            raise ConfigError(f"no pipeline {name!r}; known: {', '.join(sorted(self.pipelines))}{near}")
        return found

    def error(self, pipeline: str, where: Where, message: str) -> ConfigError:
        """An error in a pipeline's file, with its place."""
        return self.documents[pipeline].error(where, message)


def load_from_environment(folder: Path) -> Configuration:
    return load(folder, os.environ)


def load(folder: Path, environ: Mapping[str, str]) -> Configuration:
    """Reads `crossdock.yaml`, `systems/*.yaml` and `pipelines/*.yaml`.

    Args:
        folder: where they are.
        environ: variables `CROSSDOCK_SYSTEMS__ERP__URL` override `url` of the system `erp`; likewise `KAFKA` and
            `PIPELINES`.

    Raises:
        ConfigError: everything that is wrong, each with file:line:column.
    """
    problems: list[str] = []
    hub_file = folder / "crossdock.yaml"
    if not hub_file.is_file():
        raise ConfigError(f"{hub_file}: there is no such file; `crossdock init FOLDER` writes one to start from")
    hub_document = _overridden(_read(hub_file, problems), (), environ)
    hub = _checked(HubConfig, hub_document, problems)
    systems: dict[str, SystemConfig] = {}
    system_documents: dict[str, Document] = {}
    for document in _documents(folder / "systems", "SYSTEMS", environ, problems):
        system = _system(document, problems)
        if system is not None:
            systems[system.name] = system
            system_documents[system.name] = document
    pipelines: dict[str, PipelineConfig] = {}
    documents: dict[str, Document] = {}
    for document in _documents(folder / "pipelines", "PIPELINES", environ, problems):
        documents[document.file.stem] = document
        pipeline = _pipeline(document, systems, problems)
        if pipeline is not None:
            pipelines[pipeline.name] = pipeline
    for name, pipeline in pipelines.items():
        for lookup, block in pipeline.lookups.items():
            if block.pipeline not in documents:
                where = ("lookups", lookup, "pipeline")
                problems.append(str(documents[name].error(where, _unknown("pipeline", block.pipeline, documents))))
    if problems or hub is None:
        raise ConfigError("\n".join(problems))
    return Configuration(folder, hub, systems, pipelines, documents, system_documents, hub_document)


def _read(file: Path, problems: list[str]) -> Document:
    try:
        document = read(file)
    except ConfigError as error:
        problems.append(str(error))
        return Document(file)
    if not isinstance(document.data, dict):
        problems.append(str(document.error((), "a mapping of names to values is needed here")))
        document.data = None
    return document


def _documents(folder: Path, kind: str, environ: Mapping[str, str], problems: list[str]) -> list[Document]:
    found = []
    for file in sorted(folder.glob("*.yaml")):
        if file.name.endswith(".test.yaml"):
            continue
        document = _read(file, problems)
        if document.data is None:
            continue
        name = document.data.get("name")
        if name != file.stem:
            problems.append(str(document.error(("name",), f"the name is {name!r}, and the file's name {file.stem!r}")))
            continue
        found.append(_overridden(document, (kind, file.stem.upper().replace("-", "_")), environ))
    return found


def _overridden(document: Document, below: tuple[str, ...], environ: Mapping[str, str]) -> Document:
    """Puts the values of `CROSSDOCK_...` variables over the file's."""
    start = OVERRIDE + "".join(f"{part}__" for part in below)
    for variable, text in environ.items():
        if not variable.startswith(start) or document.data is None:
            continue
        path = variable[len(start) :].lower().split("__")
        if not below and path[0] not in ("kafka", "index", "archive"):
            continue  # of a system, a pipeline, or no setting of a file
        block = document.data
        for part in path[:-1]:
            block = block.setdefault(part, {})
            if not isinstance(block, dict):
                raise ConfigError(f"the environment variable {variable} points into a single value")
        block[path[-1]] = scalar(text)
    return document


def _system(document: Document, problems: list[str]) -> SystemConfig | None:
    kind = document.data.get("type")
    if kind not in known():
        problems.append(str(document.error(("type",), _unknown("type", str(kind), known()))))
        return None
    return _checked(system_class(kind), document, problems)


def _pipeline(document: Document, systems: Mapping[str, SystemConfig], problems: list[str]) -> PipelineConfig | None:
    """The blocks that a system's type decides are read first, then the rest around them."""
    data, before = dict(document.data), len(problems)
    blocks: list[tuple[Where, Any, bool]] = [(("source",), data.get("source"), True)]
    written = data.get("writeback") or []
    if isinstance(written, list):
        blocks += [(("writeback", number), block, False) for number, block in enumerate(written)]
    built: list[Any] = []
    for where, block, is_source in blocks:
        if not isinstance(block, dict):
            problems.append(str(document.error(where, "a block with `system:` is needed here")))
            continue
        system = systems.get(str(block.get("system")))
        if system is None:
            text = _unknown("system", str(block.get("system")), systems)
            problems.append(str(document.error((*where, "system"), text)))
            continue
        kind: type[SourceConfig | WritebackConfig] = system.source_class if is_source else system.writeback_class
        built.append(_checked(kind, Document(document.file, block, document.places), problems, where))
    if len(problems) > before:
        return None
    data["source"], data["writeback"] = built[0], tuple(built[1:])
    return _checked(PipelineConfig, Document(document.file, data, document.places), problems)


def _checked(kind: type[_T], document: Document, problems: list[str], at: Where = ()) -> _T | None:
    if document.data is None:
        return None
    try:
        return kind.model_validate(document.data, context={"folder": document.file.parent})
    except ValidationError as error:
        for each in error.errors(include_url=False):
            where, message = _in_file((*at, *each["loc"]), document), _sentence(each, kind)
            said = each["msg"].removeprefix("Value error, ")
            if (*where, said.partition(":")[0]) in document.places:  # a check of a whole block names the key it means
                where, message = (*where, said.partition(":")[0]), said
            problems.append(str(document.error(where, message)))
        return None


def _in_file(where: Where, document: Document) -> Where:
    """pydantic puts the tags of unions between the parts of a place; the file does not."""
    kept: Where = ()
    for number, part in enumerate(where):
        if (*kept, part) in document.places or number == len(where) - 1:
            kept = (*kept, part)
    return kept


def _sentence(error: Any, kind: type[BaseModel]) -> str:
    name = str(error["loc"][-1]) if error["loc"] else "this"
    match error["type"]:
        case "extra_forbidden":
            return _unknown("key", name, _names(kind, error["loc"][:-1]))
        case "missing":
            return f"{name!r} is missing"
        case _:
            return f"{name}: {error['msg'].removeprefix('Value error, ')}"


def _names(kind: type[BaseModel], loc: Where) -> list[str]:
    """The keys that are allowed at a place, as far as its block can be told."""
    here: Any = kind
    for part in loc:
        found = here.model_fields.get(str(part)) if isinstance(here, type) and issubclass(here, BaseModel) else None
        here = None if found is None else found.annotation
    return sorted(here.model_fields) if isinstance(here, type) and issubclass(here, BaseModel) else []


def _unknown(what: str, name: str, valid: Any) -> str:
    valid = sorted(valid)
    near = get_close_matches(name, valid, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    listed = f"; known: {', '.join(valid)}" if valid else ""
    return f"unknown {what} {name!r}{listed}{hint}"
