"""The command line. A verb's own modules are imported when it runs, so that `--help` is fast."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from connectors.errors import ConfigError, CrossdockError
from crossdock.cli.archive import archive
from crossdock.cli.dead import dead
from crossdock.cli.index import index
from crossdock.cli.offsets import offsets
from crossdock.cli.operator import doubt, held
from crossdock.cli.output import DEFAULT, AsJson, Folder, harmless, show
from crossdock.cli.pause import pause, resume
from crossdock.cli.reconcile import reconcile

CONFIGURATION = 2

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="An integration hub: changes from legacy systems through Kafka and a model, and back.",
    epilog="Exit codes: 0 done, 1 failed, 2 a file or the command line must be changed, 130 interrupted.",
)
broker = typer.Typer(no_args_is_help=True, help="An embedded Apache Kafka for development.")
app.add_typer(archive, name="archive")
app.add_typer(dead, name="dead")
app.add_typer(broker, name="broker")
app.add_typer(held, name="held")
app.add_typer(doubt, name="doubt")
app.add_typer(index, name="index")
app.add_typer(offsets, name="offsets")
app.command()(reconcile)
app.command()(pause)
app.command()(resume)

BrokerFolder = Annotated[Path, typer.Option(help="where its data and log are kept")]
Port = Annotated[int, typer.Option(min=1024, max=65535, help="on 127.0.0.1")]
Kind = Literal["sql", "soap", "rest"]
BROKER_FOLDER = Path(".crossdock/kafka")
BROKER_PORT = 19092


@app.command()
def run(
    folder: Folder = DEFAULT,
    supervise: Annotated[bool, typer.Option(help="start it again when it crashes")] = True,
    instance: Annotated[str | None, typer.Option(help="name of this worker; default: the lowest free number")] = None,
) -> None:
    """Runs a worker until SIGTERM."""
    from crossdock.bootstrap import run_worker

    raise typer.Exit(run_worker(folder, supervise=supervise, instance=instance))


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="where crossdock.yaml, systems/ and pipelines/ go")] = DEFAULT,
    kind: Annotated[Kind, typer.Option("--from", help="the kind of system")] = "sql",
    name: Annotated[str | None, typer.Option(help="of the system; default: erp, registry or stations")] = None,
) -> None:
    """Writes a system and a pipeline that work, to start from."""
    from crossdock.start import start

    for path in start(folder, kind, name):
        typer.echo(f"wrote {path}")
    typer.echo(f"next: crossdock lint {folder}    crossdock broker start    crossdock run {folder}")


@app.command()
def lint(folder: Folder = DEFAULT, as_json: AsJson = False) -> None:
    """Checks the files, offline: every problem with its place."""
    from connectors.clock import SystemClock
    from crossdock.configuration.across import refuse
    from crossdock.configuration.load import load_from_environment

    found = load_from_environment(folder)
    refuse(found, SystemClock())
    looked_at = {"systems": sorted(found.systems), "pipelines": sorted(found.pipelines)}
    text = f"{folder}: {len(found.systems)} systems and {len(found.pipelines)} pipelines, no problem"
    show({"ok": True, **looked_at}, text, as_json=as_json)


@app.command()
def status(folder: Folder = DEFAULT, as_json: AsJson = False) -> None:
    """What waits where, what is settled, and who works."""
    from crossdock.status import status as look

    found = look(folder)
    lines = [f"kafka {found['kafka']}{' (insecure)' if found['insecure'] else ''}, workers {len(found['workers'])}"]
    lines += [
        f"  {each['system']}: {each['state']} since {each['since']} on worker {each['worker']}: {each['reason']}"
        for each in found["systems"]
        if each["state"] != "running"
    ]
    lines += [
        f"  {each['subject']}: {each['trouble']}: {each['reason']}; decide with: {each['decide']}"
        for each in found["stopped"]
    ]
    if parked := sum(each["parked"] for each in found["systems"]):
        lines.append(f"  parked events: {parked}")
    for name, each in found["pipelines"].items():
        waiting = ", ".join(f"{system} {count:,}" for system, count in each["waiting_for_writeback"].items())
        lines.append(
            f"  {name}: waiting for enrich {each['waiting_for_enrich']:,}, for write-back {waiting or 'none'}, "
            f"backfill {each['waiting_in_backfill']:,}; "
            f"receipts {each['receipts']:,}, dead {each['dead']:,}, review {each['review']:,}"
        )
        if (paused := each["paused"]) is not None:
            lines.append(f"    its sources are paused by {paused['by']} since {paused['since']}: {paused['reason']}")
    show(found, "\n".join(lines), as_json=as_json)


@app.command()
def demo(  # noqa: PLR0917 - typer's options
    as_json: AsJson = False,
    full: Annotated[bool, typer.Option("--full", help="the whole year instead of January")] = False,
    kill: Annotated[int, typer.Option(min=0, help="kill a worker with SIGKILL so many times on the way")] = 0,
    workers: Annotated[int, typer.Option(min=1, max=16)] = 1,
    broker_down: Annotated[float, typer.Option(min=0, help="stop the broker for so many seconds on the way")] = 0.0,
    freeze: Annotated[int, typer.Option(min=0, help="freeze a worker for 15 s so many times, as a zombie")] = 0,
    scale: Annotated[int, typer.Option(min=0, max=16, help="go up to so many workers on the way, and back")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="leave all running at the end")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="end what --keep left")] = False,
    folder: Annotated[Path, typer.Option(help="everything lies under it")] = Path(".crossdock/demo"),
    seconds: Annotated[float, typer.Option(min=1, help="how long the month plays")] = 45.0,
    kafka: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="this broker (without TLS) instead of the embedded one")
    ] = None,
    postgres: Annotated[
        str | None, typer.Option(metavar="URL", help="this server for flightops; its new database goes at the end")
    ] = None,
) -> None:
    """Plays a month of real data through a real broker and three legacy systems, and accounts for every change."""
    from crossdock.demo.main import Options
    from crossdock.demo.main import run as play

    chosen = Options(
        as_json=as_json,
        full=full,
        kill=kill,
        workers=workers,
        broker_down=broker_down,
        freeze=freeze,
        scale=scale,
        keep=keep,
        stop=stop,
        folder=folder,
        seconds=seconds,
        kafka=kafka,
        postgres=postgres,
    )
    raise typer.Exit(play(chosen))


@broker.command("start")
def broker_start(folder: BrokerFolder = BROKER_FOLDER, port: Port = BROKER_PORT) -> None:
    """Starts it; a second start uses the data of the first."""
    from crossdock.broker import Broker

    one = Broker(folder, port)
    one.start()
    typer.echo(f"Kafka answers at {one.bootstrap}; data in {one.folder}, log in {one.log_file}")


@broker.command("stop")
def broker_stop(folder: BrokerFolder = BROKER_FOLDER) -> None:
    """Ends it cleanly."""
    from crossdock.broker import Broker

    typer.echo("stopped" if Broker(folder).stop() else f"no broker runs under {folder}")


@broker.command("status")
def broker_status(folder: BrokerFolder = BROKER_FOLDER) -> None:
    """Whether one runs under this folder."""
    from crossdock.broker import Broker

    typer.echo("running" if Broker(folder).running else f"no broker runs under {folder}")


def main() -> None:
    """The entry point: the one place where an error becomes a line and an exit code."""
    try:
        app()
    except CrossdockError as error:
        sys.stderr.write(f"{harmless(str(error))}\n")
        raise SystemExit(CONFIGURATION if isinstance(error, ConfigError) else 1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
