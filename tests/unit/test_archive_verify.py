"""What is wrong with an archive is found, and named; manifests of other versions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.archive import manifest
from connectors.archive.archive import Archive
from connectors.archive.basefile import BaseWriter
from connectors.archive.manifest import Base, BaseColumn, BaseTable, Identity
from connectors.archive.reader import ArchiveReader
from connectors.archive.store import Folder, store_of
from connectors.errors import ArchiveDamaged, ArchiveForeign, ArchiveRefused, ArchiveTaken, SettingsInvalid
from sync.archive.verify import ArchiveReport, Check
from tests.support.archive import MemoryTopics
from tests.unit.test_archive_keep import HOMES, MINE, entry, kept

HOME = HOMES[0]
NAME = "topics/p.public.a/0"
#: with markers of transactions between
OFFSETS = [*range(5), *range(6, 11), *range(12, 17), *range(18, 23)]
ENTRIES = [entry(HOME, n) for n in OFFSETS]


@pytest.fixture(autouse=True, scope="module")
def _no_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An archive of three segments, and a base that their tail goes on from."""
    place = tmp_path / "archive"
    for count in (5, 10, 15):
        kept(place, MemoryTopics({HOME: ENTRIES[:count]}), segment_bytes=10**6)
    store = Folder(place)
    columns = (BaseColumn("id", "integer", "plain", "int4"),)
    writer = BaseWriter(
        store.spool(manifest.base_name("0", "000-00000.avro")), "public.a", columns, 7, "zstd"
    )
    writer.add((1,))
    made = writer.finish("000-00000.avro")
    store.put(manifest.base_name("0", made.path), writer.file)
    table = BaseTable(columns, ("id",), (made,))
    Archive(store).save_base(
        Base(
            "0",
            7,
            "2026-01-01T00:00:00+00:00",
            "2026-01-01T00:00:01+00:00",
            {HOME.id: 6},
            {"public.a": table},
        )
    )
    return place


def check(folder: Path, *, deep: bool = True) -> ArchiveReport:
    return Check(Archive(Folder(folder)), deep=deep, watch=lambda *_: None, stop=lambda: False).run()


def segments(folder: Path) -> list[Path]:
    return sorted((folder / NAME).glob("*.avro"))


def test_a_whole_one_is_in_order(folder: Path) -> None:
    report = check(folder)
    assert (report.ok, report.segments, report.records, report.bases, report.rows) == (True, 3, 15, 1, 1)
    assert report.rebuilds == "0"
    assert not report.notes


