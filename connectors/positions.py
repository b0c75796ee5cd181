"""Places in the WAL and in topics. Nobody else does arithmetic on them."""

from __future__ import annotations

from typing import NamedTuple


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int

    @property
    def id(self) -> str:
        """The `_id` of its position document."""
        return f"{self.topic}/{self.partition}"


class Lsn(int):
    """A WAL location (PostgreSQL documentation, 8.20 pg_lsn Type): an int64 that prints as `16/B374D848`."""

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """Read `hi/lo`, both hexadecimal. Raises ValueError."""
        high, _, low = text.partition("/")
        value = (int(high, 16) << 32) | int(low, 16)
        if not (0 <= int(high, 16) < 1 << 32 and 0 <= int(low, 16) < 1 << 32):
            raise ValueError(f"not an LSN: {text}")
        return cls(value)

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    __repr__ = __str__


class Snapshot(NamedTuple):
    """`pg_current_snapshot()` (PostgreSQL documentation, 9.28 Transaction ID and Snapshot Information).

    xmin, xmax: 64-bit transaction ids. in_progress: those between them that are still running.
    """

    xmin: int
    xmax: int
    in_progress: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """Read `xmin:xmax:xip,xip,...`."""
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(int(x) for x in running.split(",") if x))

    def full_id(self, xid: int) -> int:
        """The 64-bit id of a 32-bit `source.txId`: the one nearest to this snapshot's xmax."""
        epoch = 1 << 32
        candidate = (self.xmax & ~(epoch - 1)) | (xid & (epoch - 1))
        if candidate - self.xmax > epoch // 2:
            candidate -= epoch
        elif self.xmax - candidate > epoch // 2:
            candidate += epoch
        return candidate

    def shows(self, xid: int) -> bool:
        """True when a committed transaction is visible to whoever takes this snapshot."""
        full = self.full_id(xid)
        return full < self.xmin or (full < self.xmax and full not in self.in_progress)
