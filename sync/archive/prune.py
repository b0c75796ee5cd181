"""What may go of an archive, and its going."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import takewhile

from connectors.archive.archive import Archive
from connectors.archive.manifest import Base, Chain, Segment
from sync.settings import Archive as ArchiveSettings

#: every record is older
_ALWAYS = 1 << 63


@dataclass(frozen=True, slots=True)
class Going:
    """What may go. bases: names. over: bytes that are
    more than `archive.retention_bytes`, and cannot go."""

    bases: tuple[str, ...] = ()
    segments: Mapping[str, tuple[Segment, ...]] = field(default_factory=dict)
    bytes: int = 0
    over: int = 0

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "bases": list(self.bases),
            "segments": sum(len(of) for of in self.segments.values()),
            "bytes": self.bytes,
            "over_bytes": self.over,
        }


def plan(chains: Sequence[Chain], bases: Sequence[Base], settings: ArchiveSettings, now: datetime) -> Going:
    """What may go. bases: the oldest first.

    What is kept is always whole: a base, and all of the tail behind it. By time, it is the newest base that is
    older than the time, so that any state within it can be rebuilt; by bytes, as many bases as there is room for,
    the newest always.
    """
    if not bases or (settings.retention_days is None and settings.retention_bytes is None):
        return Going(over=_over(settings, _bytes(chains, bases)))
    first, since_ms = 0, 0
    if settings.retention_days is not None:
        since = now - timedelta(days=settings.retention_days)
        since_ms = int(since.timestamp() * 1_000)
        first = max(
            (n for n, base in enumerate(bases) if datetime.fromisoformat(base.ended) <= since), default=0
        )
    most = settings.retention_bytes
    if most is not None and _left(chains, bases, first, since_ms) > most:
        since_ms = _ALWAYS
        while first < len(bases) - 1 and _left(chains, bases, first, since_ms) > most:
            first += 1
    left = _left(chains, bases, first, since_ms)
    gone = {c.home.id: found for c in chains if (found := tuple(_before(c, bases[first], since_ms)))}
    return Going(
        tuple(base.name for base in bases[:first]),
        gone,
        _bytes(chains, bases) - left,
        _over(settings, left),
    )


def _before(chain: Chain, base: Base, since_ms: int) -> list[Segment]:
    """The first segments of which every record is in the base, and older than this; of a partition that it does not
    know, none."""
    at = base.positions.get(chain.home.id, 0)
    return list(takewhile(lambda segment: segment.next <= at and segment.to_ms < since_ms, chain.segments))


def _bytes(chains: Sequence[Chain], bases: Sequence[Base]) -> int:
    return sum(c.bytes for c in chains) + sum(b.bytes for b in bases)


def _left(chains: Sequence[Chain], bases: Sequence[Base], first: int, since_ms: int) -> int:
    gone = sum(s.bytes for c in chains for s in _before(c, bases[first], since_ms))
    return _bytes(chains, bases[first:]) - gone


def _over(settings: ArchiveSettings, left: int) -> int:
    return 0 if settings.retention_bytes is None else max(0, left - settings.retention_bytes)


def prune(archive: Archive, going: Going) -> None:
    """Remove it: first what names a file, then the file. For the one that writes."""
    for name in going.bases:
        archive.remove_base(name)
    for home in archive.partitions():
        if gone := going.segments.get(home.id):
            chain = archive.chain(home)
            assert chain is not None
            kept = chain.from_(gone[-1].next)
            archive.save(kept)
            archive.remove(chain, gone)


def planned(archive: Archive, settings: ArchiveSettings) -> Going:
    """What may go now."""
    chains = [chain for home in archive.partitions() if (chain := archive.known_chain(home)) is not None]
    return plan(chains, archive.bases(), settings, datetime.now(UTC))
