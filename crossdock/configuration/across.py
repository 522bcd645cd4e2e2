"""What is wrong between the parts of a configuration, each of which is right by itself. Offline.

| looked at                                                                    | an error where                        |
|------------------------------------------------------------------------------|---------------------------------------|
| a field of one table, resource or operation                                  | two write-backs set it                |
| who writes what, and who uses it (`only`, `derive`, `model`, `set`, lookups) | the circle closes: a feedback loop    |
| the names of lookups                                                         | one is reserved, or a derived field's |
| paths                                                                        | one is not JMESPath                   |
| the model's inputs and outputs                                               | the manifest has others               |
| what the connectors can tell offline (operations of a WSDL)                  | the description has others            |
| `freshness`                                                                  | it is shorter than `source.every`     |
| `retention` in production                                                    | receipts, dead or review: under 184d  |
| `archive`                                                                    | no pyarrow, or `every` is too long    |
| `timeouts.total` of a system that is written to                              | it is longer than a drain may take    |
"""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, NamedTuple, TypeAlias

import jmespath

from connectors.clock import Clock
from connectors.contract import Lintable, System
from connectors.errors import ConfigError
from crossdock.configuration.load import Configuration
from crossdock.configuration.pipeline import PipelineConfig
from crossdock.configuration.yaml import Where
from streams.derive import Derive
from streams.only import Only
from streams.scope import RESERVED, compile_path

LONGEST_DRAIN = 25.0
"""Seconds that a write in hand may take when a worker ends or gives its partitions up."""

Place: TypeAlias = tuple[str, Where]
"""Pipeline, and where in its file."""


class _Field(NamedTuple):
    """One field of one object of one system."""

    system: str
    object: str
    name: str

    def __str__(self) -> str:
        return f"{self.system}/{self.object}.{self.name}"


def refuse(configuration: Configuration, clock: Clock) -> None:
    """Raises ConfigError with everything that is wrong, a line each; without a problem nothing happens."""
    found = problems(configuration, clock)
    if found:
        raise ConfigError("\n".join(found))


def problems(configuration: Configuration, clock: Clock) -> list[str]:
    """All of it, a line each with its place."""
    found: list[tuple[Place, str]] = []
    for name, pipeline in configuration.pipelines.items():
        found += [((name, where), message) for where, message in _of_pipeline(configuration, pipeline)]
    found += _double_writers(configuration)
    found += _feedback(configuration)
    lines = [str(configuration.error(*place, message)) for place, message in found]
    return [*lines, *_of_hub(configuration), *_of_systems(configuration), *_of_connectors(configuration, clock)]


# One pipeline


def _of_pipeline(configuration: Configuration, pipeline: PipelineConfig) -> Iterator[tuple[Where, str]]:
    yield from _names(pipeline)
    yield from _paths(pipeline)
    if pipeline.model is not None:
        then = {name: block.missing.then for name, block in pipeline.lookups.items()}
        try:
            manifest = pipeline.model.manifest(configuration.models)
        except ConfigError as error:
            yield ("model", "use"), str(error)
        else:
            for problem in pipeline.model.problems(manifest, then):
                yield ("model", *problem.path), problem.message
    if pipeline.freshness < pipeline.source.every:
        yield ("freshness",), "shorter than source.every: it could not be kept"


def _names(pipeline: PipelineConfig) -> Iterator[tuple[Where, str]]:
    for name, block in pipeline.lookups.items():
        if name in RESERVED:
            yield ("lookups", name), f"{name!r} is reserved; reserved are: {', '.join(sorted(RESERVED))}"
        if name in pipeline.derive:
            yield ("lookups", name), f"{name!r} is also a derived field; a path could mean either"
        if block.pipeline == pipeline.name:
            yield ("lookups", name, "pipeline"), "a pipeline cannot look itself up"


