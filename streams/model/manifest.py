"""A model version: an immutable folder of model, manifest and card, checked before anything of it is loaded.

```
models/delay-risk/aliases.json            {"champion": "1.0.0"}
models/delay-risk/1.0.0/model.onnx        data, never code: no pickle, no joblib, no external data, no own operators
models/delay-risk/1.0.0/manifest.json     what goes in, what comes out, and how good it is: this module's structs
models/delay-risk/1.0.0/card.md           the same for people
```
"""

import hashlib
import re
from pathlib import Path
from typing import Literal

import msgspec

from connectors.config import NAME
from connectors.errors import ConfigError
from schemas.values import JsonScalar, Record
from streams.model.operators import NotOnnx, operators
from streams.words import did_you_mean

LARGEST_MODEL = 64 * 1024 * 1024
LARGEST_MANIFEST = 1024 * 1024
ALLOWED_OPERATORS = frozenset(
    {
        "ai.onnx.ml.LinearClassifier",
        "ai.onnx.ml.LinearRegressor",
        "ai.onnx.ml.Normalizer",
        "ai.onnx.ml.Scaler",
        "ai.onnx.ml.TreeEnsembleClassifier",
        "ai.onnx.ml.TreeEnsembleRegressor",
        *("Add", "ArgMax", "ArrayFeatureExtractor", "Cast", "Concat", "Div", "Gemm", "Identity", "MatMul", "Mul"),
        *("Relu", "Reshape", "Sigmoid", "Softmax", "Squeeze", "Sub", "Tanh", "Unsqueeze"),
        "ai.onnx.ml.ArrayFeatureExtractor",
    }
)
"""Arithmetic and trees: what a tabular model needs. None of these reads files, loops or calls out."""

_VERSION = r"\d+\.\d+\.\d+"
_USE = re.compile(rf"({NAME[1:-1]})@(?:({_VERSION})|([a-z][a-z0-9-]{{0,48}}))")
_OPENINGS = {
    b"\x80": "a pickle",
    b"PK": "a zip archive, as torch and skops write, which can hold a pickle",
    b"\x1f\x8b": "a compressed file, as joblib writes, which can hold a pickle",
    b"x\x9c": "a compressed file, as joblib writes, which can hold a pickle",
    b"BZ": "a compressed file, as joblib writes, which can hold a pickle",
    b"\xfd7zXZ": "a compressed file, as joblib writes, which can hold a pickle",
}
_PICKLES = ("*.pkl", "*.pickle", "*.joblib", "*.skops", "*.pt", "*.pth")


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input. A number is one column of the matrix; a category has one column for each of its values, one is 1."""

    name: str
    kind: Literal["number", "category"]
    impute: JsonScalar = None
    """What stands in for a missing value; null = it cannot be missing."""
    impute_is: str = ""
    """What that value is: the median, the mode, or why another one."""
    seen: tuple[float, float] | None = None
    """Least and greatest value in training."""
    categories: list[str] = []
    others: bool = False
    """True: a category that is not listed is answered as `other` (all columns 0). False: it is refused."""
    median: float | None = None
    deciles: list[float] = []
    shares: dict[str, float] = {}
    """Reference of a category: the share of each in training."""
    missing_share: float = 0.0

    @property
    def width(self) -> int:
        """Columns of the matrix."""
        return len(self.categories) if self.kind == "category" else 1


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One output: a number of the model, or the band that a number lies in."""

    name: str
    kind: Literal["probability", "number", "band"]
    tensor: str = ""
    """Name of the ONNX output, of shape [rows, columns]."""
    column: int = 0
    of: str = ""
    """A band's number."""
    edges: list[float] = []
    """Ascending; a value equal to an edge lies in the upper band."""
    labels: list[str] = []
    """One more than edges."""


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the model did on rows that it was not trained on, so that it can say when it does not know."""

    rows: int
    data: str
    quantiles: dict[str, float]
    """Split conformal: alpha -> the quantile of `1 - probability of what came true`."""
    unsureness: dict[str, float]
    """Share of the rows -> the value of `1 - confidence` that this share lies above."""
    coverage: dict[str, dict[str, float]] = {}
    """Data -> alpha -> the share of rows whose label set held what came true."""


class GoldenRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Inputs as they arrive, and the answer that every machine must give."""

    inputs: Record
    outputs: Record


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For whom the model is good, and how good it is."""

    intended_use: str
    out_of_scope: str
    data: str
    metrics: dict[str, dict[str, float]]
    """Data -> figure -> value. All data here are rows that the model was not trained on."""
    owner: str
    approver: str
    expires: str
    """RFC 3339 date; from that day on the model is refused."""
    notes: list[str] = []


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that the hub knows of a model version."""

    cd_schema: int
    name: str
    version: str
    sha256: str
    operators: list[str]
    tensor: str
    """Name of the ONNX input: float32 [rows, sum of the inputs' widths]."""
    inputs: list[Input]
    outputs: list[Output]
    card: Card
    golden: list[GoldenRow]
    calibration: Calibration | None = None
    trained_rows: int = 0

    @property
    def digest(self) -> str:
        """What an answer is stamped with."""
        return self.sha256[:16]

    @property
    def probability(self) -> Output | None:
        """The output that is a probability, for which confidence and abstention have a meaning."""
        return next((output for output in self.outputs if output.kind == "probability"), None)


