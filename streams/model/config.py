"""The `model:` block of a pipeline: which model, what goes in, what comes out, and when a person decides."""

from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import Field, model_validator

from connectors.clock import Clock
from connectors.config import Block
from connectors.contract import Problem
from connectors.errors import ConfigError
from schemas.values import JsonScalar
from streams.model.manifest import Calibration, Input, Manifest, Output, load, read_manifest, resolve
from streams.selector import Selector, root_of
from streams.words import did_you_mean

if TYPE_CHECKING:
    from streams.guards import InputGuard, OutputGuard
    from streams.model.abstention import Abstention
    from streams.model.step import ModelStep

LookupPolicy: TypeAlias = str
"""What a lookup says of a record that it did not find: impute, abstain or dead."""


class _Limits(Block):
    range: tuple[float, float] | None = Field(default=None, description="least and greatest value, both allowed")
    allow: list[JsonScalar] | None = Field(default=None, min_length=1, description="the values that are allowed")

    @model_validator(mode="after")
    def _range_ascends(self) -> "_Limits":
        if self.range is not None and not self.range[0] <= self.range[1]:
            raise ValueError(f"range: {self.range[0]:g} is above {self.range[1]:g}")
        return self


class InputConfig(_Limits):
    """One input of the model: where it comes from, what is allowed, and what happens without it."""

    path: Selector
    missing: Literal["refuse", "impute", "abstain"] = Field(
        default="refuse", description="no value: a dead letter, the manifest's stand-in, or a person"
    )


class OutputConfig(_Limits):
    """One output of the model: what is allowed. The manifest's own limits hold where nothing is said."""


class UnsureConfig(Block):
    """When the model is not sure enough, a person decides."""

    alpha: float = Field(gt=0, lt=1, description="how often the set of likely labels may miss the truth")
    max_share: float = Field(default=1.0, gt=0, le=1, description="at most this share of the events waits for a person")
    then: Literal["review"] = "review"


class ModelConfig(Block):
    """The whole block."""

    use: str = Field(description="name@alias, or name@1.2.3")
    inputs: dict[str, InputConfig] = Field(min_length=1)
    outputs: dict[str, OutputConfig] = Field(default_factory=dict)
    unsure: UnsureConfig | None = None

    def manifest(self, models: Path) -> Manifest:
        """The manifest that `use` means, without loading the model. Raises ConfigError."""
        return read_manifest(resolve(self.use, models))

    def problems(self, manifest: Manifest, lookups: Mapping[str, LookupPolicy]) -> list[Problem]:
        """What the manifest contradicts; paths are inside this block. Offline."""
        return [
            *self._input_problems(manifest, lookups),
            *self._output_problems(manifest),
            *self._unsure_problems(manifest),
        ]

    def build(self, models: Path, lookups: Mapping[str, LookupPolicy], clock: Clock) -> "ModelStep":
        """The model step. The file is checked, loaded, and its golden rows are answered.

        Args:
            models: the folder of all models.
            lookups: name of each of the pipeline's lookups -> what it says of a record that it did not find.
            clock: for deadlines.

        Raises:
            ConfigError: no such model, a file that was changed or is never loaded, an expired one, or `problems`.
        """
        from streams.features import Features
        from streams.guards import InputGuards, OutputGuards
        from streams.model.onnx import OnnxBackend, check_golden
        from streams.model.step import ModelStep

        folder = resolve(self.use, models)
        version = load(folder)
        manifest = version.manifest
        _check_expiry(manifest, clock.now().date(), folder)
        problems = self.problems(manifest, lookups)
        if problems:
            lines = [f"{'.'.join(str(part) for part in problem.path)}: {problem.message}" for problem in problems]
            raise ConfigError(f"model {self.use}: {'; '.join(lines)}")
        backend = OnnxBackend(version, clock)
        check_golden(backend, folder / "manifest.json")
        features = Features({name: config.path for name, config in self.inputs.items()}, frozenset(lookups))
        return ModelStep(
            manifest,
            backend,
            features=features,
            inputs=InputGuards([self._input_guard(spec, lookups) for spec in manifest.inputs]),
            outputs=OutputGuards([self._output_guard(spec) for spec in manifest.outputs]),
            abstention=self._abstention(manifest),
        )

    def _input_problems(self, manifest: Manifest, lookups: Mapping[str, LookupPolicy]) -> Iterator[Problem]:
        specs = {spec.name: spec for spec in manifest.inputs}
        for name in self.inputs.keys() - specs.keys():
            hint = did_you_mean(name, specs)
            yield Problem(("inputs", name), f"the model has no such input; it has: {', '.join(specs)}{hint}")
        for name, spec in specs.items():
            if name not in self.inputs:
                yield Problem(("inputs",), f"the model needs {name!r} ({spec.kind})")
                continue
            config = self.inputs[name]
            for message in _input_clashes(config, spec):
                yield Problem(("inputs", name), message)
            policy = lookups.get(root_of(config.path) or "")
            if "impute" in (config.missing, policy) and spec.impute is None:
                yield Problem(("inputs", name), "the model has no stand-in for a missing value; say refuse or abstain")

    def _output_problems(self, manifest: Manifest) -> Iterator[Problem]:
        specs = {spec.name: spec for spec in manifest.outputs}
        for name, config in self.outputs.items():
            if name not in specs:
                hint = did_you_mean(name, specs)
                yield Problem(("outputs", name), f"the model has no such output; it has: {', '.join(specs)}{hint}")
                continue
            labels = specs[name].labels
            if specs[name].kind != "band" and config.allow is not None:
                yield Problem(("outputs", name, "allow"), "this output is a number; say `range`")
            elif specs[name].kind == "band" and config.range is not None:
                yield Problem(("outputs", name, "range"), f"this output is a label; say `allow`: {', '.join(labels)}")
            elif unknown := [label for label in config.allow or () if label not in labels]:
                hint = did_you_mean(str(unknown[0]), labels)
                yield Problem(
                    ("outputs", name, "allow"),
                    f"the model never answers {unknown[0]!r}; its labels: {', '.join(labels)}{hint}",
                )

    def _unsure_problems(self, manifest: Manifest) -> Iterator[Problem]:
        if self.unsure is None:
            return
        alpha, calibration = self.unsure.alpha, manifest.calibration
        if manifest.probability is None or calibration is None:
            yield Problem(("unsure",), "this model gives no probability, so it cannot tell when it is unsure")
            return
        if calibration.rows * alpha < 1:
            yield Problem(
                ("unsure", "alpha"),
                f"{alpha:g} needs at least {round(1 / alpha)} calibration rows; the model has {calibration.rows}",
            )
        elif _quantile(calibration, alpha) is None:
            yield Problem(("unsure", "alpha"), f"the model is calibrated for: {', '.join(calibration.quantiles)}")
        if _threshold(calibration, self.unsure.max_share) is None:
            least = min(calibration.unsureness, key=float, default="1")
            yield Problem(("unsure", "max_share"), f"the model can hold no share below {least}")

    def _input_guard(self, spec: Input, lookups: Mapping[str, LookupPolicy]) -> "InputGuard":
        from streams.guards import InputGuard, Missing

        config = self.inputs[spec.name]
        lookup = root_of(config.path)
        policy = lookups.get(lookup) if lookup else None
        return InputGuard(
            spec,
            missing=Missing(config.missing),
            lookup=lookup if policy else None,
            lookup_missing=None if policy is None else Missing("refuse" if policy == "dead" else policy),
            range=config.range,
            allow=None if config.allow is None else frozenset(str(value) for value in config.allow),
        )

    def _output_guard(self, spec: Output) -> "OutputGuard":
        from streams.guards import OutputGuard

        config = self.outputs.get(spec.name, OutputConfig())
        return OutputGuard(spec, config.range, None if config.allow is None else frozenset(config.allow))

    def _abstention(self, manifest: Manifest) -> "Abstention | None":
        from streams.model.abstention import Abstention

        if self.unsure is None or manifest.calibration is None:
            return None
        quantile = _quantile(manifest.calibration, self.unsure.alpha)
        threshold = _threshold(manifest.calibration, self.unsure.max_share)
        assert quantile is not None
        assert threshold is not None  # `problems` has refused the rest
        return Abstention(quantile, threshold, self.unsure.max_share)


