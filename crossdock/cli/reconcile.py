"""`crossdock reconcile`: is what a source holds what its targets hold?"""

from pathlib import Path
from typing import Annotated, Any

import typer

from crossdock.cli.output import AsJson, harmless, show


def reconcile(  # noqa: PLR0917 - typer's options
    folder: Annotated[Path, typer.Argument(help="folder of crossdock.yaml, systems/ and pipelines/")],
    pipeline: Annotated[str, typer.Argument(help="its name")],
    bucket: Annotated[
        str | None, typer.Option(help="compare this one alone: two hex digits, as a run names it")
    ] = None,
    reread: Annotated[
        bool, typer.Option("--reread", help="ask the source again for what is missing or different")
    ] = False,
    most: Annotated[int, typer.Option("--show", min=0, help="differences that are listed at most")] = 20,
    as_json: AsJson = False,
) -> None:
    """Compares a pipeline's source with what its targets hold. Exit code 0: nothing differs; 1: something does."""
    from connectors.clock import SystemClock
    from crossdock.reconcile.run import run

    found = run(folder, pipeline, bucket=bucket, reread=reread, show=most, clock=SystemClock())
    show(found, "\n".join(_lines(found)), as_json=as_json)
    raise typer.Exit(0 if found["ok"] else 1)


def _lines(found: dict[str, Any]) -> list[str]:
    lines = []
    for each in found["writebacks"]:
        beside = "the target's versions" if each["against"] == "target" else "the last receipts"
        read = "" if each["source"] == "itself" else " (of the source, what was read)"
        name = f"{found['pipeline']} -> {each['writeback']}"
        lines.append(f"{name}: {each['records']:,} records{read} against {beside}")
        lines.append(
            f"  values of {each['values_compared']:,} compared, {each['in_flight']:,} records on their way left out"
        )
        counted = ", ".join(f"{kind} {each[kind]:,}" for kind in ("missing", "extra", "different"))
        lines.append(f"  {counted}; verified through {each['verified_through'] or 'never yet'}")
        lines += [
            f"  {row['kind']:<9} {harmless(str(row['key']))}  bucket {row['bucket']}  {row['why']}"
            for row in each["differences"]
        ]
        hidden = sum(each[kind] for kind in ("missing", "extra", "different")) - len(each["differences"])
        lines += [f"  and {hidden:,} more; --show lists more of them"] if hidden > 0 else []
    if found["asked_again"]:
        lines.append(f"{found['asked_again']:,} records were asked for again; compare once more when they are written")
    return lines
