"""Workspaces on real folders, with the real rsync: nasty names, killed in the middle, changing, full, in use."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
from pymongo import MongoClient

from connectors.errors import (
    CopyCutOff,
    FilesBusy,
    FilesDiffer,
    FilesMoving,
    LayoutUnfit,
    RootDenied,
    RootFull,
    Stopped,
)
from connectors.rsync.program import Order, Rsync
from connectors.trees import place
from sync import app
from sync.files import layout
from sync.files.copy import Progress, desk
from sync.files.run import Files
from sync.files.state import State
from sync.settings import read_local
from tests.support import rsync
from tests.support.stack import Own
from tests.support.workspaces import Gardener, Roots, in_the_new_layout, told


@pytest.fixture(scope="module", autouse=True)
def _rsync() -> None:
    rsync.installed()


@pytest.fixture
def random(pytestconfig: pytest.Config) -> Random:
    seed = pytestconfig.getoption("--seed") or int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    return Random(seed)


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    return Roots(old, new)


def new_side(root: Path) -> dict[bytes, tuple[Any, ...]]:
    """The new root without what is made there: the areas, and the empty rooms of users."""
    found = told(root)
    made = {b"private", b"shared", b"temp"}
    for path in found:
        area, _, rest = path.partition(b"/")
        if area == b"private" and rest and b"/" not in rest and found[path][0] == stat.S_IFDIR:
            made |= {path, *(path + b"/" + room for room in layout.ROOMS)}
            for room in (path, *(path + b"/" + room for room in layout.ROOMS)):
                assert found[room][5] == 0o700
    return {path: row for path, row in found.items() if path not in made}


@pytest.mark.parametrize("case", range(4))
def test_two_passes_bring_every_tree_into_the_new_layout(roots: Roots, random: Random, case: int) -> None:
    gardener = Gardener(roots.old, random)
    gardener.plant(users=8, files=random.choice((10, 80, 160)))
    room = Files(roots)
    room.copy("hot")
    for _ in range(random.choice((0, 5, 60))):
        gardener.step()
    if case % 2:
        room.copy("hot")
        gardener.step()
    report = room.copy("final")
    assert (report.state, report.compared is not None and report.compared.differing) == (State.PLACED, 0)
    assert new_side(roots.new) == in_the_new_layout(told(roots.old))
    verified = room.verify(fully=True)
    assert verified.ok, verified.as_dict()
    assert verified.old == verified.new
    assert {p: stat.S_IMODE((roots.new / p).stat().st_mode) for p in layout.AREAS} == layout.AREA_MODES
    assert not any((roots.new / area / layout.OURS).exists() for area in layout.AREAS)


@pytest.mark.parametrize("case", range(3))
def test_within_one_root_workspaces_move_and_come_back_as_they_were(
    tmp_path: Path, random: Random, case: int
) -> None:
    root = tmp_path / "nfs"
    root.mkdir()
    Gardener(root, random).plant(users=6, files=100)
    before = told(root)
    room = Files(Roots(root, root))
    if case:
        room.copy("hot")
    room.copy("final")
    assert new_side(root) == in_the_new_layout(before)
    assert room.verify().ok
    room.undo()
    assert told(root) == before
    room.copy("final")
    assert new_side(root) == in_the_new_layout(before)


class _Dead(BaseException):
    """The process is gone."""


@contextmanager
def dying_at(step: int, patch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """From the n-th change on, before or after it, nothing more is done: as after SIGKILL."""
    count, lock = [0], threading.Lock()

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            with lock:
                count[0] += 1
                if count[0] > step:
                    raise _Dead
                done = real(*args, **named)
                count[0] += 1
                if count[0] > step:
                    raise _Dead
                return done

        return call

    with patch.context() as inside:
        for name in ("rename", "make", "set_mode", "remove_empty", "remove"):
            inside.setattr(place, name, wrapped(getattr(place, name)))
        inside.setattr(place.Journal, "append", wrapped(place.Journal.append))
        yield count


@pytest.mark.parametrize("same", [False, True], ids=["two-roots", "one-root"])
def test_killed_at_any_step_it_goes_on_or_back(
    tmp_path: Path, random: Random, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    def made(name: str) -> Files:
        old, new = tmp_path / name / "old", tmp_path / name / "new"
        old.mkdir(parents=True)
        new.mkdir()
        Gardener(old, Random(7)).plant(users=3, files=25)
        return Files(Roots(old, old if same else new))

    whole = made("whole")
    with dying_at(10**9, monkeypatch) as steps:
        whole.copy("final")
    wanted = {path: row[:2] + row[5:] for path, row in new_side(whole.wanted.new or Path()).items()}
    for step in sorted(random.sample(range(steps[0]), min(8, steps[0]))):
        for back in (False, True):
            room = made(f"{step}-{back}")
            before = told(room.wanted.old or Path())
            with dying_at(step, monkeypatch), pytest.raises(_Dead):
                room.copy("final")
            if back:
                room.undo() if room.standing().begun else None
                assert told(room.wanted.old or Path()) == before, f"step {step}"
            room.copy("final")
            found = {p: row[:2] + row[5:] for p, row in new_side(room.wanted.new or Path()).items()}
            assert found == wanted, f"step {step}"
            assert room.verify().ok


@pytest.mark.parametrize("same", [False, True], ids=["two-roots", "one-root"])
def test_an_undo_that_is_killed_is_ended_by_the_next(
    tmp_path: Path, random: Random, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    for step in range(0, 60, 9):
        old, new = tmp_path / f"{step}" / "old", tmp_path / f"{step}" / "new"
        old.mkdir(parents=True)
        new.mkdir()
        Gardener(old, Random(8)).plant(users=3, files=20)
        room, before = Files(Roots(old, old if same else new)), told(old)
        room.copy("final")
        try:
            with dying_at(step, monkeypatch):
                room.undo()
        except _Dead:
            room.undo()
        assert room.standing().state is State.COPIED
        assert told(old) == before
        room.copy("final")
        assert room.verify().ok


def test_rsync_that_is_killed_is_a_named_error_and_the_next_run_goes_on(roots: Roots) -> None:
    (roots.old / "private/7").mkdir(parents=True)
    (roots.old / "private/7/large").write_bytes(os.urandom(20_000_000))
    for number in range(300):
        (roots.old / f"private/7/{number}").write_text(str(number))
    killed = threading.Event()

    def kill(now: Progress) -> None:
        if now.stage == "copying" and not killed.is_set():
            children = [c for c in psutil.Process().children(recursive=True) if c.name() == "rsync"]
            for child in children:
                child.kill()
            if children:
                killed.set()

    with pytest.raises(CopyCutOff) as caught:
        Files(roots, tell=kill).copy("hot")
    assert killed.is_set()
    assert caught.value.retry_helps
    room = Files(roots)
    assert room.standing().state is State.COPYING
    room.copy("final")
    assert room.verify(fully=True).ok


def test_told_to_stop_it_stops_and_goes_on_later(roots: Roots) -> None:
    (roots.old / "private/7").mkdir(parents=True)
    (roots.old / "private/7/large").write_bytes(os.urandom(20_000_000))
    begun = threading.Event()
    room = Files(roots, tell=lambda now: begun.set() if now.stage == "copying" else None, stop=begun.is_set)
    with pytest.raises(Stopped):
        room.copy("hot")
    assert not [c for c in psutil.Process().children(recursive=True) if c.name() == "rsync"]
    Files(roots).copy("final")
    assert Files(roots).verify(fully=True).ok


def test_files_that_change_all_the_while_are_no_error_in_the_hot_pass_and_one_in_the_last(
    roots: Roots,
) -> None:
    gardener = Gardener(roots.old, Random(3))
    gardener.plant(users=3, files=40)
    over, log = threading.Event(), roots.old / "private" / "log"
    log.mkdir()

    def write() -> None:
        number = 0
        while not over.is_set():
            number += 1
            with (log / "grows").open("a") as file:
                file.write(f"line {number}\n")
            (log / f"short-{number % 50}").write_text("x" * number)
            (log / f"short-{(number + 25) % 50}").unlink(missing_ok=True)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3):
            Files(roots).copy("hot")
        with pytest.raises((FilesMoving, FilesDiffer)):
            Files(roots).copy("final")
    finally:
        over.set()
        writer.join()
    assert not (roots.new / "private/log/saved/migration_tandem").exists()
    Files(roots).copy("final")
    assert Files(roots).verify(fully=True).ok
    assert new_side(roots.new) == in_the_new_layout(told(roots.old))


def test_a_change_that_leaves_size_and_time_is_found_and_brought(roots: Roots) -> None:
    (roots.old / "private/7").mkdir(parents=True)
    file = roots.old / "private/7/-\n*"
    file.write_text("before")
    room = Files(roots)
    room.copy("hot")
    was = file.stat().st_mtime_ns
    file.write_text("after!")
    os.utime(file, ns=(was, was))
    report = room.copy("final")
    assert report.rounds > 1
    assert (roots.new / "private/7/saved/migration_tandem/-\n*").read_text() == "after!"


def test_a_change_within_the_same_second_is_seen_by_rsync_itself(tmp_path: Path) -> None:
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
    file, order = tmp_path / "old/a", Order(tmp_path / "old", tmp_path / "new", [b"a"])
    for nanoseconds, text in ((5, "before"), (6, "after!")):
        file.write_text(text)
        os.utime(file, ns=(nanoseconds, nanoseconds))
        assert Rsync.find().run(order).files == 1
    assert (tmp_path / "new/a").read_text() == "after!"


def test_rsync_gives_every_mode_what_the_layout_says(tmp_path: Path) -> None:
    for area in ("private", "shared"):
        old, new = tmp_path / area / "old", tmp_path / area / "new"
        old.mkdir(parents=True)
        new.mkdir()
        modes = [*range(0, 0o10000, 13), *range(0, 0o1000, 3)]
        for mode in modes:
            (old / f"f{mode}").touch()
            (old / f"f{mode}").chmod(mode)
            (old / f"d{mode}").mkdir(exist_ok=True)
            (old / f"d{mode}").chmod(mode)
        Rsync.find().run(Order(old, new, os.listdir(os.fsencode(old)), layout.CHMOD[area]))
        for mode in modes:
            for kind, name in (("file", f"f{mode}"), ("folder", f"d{mode}")):
                found = stat.S_IMODE((new / name).stat().st_mode)
                wanted = layout.mode_of(area, kind, mode)  # type: ignore[arg-type]
                assert found == wanted, f"{area} {kind} {mode:o}"


def test_a_root_that_is_full_is_a_named_error_and_goes_on_when_there_is_room(
    roots: Roots, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tandem-test", str(small)], capture_output=True, text=True
    )
    assert mounted.returncode == 0, f"this test mounts a small file system, as root: {mounted.stderr}"
    try:
        roots.new = small
        (roots.old / "private/7").mkdir(parents=True)
        for number in range(6):
            (roots.old / f"private/7/{number}").write_bytes(os.urandom(700_000))
        plan = Files(roots).plan()
        assert not plan.ok
        assert "bytes free" in plan.complaints[0]
        with pytest.raises(RootFull) as caught:
            Files(roots).copy("hot")
        assert "make room" in caught.value.remedy
        subprocess.run(["mount", "-o", "remount,size=16m", str(small)], check=True)
        Files(roots).copy("final")
        assert Files(roots).verify(fully=True).ok
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_what_another_user_may_not_read_is_named(roots: Roots) -> None:
    assert os.geteuid() == 0, "this test takes another user's place: run it as root"
    (roots.old / "private/7").mkdir(parents=True)
    (roots.old / "private/7/secret").write_text("x")
    (roots.old / "private/7/secret").chmod(0)
    for folder in (roots.new, *roots.new.parents):
        if folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o1)
    roots.new.chmod(0o777)
    at, told_back = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            plan = Files(roots).plan()
            try:
                Files(roots).copy("hot")
                error = "none"
            except RootDenied as denied:
                error = type(denied).__name__
            os.write(told_back, f"{'; '.join(plan.complaints)}|{'; '.join(plan.notes)}|{error}".encode())
        finally:
            os._exit(0)
    os.close(told_back)
    with os.fdopen(at) as answer:
        complaints, notes, error = answer.read().split("|")
    os.waitpid(child, 0)
    assert "1 files or folders cannot be read" in complaints or error == "RootDenied"
    assert "not run as root" in notes
    assert error == "RootDenied"


def test_two_at_once_are_kept_apart_and_an_orphaned_rsync_counts(roots: Roots) -> None:
    (roots.old / "private/7").mkdir(parents=True)
    found = Files(roots).layout()
    with desk(found) as held:
        orphan = subprocess.Popen(["sleep", "60"], pass_fds=(held.held,))
        with pytest.raises(FilesBusy) as caught, desk(found, wait_s=0.2):
            pass
        assert str(os.getpid()) in str(caught.value.facts["by"])
    try:
        with pytest.raises(FilesBusy), desk(found, wait_s=0.2):  # its parent is gone, it is not
            pass
    finally:
        orphan.kill()
        orphan.wait()
    with desk(found, wait_s=5):
        pass


def test_nothing_of_somebody_elses_is_overwritten(roots: Roots) -> None:
    (roots.old / "shared/team").mkdir(parents=True)
    (roots.old / "shared/team/a").write_text("ours")
    (roots.new / "shared/team").mkdir(parents=True)
    Files(roots).copy("hot")  # an empty folder is in nobody's way
    (roots.new / "shared/team/a").write_text("theirs")
    for act in (lambda: Files(roots).copy("hot"), lambda: Files(roots).copy("final")):
        with pytest.raises(LayoutUnfit, match="shared/team"):
            act()
    assert (roots.new / "shared/team/a").read_text() == "theirs"


def test_links_out_of_the_root_are_kept_and_nothing_behind_them_is_touched(
    roots: Roots, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (roots.old / "private/7").mkdir(parents=True)
    (roots.old / "private/7/out").symlink_to(outside)
    room = Files(roots)
    assert any("point out of their workspace" in note for note in room.plan().notes)
    room.copy("hot")
    (roots.old / "private/7/out").unlink()  # where the copy has a link, there is a folder now
    (roots.old / "private/7/out").mkdir()
    (roots.old / "private/7/out/precious").write_text("mine")
    assert (roots.new / "private" / layout.OURS / "7/out").is_symlink()
    room.copy("final")
    assert (outside / "precious").read_text() == "x"
    assert sorted(os.listdir(outside)) == ["precious"]
    assert (roots.new / "private/7/saved/migration_tandem/out/precious").read_text() == "mine"


def test_every_path_that_mongodb_holds_is_looked_for(roots: Roots, own: Own) -> None:
    (roots.old / "private/7").mkdir(parents=True)
    (roots.old / "private/7/a").touch()
    addresses = own.addresses
    environ = {
        "OLD_NFS_PATH": str(roots.old),
        "NEW_NFS_PATH": str(roots.new),
        "MONGODB_URI": addresses.mongodb_uri,
        "MONGODB_DATABASE": addresses.mongodb_database,
    }
    settings = read_local(environ=environ)
    room = app.files(settings.files)
    room.copy("final")
    workspace, file = str(roots.new / "private/7"), str(roots.old / "private/7/a")
    with MongoClient[dict[str, Any]](addresses.mongodb_uri) as client:
        db = client[addresses.mongodb_database]
        db["users"].insert_many([{"nfsWorkspacePath": workspace}, {"nfsWorkspacePath": None}])
        db["fileEmbeddings"].insert_many([{"filePath": file}, {"filePath": 5}])
        report = app.verify_files(settings, room)
        told = {(one.collection, one.field): (one.checked, one.unmoved) for one in report.paths}
        assert told == {("users", "nfsWorkspacePath"): (1, 0), ("fileEmbeddings", "filePath"): (1, 1)}
        assert not report.ok
        db["fileEmbeddings"].update_one({"filePath": file}, {"$set": {"filePath": room.layout().moved(file)}})
        assert app.verify_files(settings, room).ok


def test_holes_stay_holes(roots: Roots) -> None:
    (roots.old / "private/7").mkdir(parents=True)
    with (roots.old / "private/7/holes").open("wb") as file:
        file.seek(50_000_000)
        file.write(b"end")
    Files(roots).copy("final")
    found = (roots.new / "private/7/saved/migration_tandem/holes").stat()
    assert (found.st_size, found.st_blocks * 512 < 1_000_000) == (50_000_003, True)


def test_within_one_root_what_the_application_wrote_is_not_moved_away(tmp_path: Path) -> None:
    root = tmp_path / "nfs"
    (root / "private/7").mkdir(parents=True)
    room = Files(Roots(root, root))
    room.copy("final")
    (root / "private/7/active/new").write_text("x")
    with pytest.raises(LayoutUnfit, match="private/7/active/new"):
        room.undo()
    assert room.standing().state is State.PLACED


def test_what_came_since_it_was_placed_is_not_lost_in_silence(roots: Roots) -> None:
    """The fence lapsed, and the old application went on."""
    for user in ("7", "8"):
        (roots.old / f"private/{user}").mkdir(parents=True)
        (roots.old / f"private/{user}/a").write_text("before")
    room = Files(roots)
    room.copy("final")
    assert room.copy("final").notes == ["everything is in its place already"]
    (roots.old / "private/7/a").write_text("after")
    (roots.old / "private/9").mkdir()
    assert not room.verify().ok
    with pytest.raises(FilesDiffer, match=r"private/7/a.*private/9|private/9.*private/7/a"):
        room.copy("final")
    room.copy("final", again=True)
    assert (roots.new / "private/7/saved/migration_tandem/a").read_text() == "after"
    assert (roots.new / "private/9/saved/migration_tandem").is_dir()
    assert room.verify().ok


def test_within_one_root_too(tmp_path: Path) -> None:
    root = tmp_path / "nfs"
    (root / "private/7").mkdir(parents=True)
    room = Files(Roots(root, root))
    room.copy("final")
    assert room.copy("final").notes == ["everything is in its place already"]
    (root / "private/7/late").write_text("x")
    (root / "private/9").mkdir()
    (root / "private/9/late").write_text("x")
    assert not room.verify().ok
    with pytest.raises(FilesDiffer, match="private/7/late, private/9/late"):
        room.copy("final")
    with pytest.raises(LayoutUnfit, match="private/7/late"):
        room.copy("final", again=True)
    (root / "private/7/late").rename(root / "private/7/saved/migration_tandem/late")
    room.copy("final", again=True)
    assert (root / "private/7/saved/migration_tandem/late").read_text() == "x"
    assert (root / "private/9/saved/migration_tandem/late").read_text() == "x"


def test_many_threads_of_renames_put_many_users_into_place_soon(roots: Roots) -> None:
    for user in range(300):
        (roots.old / f"private/{user}").mkdir(parents=True)
        (roots.old / f"private/{user}/notes.md").write_text(str(user))
    room = Files(roots)
    room.copy("hot")
    (roots.old / "private/200/notes.md").write_text("later")
    predicted = room.plan().prediction
    assert predicted is not None
    began = time.monotonic()
    report = room.copy("final")
    taken = time.monotonic() - began
    print(f"predicted {predicted.seconds:.2f} s, measured {taken:.2f} s")
    assert (report.files, predicted.files) == (1, 1)
    assert (roots.new / "private/200/saved/migration_tandem/notes.md").read_text() == "later"
