"""The archive on a file system: chunks are a chain, and whatever was changed or taken out of it shows."""

import hashlib
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from connectors.clock import SystemClock
from connectors.errors import ConfigError, Retriable
from crossdock.cli import app
from crossdock.configuration.across import refuse
from crossdock.configuration.load import load
from streams.archive.manifest import ArchivedMeanwhile, Damaged, Manifest, Place, Shelf, problems, shelves
from streams.archive.parquet import ChunkFile, records_of
from streams.archive.past import Past
from streams.runtime.kafka import ConsumerRecord

PLACE = Place("hub.orders.receipts", "an-id", 1)
TIME = "2026-01-01T00:00:00.000000Z"


def record(offset: int, value: bytes | None = b"\xff\x00 no JSON") -> ConsumerRecord:
    headers = (("ce_id", b"x"), ("twice", b"1"), ("twice", b""), ("none", None))
    return ConsumerRecord(
        PLACE.topic, PLACE.partition, offset, 1_767_225_600_123 + offset, 0, b"k", value, None, 1, 10, headers
    )


def add(shelf: Shelf, start: int, offsets: range, next_: int) -> Manifest:
    """One chunk; `next_` may be behind the last record, as markers of transactions have offsets too."""
    file = shelf.unfinished()
    chunk = ChunkFile(file)
    chunk.add([record(offset) for offset in offsets])
    chunk.finish()
    end = shelf.end()
    manifest = Manifest(
        topic=shelf.place.topic,
        topic_id=shelf.place.topic_id,
        partition=shelf.place.partition,
        start=start,
        next=next_,
        file="",
        sha256="",
        bytes=0,
        rows=len(offsets),
        first=offsets[0],
        last=offsets[-1],
        oldest=TIME,
        newest=TIME,
        time=TIME,
        previous=None if end is None else end.digest,
    )
    return shelf.add(file, manifest)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Three chunks."""
    found = Shelf(tmp_path / "archive", PLACE)
    add(found, 0, range(10), 11)
    add(found, 11, range(11, 20), 20)
    add(found, 20, range(20, 25), 26)
    return found


def files(shelf: Shelf) -> list[Path]:
    return sorted(shelf.folder.glob("*.parquet"))


def test_records_come_back_byte_for_byte(tmp_path: Path) -> None:
    chunk = ChunkFile(tmp_path / "x.parquet")
    given = [record(1), record(2, None), record(5, b""), record(6, b'{"event_id": 1}')]
    chunk.add(given[:2])
    chunk._flush()
    chunk.add(given[2:])
    chunk.finish()
    found = [each for batch in records_of(tmp_path / "x.parquet") for each in batch]
    for before, after in zip(given, found, strict=True):
        for name in ("topic", "partition", "offset", "timestamp", "timestamp_type", "key", "value", "headers"):
            assert getattr(after, name) == getattr(before, name)


def test_chunks_follow_each_other_and_their_end_is_the_position(shelf: Shelf) -> None:
    end = shelf.end()
    assert end is not None
    assert end.next == 26
    found = [manifest for _, manifest in shelf.manifests()]
    assert [(each.start, each.next, each.rows) for each in found] == [(0, 11, 10), (11, 20, 9), (20, 26, 5)]
    for file, manifest in shelf.manifests():
        assert hashlib.sha256(file.read_bytes()).hexdigest() == manifest.sha256
    assert [manifest.start for _, manifest in shelf.manifests(20)] == [20]
    assert [manifest.start for _, manifest in shelf.manifests(19)] == [11, 20]
    assert [manifest.start for _, manifest in shelf.manifests(26)] == []
    assert list(problems(shelf)) == []


def test_of_two_owners_at_one_position_one_goes_on(shelf: Shelf) -> None:
    before = {path: path.read_bytes() for path in shelf.folder.iterdir()}
    with pytest.raises(ArchivedMeanwhile):
        add(shelf, 20, range(20, 24), 24)
    manifests = {path for path in before if path.suffix == ".json"}
    assert {path for path in shelf.folder.iterdir() if path.suffix == ".json"} == manifests
    assert all(path.read_bytes() == raw for path, raw in before.items())
    shelf.tidy()
    assert set(shelf.folder.iterdir()) == set(before), "what the loser left is removed"


def test_what_a_frozen_owner_may_still_add_is_not_removed(shelf: Shelf) -> None:
    at_the_end, passed = shelf.folder / f"{26:020d}-ab.parquet", shelf.folder / f"{20:020d}-ab.parquet"
    for file in (at_the_end, passed, shelf.folder / "x.part"):
        file.touch()
    shelf.tidy()
    assert at_the_end.exists()
    assert not passed.exists()
    assert not list(shelf.folder.glob("*.part"))


def test_a_changed_byte_a_missing_file_and_a_gap_are_named(shelf: Shelf) -> None:
    second = files(shelf)[1]
    raw = bytearray(second.read_bytes())
    raw[len(raw) // 2] ^= 1
    second.write_bytes(raw)
    assert list(problems(shelf)) == [f"{second}: was changed: its SHA-256 is not that of its manifest"]
    second.unlink()
    assert list(problems(shelf)) == [f"{second}: is missing (9 records from offset 11 on)"]
    middle = shelf.folder / f"{11:020d}.json"
    middle.unlink()
    assert list(problems(shelf)) == [
        f"{shelf.folder / f'{20:020d}.json'}: a gap: the manifest from offset 11 to 20 is missing"
    ]
    (shelf.folder / f"{0:020d}.json").unlink()
    (found,) = problems(shelf)
    assert found.endswith(f"{20:020d}.json: the manifests before offset 20 are missing")


def test_a_manifest_that_was_changed_is_named(shelf: Shelf) -> None:
    file = shelf.folder / f"{11:020d}.json"
    manifest = msgspec.json.decode(file.read_bytes(), type=Manifest)
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, newest="2027")))
    assert list(problems(shelf)) == [f"{file}: was changed"]
    file.write_bytes(b"{")
    assert any(problem.startswith(f"{file}: was changed: ") for problem in problems(shelf))


def test_what_expired_before_it_was_archived_is_named(shelf: Shelf) -> None:
    end = shelf.end()
    assert end is not None
    manifest = add(shelf, 26, range(40, 41), 41)
    file = shelf.folder / f"{26:020d}.json"
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, expired=14)))
    assert list(problems(shelf)) == [f"{file}: 14 offsets from 26 on expired before they were archived"]


def test_an_archive_begins_anew_with_a_topic_that_was_made_anew(tmp_path: Path, shelf: Shelf) -> None:
    other = Shelf(tmp_path / "archive", Place(PLACE.topic, "another-id", 1))
    assert other.end() is None
    add(other, 0, range(3), 3)
    assert [each.place.topic_id for each in shelves(tmp_path / "archive")] == ["an-id", "another-id"]


def test_a_last_manifest_that_cannot_be_read_stops_its_partition(shelf: Shelf) -> None:
    (shelf.folder / f"{20:020d}.json").write_bytes(b"x")
    with pytest.raises(Damaged, match=r"20\.json"):
        shelf.end()


def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "archive").touch()
    with pytest.raises(Retriable, match=r"the archive .*: (Not a directory|File exists)"):
        Shelf(tmp_path / "archive", PLACE).unfinished()


def test_the_past_is_read_as_far_as_kafka_no_longer_has_it(tmp_path: Path, shelf: Shelf) -> None:
    parts = list(Past(tmp_path / "archive").between(PLACE, 5, 15))
    assert [record.offset for part in parts for record in part.records] == [*range(5, 10), *range(11, 20)]
    assert [part.next for part in parts] == [10, 11, 20]


def test_a_damaged_file_is_told_and_left_out(tmp_path: Path, shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    files(shelf)[1].write_bytes(b"")
    parts = list(Past(tmp_path / "archive").between(PLACE, 0, 26))
    assert [record.offset for part in parts for record in part.records] == [*range(10), *range(20, 25)]
    (told,) = [line for line in caplog.messages if line.startswith("archive.damaged")]
    assert files(shelf)[1].name in told


def hub(folder: Path, archive: str) -> Path:
    kafka = "kafka: {bootstrap: '127.0.0.1:9092', insecure: true}"
    (folder / "crossdock.yaml").write_text(f"{kafka}\nretention: {{dead: 8h}}\n{archive}\n")
    return folder


def test_the_command_line_verifies_without_kafka(tmp_path: Path, shelf: Shelf) -> None:
    folder = hub(tmp_path, "archive: {folder: archive}")
    found = CliRunner().invoke(app, ["archive", "verify", str(folder)])
    assert (found.exit_code, "no problems" in found.output) == (0, True)
    files(shelf)[0].unlink()
    found = CliRunner().invoke(app, ["archive", "verify", str(folder)])
    assert found.exit_code == 1
    assert files(shelf)[0].parent.name in found.output
    assert f"{0:020d}-" in found.output


def test_a_file_says_what_is_wrong_with_its_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hub(tmp_path, "archive: {folder: archive}")
    with pytest.raises(ConfigError, match=r"crossdock.yaml:3:\d+: every: at most a quarter of retention.dead"):
        refuse(load(folder, {}), SystemClock())
    hub(tmp_path, "archive: {folder: archive, every: 2h}")
    refuse(load(folder, {}), SystemClock())
    monkeypatch.setattr("crossdock.configuration.across.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"crossdock.yaml:3:\d+: .*pip install 'crossdock\[archive\]'"):
        refuse(load(folder, {}), SystemClock())


def test_a_hub_without_an_archive_says_how_to_declare_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no archive is declared; put `archive: \{folder: archive\}` into it"):
        CliRunner().invoke(app, ["archive", "verify", str(hub(tmp_path, ""))], catch_exceptions=False)
