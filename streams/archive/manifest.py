"""Manifests: which offsets of a partition are in which file, and whether all of it is still as it was written.

They are a chain: each begins where the one before ends, and holds its digest. So a file or manifest that was changed or
taken away shows, but for the last of a partition: a chain does not know that it was longer.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from connectors.errors import CrossdockError, Retriable
from connectors.failpoints import failpoint
from schemas.codec import Undecodable, decode, encode

_PIECE = 1 << 20
_DATA, _MANIFEST, _UNFINISHED = ".parquet", ".json", ".part"


class ArchivedMeanwhile(CrossdockError):
    """Another owner has archived from this position on; nothing was added."""


class Damaged(CrossdockError):
    """A file of the archive is not what was written, or is not there."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One chunk: the records of a partition from `start` up to `next`."""

    cd_schema: int = 1
    topic: str
    topic_id: str
    partition: int
    start: int
    """Where the chunk before ended; of the first one, the first offset that Kafka still had."""
    next: int
    expired: int = 0
    """Offsets from `start` on that Kafka did not have any more when the chunk was read: they are lost."""
    file: str
    sha256: str
    bytes: int
    rows: int
    first: int
    last: int
    """Offsets of the first and last record."""
    oldest: str
    newest: str
    """Times of records."""
    time: str
    """When it was archived."""
    previous: str | None
    """SHA-256 of the manifest before; None for the first one."""


class Place(msgspec.Struct, frozen=True):
    """A partition of one topic, told from a topic of the same name that was made later."""

    topic: str
    topic_id: str
    partition: int


@dataclass(frozen=True, slots=True)
class End:
    """Where the chunks of a partition end."""

    next: int
    digest: str
    """Of the last manifest."""
    newest: str


