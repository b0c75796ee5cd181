"""An archive in an object store: whole files, no name twice, and a store that is away."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.archive import manifest
from connectors.archive.archive import Archive
from connectors.archive.reader import ArchiveReader
from connectors.archive.store import Objects, store_of
from connectors.errors import ArchiveRefused, ArchiveTaken, ServerGone
from connectors.positions import Partition
from sync.archive.keep import Archiver
from sync.archive.verify import Check
from sync.settings import Archive as ArchiveSettings
from tests.support.archive import MemoryTopics
from tests.support.objects import ObjectStore, object_store
from tests.unit.test_archive_keep import COLUMNS, MINE, entry

HOME = Partition("p.public.a", 0)
URL = f"s3://{ObjectStore.bucket}/here/archive"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("objects")) as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.environ.items():
            patch.setenv(name, value)
        patch.setattr("s3fs.core.S3FileSystem.retries", 1)  # its own, before ours
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import boto3

            boto3.client("s3").create_bucket(Bucket=store.bucket)
        yield store


def archiver(topics: MemoryTopics, name: str, segment_bytes: int = 2_000) -> Archiver:
    archive = Archive(store_of(f"{URL}/{name}"))
    archive.claim(MINE)
    settings = ArchiveSettings(url=URL, segment_bytes=segment_bytes)
    return Archiver(
        archive, topics, settings, topics=topics.topics, columns=lambda _: COLUMNS, log=lambda *_, **__: None
    )


def demand_all(topics: MemoryTopics, name: str) -> None:
    found = list(ArchiveReader(f"{URL}/{name}").entries(HOME, 0))
    assert found == topics.entries[HOME]
    archive = Archive(store_of(f"{URL}/{name}"))
    report = Check(archive, deep=True, watch=lambda *_: None, stop=lambda: False).run()
    assert report.ok, report.problems
    assert report.records == len(found)


def test_the_store_keeps_what_folders_keep(server: ObjectStore) -> None:
    topics = MemoryTopics({HOME: [entry(HOME, n, 1 + n // 40) for n in range(60)]})
    archiver(topics, "whole").run(lambda: False, {HOME: 30})
    archiver(topics, "whole").run(lambda: False, topics.ends)
    assert len(ArchiveReader(f"{URL}/whole").chain(HOME).segments) > 3
    demand_all(topics, "whole")


def test_no_name_is_taken_twice(server: ObjectStore) -> None:
    store = store_of(f"{URL}/names")
    for data in (b"1", b"2"):
        file = store.spool("topics/x")
        file.write_bytes(data)
        if data == b"1":
            store.put("topics/x", file)
        else:
            with pytest.raises(ArchiveTaken):
                store.put("topics/x", file)
    assert store.read("topics/x") == b"1"
    assert store.names("topics") == ["topics/x"]
    with pytest.raises(FileNotFoundError):
        store.open("topics/y")
    store.remove("topics/x")
    store.remove("topics/x")
    assert store.read("topics/x") is None


def test_two_archivers_do_not_mix(server: ObjectStore) -> None:
    topics = MemoryTopics({HOME: [entry(HOME, n) for n in range(30)]})
    other = MemoryTopics(topics.entries)
    first, second = archiver(topics, "two", 10**6), archiver(other, "two", 10**6)
    first._step()
    second._step()  # both have the same records in hand
    first._end()
    with pytest.raises(ArchiveTaken):
        second._end()
    archiver(other, "two").run(lambda: False, other.ends)
    demand_all(topics, "two")


def test_a_bucket_that_is_not_there(server: ObjectStore) -> None:
    with pytest.raises(ArchiveRefused, match="refuses"):
        Archive(store_of("s3://none-such/x")).claim(MINE)


def test_what_a_dead_process_left_on_this_machine_goes(server: ObjectStore, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path))
        left = tmp_path / "tandem-archive-dead"
        left.mkdir()
        (left / ".lock").touch()
        (left / "segment").write_bytes(b"x")
        lives = Objects(URL)
        again = Objects(URL)
        assert not left.exists()
        assert lives.spool("x").parent.is_dir()
        assert lives.spool("x").parent != again.spool("x").parent


def test_a_store_that_is_away_is_waited_for(server: ObjectStore) -> None:
    """Last: what it held is gone with it, but for what the archiver still has in hand."""
    topics = MemoryTopics({HOME: [entry(HOME, n) for n in range(30)]})
    made = archiver(topics, "away")
    server.stop()
    with pytest.raises(ServerGone, match="does not answer"):
        Archive(store_of(f"{URL}/away")).identity()
    done = threading.Event()

    def run() -> None:
        made.run(lambda: False, topics.ends)
        done.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    time.sleep(1)
    assert not done.is_set()
    server.start()
    import boto3

    boto3.client("s3").create_bucket(Bucket=server.bucket)
    made.archive.store.write(manifest.ROOT, manifest.as_bytes("archive", MINE))
    assert done.wait(60)
    assert made.kept.retries
    demand_all(topics, "away")
