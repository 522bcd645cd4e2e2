"""YAML with places: plain data, and the line and column of every key and value.

Safe by construction: nodes are composed and never constructed, so no tag can make an object. Aliases, tags and
duplicate keys are errors; booleans are `true` and `false` alone, as in YAML 1.2; a file has at most 1 MB and 40 levels.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from connectors.errors import ConfigError

LARGEST = 1_000_000
DEEPEST = 40
Place: TypeAlias = tuple[int, int]
Where: TypeAlias = tuple[str | int, ...]

_INTEGER = re.compile(r"[-+]?(0|[1-9]\d*)")
_FLOAT = re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+)([eE][-+]?\d+)?")
_CONSTANTS: dict[str, Any] = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass
class Document:
    """One file: its data, and where each part of it stands."""

    file: Path
    data: Any = None
    places: dict[Where, Place] = field(default_factory=dict)

    def error(self, where: Where, message: str) -> ConfigError:
        """An error at that part of the file, or at the nearest part around it that stands there."""
        for length in range(len(where), -1, -1):
            if (place := self.places.get(where[:length])) is not None:
                return ConfigError(message, file=str(self.file), line=place[0], column=place[1])
        return ConfigError(message, file=str(self.file))


def read(file: Path) -> Document:
    """Reads a file. Raises ConfigError with its place for anything that is not allowed."""
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(file)) from error
    if len(raw) > LARGEST:
        raise ConfigError(f"{len(raw):,} bytes; a configuration file has at most {LARGEST:,}", file=str(file))
    document = Document(file)
    try:
        text = raw.decode("utf-8")
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            _refuse(event, depth, document)
        node = yaml.compose(text, yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 (byte {error.start})", file=str(file)) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (None, None)
        raise ConfigError(f"not YAML: {error.problem}", file=str(file), line=line, column=column) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"not YAML: {str(error).splitlines()[0]}", file=str(file)) from error
    if node is not None:
        document.data = _value(node, (), document)
    return document


def scalar(text: str) -> Any:
    """A plain scalar by YAML 1.2's core schema: times and everything else stay text."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _refuse(event: Any, depth: int, document: Document) -> None:
    mark = event.start_mark
    place = {"file": str(document.file), "line": mark.line + 1, "column": mark.column + 1}
    if depth > DEEPEST:  # the reader takes quadratic time for it
        raise ConfigError(f"nested deeper than {DEEPEST}", **place)
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
        raise ConfigError("anchors and aliases are not allowed; write the value where it is used", **place)
    if getattr(event, "tag", None) is not None:
        raise ConfigError(f"tags are not allowed: {event.tag}", **place)


def _value(node: Any, where: Where, document: Document) -> Any:
    document.places.setdefault(where, (node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            mark = key_node.start_mark
            place = {"file": str(document.file), "line": mark.line + 1, "column": mark.column + 1}
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError("a key must be a text", **place)
            if key in found:
                raise ConfigError(f"the key {key!r} stands here a second time", **place)
            document.places[(*where, key)] = (mark.line + 1, mark.column + 1)
            found[key] = _value(value_node, (*where, key), document)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*where, number), document) for number, item in enumerate(node.value)]
    return scalar(node.value) if node.style is None else node.value
