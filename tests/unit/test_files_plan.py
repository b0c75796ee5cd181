"""Workspaces, decided: where everything goes, with which mode, what stands in the way, what differs. No rsync here."""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import replace
from itertools import product
from pathlib import Path
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connectors.errors import (
    CopyCutOff,
    CopyFailed,
    LayoutUnfit,
    ProgramMissing,
    ProgramUnfit,
    RootDenied,
    RootFull,
    RootStale,
    RootUnfit,
    SettingsInvalid,
)
from connectors.rsync.program import Order, Rsync, arguments, failure
from connectors.trees import place
from connectors.trees.manifest import Manifest
from connectors.trees.place import Journal, Room
from connectors.trees.walk import Entry, Start, Walk
from consumers.mapping.conversion import moved
from sync.files import state
from sync.files.compare import SUSPECT, compare
from sync.files.layout import AREAS, Layout, Unit, mode_of
from sync.files.plan import Listing, Tally, plan, points_out
from sync.files.run import Files
from sync.files.state import Placed, State, standing
from sync.files.verify import PathField, check_paths
from tests.support.workspaces import Gardener, Roots

LAYOUT = Layout(Path("/nfs"), Path("/new"), False, "7")
ROOM = Room(1, 2, 10**9, 10**6, 0o755, 0, 0)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/nfs/private/7/notes.md", "/new/private/7/saved/migration_7/notes.md"),
        ("/nfs/private/7/a/b c/\n", "/new/private/7/saved/migration_7/a/b c/\n"),
        ("/nfs/private/7", "/new/private/7"),
        ("/nfs/private/7/", "/new/private/7/"),
        ("/nfs/private", "/new/private"),
        ("/nfs/shared/team/a", "/new/shared/team/a"),
        ("/nfs/temp/a", "/new/temp/a"),
        ("/nfs", "/new"),
        ("/nfs2/private/7/a", "/nfs2/private/7/a"),
        ("nfs/private/7/a", "nfs/private/7/a"),
        ("/nfs//private/7/a", "/new//private/7/a"),
        ("", ""),
    ],
)
def test_a_path_in_a_document_is_called_what_its_file_is_called(path: str, wanted: str) -> None:
    assert LAYOUT.moved(path) == wanted == moved(path, "/nfs", "/new", "saved/migration_7")
    if wanted.startswith("/new"):
        assert LAYOUT.old_paths(wanted) == [path]


def test_modes_are_700_and_770_and_a_file_is_executable_only_where_it_was() -> None:
    found = {
        (area, kind, mode): mode_of(area, kind, mode)  # type: ignore[arg-type]
        for area, kind, mode in product(("private", "shared"), ("file", "folder"), range(0o10000))
    }
    for (area, kind, mode), new in found.items():
        full = 0o700 if area == "private" else 0o770
        assert new & 0o777 & ~full == 0
        assert new & 0o600 == 0o600
        if kind == "folder":
            assert new & 0o777 == full
        else:
            assert bool(new & 0o111) == bool(mode & 0o111)
        assert new & 0o7000 == (mode & 0o2000 if (area, kind) == ("shared", "folder") else 0)
    assert mode_of("temp", "file", 0o4755) == 0o4755


def listing(**changed: object) -> Listing:
    areas = {"private": [(b"7", "folder")], "shared": [(b"t", "folder")]}
    top = [(b"private", "folder"), (b"shared", "folder")]
    found = Listing(ROOM, ROOM, areas, top, {"private": Tally(units=1, disk_bytes=5)}, as_root=True)  # type: ignore[arg-type]
    return replace(found, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "leave", "said"),
    [
        ({"top": [(b"private", "folder"), (b"groups", "folder")]}, (), "no place for: groups"),
        ({"top": [(b"private", "folder"), (b"groups", "folder")]}, ("gr*",), None),
        ({"top": [(b"private", "link")]}, (), "private in the old root is no folder"),
        ({"areas": {"private": [(b"7", "link")]}}, (), "symbolic links, and so lie elsewhere: private/7"),
        ({"areas": {"private": [(b"7", "link")]}}, ("private/7",), None),
        ({"taken": ["private/7/saved/migration_7"]}, (), "something is there already: private/7/saved"),
        ({"tallies": {"private": Tally(disk_bytes=10**9 + 1)}}, (), "bytes free"),
        ({"tallies": {"private": Tally(disk_bytes=10**9 + 1)}, "staged_bytes": 2}, (), None),
        (
            {"tallies": {"private": Tally(troubles=3, trouble_samples=["private/7/x"])}},
            (),
            "3 files or folders",
        ),
    ],
)
def test_what_stands_in_the_way_is_named(
    changed: dict[str, object], leave: tuple[str, ...], said: str | None
) -> None:
    found = plan(listing(**changed), LAYOUT, leave)
    assert found.ok == (said is None)
    assert (said or "") in "; ".join(found.complaints)


