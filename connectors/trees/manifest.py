"""What was found on both sides, on disk: hundreds of thousands of files need no memory, and what has not changed is
not read twice. A cache: one that is damaged is made anew."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from connectors.trees.walk import Entry, Take

Side = Literal["old", "new"]
_COLUMNS = (
    "kind", "size", "mode", "uid", "gid", "mtime_ns", "ctime_ns", "device", "inode", "links", "blocks", "target",
    "digest", "settled",
)  # fmt: skip
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS entries (
    side TEXT, folder BLOB, name BLOB, {", ".join(_COLUMNS)},
    PRIMARY KEY (side, folder, name)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_inode ON entries (side, device, inode, folder, name) WHERE links > 1 AND kind = 'file';
"""
_INSERT = f"INSERT OR REPLACE INTO entries VALUES ({', '.join('?' * (len(_COLUMNS) + 3))})"
_VERSION = 2


@dataclass(frozen=True, slots=True)
class Pair:
    """A path as both sides have it. None: it is not there. twin: of a file with several hard links, the first of its
    paths on that side."""

    path: bytes
    old: Entry | None
    new: Entry | None
    old_twin: bytes = b""
    new_twin: bytes = b""


@dataclass(frozen=True, slots=True)
class Summary:
    """Of one side. digest: BLAKE2b over its entries in order: path, kind, and content or link text of each."""

    files: int
    folders: int
    links: int
    bytes: int
    digest: str


