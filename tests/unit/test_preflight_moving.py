"""What the cutover needs of folders, programs, clocks and sessions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from sync.preflight import machine, moving
from sync.preflight.findings import Finding, Level
from sync.preflight.moving import Program, Root
from sync.settings import Files, Known

GB = 10**9
NEW = Root("files.new", "/srv/new", free_bytes=20 * GB, mount="/srv")


def told(found: Iterable[Finding]) -> list[tuple[Level, str, str]]:
    return [(f.level, f.check, f.kind) for f in found]


@pytest.mark.parametrize(
    ("root", "writes", "mounts", "found"),
    [
        (NEW, True, ("/srv",), []),
        (NEW, True, (), []),
        (NEW, True, ("/mnt",), [(Level.ERROR, "files", "mount")]),
        (Root("files.new", "/x", free_bytes=9 * GB), True, (), [(Level.ERROR, "files", "room")]),
        (
            Root("backup.path", "/x", free_bytes=9 * GB, writable=False),
            True,
            (),
            [(Level.ERROR, "backup", "root-denied"), (Level.ERROR, "backup", "room")],
        ),
        (Root("files.old", "/x", free_bytes=99 * GB, writable=False), False, (), []),
        (
            Root("files.old", "/x", free_bytes=99 * GB, readable=False),
            False,
            (),
            [(Level.ERROR, "files", "root-denied")],
        ),
        (
            Root("files.old", "/x", ("it is not there", "mount it")),
            False,
            (),
            [(Level.ERROR, "files", "root")],
        ),
    ],
)
def test_a_folder(
    root: Root, writes: bool, mounts: tuple[str, ...], found: list[tuple[Level, str, str]]
) -> None:
    assert told(moving.assess_root(root, 10 * GB, writes, mounts)) == found


def test_a_program_that_is_missing_or_too_old() -> None:
    assert told(moving.assess_program(Program("rsync", "3.2.7"), "files")) == []
    missing = Program("rsync", trouble=("rsync is not on this machine", "install it"))
    (finding,) = moving.assess_program(missing, "files")
    assert (finding.level, finding.remedy) == (Level.ERROR, "install it")


@pytest.mark.parametrize(
    ("ahead", "level"), [(0.9, None), (-1.5, Level.WARNING), (5.1, Level.ERROR), (-9, Level.ERROR)]
)
def test_a_clock(ahead: float, level: Level | None) -> None:
    found = list(moving.assess_clocks({"PostgreSQL": ahead, "MongoDB": None}, 1.0))
    assert [f.level for f in found] == ([level] if level else [])
    assert all(("ahead of" in f.what) == (ahead > 0) for f in found)


def test_open_sessions_are_a_warning_with_their_count() -> None:
    (finding,) = moving.assess_sessions({"ann": 2, "bo": 1}, agent=True)
    assert (finding.level, finding.count, finding.facts) == (Level.WARNING, 3, {"users": 2})
    assert told(moving.assess_sessions({}, agent=True)) == []
    assert told(moving.assess_sessions(None, agent=False)) == []
    assert told(moving.assess_sessions({}, agent=False)) == [(Level.NOTE, "sessions", "agent")]


def known(tmp_path: Path, **files: object) -> Known:
    source = {"dsn": "postgresql://nobody@127.0.0.1:1/nothing"}
    return Known.model_validate({"source": source, "files": Files.model_validate(files)})


def test_roots_that_are_not_there_are_named_and_nothing_is_made(tmp_path: Path) -> None:
    settings = known(tmp_path, old=tmp_path / "old", new=tmp_path / "new")
    assert told(machine.of_files(settings))[:2] == [(Level.ERROR, "files", "root")] * 2
    assert not list(tmp_path.iterdir())
    alone = known(tmp_path, old=tmp_path)
    assert [f.subject for f in machine.of_files(alone)][:1] == ["files.new"]


def test_room_is_of_the_new_root_and_the_mount_of_both(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    roots = {"old": tmp_path / "old", "new": tmp_path / "new"}
    found = list(machine.of_files(known(tmp_path, **roots, min_free_bytes=1 << 60, mounts=["/nowhere"])))
    assert [(f.kind, f.subject) for f in found if f.kind != "program"] == [
        ("mount", "files.old"),
        ("mount", "files.new"),
        ("room", "files.new"),
    ]
    assert [f.kind for f in machine.of_files(known(tmp_path, **roots, min_free_bytes=1))] in ([], ["program"])