def test_within_one_root_other_folders_stay_and_no_room_is_needed() -> None:
    within = replace(LAYOUT, new=Path("/nfs"), same=True)
    changed = listing(
        top=[(b"private", "folder"), (b"groups", "folder")], tallies={"private": Tally(disk_bytes=10**12)}
    )
    assert plan(changed, within).ok


@pytest.mark.parametrize(
    ("folder", "target", "out"),
    [
        (b"private/7", b"a", False), (b"private/7/a", b"../b", False), (b"private/7", b"../8/x", True),
        (b"private/7/a", b"../../8", True), (b"private/7", b"/etc", True), (b"private/7", b"a/../../8", True),
        (b"private/7", b"./..", True), (b"private/7/a/b", b"../../c", False), (b"private/7", b"a/..", False),
    ],
)  # fmt: skip
def test_links_out_of_a_workspace_are_known_by_their_text(folder: bytes, target: bytes, out: bool) -> None:
    assert points_out(folder, target) == out


def test_the_journal_says_where_the_files_stand_and_a_torn_line_does_not_count(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    units = [Placed(Unit("private", b"\xff\n"), 3, 4), Placed(Unit("shared", b"t", "folder"))]
    lines = [
        (state.begun(LAYOUT), State.COPYING),
        ({"event": "copied", "bytes": 20_000_000, "seconds": 2.0}, State.COPIED),
        (state.placing(units), State.PLACING),
        ({"event": "placed"}, State.PLACED),
        ({"event": "taking_back"}, State.TAKING_BACK),
        ({"event": "taken_back"}, State.COPIED),
    ]
    assert standing(journal.read()).state is State.NOTHING
    for line, wanted in lines:
        journal.append(line)
        found = standing(journal.read())
        assert found.state is wanted
        assert found.placed == (
            tuple(units) if wanted in (State.PLACING, State.PLACED, State.TAKING_BACK) else ()
        )
        with (tmp_path / "journal").open("ab") as file:
            file.write(b'{"event": "plac')  # killed while it was written
        assert standing(journal.read()).state is wanted
    assert found.rate == 10_000_000
    assert found.begun == state.begun(LAYOUT)


kinds = st.sampled_from(("file", "folder", "link", "other"))
entries = st.builds(
    Entry,
    folder=st.sampled_from((b"private", b"private/7", b"shared", b"shared/t", b"temp", b"shared/-\xff")),
    name=st.sampled_from((b"7", b"a", b"b\n", b"\xfe")),
    kind=kinds,
    size=st.integers(0, 2),
    mode=st.sampled_from((0o700, 0o770, 0o600, 0o660, 0o2770, 0o644, 0o755)),
    uid=st.integers(0, 1),
    gid=st.just(0),
    mtime_ns=st.integers(0, 1),
    ctime_ns=st.just(0),
    device=st.just(1),
    inode=st.integers(1, 3),
    links=st.integers(1, 2),
    blocks=st.just(0),
    target=st.sampled_from((b"", b"x")),
    digest=st.sampled_from((b"", b"1" * 32, b"2" * 32)),
    settled=st.booleans(),
)


#: a socket keeps its mode
OTHER = Entry(b"shared", b"a", "other", 0, 0o600, 0, 0, 0, 0, 1, 1, 1, 0, digest=b"1" * 32)


@given(old=st.lists(entries, max_size=6), new=st.lists(entries, max_size=6))
@example(old=[OTHER], new=[OTHER._replace(mode=0o660)])
def test_what_sql_leaves_out_does_not_differ(old: list[Entry], new: list[Entry]) -> None:
    manifest = Manifest(Path(":memory:"))
    try:
        for side, found in (("old", old), ("new", new)):
            manifest.taker(side)(b"", found, {})  # type: ignore[arg-type]
        everything = compare(manifest.pairs(), owners=True)
        suspects = compare(manifest.pairs(SUSPECT), owners=True)
        assert (everything.differing, everything.counts) == (suspects.differing, suspects.counts)
    finally:
        manifest.close()


def walked(root: Path, manifest: Manifest, side: str, **more: object) -> Walk:
    walk = Walk(manifest.taker(side), digests=True, **more)  # type: ignore[arg-type]
    walk.run([Start(b"private/7", os.fsencode(root), (b"private", b"7"))])
    manifest.end(side)  # type: ignore[arg-type]
    return walk


def test_what_has_not_changed_is_not_read_twice_and_what_has_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "private/7"
    folder.mkdir(parents=True)
    (folder / "a").write_text("a" * 100)
    (folder / "b").write_text("b" * 100)
    monkeypatch.setattr("connectors.trees.walk._SETTLED_NS", -(10**12))  # as if all were old
    manifest = Manifest(tmp_path / "manifest.db")
    try:
        assert walked(tmp_path, manifest, "old").report.read == 200
        assert walked(tmp_path, manifest, "old", known=manifest.known("old")).report.read == 0
        was = (folder / "a").stat().st_mtime_ns
        (folder / "a").write_text("c" * 100)
        os.utime(folder / "a", ns=(was, was))  # only the ctime tells
        assert walked(tmp_path, manifest, "old", known=manifest.known("old")).report.read == 100
        monkeypatch.setattr("connectors.trees.walk._SETTLED_NS", 10_000_000_000)
        (folder / "a").write_text("d" * 100)
        assert walked(tmp_path, manifest, "old", known=manifest.known("old")).report.read == 100
        assert walked(tmp_path, manifest, "old", known=manifest.known("old")).report.read == 100  # too lately
    finally:
        manifest.close()


def test_a_manifest_that_follows_changes_is_what_a_new_one_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    seed = pytestconfig.getoption("--seed") or Random().randrange(1 << 32)
    print(f"seed {seed}")
    monkeypatch.setattr("connectors.trees.walk._SETTLED_NS", -(10**12))
    root = tmp_path / "root"
    gardener = Gardener(root, Random(seed))
    gardener.plant(users=4, files=60)
    follows = Manifest(tmp_path / "follows.db")
    for number in range(8):
        for _ in range(12):
            gardener.step()
        if number == 3:
            shutil.rmtree(root / "private" / os.listdir(root / "private")[0])
        if number in (4, 6):  # a folder with something in it becomes a file
            was = root / "private" / str(number) / "was"
            (was / "in").mkdir(parents=True)
        if number in (5, 7):
            shutil.rmtree(was)
            was.touch()
        if number == 5:
            shutil.rmtree(root / "shared")
        new = Manifest(tmp_path / f"{number}.db")
        for manifest in (follows, new):
            tops = {
                area: os.listdir(os.fsencode(root / area)) if (root / area).exists() else [] for area in AREAS
            }
            starts = [
                Start(area.encode() + b"/" + name, os.fsencode(root), (area.encode(), name))
                for area, names in tops.items()
                for name in names
            ]
            walk = Walk(manifest.taker("old"), digests=True, known=manifest.known("old"))
            walk.run(starts)
            manifest.end("old", [area.encode() for area, names in tops.items() if not names])
        assert list(follows.entries("old")) == list(new.entries("old"))
        new.close()
    follows.close()


def test_a_damaged_manifest_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "manifest.db").write_bytes(b"no database at all" * 100)
    manifest = Manifest(tmp_path / "manifest.db")
    assert list(manifest.entries("old")) == []
    manifest.close()


