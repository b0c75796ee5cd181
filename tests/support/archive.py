"""Topics in memory, and a place for an archive that fails where it is told to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from connectors.archive.store import Folder
from connectors.errors import EventsExpired, ServerGone
from connectors.events import Entry
from connectors.positions import Partition
from sync.archive.keep import Topic


class MemoryTopics:
    """What a broker has: entries by partition, in order; their offsets have holes, where markers of transactions
    are."""

    def __init__(self, entries: Mapping[Partition, list[Entry]]) -> None:
        self.entries = {home: list(of) for home, of in entries.items()}
        self.first = dict.fromkeys(entries, 0)
        self.ends = {home: (of[-1].record.offset + 2 if of else 0) for home, of in entries.items()}
        self.at: dict[Partition, int] = {}
        self.told: dict[Partition, int] = {}
        self.young: dict[Partition, int] = {}

    def topics(self) -> list[Topic]:
        """As the archiver asks for them."""
        names = sorted({home.topic for home in self.entries})
        count = {name: sum(home.topic == name for home in self.entries) for name in names}
        return [Topic(name, count[name], f"id of {name}", f"public.{name}") for name in names]

    def expire(self, home: Partition, before: int) -> None:
        """Retention removes what lies before an offset."""
        self.first[home] = before
        self.entries[home] = [e for e in self.entries[home] if e.record.offset >= before]

    def place(self, offsets: Mapping[Partition, int]) -> None:
        """As kafka-python's `assign` and `seek`."""
        self.at = dict(offsets)

    def poll(self, timeout_ms: int, most: int) -> Mapping[Partition, list[Entry]]:
        """A few records of each partition."""
        polled = {}
        for home, at in self.at.items():
            if not self.first[home] <= at <= self.ends[home]:
                raise EventsExpired("gone", remedy="none")
            found = [e for e in self.entries[home] if e.record.offset >= at][:7]
            if found:
                polled[home] = found
                self.at[home] = found[-1].record.offset + 1
            else:
                self.at[home] = self.ends[home]
        return polled

    def position(self, home: Partition) -> int:
        """Past markers, where only these are left."""
        return self.at[home]

    def begins(self, homes: list[Partition]) -> Mapping[Partition, int]:
        """By retention."""
        return {home: self.first[home] for home in homes}

    def since(self, homes: list[Partition], at_ms: int) -> Mapping[Partition, int]:
        """As the test says."""
        return {home: self.young.get(home, 0) for home in homes}

    def tell(self, offsets: Mapping[Partition, int], note: str, *, wait: bool = False) -> None:
        """Kept for the test."""
        self.told = dict(offsets)


class Killed(BaseException):
    """The process ends here, as by SIGKILL: nothing is put in order."""


class FailingFolder(Folder):
    """A folder in which one act does not go through. at: which one. kind: `before` and `after` end the process there;
    `away` is a store that does not answer, `lost` one whose answer is lost."""

    def __init__(self, root: Path, at: int = -1, kind: str = "before") -> None:
        super().__init__(root)
        self.at, self.kind, self.acts = at, kind, 0
        self.log: list[str] = []

    @contextmanager
    def _act(self, what: str) -> Iterator[None]:
        mine, self.acts = self.acts == self.at, self.acts + 1
        self.log.append(what)
        if mine and self.kind == "before":
            raise Killed(what)
        if mine and self.kind == "away":
            raise ServerGone(what, remedy="none")
        yield
        if mine and self.kind == "after":
            raise Killed(what)
        if mine and self.kind == "lost":
            raise ServerGone(what, remedy="none")

    def put(self, name: str, file: Path) -> None:
        """One act."""
        with self._act(f"put {name}"):
            super().put(name, file)

    def write(self, name: str, data: bytes) -> None:
        """One act."""
        with self._act(f"write {name}"):
            super().write(name, data)

    def remove(self, name: str) -> None:
        """One act."""
        with self._act(f"remove {name}"):
            super().remove(name)

    def open(self, name: str) -> IO[bytes]:
        """One act."""
        with self._act(f"open {name}"):
            pass
        return super().open(name)
