"""A stream whose beginning comes from elsewhere: an archive first, then the topics where it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

from connectors.events import Record
from connectors.positions import Partition
from consumers.contracts import Stream

#: records of a partition from an offset on, and the offset where they end; an end at or before it: there are none
Tail = Callable[[Partition, int], tuple[Iterator[Record], int]]


class Joined:
    """Each partition by itself: while the tail has records of it, these; then the stream's."""

    def __init__(self, inner: Stream, tail: Tail) -> None:
        self.inner, self.generation, self._tail = inner, inner.generation, tail
        self._tails: dict[Partition, tuple[Iterator[Record], int]] = {}
        self._at: dict[Partition, int] = {}

    def assigned(self) -> frozenset[Partition]:
        """As of the stream inside."""
        return self.inner.assigned()

    def place(self, offsets: Mapping[Partition, int | None]) -> None:
        """Go on at these offsets; None: do not read this partition for now."""
        direct: dict[Partition, int | None] = {}
        for partition, offset in offsets.items():
            self._tails.pop(partition, None)
            direct[partition] = offset
            if offset is not None:
                records, end = self._tail(partition, offset)
                if end > offset:
                    self._tails[partition], self._at[partition] = (records, end), offset
                    direct[partition] = None
        self.inner.place(direct)

    def poll(self, timeout_ms: int, most: int) -> Mapping[Partition, Sequence[Record]]:
        """Up to `most` records, per partition in their order."""
        polled: dict[Partition, Sequence[Record]] = {}
        left = most
        share = max(1, most // max(1, len(self._tails)))
        for partition, (records, end) in list(self._tails.items()):
            found = list(islice(records, min(share, left)))
            left -= len(found)
            if found:
                polled[partition] = found
                self._at[partition] = found[-1].offset + 1
            else:
                del self._tails[partition]
                self.inner.place({partition: end})
            if left <= 0:
                break
        return polled or self.inner.poll(timeout_ms, most)

    def position(self, partition: Partition) -> int:
        """The offset that would be read next."""
        return self._at[partition] if partition in self._tails else self.inner.position(partition)

    def tell(self, offsets: Mapping[Partition, int]) -> None:
        """As of the stream inside."""
        self.inner.tell(offsets)
