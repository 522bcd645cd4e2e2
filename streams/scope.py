"""What a path of a pipeline file can see of one event, and how a path becomes a getter.

A bare name is a field of the record (`after`, or `before` of a delete), or one that `derive` made. Reserved roots are
key, before, after, answer, model and the names of the lookups.
"""

from collections.abc import Callable
from typing import TypeAlias

import jmespath
import jmespath.exceptions
import msgspec

from schemas.event import EventValue
from schemas.values import JsonValue, Key, Record

RESERVED = frozenset({"key", "before", "after", "answer", "model"})


class Scope(msgspec.Struct):
    """One event on its way through a pipeline."""

    key: Key
    before: Record | None
    after: Record | None
    derived: Record = {}
    lookups: dict[str, Record | None] = {}
    answer: Record = {}
    model: Record = {}
    """`name`, `version`, `digest` of the model that answered."""

    def merged(self) -> Record:
        """Everything under its name, for JMESPath."""
        return {
            **(self.after or self.before or {}),
            **self.derived,
            **self.lookups,
            "key": self.key,
            "before": self.before,
            "after": self.after,
            "answer": self.answer,
            "model": self.model,
        }


def scope_of(event: EventValue) -> Scope:
    """What a write-back's paths see of an enriched event."""
    answer = event.ai or {}
    return Scope(
        key=event.key,
        before=event.before,
        after=event.after,
        derived=event.derived,
        lookups=event.lookups,
        answer=answer.get("output") or {},
        model={"name": answer.get("model"), "version": answer.get("version"), "digest": answer.get("digest")},
    )


Getter: TypeAlias = Callable[[Scope], JsonValue]


def compile_path(path: str, lookups: frozenset[str] = frozenset()) -> Getter:
    """A getter for a path. Plain paths become item getters; JMESPath runs only where a path needs it.

    Raises:
        ValueError: the path is not valid JMESPath.
    """
    try:
        expression = jmespath.compile(path)
    except jmespath.exceptions.JMESPathError as error:
        raise ValueError(f"not a path: {path!r} ({str(error).splitlines()[0]})") from error
    parts = path.split(".")
    if len(parts) == 1 and path.isidentifier() and path not in RESERVED and path not in lookups:
        return _field(path)
    if len(parts) == 2 and all(part.isidentifier() for part in parts):
        if parts[0] in lookups:
            return _lookup_field(*parts)
        if parts[0] in RESERVED:
            return _root_field(*parts)
    return lambda scope: expression.search(scope.merged())


def _field(name: str) -> Getter:
    def get(scope: Scope) -> JsonValue:
        if name in scope.derived:
            return scope.derived[name]
        record = scope.after if scope.after is not None else scope.before
        return None if record is None else record.get(name)

    return get


def _lookup_field(lookup: str, name: str) -> Getter:
    def get(scope: Scope) -> JsonValue:
        found = scope.lookups.get(lookup)
        return None if found is None else found.get(name)

    return get


def _root_field(root: str, name: str) -> Getter:
    def get(scope: Scope) -> JsonValue:
        found = getattr(scope, root)
        return None if found is None else found.get(name)

    return get
