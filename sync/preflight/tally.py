"""What a scan has counted: rows, sizes, arrays, misfits with a few examples. Its size does not grow with the rows."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from sync.preflight.findings import Example


class Histogram:
    """Numbers counted by powers of two."""

    def __init__(self) -> None:
        self.counts = [0] * 64
        self.total = 0
        self.sum = 0
        self.most = 0

    def add(self, number: int) -> None:
        """Count one."""
        self.counts[min(number.bit_length(), 63)] += 1
        self.total += 1
        self.sum += number
        self.most = max(self.most, number)

    def merge(self, other: Histogram) -> None:
        """Count all of another's."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.total += other.total
        self.sum += other.sum
        self.most = max(self.most, other.most)

    def below(self, share: float) -> int:
        """So many, at most, for this share of all: the upper end of the power of two that it lies in."""
        seen = 0
        for bits, count in enumerate(self.counts):
            seen += count
            if seen >= share * self.total:
                return min((1 << bits) - 1, self.most)
        return self.most

    def as_dict(self) -> dict[str, int]:
        """For `--json`."""
        return {"p50": self.below(0.5), "p90": self.below(0.9), "p99": self.below(0.99), "max": self.most}


class Largest:
    """The few rows with the largest number."""

    def __init__(self, most: int = 3) -> None:
        self._most = most
        self._heap: list[tuple[int, tuple[str, ...]]] = []

    def add(self, number: int, key: tuple[str, ...]) -> None:
        """Remember it if it is one of them."""
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, (number, key))
        elif number > self._heap[0][0]:
            heapq.heapreplace(self._heap, (number, key))

    def merge(self, other: Largest) -> None:
        """Remember another's."""
        for number, key in other._heap:
            self.add(number, key)

    def all(self) -> list[tuple[int, tuple[str, ...]]]:
        """Largest first."""
        return sorted(self._heap, reverse=True)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of misfit in one place. place: collection or collection.array. code: of the error that it is parked
    with. column: the field or column, empty where it is the whole document. what: without values."""

    place: str
    table: str
    name: str
    code: str
    column: str
    what: str


@dataclass(slots=True)
class Misfits:
    """How many rows of a kind, and a few of them."""

    count: int = 0
    examples: list[Example] = field(default_factory=list)


@dataclass
class Tally:
    """Of one collection, its arrays included. examples: how many are kept of each kind.

    rows: read of its own table; documents: that fit. bytes: of those, in BSON. child_rows: read for its arrays.
    """

    examples: int
    rows: int = 0
    documents: int = 0
    child_rows: int = 0
    staged_bytes: int = 0
    sizes: Histogram = field(default_factory=Histogram)
    largest: Largest = field(default_factory=Largest)
    arrays: dict[str, Histogram] = field(default_factory=dict)
    longest: dict[str, Largest] = field(default_factory=dict)
    misfits: dict[Kind, Misfits] = field(default_factory=dict)

    def misfit(self, kind: Kind, example: Example) -> None:
        """Count one."""
        of = self.misfits.setdefault(kind, Misfits())
        of.count += 1
        if len(of.examples) < self.examples:
            of.examples.append(example)

    def array(self, name: str, elements: int, key: tuple[str, ...]) -> None:
        """Count one parent's array."""
        self.arrays.setdefault(name, Histogram()).add(elements)
        self.longest.setdefault(name, Largest()).add(elements, key)

    def merge(self, other: Tally) -> None:
        """Add what another has counted."""
        self.rows += other.rows
        self.documents += other.documents
        self.child_rows += other.child_rows
        self.staged_bytes += other.staged_bytes
        self.sizes.merge(other.sizes)
        self.largest.merge(other.largest)
        for name, histogram in other.arrays.items():
            self.arrays.setdefault(name, Histogram()).merge(histogram)
        for name, largest in other.longest.items():
            self.longest.setdefault(name, Largest()).merge(largest)
        for kind, of in other.misfits.items():
            mine = self.misfits.setdefault(kind, Misfits())
            mine.count += of.count
            mine.examples += of.examples[: self.examples - len(mine.examples)]


def texts(key: Iterable[object]) -> tuple[str, ...]:
    """A key as it is shown."""
    return tuple(str(value) for value in key)