class Shelf:
    """The folder of one partition. Every method raises Retriable where the file system refuses."""

    def __init__(self, folder: Path, place: Place) -> None:
        self.place = place
        self.folder = folder / place.topic / place.topic_id / str(place.partition)

    def end(self) -> End | None:
        """Where to go on; None = nothing is archived yet.

        Raises:
            Damaged: the last manifest cannot be read.
        """
        with _told(self.folder):
            files = _manifests(self.folder)
            if not files:
                return None
            raw = files[-1].read_bytes()
        last = _decoded(files[-1], raw)
        return End(last.next, _digest(raw), last.newest)

    def manifests(self, since: int = 0) -> Iterator[tuple[Path, Manifest]]:
        """Those that end after an offset, in order, with their files of records.

        Raises:
            Damaged: one cannot be read.
        """
        with _told(self.folder):
            files = _manifests(self.folder)
        later = [number for number, file in enumerate(files) if _start(file) > since]
        for file in files[max(0, later[0] - 1) if later else -1 :]:
            with _told(file):
                manifest = _decoded(file, file.read_bytes())
            if manifest.next > since:
                yield self.folder / manifest.file, manifest

    def unfinished(self) -> Path:
        """A new empty file for a chunk."""
        with _told(self.folder):
            _make(self.folder)
            number, name = tempfile.mkstemp(suffix=_UNFINISHED, dir=self.folder)
            os.close(number)
            return Path(name)

    def add(self, file: Path, manifest: Manifest) -> Manifest:
        """Puts a finished file and its manifest in their places.

        Args:
            file: as from `unfinished`, complete.
            manifest: all of it but the file's name, digest and size.

        Raises:
            ArchivedMeanwhile: there is a manifest for this position.
        """
        with _told(self.folder):
            _sync(file)
            digest = _file_digest(file)
            whole = msgspec.structs.replace(
                manifest,
                file=f"{manifest.start:020d}-{digest[:16]}{_DATA}",
                sha256=digest,
                bytes=file.stat().st_size,
            )
            failpoint("archive_before_rename")
            file.rename(self.folder / whole.file)
            _sync(self.folder)
            failpoint("archive_before_manifest")
            self._link(whole)
            failpoint("archive_after_manifest")
            return whole

    def _link(self, manifest: Manifest) -> None:
        written = self.unfinished()
        try:
            written.write_bytes(encode(manifest))
            _sync(written)
            os.link(written, self.folder / f"{manifest.start:020d}{_MANIFEST}")
            _sync(self.folder)
        except FileExistsError:
            raise ArchivedMeanwhile(f"{self.folder} is not at {manifest.start} any more") from None
        finally:
            written.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Removes what owners have left that ended in the middle.

        A file that begins where the chunks end stays: its owner may be frozen between file and manifest. When the
        chunks have passed it, that owner can never add its manifest.
        """
        with _told(self.folder):
            if not self.folder.is_dir():
                return
            at = -1 if (end := self.end()) is None else end.next
            named = {manifest.file for _, manifest in self.manifests()}
            for file in list(self.folder.iterdir()):
                passed = file.suffix == _DATA and file.name not in named and _start(file) < at
                if passed or file.suffix == _UNFINISHED:
                    file.unlink(missing_ok=True)


def shelves(folder: Path) -> list[Shelf]:
    """All partitions of an archive, also of topics that are no more."""
    with _told(folder):
        found = [path for path in folder.glob("*/*/*") if path.is_dir() and path.name.isdecimal()]
    places = [Place(path.parent.parent.name, path.parent.name, int(path.name)) for path in found]
    return [Shelf(folder, place) for place in sorted(places, key=msgspec.structs.astuple)]


def problems(shelf: Shelf) -> Iterator[str]:
    """What of a partition is not as it was written, a line each with its file. Reads every byte."""
    before: tuple[Manifest, str] | None = None
    with _told(shelf.folder):
        files = _manifests(shelf.folder)
    for file in files:
        with _told(file):
            raw = file.read_bytes()
        try:
            manifest = _decoded(file, raw)
        except Damaged as error:
            yield str(error)
            before = None
            continue
        yield from _chained(file, manifest, before, first=file is files[0])
        if (manifest.topic, manifest.topic_id, manifest.partition) != msgspec.structs.astuple(shelf.place):
            yield f"{file}: is of another partition"
        if (problem := changed(shelf.folder / manifest.file, manifest)) is not None:
            yield problem
        before = manifest, _digest(raw)


def _chained(file: Path, manifest: Manifest, before: tuple[Manifest, str] | None, *, first: bool) -> Iterator[str]:
    if manifest.start != _start(file) or not manifest.start <= manifest.first <= manifest.last < manifest.next:
        yield f"{file}: was changed: its offsets contradict each other"
    if before is None:
        if first and manifest.previous is not None:
            yield f"{file}: the manifests before offset {manifest.start} are missing"
        if first:
            return
    elif manifest.start != before[0].next:
        yield f"{file}: a gap: the manifest from offset {before[0].next} to {manifest.start} is missing"
    elif manifest.previous != before[1]:
        yield f"{file.parent / f'{before[0].start:020d}{_MANIFEST}'}: was changed"
    if manifest.expired:
        yield f"{file}: {manifest.expired} offsets from {manifest.start} on expired before they were archived"


def changed(file: Path, manifest: Manifest) -> str | None:
    """What is wrong with a file of records; None = nothing."""
    try:
        digest = _file_digest(file)
    except FileNotFoundError:
        return f"{file}: is missing ({manifest.rows} records from offset {manifest.first} on)"
    except OSError as error:
        return f"{file}: cannot be read: {error.strerror}"
    return None if digest == manifest.sha256 else f"{file}: was changed: its SHA-256 is not that of its manifest"


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Retriable(f"the archive {error.filename or path}: {error.strerror or error}") from error


def _manifests(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{_MANIFEST}"))


def _start(file: Path) -> int:
    number = file.name[:20]
    return int(number) if number.isdecimal() else -1


def _decoded(file: Path, raw: bytes) -> Manifest:
    try:
        return decode(raw, Manifest)
    except Undecodable as error:
        raise Damaged(f"{file}: was changed: {error}") from error


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _file_digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while piece := opened.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _make(folder: Path) -> None:
    """With parents, so that a power cut does not lose the way to what is in it."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
