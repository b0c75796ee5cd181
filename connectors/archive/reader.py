"""The archive for whoever rebuilds from it: records as the topics had them, and the rows of a base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from connectors.archive import basefile, manifest, segment
from connectors.archive.archive import Archive
from connectors.archive.manifest import Base, Chain, Identity
from connectors.errors import ArchiveGap, ArchiveRefused
from connectors.events import Entry, Record
from connectors.positions import Lsn, Partition


class ArchiveReader:
    """Reads an archive, also while it is written to: what it answers is as of the time when it is asked.

    `bases()`, the oldest first; of one, `base(table, of)` gives the rows, and `tail(partition, of.positions[...])` what
    came after. Raises ArchiveRefused, ArchiveDamaged, ServerGone.
    """

    def __init__(self, url: str) -> None:
        self.archive = Archive.at(url)

    @property
    def identity(self) -> Identity:
        """The pipeline that it is of: its topics' prefix, and its database."""
        return self.archive.demand()

    def partitions(self) -> list[Partition]:
        """Those that it has something of."""
        return self.archive.partitions()

    def chain(self, partition: Partition) -> Chain:
        """What is kept of a partition: `start`, `next`, and its segments, with the LSNs and times in them."""
        found = self.archive.known_chain(partition)
        if found is None:
            raise ArchiveRefused(
                f"the archive {self.archive.store.place} has nothing of {partition.id}",
                remedy="is it of this pipeline? `tandem archive status` says what it has",
            )
        return found

    def tail(self, partition: Partition, from_offset: int) -> Iterator[Record]:
        """Every committed record from an offset on, in order, up to where the archive is: `chain(partition).next`.

        Raises ArchiveGap at once where the archive does not have all of them, ArchiveDamaged when it comes there.
        """
        chain = self.chain(partition)
        covered(chain, from_offset)
        return (entry.record for entry in self._entries(chain, from_offset))

    def entries(self, partition: Partition, from_offset: int) -> Iterator[Entry]:
        """The same with headers."""
        chain = self.chain(partition)
        covered(chain, from_offset)
        return self._entries(chain, from_offset)

    def _entries(self, chain: Chain, from_offset: int) -> Iterator[Entry]:
        for one in chain.segments:
            if one.next <= from_offset:
                continue
            name, count = manifest.segment_name(chain.home, one.start), 0
            try:
                with self.archive.store.open(name) as file:
                    for entry in segment.read(file, chain.home, name):
                        count += 1
                        if entry.record.offset >= from_offset:
                            yield entry
            except FileNotFoundError:
                raise segment.damaged(name, "it is missing") from None
            if count != one.records:
                raise segment.damaged(name, f"it has {count} records, not {one.records}")

    def bases(self) -> list[Base]:
        """Whole bases, the oldest first."""
        return self.archive.bases()

    def base_before(self, lsn: Lsn | int | None = None) -> Base:
        """The newest base; or the newest whose rows are of before an LSN. Raises ArchiveRefused where there is none."""
        found = [base for base in self.bases() if lsn is None or base.lsn <= lsn]
        if not found:
            when = "" if lsn is None else f" of before {Lsn(lsn)}"
            raise ArchiveRefused(
                f"the archive {self.archive.store.place} has no base{when}",
                remedy="make one with `tandem archive base`",
            )
        return found[-1]

    def base(self, table: str, of: Base | None = None) -> Iterator[Mapping[str, Any]]:
        """The rows of a table in a base (the newest): column -> value, as a binary COPY gives it that is asked for
        by the column's `select` and `wire` (`Base.tables[table].columns`): what `TablePlan.from_row` takes, by name."""
        base = of or self.base_before()
        if table not in base.tables:
            raise ArchiveRefused(
                f"the base {base.name} does not have {table}",
                remedy="make a new one with `tandem archive base`",
            )
        for file in base.tables[table].files:
            name = manifest.base_name(base.name, file.path)
            count = 0
            try:
                with self.archive.store.open(name) as opened:
                    for row in basefile.read(opened, name):
                        count += 1
                        yield row
            except FileNotFoundError:
                raise segment.damaged(name, "it is missing") from None
            if count != file.rows:
                raise segment.damaged(name, f"it has {count} rows, not {file.rows}")


def covered(chain: Chain, from_offset: int) -> None:
    """Raise ArchiveGap unless the archive has every record from an offset on."""
    if from_offset < chain.start:
        raise ArchiveGap(
            f"{chain.home.id}: the archive begins at offset {chain.start}, after {from_offset}",
            remedy="begin with a base that was made later: `tandem archive status` lists them",
        )
    for gap in chain.gaps:
        if gap.end > from_offset:
            raise ArchiveGap(
                f"{chain.home.id}: offsets {gap.start} to {gap.end - 1} are not in the archive ({gap.why})",
                remedy="begin with a base that was made after them: `tandem archive base` makes one",
            )
