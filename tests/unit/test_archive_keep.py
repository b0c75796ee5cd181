"""The archiver on topics in memory: wherever it ends, however often, every record is in the archive once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.archive.archive import Archive
from connectors.archive.manifest import Identity
from connectors.archive.reader import ArchiveReader
from connectors.errors import ArchiveForeign, ArchiveGap, ArchiveRefused, EventsExpired, ServerGone
from connectors.events import Entry, Record
from connectors.positions import Partition
from sync.archive.keep import Archiver, Kept
from sync.archive.verify import ArchiveReport, Check
from sync.settings import Archive as ArchiveSettings
from tests.support.archive import FailingFolder, Killed, MemoryTopics

HOMES = [Partition("p.public.a", 0), Partition("p.public.a", 1), Partition("p.public.b", 0)]
MINE = Identity("1", "db", "p")
COLUMNS = {"id": "integer", "name": "text"}


@pytest.fixture(autouse=True, scope="module")
def _no_disk() -> Iterator[None]:
    """What a lost power supply would do is not looked at here, and waiting for the disk takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


def entry(home: Partition, offset: int, columns: int = 1, size: int = 10) -> Entry:
    row = {"id": offset, "name": "x" * size, **{f"c{n}": n for n in range(1, columns)}}
    value: dict[str, Any] = {"before": None, "after": row, "source": {"lsn": offset * 10}, "op": "c"}
    record = Record(home, offset, orjson.dumps({"k": {"id": offset}}), orjson.dumps(value), 1_000 + offset)
    return Entry(record, (("h", b"1"),), 0)


def tombstone(home: Partition, offset: int) -> Entry:
    return Entry(Record(home, offset, orjson.dumps({"k": {"id": 1}}), None, 1_000 + offset))


@st.composite
def broker(draw: st.DrawFn) -> MemoryTopics:
    """Records of three partitions, with the holes that transactions leave, and columns that come and go."""
    entries = {}
    for home in HOMES:
        offset, columns, found = draw(st.integers(0, 3)), 1, list[Entry]()
        for _ in range(draw(st.integers(0, 25))):
            columns = draw(st.integers(1, 3)) if draw(st.integers(0, 9)) == 0 else columns
            dead = draw(st.integers(0, 5)) == 0
            found.append(tombstone(home, offset) if dead else entry(home, offset, columns))
            offset += draw(st.sampled_from([1, 1, 1, 2, 3]))
        entries[home] = found
    return MemoryTopics(entries)


def archiver(archive: Archive, topics: MemoryTopics, **more: Any) -> Archiver:
    settings = ArchiveSettings(url="x", segment_bytes=more.pop("segment_bytes", 1_000), codec="deflate")
    return Archiver(
        archive,
        topics,
        settings,
        topics=topics.topics,
        columns=lambda table: COLUMNS,
        log=lambda *_, **__: None,
        **more,
    )


def kept(folder: Path, topics: MemoryTopics, at: int = -1, kind: str = "before", **more: Any) -> Kept:
    """One life of the archiver, up to the ends of the topics, or to where it is killed."""
    archive = Archive(FailingFolder(folder, at, kind))
    with archive.store.locked("topics"):
        archive.claim(MINE)
        made = archiver(archive, topics, **more)
        made._sleep = lambda seconds, stop: None  # type: ignore[method-assign]
        try:
            return made.run(lambda: False, topics.ends)
        except Killed:
            for one in made._homes.values():  # as the system does; what is in the file stays as it is
                if one.writer:
                    one.writer._out.close()
            raise


def checked(folder: Path) -> ArchiveReport:
    return Check(Archive(FailingFolder(folder)), deep=True, watch=lambda *_: None, stop=lambda: False).run()


def demand_all(folder: Path, topics: MemoryTopics) -> None:
    """Everything is there, once, in order, and as it was."""
    reader = ArchiveReader(str(folder))
    for home, entries in topics.entries.items():
        found = list(reader.entries(home, reader.chain(home).start))
        assert [e.record.offset for e in found] == [e.record.offset for e in entries]
        assert found == entries
    report = checked(folder)
    assert report.ok, report.problems
    assert report.records == sum(len(of) for of in topics.entries.values())


@given(
    broker(),
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["before", "after", "away", "lost"])), max_size=4),
)
def test_killed_anywhere_it_goes_on_with_nothing_lost_and_nothing_twice(
    topics: MemoryTopics, lives: list[tuple[int, str]]
) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "archive"
        for at, kind in lives:
            try:
                kept(folder, topics, at, kind)
            except (Killed, ServerGone):  # away when nothing waits for it: at its beginning, and at its end
                topics.at = {}
        kept(folder, topics)
        demand_all(folder, topics)


