"""The verbs of the archive: `crossdock archive status` and `crossdock archive verify`."""

import typer

from crossdock.cli.output import DEFAULT, AsJson, Folder, show

archive = typer.Typer(no_args_is_help=True, help="The archive: receipts, dead letters and reviews that outlive Kafka.")


@archive.command("status")
def archive_status(folder: Folder = DEFAULT, as_json: AsJson = False) -> None:
    """What is archived, up to when, and what waits."""
    from crossdock.archive import status

    found = status(folder)
    lines = [f"archive {found['folder']}"]
    lines += [
        f"  {topic}: {each['rows']:,} records in {each['files']:,} files, {each['bytes']:,} bytes, "
        f"newest {each['newest'] or 'none'}; {each['waiting']:,} on Kafka are not archived yet"
        for topic, each in found["topics"].items()
    ]
    show(found, "\n".join(lines), as_json=as_json)


@archive.command("verify")
def archive_verify(folder: Folder = DEFAULT, as_json: AsJson = False) -> None:
    """Computes every digest again and follows the offsets; exit code 1 and the file's name where something is wrong."""
    from crossdock.archive import verify

    found = verify(folder)
    wrong = found["problems"]
    lines = [f"archive {found['folder']}: {found['partitions']} partitions, {len(wrong) or 'no'} problems", *wrong]
    show(found, "\n".join(lines), as_json=as_json)
    raise typer.Exit(1 if wrong else 0)