class ModelVersion(msgspec.Struct, frozen=True):
    """A manifest whose file was checked, and the file's bytes."""

    manifest: Manifest
    model: bytes


def resolve(use: str, models: Path) -> Path:
    """Folder of `name@alias` or `name@1.2.3`.

    Raises:
        ConfigError: not of that form, or there is no such model, alias or version.
    """
    found = _USE.fullmatch(use)
    if found is None:
        raise ConfigError(f"model {use!r}: write name@alias or name@1.2.3")
    name, version, alias = found.groups()
    if not (models / name).is_dir():
        known = sorted(entry.name for entry in models.glob("*/") if not entry.name.startswith("."))
        raise ConfigError(f"no model {name!r} in {models}; there are: {', '.join(known)}{did_you_mean(name, known)}")
    if version is None:
        aliases = _aliases(models / name / "aliases.json")
        if alias not in aliases:
            raise ConfigError(
                f"model {name!r} has no alias {alias!r}; it has: {', '.join(aliases)}{did_you_mean(alias, aliases)}"
            )
        version = aliases[alias]
    folder = models / name / version
    if not re.fullmatch(_VERSION, version) or not folder.is_dir():
        known = sorted(entry.name for entry in (models / name).iterdir() if entry.is_dir())
        raise ConfigError(f"model {name!r} has no version {version!r}; it has: {', '.join(known)}")
    return folder


def read_manifest(folder: Path) -> Manifest:
    """The manifest alone: enough to check a pipeline offline. Raises ConfigError."""
    path = folder / "manifest.json"
    try:
        manifest = msgspec.json.decode(_read(path, LARGEST_MANIFEST), type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"not a manifest: {error}", file=str(path)) from error
    if manifest.cd_schema > 1:
        raise ConfigError(f"cd_schema {manifest.cd_schema}: this version reads up to 1", file=str(path))
    if (manifest.name, manifest.version) != (folder.parent.name, folder.name):
        raise ConfigError(
            f"it describes {manifest.name} {manifest.version}, but lies in {folder.parent.name}/{folder.name}",
            file=str(path),
        )
    _check_shapes(manifest, path)
    return manifest


def load(folder: Path) -> ModelVersion:
    """Manifest and model, the file checked: digest, format, operators. Nothing of it has run yet.

    Raises:
        ConfigError: something is missing, was changed, is a pickle, or holds what is never loaded.
    """
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ConfigError(
            f"{pickles[0]}: pickles run code when they are loaded and never are; export the model as ONNX"
        )
    manifest = read_manifest(folder)
    path = folder / "model.onnx"
    model = _read(path, LARGEST_MODEL)
    for opening, what in _OPENINGS.items():
        if model.startswith(opening):
            raise ConfigError(f"this is {what}, and never loaded; export the model as ONNX", file=str(path))
    sha256 = hashlib.sha256(model).hexdigest()
    if sha256 != manifest.sha256:
        raise ConfigError(
            f"the file is not the one that the manifest describes: sha256 {sha256[:16]}…, not {manifest.sha256[:16]}…; "
            "a version never changes, a new model is a new version",
            file=str(path),
        )
    try:
        found = operators(model)
    except NotOnnx as error:
        raise ConfigError(f"refused: {error}", file=str(path)) from error
    unknown = sorted(found - ALLOWED_OPERATORS) or sorted(found - set(manifest.operators))
    if unknown:
        raise ConfigError(f"operator {unknown[0]} is not on the allow-list", file=str(path))
    return ModelVersion(manifest, model)


def _aliases(path: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode(_read(path, LARGEST_MANIFEST), type=dict[str, str])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"aliases are an object of texts: {error}", file=str(path)) from error


def _read(path: Path, largest: int) -> bytes:
    try:
        if path.stat().st_size > largest:
            raise ConfigError(f"larger than {largest // 1024 // 1024} MiB", file=str(path))
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(path)) from error


def _check_shapes(manifest: Manifest, path: Path) -> None:
    numbers = {output.name for output in manifest.outputs if output.kind != "band"}
    for output in manifest.outputs:
        if output.kind == "band" and (
            output.of not in numbers
            or len(output.labels) != len(output.edges) + 1
            or output.edges != sorted(output.edges)
        ):
            raise ConfigError(
                f"output {output.name!r}: bands need a number, ascending edges and one label more", file=str(path)
            )
    if not numbers:
        raise ConfigError("a model needs an output that is a number", file=str(path))
    for field in manifest.inputs:
        if field.kind == "category" and not field.categories:
            raise ConfigError(f"input {field.name!r}: a category needs its categories", file=str(path))