def _paths(pipeline: PipelineConfig) -> Iterator[tuple[Where, str]]:
    lookups = frozenset(pipeline.lookups)
    for where, path in _used(pipeline):
        try:
            compile_path(path, lookups)
        except ValueError as error:
            yield where, str(error)
    try:
        Only(pipeline.only)
    except ValueError as error:
        yield ("only",), str(error)
    try:
        Derive(pipeline.derive, lookups)
    except ValueError as error:
        yield ("derive",), str(error)


def _used(pipeline: PipelineConfig) -> Iterator[tuple[Where, str]]:
    """Every path that reads a field of the record or of a lookup, but `only` and `derive`."""
    for name, lookup in pipeline.lookups.items():
        yield from ((("lookups", name, "match", theirs), path) for theirs, path in lookup.match.items())
    if pipeline.model is not None:
        yield from ((("model", "inputs", name, "path"), each.path) for name, each in pipeline.model.inputs.items())
    for number, block in enumerate(pipeline.writeback):
        for part, paths in (("match", block.match), ("set", block.set)):
            yield from ((("writeback", number, part, theirs), path) for theirs, path in paths.items())


# Between pipelines


def _double_writers(configuration: Configuration) -> Iterator[tuple[Place, str]]:
    first: dict[_Field, str] = {}
    for field, (pipeline, where) in _writes(configuration):
        if field in first:
            yield (
                (pipeline, where),
                f"{field} is already written by the pipeline {first[field]!r}: they would undo each other",
            )
        first.setdefault(field, pipeline)


def _feedback(configuration: Configuration) -> Iterator[tuple[Place, str]]:
    """A pipeline that uses what it writes, by itself or through others, would be fed with its own answers."""
    used = {name: _fields_used(configuration, pipeline) for name, pipeline in configuration.pipelines.items()}
    leads = [
        (writer, reader, field, where)
        for field, (writer, where) in _writes(configuration)
        for reader, fields in used.items()
        if field in fields
    ]
    onward: dict[str, set[str]] = {}
    for writer, reader, _, _ in leads:
        onward.setdefault(writer, set()).add(reader)
    for writer, reader, field, where in leads:
        chain = _way(onward, reader, writer)
        if chain is not None:
            way = " -> ".join([writer, *chain])
            yield (
                (writer, where),
                f"{field} is used by {reader!r}: a feedback loop ({way}); leave it out of one of them",
            )


def _way(onward: Mapping[str, set[str]], start: str, end: str) -> list[str] | None:
    """Pipelines from one to another, both included; None if there is no way."""
    ways, seen = [[start]], {start}
    for way in ways:
        if way[-1] == end:
            return way
        for following in sorted(onward.get(way[-1], ())):
            if following not in seen:
                seen.add(following)
                ways.append([*way, following])
    return None


def _writes(configuration: Configuration) -> Iterator[tuple[_Field, Place]]:
    for name, pipeline in configuration.pipelines.items():
        for number, block in enumerate(pipeline.writeback):
            for theirs in block.set:
                yield _Field(block.system, block.object, theirs), (name, ("writeback", number, "set", theirs))


def _fields_used(configuration: Configuration, pipeline: PipelineConfig) -> set[_Field]:
    """Fields of sources that decide what a pipeline answers. Where a record merely goes along, it is not used."""
    expressions = [path for where, path in _used(pipeline) if where[0] != "writeback" or where[2] == "set"]
    expressions += [text for block in pipeline.derive.values() for text in _texts(block.model_dump())]
    expressions += [pipeline.only] if pipeline.only is not None else []
    found: set[_Field] = set()
    for expression in expressions:
        try:
            parsed = jmespath.compile(expression).parsed
        except (jmespath.exceptions.JMESPathError, ValueError):
            continue  # reported where it stands, or no path at all
        for root, name in _roots(parsed):
            if root in pipeline.lookups:
                other = configuration.pipelines.get(pipeline.lookups[root].pipeline)
                if other is not None and name is not None:
                    found.add(_Field(other.source.system, other.source.object, name))
            elif root in ("after", "before"):
                if name is not None:
                    found.add(_Field(pipeline.source.system, pipeline.source.object, name))
            elif root not in RESERVED and root not in pipeline.derive:
                found.add(_Field(pipeline.source.system, pipeline.source.object, root))
    return found


