"""Documents that no row stands behind: the `_id`s of both sides are gone through, in memory that does not grow.

The hashes of the `_id`s are added up in buckets, on each side. A bucket with the same sum on both has the same `_id`s;
of the others they are compared one by one, as many buckets at a time as fit.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from bson import ObjectId

BUCKETS = 1 << 16
_MASK = (1 << 64) - 1
#: `_id`s that are compared at a time
_AT_ONCE = 500_000

#: goes through all `_id`s of one side, anew each time it is called
Rows = Callable[[], Iterable[bytes]]
Documents = Callable[[], Iterable[Sequence[Any]]]


class Sums:
    """How often which `_id` was met, as far as that tells two collections of them apart."""

    def __init__(self) -> None:
        self.buckets = array("Q", bytes(8 * BUCKETS))
        self.count = 0

    def add(self, id_: bytes) -> None:
        """One more. Python's own hash: keyed, of 64 bits, and the same all through a process."""
        hashed = hash(id_) & _MASK
        bucket = hashed % BUCKETS
        self.buckets[bucket] = (self.buckets[bucket] + hashed) & _MASK
        self.count += 1

    def differing(self, other: Sums) -> list[int]:
        """Buckets that are not the same in both."""
        return [n for n, (one, two) in enumerate(zip(self.buckets, other.buckets, strict=True)) if one != two]


def without_row(rows: Rows, documents: Documents, count: Callable[[int], None]) -> Iterator[Any]:
    """The `_id`s of documents that no row had when both were gone through. count: called with how many there are."""
    behind, here = Sums(), Sums()
    for id_ in rows():
        behind.add(id_)
    for batch in documents():
        for found in batch:
            if isinstance(found, ObjectId):
                here.add(found.binary)
            else:
                yield found
        count(len(batch))
    wrong = here.differing(behind)
    at_once = max(1, _AT_ONCE * BUCKETS // max(here.count, behind.count, 1))
    for start in range(0, len(wrong), at_once):
        mine = frozenset(wrong[start : start + at_once])
        known = {id_ for id_ in rows() if hash(id_) % BUCKETS in mine}
        for batch in documents():
            for found in batch:
                if not isinstance(found, ObjectId) or found.binary in known:
                    continue
                if hash(found.binary) % BUCKETS in mine:
                    yield found
