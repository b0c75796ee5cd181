"""A stream that ends before given offsets, which may rise: so that one side is never ahead of another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from connectors.events import Record
from connectors.positions import Partition
from consumers.contracts import Stream


class Capped:
    """Hands on what lies before the caps. caps: asked at each poll; a partition without one ends where it is.

    What came from behind a cap is let go of, and read again when the cap has risen past it.
    """

    def __init__(self, inner: Stream, caps: Callable[[], Mapping[Partition, int]]) -> None:
        self.inner, self._asked = inner, caps
        self._caps: Mapping[Partition, int] = {}
        #: of partitions that stand at their cap: the first offset behind it that has a record
        self._behind: dict[Partition, int] = {}

    @property
    def generation(self) -> int:
        """As of the stream inside."""
        return self.inner.generation

    @generation.setter
    def generation(self, value: int) -> None:
        self.inner.generation = value

    def assigned(self) -> frozenset[Partition]:
        """As of the stream inside."""
        return self.inner.assigned()

    def place(self, offsets: Mapping[Partition, int | None]) -> None:
        """As of the stream inside."""
        for partition in offsets:
            self._behind.pop(partition, None)
        self.inner.place(offsets)

    def poll(self, timeout_ms: int, most: int) -> Mapping[Partition, Sequence[Record]]:
        """Up to `most` records from before the caps."""
        self._caps = self._asked()
        on = {p: at for p, at in self._behind.items() if self._cap(p) > at}
        if on:
            self.place(on)
        polled: dict[Partition, Sequence[Record]] = {}
        for partition, records in self.inner.poll(timeout_ms, most).items():
            cap = self._cap(partition)
            before = [record for record in records if record.offset < cap]
            if len(before) < len(records):
                self._behind[partition] = records[len(before)].offset
                self.inner.place({partition: None})
            if before:
                polled[partition] = before
        return polled

    def _cap(self, partition: Partition) -> int:
        return self._caps.get(partition, 0)

    def position(self, partition: Partition) -> int:
        """The offset that would be read next, at most the cap."""
        at = self._behind.get(partition)
        return min(self.inner.position(partition) if at is None else at, self._cap(partition))

    def tell(self, offsets: Mapping[Partition, int]) -> None:
        """Nothing: what is told of a group is the live consumers' affair."""
