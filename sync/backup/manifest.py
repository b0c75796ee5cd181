"""What a backup says of itself, and whether it is still so."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

from connectors.errors import BackupDamaged

VERSION = 1
NAME = "manifest.json"
#: the parts of a backup, in the order in which they are made
PARTS = ("postgres", "mongodb", "files")
POSTGRES_DUMP = "postgres.dump"
MONGODB = "mongodb"
FILES = "files"
_REMEDY = "take another backup; this one is not touched"


@dataclass(frozen=True, slots=True)
class Kept:
    """One file of a backup. path: below the backup's folder."""

    path: str
    bytes: int
    blake2b: str


@dataclass(frozen=True, slots=True)
class Tree:
    """A file tree. root: where it was. path: its copy; list: a file with a line for each entry; both below the
    backup's folder."""

    root: str
    path: str
    list: str
    entries: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """source: system and database are its identity; lsn was read just before the snapshot of the dump. target:
    consistency says as of when its documents are. collections: documents by collection. tools: their versions."""

    name: str
    began: str
    ended: str
    parts: tuple[str, ...]
    source: Mapping[str, Any] = field(default_factory=dict)
    target: Mapping[str, Any] = field(default_factory=dict)
    collections: Mapping[str, int] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Kept, ...] = ()
    trees: tuple[Tree, ...] = ()

    @property
    def bytes(self) -> int:
        """Of all of it."""
        return sum(f.bytes for f in self.files) + sum(t.bytes for t in self.trees)

    def as_text(self) -> str:
        """The manifest file: its last field is the digest of all the others."""
        content = {"version": VERSION, **asdict(self)}
        return json.dumps({**content, "digest": _digest_of(content)}, indent=1) + "\n"


def _digest_of(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=32).hexdigest()


def read(folder: Path) -> Manifest:
    """The manifest of a backup's folder. Raises BackupDamaged."""
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
        told = content.pop("digest")
        if content.get("version") != VERSION:
            raise BackupDamaged(
                f"the backup {folder.name} is of form {content.get('version')!r}, which this tandem does not know",
                remedy="use the tandem that made it",
            )
        if told != _digest_of(content):
            raise ValueError
        del content["version"]
        files = tuple(Kept(**f) for f in content.pop("files"))
        trees = tuple(Tree(**t) for t in content.pop("trees"))
        return Manifest(**{**content, "parts": tuple(content["parts"])}, files=files, trees=trees)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not as it was written"
        raise BackupDamaged(
            f"the manifest of the backup {folder.name} cannot be used: {why}", remedy=_REMEDY
        ) from None


def digest(file: Path) -> str:
    """A file's digest."""
    with file.open("rb") as opened:
        return file_digest(opened, lambda: blake2b(digest_size=32)).hexdigest()


def kept(folder: Path, file: Path) -> Kept:
    """A file as the manifest has it."""
    return Kept(str(file.relative_to(folder)), file.stat().st_size, digest(file))


# -- trees -------------------------------------------------------------------------------------------------------
def entries(root: Path, *, deep: bool) -> Iterator[dict[str, Any]]:
    """What lies below a folder, in order: path, kind, and size, or where a link points to; deep: modes, times, owners
    and digests too. A name that is not UTF-8 is written with lone surrogates, which JSON carries."""
    for here, folders, files in os.walk(root):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = os.path.join(here, name)
            found = os.lstat(path)
            entry: dict[str, Any] = {"path": os.path.relpath(path, root), "kind": _kind(found.st_mode)}
            if stat.S_ISLNK(found.st_mode):
                entry["to"] = os.readlink(path)
            elif stat.S_ISREG(found.st_mode):
                entry["bytes"] = found.st_size
            if deep:
                entry |= {"mode": stat.S_IMODE(found.st_mode), "uid": found.st_uid, "gid": found.st_gid}
                if not stat.S_ISLNK(found.st_mode):
                    entry["mtime_ns"] = found.st_mtime_ns
                if stat.S_ISREG(found.st_mode):
                    entry["blake2b"] = digest(Path(path))
            yield entry


def _kind(mode: int) -> str:
    for kind, is_it in (("folder", stat.S_ISDIR), ("link", stat.S_ISLNK), ("file", stat.S_ISREG)):
        if is_it(mode):
            return kind
    return "other"


def write_list(root: Path, file: Path, tell: Callable[[int], None]) -> tuple[int, int]:
    """A line of JSON for each entry of a tree. Returns entries and bytes. tell: bytes looked at so far."""
    count = size = 0
    with file.open("w", encoding="ascii") as out:
        for entry in entries(root, deep=True):
            out.write(json.dumps(entry, separators=(",", ":")) + "\n")
            count += 1
            size += entry.get("bytes", 0)
            tell(size)
    return count, size


def problems(
    folder: Path, manifest: Manifest, *, deep: bool, tell: Callable[[int], None] = lambda _: None
) -> list[str]:
    """What is not as the manifest has it: files that are missing, of another size, or too many; deep: of other
    contents, modes or times. tell: bytes looked at so far."""
    found, done = [], 0
    for file in manifest.files:
        path = folder / file.path
        try:
            size = path.lstat().st_size
            if size != file.bytes:
                found.append(f"{file.path} has {size:,} bytes, not {file.bytes:,}")
            elif deep and digest(path) != file.blake2b:
                found.append(f"{file.path} has other contents than it was written with")
        except OSError as error:
            found.append(f"{file.path}: {error.strerror}")
        done += file.bytes
        tell(done)
    for tree in manifest.trees:
        try:
            found += _of_tree(folder, tree, deep)
        except OSError as error:
            found.append(f"{tree.path}: {error.strerror}")
        except (ValueError, KeyError, TypeError):
            found.append(f"{tree.list} cannot be read")
        done += tree.bytes
        tell(done)
    return found


def _of_tree(folder: Path, tree: Tree, deep: bool) -> list[str]:
    there = entries(folder / tree.path, deep=deep)
    found: list[str] = []
    with (folder / tree.list).open(encoding="ascii") as listed:
        wanted = {e["path"]: e for e in map(json.loads, listed)}
    if not (folder / tree.path).is_dir():
        return [f"{tree.path} is missing"]
    for entry in there:
        name = f"{tree.path}/{_shown(entry['path'])}"
        known = wanted.pop(entry["path"], None)
        if known is None:
            found.append(f"{name} was not there when it was made")
        elif differing := sorted(k for k in entry if entry[k] != known.get(k)):
            found.append(f"{name} has another {', '.join(differing)}")
    found += [f"{tree.path}/{_shown(name)} is missing" for name in wanted]
    return found


def _shown(path: str) -> str:
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