def other_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a bit of a segment": (lambda f: other_byte(segments(f)[1]), f"{NAME}/{6:020d}.avro", "checksum"),
    "a segment cut off": (
        lambda f: segments(f)[1].write_bytes(segments(f)[1].read_bytes()[:-20]) and None,
        f"{NAME}/{6:020d}.avro",
        "bytes, not",
    ),
    "a segment gone": (lambda f: segments(f)[1].unlink(), f"{NAME}/{6:020d}.avro", "missing"),
    "another in its place": (
        lambda f: shutil.copy(segments(f)[0], segments(f)[1]) and None,
        f"{NAME}/{6:020d}.avro",
        "",
    ),
    "a row of the base": (
        lambda f: other_byte(f / "bases/0/000-00000.avro"),
        "bases/0/000-00000.avro",
        "checksum",
    ),
    "the base's file gone": (
        lambda f: (f / "bases/0/000-00000.avro").unlink(),
        "bases/0/000-00000.avro",
        "missing",
    ),
    "the chain": (
        lambda f: other_byte(f / NAME / "chain.json"),
        f"{NAME}/chain.json",
        "not as it was written",
    ),
    "the base's manifest": (lambda f: other_byte(f / "bases/0/base.json"), "bases", "not as it was written"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_named(folder: Path, what: str) -> None:
    damage, file, told = DAMAGES[what]
    damage(folder)
    found = [p for p in check(folder).problems if p.file == file]
    assert found
    assert told in found[0].what


def test_what_the_digest_cannot_tell_is_told_by_reading(folder: Path) -> None:
    """A manifest that was made to fit what is wrong with its segments."""
    chain = ArchiveReader(str(folder)).chain(HOME)
    first, second, third = chain.segments
    lying = [
        ({"records": second.records + 1}, "records"),
        ({"first": second.first + 1}, "begins with offset"),
        ({"last": second.last - 1}, "records up to"),
        ({"start": second.start + 1}, "missing"),
        ({"next": second.next + 1}, "the one before it ends at"),
    ]
    for change, told in lying:
        changed = manifest.Segment(
            **{**{n: getattr(second, n) for n in second.__dataclass_fields__}, **change}
        )
        lie = manifest.Chain(chain.topic, 0, chain.topic_id, chain.table, 0, (first, changed, third))
        Archive(Folder(folder)).save(lie)
        report = check(folder)
        assert any(told in p.what for p in report.problems), (change, report.problems)


def test_a_reader_stops_at_what_is_damaged(folder: Path) -> None:
    other_byte(segments(folder)[1])
    reader = ArchiveReader(str(folder))
    records = reader.tail(HOME, 0)
    assert [next(records).offset for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ArchiveDamaged, match=f"{6:020d}.avro"):
        list(records)
    segments(folder)[1].unlink()
    with pytest.raises(ArchiveDamaged, match="missing"):
        list(reader.tail(HOME, 0))


def test_without_reading_only_sizes_are_looked_at(folder: Path) -> None:
    other_byte(segments(folder)[1])
    assert check(folder, deep=False).ok
    segments(folder)[1].unlink()
    assert not check(folder, deep=False).ok


def test_a_base_before_the_beginning_is_told(folder: Path) -> None:
    archive = Archive(Folder(folder))
    chain = archive.known_chain(HOME)
    assert chain is not None
    archive.save(chain.from_(12))
    archive.remove(chain, chain.segments[:2])
    report = check(folder)
    assert report.ok
    assert report.rebuilds == ""
    assert "the tail behind it is not whole" in report.notes[0].what


# -- manifests ---------------------------------------------------------------------------------------------------
def rewritten(file: Path, **more: Any) -> None:
    content = json.loads(file.read_bytes())
    del content["digest"]
    content |= more
    file.write_text(json.dumps({**content, "digest": manifest._digest(content)}))


def test_a_newer_version_is_refused_and_nothing_is_written(folder: Path) -> None:
    chain = folder / NAME / "chain.json"
    rewritten(chain, version=manifest.VERSION + 1, something="new")
    before = chain.read_bytes()
    with pytest.raises(ArchiveRefused, match="of version 2"):
        kept(folder, MemoryTopics({HOME: ENTRIES}))
    assert chain.read_bytes() == before
    rewritten(folder / manifest.ROOT, version=manifest.VERSION + 1)
    with pytest.raises(ArchiveRefused):
        Archive(Folder(folder)).claim(MINE)


def test_an_older_version_is_read_and_written_as_it_would_be_now(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if this were the version after: what was `table` then is told apart from what is now."""

    def later(content: dict[str, Any]) -> dict[str, Any]:
        changed = {**content, "version": 2}
        if content["kind"] == "chain":
            changed["table"] = content["table"].upper()
        return changed

    monkeypatch.setattr(manifest, "VERSION", 2)
    monkeypatch.setattr(manifest, "MIGRATIONS", {1: later})
    topics = MemoryTopics({HOME: ENTRIES})
    kept(folder, topics)
    assert json.loads((folder / NAME / "chain.json").read_bytes())["version"] == 2
    chain = ArchiveReader(str(folder)).chain(HOME)
    assert chain.table == "PUBLIC.P.PUBLIC.A"
    assert [r.offset for r in ArchiveReader(str(folder)).tail(HOME, 0)] == OFFSETS


def test_another_pipelines_archive_is_refused(folder: Path) -> None:
    with pytest.raises(ArchiveForeign, match="another pipeline"):
        Archive(Folder(folder)).claim(Identity("2", "db", "p"))
    with pytest.raises(ArchiveRefused, match="no archive"):
        Check(Archive(Folder(folder / "none")), deep=True, watch=lambda *_: None, stop=lambda: False).run()
    (folder / manifest.ROOT).unlink()
    with pytest.raises(ArchiveRefused, match="does not say what it is of"):
        Archive(Folder(folder)).claim(MINE)


# -- the place ---------------------------------------------------------------------------------------------------
def test_two_archivers_of_one_folder(folder: Path) -> None:
    with (
        Folder(folder).locked("topics"),
        Folder(folder).locked("bases"),
        pytest.raises(ArchiveTaken, match="another process"),
        Folder(folder).locked("topics"),
    ):
        pass
    with Folder(folder).locked("topics"):
        pass


def test_a_name_is_taken_once(folder: Path) -> None:
    store = Folder(folder)
    for data in (b"1", b"2"):
        file = store.spool("topics/x")
        file.write_bytes(data)
        if data == b"1":
            store.put("topics/x", file)
        else:
            with pytest.raises(ArchiveTaken):
                store.put("topics/x", file)
    assert store.read("topics/x") == b"1"


def test_places(tmp_path: Path) -> None:
    for url in (str(tmp_path), f"file://{tmp_path}"):
        assert store_of(url).place == str(tmp_path)
    with pytest.raises(SettingsInvalid) as error:
        store_of("s3://key:secret@bucket/x")
    assert "secret" not in str(error.value)
    with pytest.raises(SettingsInvalid, match="cannot be used"):
        store_of("nothing://x")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveRefused, match="cannot be used"):
        store_of(str(tmp_path / "file")).write("a/b", b"")


def test_what_retention_removes_meanwhile_is_not_missing(folder: Path) -> None:
    archive = Archive(Folder(folder))
    chain = archive.known_chain(HOME)
    assert chain is not None
    looked = Check(archive, deep=True, watch=lambda *_: None, stop=lambda: False)
    archive.save(chain.from_(12))
    archive.remove(chain, chain.segments[:2])
    looked._chain(chain)  # as it was read before
    assert looked.report.ok
    archive.remove(chain, chain.segments)
    looked._chain(chain)
    assert [p.what for p in looked.report.problems] == ["it is missing"]


def test_a_new_folder_is_for_its_user_alone(tmp_path: Path) -> None:
    Folder(tmp_path / "by writing").write("a/b", b"1")
    with Folder(tmp_path / "by locking").locked("topics"):
        pass
    assert [p.stat().st_mode & 0o777 for p in tmp_path.iterdir()] == [0o700, 0o700]