def test_a_walk_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "private/7").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/secret").write_text("x")
    (tmp_path / "private/7/out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "private/8").symlink_to(tmp_path / "elsewhere")
    found: list[Entry] = []
    walk = Walk(lambda _, entries, __: found.extend(entries))
    walk.run([Start(b"private/7", os.fsencode(tmp_path), (b"private", b"7"))])
    assert sorted(e.path for e in found) == [b"private/7", b"private/7/out"]
    found.clear()
    walk.run([Start(b"private/8/x", os.fsencode(tmp_path), (b"private", b"8", b"secret"))])
    assert found == []


ORDER = Order(Path("/a"), Path("/b"), [b"x"])


@pytest.mark.parametrize(
    ("code", "said", "wanted"),
    [
        (11, ['rsync: [receiver] write failed on "/b/x": No space left on device (28)'], RootFull),
        (23, ['rsync: [receiver] mkstemp "/b/.x" failed: Disk quota exceeded (122)'], RootFull),
        (23, ['rsync: [sender] send_files failed to open "/a/x": Permission denied (13)'], RootDenied),
        (23, ['rsync: [receiver] mkdir "/b/x" failed: Read-only file system (30)'], RootDenied),
        (23, ['rsync: [sender] readlink_stat("/a/x") failed: Stale file handle (116)'], RootStale),
        (11, ['rsync: [sender] read errors mapping "/a/x": Input/output error (5)'], RootStale),
        (-9, [], CopyCutOff),
        (
            12,
            ["rsync error: error in rsync protocol data stream (code 12) at io.c(231) [sender=3.2.7]"],
            CopyCutOff,
        ),
        (20, ["rsync error: received SIGINT, SIGTERM, or SIGHUP (code 20)"], CopyCutOff),
        (1, ["rsync: --nope: unknown option"], CopyFailed),
    ],
)
def test_what_rsync_ends_with_has_a_name_and_a_remedy(
    code: int, said: list[str], wanted: type[Exception]
) -> None:
    error = failure(code, said, ORDER)
    assert type(error) is wanted
    assert error.remedy
    assert error.retry_helps == (wanted in (RootStale, CopyCutOff))


def test_names_never_come_near_a_shell_or_the_arguments() -> None:
    order = replace(ORDER, names=[b"-rf", b"$(id)", b"\n"], chmod="Du=rwx")
    told = arguments(order)
    assert not any(name in argument for argument in told for name in ("-rf", "$(", "\n"))
    assert {"--from0", "--files-from=-", "--modify-window=-1", "--numeric-ids"} <= set(told)
    assert told[-3:] == ["--", "/a/", "/b/"]
    for never in ("--copy-links", "--keep-dirlinks", "--copy-unsafe-links", "--inplace", "--archive"):
        assert never not in told


def test_a_program_that_is_missing_or_another_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProgramMissing) as missing:
        Rsync.find()
    assert "apt-get install rsync" in missing.value.remedy
    for said in ("openrsync: protocol version 29", "rsync  version 3.0.9  protocol version 30"):
        (tmp_path / "rsync").write_text(f"#!/bin/sh\necho '{said}'\n")
        (tmp_path / "rsync").chmod(0o755)
        with pytest.raises(ProgramUnfit, match=said.split()[0]):
            Rsync.find()


