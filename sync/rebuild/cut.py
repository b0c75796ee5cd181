"""Up to which offset each partition is of before a moment: a commit LSN, or a time. Pure.

A record does not say at which LSN its own transaction was committed, only which commit came before it (`Origin.after`).
The stream is in the order of commits. So of all commits that some record, of any topic of the pipeline, comes behind,
the last one at or before the moment, L, is the last transaction that belongs to it: what comes behind L, and was
committed behind it, says `after` = L or later; what belongs to it says an earlier one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

from connectors.debezium.envelope import Origin
from connectors.errors import Misused
from connectors.positions import Lsn, Partition

_LSN = re.compile(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")


@dataclass(frozen=True, slots=True)
class Moment:
    """A commit LSN, or a time in microseconds since 1970: one of them."""

    lsn: Lsn | None = None
    us: int | None = None

    @classmethod
    def parse(cls, text: str) -> Moment:
        """`16/B374D848`, or a time as `2026-11-28T12:30:00Z`; one without an offset is UTC. Raises Misused."""
        if _LSN.fullmatch(text.strip()):
            return cls(lsn=Lsn.parse(text.strip()))
        try:
            found = datetime.fromisoformat(text.strip())
        except ValueError:
            raise Misused(
                f"--until {text} is neither an LSN nor a time",
                remedy="give an LSN such as 16/B374D848, or a time such as 2026-11-28T12:30:00Z",
            ) from None
        found = found if found.tzinfo else found.replace(tzinfo=UTC)
        whole = int(found.replace(microsecond=0).timestamp())
        return cls(us=whole * 1_000_000 + found.microsecond)


@dataclass(slots=True)
class _Partition:
    """after: the highest known so far. last: the highest at or before the moment, and the first offset behind it.
    beyond: the first offset that does not belong to the moment for sure."""

    after: int = 0
    last: tuple[int, int] = (-1, 0)
    beyond: int | None = None


@dataclass(slots=True)
class Cut:
    """Is told all records of all partitions, each partition's in order; then knows where each is cut."""

    moment: Moment
    _of: dict[Partition, _Partition] = field(default_factory=dict)

    def add(self, home: Partition, offset: int, origin: Origin | None) -> None:
        """One record. None: one that tells of no transaction stands where the one before it does."""
        mine = self._of.setdefault(home, _Partition())
        if mine.beyond is not None or origin is None:
            return
        if self.moment.us is not None:
            if origin.commit_us > self.moment.us:
                mine.beyond = offset
            return
        assert self.moment.lsn is not None
        mine.after = max(mine.after, origin.after or 0)
        if mine.after > self.moment.lsn or origin.lsn >= self.moment.lsn:
            mine.beyond = offset
        # a commit at the moment itself has been seen to be the one before: the record is behind it
        if mine.after <= self.moment.lsn and mine.after > mine.last[0]:
            mine.last = (mine.after, offset)

    def offsets(self, ends: dict[Partition, int]) -> dict[Partition, int]:
        """The first offset of each of these partitions that is not of before the moment; at most its end."""
        highest = max((of.last[0] for of in self._of.values()), default=-1)
        found = {}
        for home, end in ends.items():
            mine = self._of.get(home, _Partition())
            beyond = end if mine.beyond is None else min(end, mine.beyond)
            if self.moment.us is None and mine.last[0] == highest >= 0:
                beyond = min(beyond, mine.last[1])
            found[home] = beyond
        return found