class Manifest:
    """The two sides. Used from several threads, by one process at a time: who opens it holds the lock of the roots."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._db = _opened(path)
        except sqlite3.DatabaseError:
            for name in (path, path.with_name(path.name + "-journal")):
                name.unlink(missing_ok=True)
            self._db = _opened(path)

    def close(self) -> None:
        """Done with it."""
        self._db.close()

    def taker(self, side: Side) -> Take:
        """What a walk of this side gives its folders to, with what `known` said of them. Only changes are written."""

        def take(folder: bytes, entries: Sequence[Entry], known: Mapping[bytes, Entry]) -> None:
            new = [entry for entry in entries if known.get(entry.name) != entry]
            gone = known.keys() - {entry.name for entry in entries}
            if not new and not gone:
                return
            folders = {name for name in gone if known[name].kind == "folder"}
            folders |= {e.name for e in new if e.kind != "folder" and e.name in known}
            with self._lock:
                for name in folders:
                    self._forget(side, folder + b"/" + name if folder else name)
                self._db.executemany(
                    "DELETE FROM entries WHERE side = ? AND folder = ? AND name = ?",
                    [(side, folder, name) for name in gone],
                )
                self._db.executemany(_INSERT, [(side, *entry) for entry in new])

        return take

    def end(self, side: Side, empty: Iterable[bytes] = ()) -> None:
        """The walk is whole. empty: folders where it had nothing to look at."""
        with self._lock:
            for folder in empty:
                self._forget(side, folder)
            self._db.commit()

    def _forget(self, side: Side, folder: bytes) -> None:
        """All in a folder, at any depth."""
        self._db.execute("DELETE FROM entries WHERE side = ? AND folder = ?", (side, folder))
        inside = (side, folder + b"/", folder + b"0")  # 0 comes after /
        self._db.execute("DELETE FROM entries WHERE side = ? AND folder > ? AND folder < ?", inside)

    def known(self, side: Side) -> Callable[[bytes], Mapping[bytes, Entry]]:
        """What was found before, by folder."""
        query = f"SELECT folder, name, {', '.join(_COLUMNS)} FROM entries WHERE side = ? AND folder = ?"

        def of(folder: bytes) -> Mapping[bytes, Entry]:
            with self._lock:
                rows = self._db.execute(query, (side, folder)).fetchall()
            return {row[1]: _entry(row) for row in rows}

        return of

    def pairs(self, suspect: str = "1") -> Iterator[Pair]:
        """Every path of either side whose two rows fulfil the SQL condition `suspect` (a constant of the caller's, over
        `o` and `n`), in order of path."""
        columns = ("folder", "name", *_COLUMNS)
        mine, other = (", ".join(f"{t}.{c}" for c in columns) for t in "on")
        twin = (
            "CASE WHEN {0}.links > 1 AND {0}.kind = 'file' THEN (SELECT CASE WHEN length(t.folder) THEN"
            " CAST(t.folder || X'2F' || t.name AS BLOB) ELSE t.name END FROM entries t"
            " WHERE t.side = {0}.side AND t.device = {0}.device AND t.inode = {0}.inode AND t.links > 1"
            " AND t.kind = 'file' ORDER BY t.folder, t.name LIMIT 1) END"
        )
        query = f"""
            SELECT {mine}, {other}, {twin.format("o")}, {twin.format("n")} FROM entries o LEFT JOIN entries n
                ON n.side = 'new' AND n.folder = o.folder AND n.name = o.name
                WHERE o.side = 'old' AND (n.name IS NULL OR ({suspect}))
            UNION ALL
            SELECT {", ".join(["NULL"] * len(columns))}, {other}, NULL, NULL FROM entries n
                WHERE n.side = 'new' AND NOT EXISTS (SELECT 1 FROM entries o
                    WHERE o.side = 'old' AND o.folder = n.folder AND o.name = n.name)
            """
        width = len(columns)
        for row in self._db.execute(query):
            old = _entry(row[:width]) if row[0] is not None else None
            new = _entry(row[width : 2 * width]) if row[width] is not None else None
            either = old or new
            assert either is not None
            yield Pair(either.path, old, new, row[-2] or b"", row[-1] or b"")

    def entries(self, side: Side) -> Iterator[Entry]:
        """All of a side, in order of folder and name."""
        query = (
            f"SELECT folder, name, {', '.join(_COLUMNS)} FROM entries WHERE side = ? ORDER BY folder, name"
        )
        for row in self._db.execute(query, (side,)):
            yield _entry(row)

    def summary(self, side: Side, write_to: Path | None = None) -> Summary:
        """Counts, bytes and digest of a side; written too, a line of JSON for each entry, whole or not at all.

        Paths are UTF-8; a byte that is none stands as the escape U+DC80 to U+DCFF, as Python has it.
        """
        counts = {"file": 0, "folder": 0, "link": 0}
        size, made = 0, blake2b(digest_size=32)
        beside = write_to.with_name(write_to.name + ".new") if write_to else None
        out = beside.open("w", encoding="ascii") if beside else None
        try:
            for entry in self.entries(side):
                if entry.kind == "other":
                    continue
                counts[entry.kind] += 1
                size += entry.size if entry.kind == "file" else 0
                content = entry.target if entry.kind == "link" else entry.digest
                for part in (entry.path, entry.kind.encode(), content):
                    made.update(len(part).to_bytes(8, "big") + part)
                if out is not None:
                    out.write(json.dumps(_line(entry)) + "\n")
            found = Summary(counts["file"], counts["folder"], counts["link"], size, made.hexdigest())
            if out is not None and beside is not None and write_to is not None:
                total = {
                    "files": found.files,
                    "folders": found.folders,
                    "links": found.links,
                    "bytes": found.bytes,
                }
                out.write(json.dumps({**total, "digest": found.digest}) + "\n")
                out.flush()
                os.fsync(out.fileno())
                beside.replace(write_to)
        finally:
            if out is not None:
                out.close()
        return found


def _opened(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, check_same_thread=False, isolation_level="DEFERRED")
    try:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA synchronous = OFF")
        if db.execute("PRAGMA user_version").fetchone()[0] not in (0, _VERSION):
            raise sqlite3.DatabaseError("of another version")
        if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("damaged")
        db.execute(f"PRAGMA user_version = {_VERSION}")
        db.executescript(_SCHEMA)
    except sqlite3.DatabaseError:
        db.close()
        raise
    return db


def _entry(row: Sequence[Any]) -> Entry:
    return Entry._make(row)


def _line(entry: Entry) -> dict[str, object]:
    line: dict[str, object] = {
        "path": os.fsdecode(entry.path),
        "kind": entry.kind,
        "mode": f"{entry.mode:04o}",
        "mtime_ns": entry.mtime_ns,
        "uid": entry.uid,
        "gid": entry.gid,
    }
    if entry.kind == "file":
        line |= {"size": entry.size, "digest": entry.digest.hex()}
    if entry.kind == "link":
        line["target"] = os.fsdecode(entry.target)
    return line