def test_roots_that_cannot_be_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old/in").mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "same").symlink_to("old")

    def layout(old: str, new: str) -> Layout:
        return Files(Roots(tmp_path / old, tmp_path / new)).layout()

    with pytest.raises(RootUnfit, match="is not there"):
        layout("none", "old")
    with pytest.raises(RootUnfit, match="is not there, or is no folder"):
        layout("old", "file")
    with pytest.raises(LayoutUnfit, match="inside of the other"):
        layout("old", "old/in")
    with pytest.raises(LayoutUnfit, match="inside of the other"):
        layout("old/in", "old")
    with pytest.raises(RootUnfit, match="one folder under two names"):
        layout("old", "same")
    assert layout("old", "old").same
    with pytest.raises(SettingsInvalid, match=r"files\.old, files\.new"):
        Files(Roots(None, None)).layout()  # type: ignore[arg-type]
    monkeypatch.setattr(place, "_ANSWER_WITHIN_S", 0.05)
    answers, statvfs = threading.Event(), os.statvfs
    monkeypatch.setattr(place.os, "statvfs", lambda path: answers.wait(10) and statvfs(path))
    with pytest.raises(RootStale) as stale:
        layout("old", "old")
    answers.set()
    assert stale.value.retry_helps


def test_paths_in_documents_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "old/private/7").mkdir(parents=True)
    (tmp_path / "old/private/7/gone").touch()
    (tmp_path / "new/private/7/saved/migration_tandem").mkdir(parents=True)
    (tmp_path / "new/private/7/saved/migration_tandem/a").symlink_to("nowhere")
    found = Layout(tmp_path / "old", tmp_path / "new", False, "tandem")
    saved = f"{tmp_path}/new/private/7/saved/migration_tandem"
    values = [f"{tmp_path}/new/private/7", f"{saved}/a", f"{saved}/gone", f"{saved}/never", "/elsewhere/x"]
    values += [f"{tmp_path}/old/private/7", f"{saved}/\0", f"{saved}/{'x' * 300}"]
    (report,) = check_paths(found, [PathField("users", "nfsWorkspacePath", values)])
    assert report.as_dict() == {
        "collection": "users",
        "field": "nfsWorkspacePath",
        "checked": 8,
        "missing": 1,
        "unmoved": 1,
        "dangling": 3,
        "outside": 1,
        "samples": report.samples,
    }
    within = Layout(tmp_path / "new", tmp_path / "new", True, "tandem")
    (report,) = check_paths(
        within, [PathField("f", "filePath", [f"{tmp_path}/new/private/7/a", f"{saved}/a"])]
    )
    assert (report.unmoved, report.checked) == (1, 2)
