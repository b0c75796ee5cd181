"""What the worker needs of the world, in contracts of a few methods. Nothing concrete here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from connectors.events import Record
from connectors.positions import Lsn, Partition, Snapshot
from connectors.postgres.rows import Row, TableRead


class Stream(Protocol):
    """Records of the partitions that are this worker's. `generation` rises with every new assignment."""

    generation: int

    def assigned(self) -> frozenset[Partition]:
        """The partitions that are this worker's now."""

    def place(self, offsets: Mapping[Partition, int | None]) -> None:
        """Go on at these offsets; None: do not read this partition for now."""

    def poll(self, timeout_ms: int, most: int) -> Mapping[Partition, Sequence[Record]]:
        """Up to `most` records, per partition in their order."""

    def position(self, partition: Partition) -> int:
        """The offset that would be read next."""

    def tell(self, offsets: Mapping[Partition, int]) -> None:
        """Tell Kafka's tools where this group is."""


class Rows(Protocol):
    """PostgreSQL as it is now."""

    def read(self, wanted: Mapping[TableRead, Sequence[tuple[Any, ...]]]) -> tuple[dict[str, list[Row]], Lsn]:
        """The rows with these keys that there are, all in one snapshot, and a WAL position read before it."""

    def visible_now(self) -> Snapshot:
        """Which transactions a read that begins now would show."""
