"""Features: one column of values for each input of a model."""

from collections.abc import Mapping, Sequence

from schemas.values import JsonValue
from streams.scope import Scope, compile_path
from streams.selector import root_of


class Features:
    """Takes the columns out of a batch; the paths are compiled once."""

    def __init__(self, paths: Mapping[str, str], lookups: frozenset[str]) -> None:
        """`paths`: input -> path. `lookups`: the names of the pipeline's. Raises ValueError for a path that is none."""
        self._getters = [(name, compile_path(path, lookups)) for name, path in paths.items()]
        roots = {name: root_of(path) for name, path in paths.items()}
        self.lookup_of: dict[str, str] = {name: root for name, root in roots.items() if root in lookups and root}
        """Input -> the lookup that it comes from, for those that come from one."""
        self._lookups = sorted(set(self.lookup_of.values()))

    def columns(self, scopes: Sequence[Scope]) -> dict[str, list[JsonValue]]:
        """Input -> one value per row, None where there is none."""
        return {name: list(map(get, scopes)) for name, get in self._getters}

    def not_found(self, scopes: Sequence[Scope]) -> dict[str, list[bool]]:
        """Lookup -> per row, whether it found nothing."""
        return {name: [scope.lookups.get(name) is None for scope in scopes] for name in self._lookups}
