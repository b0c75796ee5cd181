"""How far the archive is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from connectors.archive.archive import Archive
from connectors.archive.manifest import Base, Chain
from connectors.positions import Lsn, Partition


@dataclass(frozen=True, slots=True)
class Standing:
    """One partition. behind: offsets up to the topic's end, markers of transactions included; None: not known. lost:
    offsets that Kafka has removed and the archive has not kept, beyond what its gaps say."""

    chain: Chain
    behind: int | None
    lost: int

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        chain = self.chain
        return {
            "topic": chain.topic,
            "partition": chain.partition,
            "table": chain.table,
            "start": chain.start,
            "next": chain.next,
            "behind": self.behind,
            "lost": self.lost,
            "segments": len(chain.segments),
            "records": chain.records,
            "bytes": chain.bytes,
            "gaps": [
                {"start": g.start, "end": g.end, "why": g.why, "noticed": g.noticed} for g in chain.gaps
            ],
        }


@dataclass(slots=True)
class ArchiveStatus:
    """The whole. seen: when an archiver last told Kafka where it is, seconds since 1970; None: never."""

    place: str
    partitions: list[Standing] = field(default_factory=list)
    bases: list[Base] = field(default_factory=list)
    seen: int | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """All that Kafka had is here, or will be."""
        return not self.missing and not any(one.lost for one in self.partitions)

    @property
    def behind(self) -> int | None:
        """Of all partitions."""
        found = [one.behind for one in self.partitions]
        return None if None in found else sum(n for n in found if n is not None)

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "ok": self.ok,
            "place": self.place,
            "behind": self.behind,
            "seen": self.seen,
            "not_begun": self.missing,
            "records": sum(one.chain.records for one in self.partitions),
            "bytes": sum(one.chain.bytes for one in self.partitions) + sum(b.bytes for b in self.bases),
            "partitions": [one.as_dict() for one in self.partitions],
            "bases": [
                {
                    "name": b.name,
                    "lsn": str(Lsn(b.lsn)),
                    "ended": b.ended,
                    "rows": {name: table.rows for name, table in b.tables.items()},
                    "bytes": b.bytes,
                }
                for b in self.bases
            ],
        }


def look(
    archive: Archive,
    begins: Mapping[Partition, int],
    ends: Mapping[Partition, int],
    seen: int | None,
) -> ArchiveStatus:
    """The archive beside where its topics begin and end now."""
    archive.demand()
    status = ArchiveStatus(archive.store.place, seen=seen)
    there = archive.partitions()
    for home in there:
        chain = archive.known_chain(home)
        assert chain is not None
        behind = None if home not in ends else max(0, ends[home] - chain.next)
        lost = max(0, begins.get(home, 0) - chain.next)
        status.partitions.append(Standing(chain, behind, lost))
    status.missing = [home.id for home in sorted(ends) if home not in there]
    status.bases = archive.bases()
    return status