def _input_clashes(config: InputConfig, spec: Input) -> Iterator[str]:
    """Where an input's limits contradict what the model takes."""
    if spec.kind == "number":
        if config.allow is not None:
            yield "this input is a number; say `range`"
        if config.range is not None and isinstance(spec.impute, int | float):
            low, high = config.range
            if config.missing == "impute" and not low <= spec.impute <= high:
                yield f"the model's stand-in {spec.impute:g} is not in {low:g}..{high:g}"
        return
    if config.range is not None:
        yield "this input is a category; say `allow`"
    if config.allow is None:
        return
    unknown = [str(value) for value in config.allow if str(value) not in spec.categories]
    if unknown and not spec.others:
        known = ", ".join(spec.categories)
        yield f"the model does not know {unknown[0]!r}; it knows: {known}{did_you_mean(unknown[0], spec.categories)}"
    if config.missing == "impute" and spec.impute is not None and str(spec.impute) not in map(str, config.allow):
        yield f"the model's stand-in {spec.impute!r} is not in `allow`"


def _quantile(calibration: Calibration, alpha: float) -> float | None:
    return next((value for name, value in calibration.quantiles.items() if abs(float(name) - alpha) < 1e-9), None)


def _threshold(calibration: Calibration, max_share: float) -> float | None:
    """Of the shares in the table the greatest that is not above `max_share`; a share of 1 lets every unsure row ask."""
    if max_share >= 1:
        return -1.0
    shares = [name for name in calibration.unsureness if float(name) <= max_share + 1e-9]
    return calibration.unsureness[max(shares, key=float)] if shares else None


def _check_expiry(manifest: Manifest, today: date, folder: Path) -> None:
    place = str(folder / "manifest.json")
    try:
        expires = date.fromisoformat(manifest.card.expires)
    except ValueError as error:
        raise ConfigError(f"card.expires: not a date: {manifest.card.expires!r}", file=place) from error
    if today >= expires:
        raise ConfigError(f"model {manifest.name} {manifest.version} has expired on {expires}", file=place)
    if not manifest.card.approver:
        raise ConfigError(f"model {manifest.name} {manifest.version} was approved by nobody", file=place)
