"""What the worker needs of the world, in contracts of a few methods. Nothing concrete here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


class Pace(Protocol):
    """How fast work may go at the moment."""

    @property
    def paused(self) -> bool:
        """Nothing is to be done."""

    def most(self, limit: int) -> int:
        """How much is to be done at once, at most limit."""

    def wait(self, ops: int, stop: Callable[[], bool]) -> None:
        """Return when so many operations may be done, or stop() says so."""


class Observer(Protocol):
    """Who counts what is done."""

    def applied(self, events: Sequence[tuple[str, int]], seconds: float) -> None:
        """A transaction was acknowledged. events: table and commit time of each, milliseconds since 1970 by
        PostgreSQL's clock. seconds: from its first try to here."""


class FullSpeed:
    """A pace without limits."""

    paused = False

    def most(self, limit: int) -> int:
        """All of it."""
        return limit

    def wait(self, ops: int, stop: Callable[[], bool]) -> None:
        """Not at all."""


class Unobserved:
    """Nobody counts."""

    def applied(self, events: Sequence[tuple[str, int]], seconds: float) -> None:
        """Nothing."""