def _roots(node: Any) -> Iterator[tuple[str, str | None]]:
    """The first two names of every path in a parsed expression."""
    if node["type"] == "field":
        yield node["value"], None
    elif node["type"] == "subexpression":
        names = [child["value"] for child in node["children"] if child["type"] == "field"]
        if len(names) > 1:
            yield names[0], names[1]
        else:
            yield from _roots(node["children"][0])
    else:
        for child in node["children"]:
            if isinstance(child, dict):
                yield from _roots(child)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)


# The hub

ARCHIVE_NEEDS = "install it with: pip install 'crossdock[archive]'"
_AUDITED = ("receipts", "dead", "review")
LEAST_IN_PRODUCTION = timedelta(days=184)
"""Six months, and a day more than any six of them have."""


def _of_hub(configuration: Configuration) -> Iterator[str]:
    yield from _of_archive(configuration)
    if configuration.hub.environment != "production" or configuration.hub_document is None:
        return
    for kind in _AUDITED:
        kept: timedelta = getattr(configuration.hub.retention, kind)
        if kept < LEAST_IN_PRODUCTION:
            message = (
                f"{kind}: what became of each record is kept for at least 184d in production, and not {_days(kept)}"
            )
            yield str(configuration.hub_document.error(("retention", kind), message))


def _of_archive(configuration: Configuration) -> Iterator[str]:
    archive, document = configuration.hub.archive, configuration.hub_document
    if archive is None or document is None:
        return
    if find_spec("pyarrow") is None:
        yield str(document.error(("archive",), f"pyarrow is not installed; {ARCHIVE_NEEDS}"))
    for kind in _AUDITED:
        kept: timedelta = getattr(configuration.hub.retention, kind)
        if archive.every > kept / 4:
            message = f"every: at most a quarter of retention.{kind} ({_days(kept)}), so that nothing expires before"
            yield str(document.error(("archive", "every"), message))


def _days(kept: timedelta) -> str:
    return f"{kept / timedelta(days=1):g}d"


# Systems and connectors


def _of_systems(configuration: Configuration) -> Iterator[str]:
    written = {block.system for pipeline in configuration.pipelines.values() for block in pipeline.writeback}
    for name in sorted(written):
        if configuration.systems[name].timeouts.total.total_seconds() > LONGEST_DRAIN:
            message = f"a write must end within a drain: at most {LONGEST_DRAIN:.0f}s"
            yield str(configuration.system_documents[name].error(("timeouts", "total"), message))


def _of_connectors(configuration: Configuration, clock: Clock) -> Iterator[str]:
    systems: dict[str, System] = {}
    for name, config in configuration.systems.items():
        try:
            systems[name] = config.build(clock)
        except ConfigError as error:
            yield str(configuration.system_documents[name].error((), str(error)))
    try:
        for name, pipeline in configuration.pipelines.items():
            for where, part in _components(configuration, pipeline, systems):
                if isinstance(part, Lintable):
                    yield from (
                        str(configuration.error(name, (*where, *problem.path), problem.message))
                        for problem in part.lint().problems
                    )
    finally:
        for system in systems.values():
            system.close()


def _components(
    configuration: Configuration, pipeline: PipelineConfig, systems: Mapping[str, System]
) -> Iterator[tuple[Where, object]]:
    if pipeline.source.system in systems:
        yield ("source",), systems[pipeline.source.system].source(pipeline.source, written=frozenset())
    for number, block in enumerate(pipeline.writeback):
        if block.system in systems:
            prefix = configuration.hub.kafka.prefix
            yield ("writeback", number), systems[block.system].sink(block, prefix=prefix)
