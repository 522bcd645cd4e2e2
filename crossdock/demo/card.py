"""The model card as people read it: written from the manifest, so that the two never differ."""

from streams.model.manifest import Calibration, Input, Manifest

_FIGURES = {
    "rows": "rows",
    "base_rate": "share that came true",
    "auc": "AUC",
    "brier": "Brier score",
    "brier_of_base_rate": "Brier score of always saying the training share",
    "accuracy": "accuracy at 0.5",
    "accuracy_of_always_no": "accuracy of always saying no",
}


def card_text(manifest: Manifest) -> str:
    """Markdown, with the manifest's own figures."""
    card = manifest.card
    parts = [
        f"# {manifest.name} {manifest.version}",
        f"**For**: {card.intended_use}\n\n**Not for**: {card.out_of_scope}",
        f"Owner: {card.owner}. Approved by: {card.approver}. Refused from {card.expires} on.",
        f"## Data\n{card.data}\n\nTrained on {manifest.trained_rows:,} rows.",
        _metrics(card.metrics),
        *([_calibration(manifest.calibration)] if manifest.calibration else []),
        "## Inputs\n" + "\n".join(_input(spec) for spec in manifest.inputs),
        "## Outputs\n" + "\n".join(_outputs(manifest)),
        "## To know\n" + "\n".join(f"- {note}" for note in card.notes),
        (
            f"## File\n`model.onnx`, sha256 `{manifest.sha256}`, operators: {', '.join(manifest.operators)}. "
            f"{len(manifest.golden)} golden rows are answered again each time it is loaded."
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _metrics(metrics: dict[str, dict[str, float]]) -> str:
    """One column for each data set; all of them are rows that the model was not trained on."""
    names = list(metrics)
    figures = list(dict.fromkeys(figure for values in metrics.values() for figure in values))
    lines = [
        "## How good it is, on rows that it was not trained on",
        f"| | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    for figure in figures:
        cells = [_cell(figure, metrics[name].get(figure)) for name in names]
        lines.append(f"| {_FIGURES.get(figure, figure)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(figure: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if figure == "rows" else f"{value:.4f}"


def _calibration(calibration: Calibration) -> str:
    alphas = list(calibration.quantiles)
    lines = [
        (
            f"## When it is unsure\n{calibration.data} ({calibration.rows:,} rows). Coverage is the share of rows "
            "whose set of likely labels held what came true; it should be near 1 - alpha, and falls when the stream "
            "drifts.\n"
        ),
        f"| coverage | {' | '.join(f'alpha {alpha}' for alpha in alphas)} |",
        f"|---|{'---|' * len(alphas)}",
    ]
    for data, values in calibration.coverage.items():
        lines.append(f"| {data} | {' | '.join(f'{values[alpha]:.4f}' for alpha in alphas)} |")
    return "\n".join(lines)


def _input(spec: Input) -> str:
    if spec.kind == "category":
        others = "; others are answered as other" if spec.others else "; others are refused"
        what = f"one of {', '.join(spec.categories)}{others}"
    elif spec.seen is not None:
        what = f"{spec.seen[0]:g} to {spec.seen[1]:g} in training, median {spec.median:g}"
    else:
        what = "a number"
    absent = f"; absent in {spec.missing_share:.1%}, then {spec.impute} ({spec.impute_is})" if spec.impute_is else ""
    return f"- `{spec.name}`: {what}{absent}"


def _outputs(manifest: Manifest) -> list[str]:
    lines = []
    for output in manifest.outputs:
        if output.kind == "band":
            steps = [f"below {output.edges[0]:g}: {output.labels[0]}"]
            steps += [f"from {edge:g}: {label}" for edge, label in zip(output.edges, output.labels[1:], strict=True)]
            lines.append(f"- `{output.name}`: of `{output.of}`; {', '.join(steps)}")
        else:
            lines.append(f"- `{output.name}`: {output.kind}{', 0 to 1' if output.kind == 'probability' else ''}")
    return lines