def test_every_single_act_is_one_that_it_may_be_killed_in(tmp_path: Path) -> None:
    entries = {HOMES[0]: [entry(HOMES[0], n, 1 + n // 20) for n in range(40)]}
    whole = FailingFolder(tmp_path / "whole")
    archive = Archive(whole)
    archive.claim(MINE)
    archiver(archive, MemoryTopics(entries)).run(lambda: False, MemoryTopics(entries).ends)
    assert whole.acts > 6
    for at in range(whole.acts):
        for kind in ("before", "after"):
            folder = tmp_path / f"{kind}{at}"
            with pytest.raises(Killed):
                kept(folder, MemoryTopics(entries), at, kind)
            kept(folder, MemoryTopics(entries))
            demand_all(folder, MemoryTopics(entries))


def test_a_file_that_was_half_written_is_nothing(tmp_path: Path) -> None:
    entries = {HOMES[0]: [entry(HOMES[0], n) for n in range(20)]}
    folder = tmp_path / "archive"
    with pytest.raises(Killed):
        kept(folder, MemoryTopics(entries), 2)
    (left,) = folder.glob("topics/**/.partial-*")
    left.write_bytes(left.read_bytes()[:100])
    kept(folder, MemoryTopics(entries))
    assert not list(folder.glob("topics/**/.partial-*"))
    demand_all(folder, MemoryTopics(entries))


def test_a_new_column_begins_a_new_segment_and_shapes_that_alternate_do_not(tmp_path: Path) -> None:
    home = HOMES[0]
    once = MemoryTopics({home: [entry(home, n, 1 if n < 10 else 2) for n in range(20)]})
    kept(tmp_path / "once", once, segment_bytes=10**6)
    assert [s.records for s in ArchiveReader(str(tmp_path / "once")).chain(home).segments] == [10, 10]
    often = MemoryTopics({home: [entry(home, n, 1 + n % 2) for n in range(300)]})
    found = kept(tmp_path / "often", often, segment_bytes=10**6)
    assert found.segments < 15
    assert found.odd > 100
    demand_all(tmp_path / "often", often)


def test_where_kafka_has_removed_events_it_says_so_and_goes_on_only_when_told(tmp_path: Path) -> None:
    home = HOMES[0]
    folder = tmp_path / "archive"
    first = MemoryTopics({home: [entry(home, n) for n in range(10)]})
    kept(folder, first)
    later = MemoryTopics({home: [entry(home, n) for n in range(40)]})
    later.expire(home, 25)
    with pytest.raises(ArchiveGap, match="from offset 10 to 24"):
        kept(folder, later)
    found = kept(folder, later, accept_gaps=True)
    assert found.gaps == 1
    reader = ArchiveReader(str(folder))
    assert [r.offset for r in reader.tail(home, 25)] == list(range(25, 40))
    with pytest.raises(ArchiveGap, match="offsets 10 to 24 are not in the archive"):
        reader.tail(home, 5)
    report = checked(folder)
    assert [p.what.split(",")[0] for p in report.problems] == ["offsets 10 to 24 were not kept (expired)"]
    assert report.rebuilds == ""


def test_where_compaction_may_have_removed_events_it_says_so(tmp_path: Path) -> None:
    home = HOMES[0]
    folder = tmp_path / "archive"
    first = MemoryTopics({home: [entry(home, n) for n in range(10)]})
    first.young = {home: 4}
    kept(folder, first, compaction_lag_ms=1)  # what was before its time is no loss, and written down
    assert [(g.start, g.end, g.why) for g in ArchiveReader(str(folder)).chain(home).gaps] == [
        (0, 4, "compacted")
    ]
    later = MemoryTopics({home: [entry(home, n) for n in range(40)]})
    later.young = {home: 30}
    with pytest.raises(ArchiveGap, match="some of the events from offset 10 to 29"):
        kept(folder, later, compaction_lag_ms=1)
    kept(folder, later, compaction_lag_ms=1, accept_gaps=True)
    reader = ArchiveReader(str(folder))
    assert [r.offset for r in reader.tail(home, 30)] == list(range(30, 40))
    with pytest.raises(ArchiveGap):
        reader.tail(home, 12)


def test_only_markers_since_are_no_loss(tmp_path: Path) -> None:
    home = HOMES[0]
    idle = MemoryTopics({home: [entry(home, n) for n in range(10)]})
    kept(tmp_path, idle)
    idle.ends[home] = idle.young[home] = 20
    assert kept(tmp_path, idle, compaction_lag_ms=1).gaps == 0


def test_topics_that_were_made_anew_are_refused(tmp_path: Path) -> None:
    home = HOMES[0]
    topics = MemoryTopics({home: [entry(home, n) for n in range(10)]})
    kept(tmp_path, topics)
    anew = topics.topics()
    topics.topics = lambda: [t.__class__(t.name, t.partitions, "another", t.table) for t in anew]  # type: ignore[method-assign]
    with pytest.raises(ArchiveForeign, match="made anew"):
        kept(tmp_path, topics)


def test_another_pipelines_archive_is_refused(tmp_path: Path) -> None:
    Archive(FailingFolder(tmp_path)).claim(MINE)
    with pytest.raises(ArchiveForeign, match="of another pipeline"):
        Archive(FailingFolder(tmp_path)).claim(Identity("2", "db", "p"))


def test_only_so_many_files_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync.archive.keep._FILES", 3)
    homes = [Partition("p.public.a", n) for n in range(9)]
    topics = MemoryTopics({home: [entry(home, n) for n in range(20)] for home in homes})
    archive = Archive(FailingFolder(tmp_path))
    archive.claim(MINE)
    made = archiver(archive, topics, segment_bytes=10**9)
    most = 0

    def look() -> bool:
        nonlocal most
        most = max(most, sum(one.writer is not None for one in made._homes.values()))
        return False

    made.run(look, topics.ends)
    assert most == 3
    demand_all(tmp_path, topics)


def test_no_room_is_told_and_it_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    topics = MemoryTopics({HOMES[0]: [entry(HOMES[0], n) for n in range(20)]})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(ArchiveRefused, match="No space left"):
            kept(tmp_path / "archive", topics)
    kept(tmp_path / "archive", topics)
    demand_all(tmp_path / "archive", topics)


def test_a_topic_that_ends_before_the_archive_is_told(tmp_path: Path) -> None:
    kept(tmp_path, MemoryTopics({HOMES[0]: [entry(HOMES[0], n) for n in range(20)]}))
    with pytest.raises(EventsExpired):
        kept(tmp_path, MemoryTopics({HOMES[0]: [entry(HOMES[0], n) for n in range(5)]}))
