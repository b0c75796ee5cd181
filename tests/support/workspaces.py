"""Trees of files as users leave them, and what they have to become: told by a walk of the test's own."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

NASTY = (
    b"-rf", b"--delete", b" ", b"a b", b"new\nline", b"\xff\xfe", b"#note", b";semi", b"'quote", b'"', b"$HOME",
    b"`id`", b"*", b"[x]", b"caf\xc3\xa9", b"cafe\xcc\x81", b"\x01\x7f", b".hidden", b"..x", b"x" * 255, b"back\\slash",
    b"tab\t", b"%2e", b"saved", b"active", b"migration_other", b"ends ", b"\r", b"\xed\xa0\x80",
)  # fmt: skip


@dataclass
class Roots:
    """Settings of the room."""

    old: Path
    new: Path
    migration_id: str = "tandem"
    leave: tuple[str, ...] = ()
    workers: int = 3


class Gardener:
    """Makes and changes trees at random."""

    def __init__(self, root: Path, random: Random) -> None:
        self.root, self.random = os.fsencode(root), random
        self.clock = 1_700_000_000_000_000_000

    def plant(self, users: int = 5, teams: int = 2, files: int = 60) -> None:
        for area in (b"private", b"shared", b"temp"):
            os.makedirs(os.path.join(self.root, area), exist_ok=True)
        names = self.random.sample(NASTY, min(users, len(NASTY)))
        for name in (*names, *(str(n).encode() for n in range(users - len(names)))):
            os.makedirs(os.path.join(self.root, b"private", name))
        for name in self.random.sample(NASTY, teams):
            os.makedirs(os.path.join(self.root, b"shared", name))
        for _ in range(files):
            self.step()

    def step(self) -> None:
        """One change."""
        random = self.random
        act = random.choices(
            (
                self._write,
                self._folder,
                self._link,
                self._twin,
                self._hole,
                self._mode,
                self._remove,
                self._become,
            ),
            (8, 4, 2, 2, 1, 4, 2, 1),
        )[0]
        act(random.choice(self._folders()))

    def _folders(self) -> list[bytes]:
        found = []
        for at, _, _ in os.walk(self.root):
            if at.count(b"/") >= self.root.count(b"/") + 2 and b".tandem-files" not in at:
                found.append(at)
        return found

    def _free(self, folder: bytes) -> bytes:
        name = self.random.choice(NASTY)
        path = os.path.join(folder, name)
        while os.path.lexists(path):
            path = os.path.join(folder, b"%d" % self.random.randrange(10**9))
        return path

    def _files(self, folder: bytes) -> list[bytes]:
        return [e.path for e in os.scandir(folder) if e.is_file(follow_symlinks=False)]

    def _write(self, folder: bytes) -> None:
        old = self._files(folder)
        path = self.random.choice(old) if old and self.random.random() < 0.4 else self._free(folder)
        with open(path, "wb") as file:
            file.write(self.random.randbytes(self.random.choice((0, 1, 10, 5_000, 70_000))))
        self.clock += self.random.choice((1, 1_000, 3_141_592_653))
        os.utime(path, ns=(self.clock, self.clock))

    def _folder(self, folder: bytes) -> None:
        os.mkdir(self._free(folder))

    def _link(self, folder: bytes) -> None:
        targets = (b"/etc", b"../../../..", b"x", b"/etc/passwd", b"nowhere\n", self.random.choice(NASTY))
        target = self.random.choice(targets)
        os.symlink(target, self._free(folder))

    def _twin(self, folder: bytes) -> None:
        area = folder[: folder.index(b"/", len(self.root) + 1)]
        found = [f for at in self._folders() if at.startswith(area + b"/") for f in self._files(at)]
        if found:
            os.link(self.random.choice(found), self._free(folder))

    def _hole(self, folder: bytes) -> None:
        with open(self._free(folder), "wb") as file:
            file.seek(3_000_000)
            file.write(b"end")

    def _mode(self, folder: bytes) -> None:
        found = [*self._files(folder), folder]
        os.chmod(
            self.random.choice(found),
            self.random.choice((0o755, 0o600, 0o4755, 0o2775, 0o444, 0o1777, 0o666)),
        )

    def _remove(self, folder: bytes) -> None:
        if found := [e.path for e in os.scandir(folder) if not e.is_dir(follow_symlinks=False)]:
            os.unlink(self.random.choice(found))

    def _become(self, folder: bytes) -> None:
        """A file becomes a folder, or a folder a link."""
        if found := self._files(folder):
            path = self.random.choice(found)
            os.unlink(path)
            if self.random.random() < 0.5:
                os.mkdir(path)
            else:
                os.symlink(b"/etc", path)


Told = dict[bytes, tuple[Any, ...]]


def told(root: Path) -> Told:
    """Everything under a root: path -> kind, content, time, owner, group, mode, the paths of its hard links.

    The time of an area is not told: names come and go in it.
    """
    base, found, twins = os.fsencode(root), dict[bytes, list[Any]](), dict[tuple[int, int], list[bytes]]()
    for at, folders, files in os.walk(base):
        if b".tandem-files" in folders:
            folders.remove(b".tandem-files")
        for name in (*folders, *files):
            path = os.path.join(at, name)
            of, known = os.lstat(path), os.path.relpath(path, base)
            if stat.S_ISREG(of.st_mode):
                twins.setdefault((of.st_dev, of.st_ino), []).append(known)
                with open(path, "rb") as file:
                    content: Any = file.read()
            else:
                content = os.readlink(path) if stat.S_ISLNK(of.st_mode) else None
            kind = stat.S_IFMT(of.st_mode)
            if kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
                time = of.st_mtime_ns if b"/" in known else 0
                found[known] = [kind, content, time, of.st_uid, of.st_gid, stat.S_IMODE(of.st_mode)]
    for path, row in found.items():
        of = os.lstat(os.path.join(base, path))
        row.append(tuple(sorted(twins.get((of.st_dev, of.st_ino), ()))))
    return {path: tuple(row) for path, row in found.items()}


def in_the_new_layout(before: Told, saved: bytes = b"migration_tandem") -> Told:
    """What it has to become, said from the issue's words; of the areas' tops and what is made new nothing."""

    def moved(path: bytes) -> bytes:
        area, _, rest = path.partition(b"/")
        user, slash, inside = rest.partition(b"/")
        folder = before[b"private/" + user][0] == stat.S_IFDIR if area == b"private" else False
        if not folder:
            return path
        return b"private/" + user + b"/saved/" + saved + (b"/" + inside if slash else b"")

    def mode(path: bytes, row: tuple[Any, ...]) -> int:
        kind, was, area = row[0], row[5], path.partition(b"/")[0]
        if kind == stat.S_IFLNK or area == b"temp":
            return int(was)
        if area == b"private":
            return 0o700 if kind == stat.S_IFDIR or was & 0o111 else 0o600
        return 0o770 | (was & 0o2000) if kind == stat.S_IFDIR else (0o770 if was & 0o111 else 0o660)

    return {
        moved(path): (*row[:5], mode(path, row), tuple(sorted(moved(twin) for twin in row[6])))
        for path, row in before.items()
        if b"/" in path
    }
