"""Whether an archive is whole: every chain without a hole, every file as it was written and readable by any reader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import IO

import fastavro

from connectors.archive import manifest, segment
from connectors.archive.archive import Archive
from connectors.archive.manifest import Base, Chain, Segment
from connectors.errors import ArchiveDamaged
from connectors.positions import Partition

#: called with what is looked at, bytes done and bytes of all
Watch = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not in order. file: which one."""

    file: str
    what: str


@dataclass(slots=True)
class ArchiveReport:
    """What was found. notes: what is as it may be, and good to know. rebuilds: a base, and the whole tail behind
    it, are there, so that every later state can be rebuilt; of which base."""

    partitions: int = 0
    segments: int = 0
    records: int = 0
    bases: int = 0
    rows: int = 0
    bytes: int = 0
    deep: bool = True
    rebuilds: str = ""
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.problems

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {"ok": self.ok, **asdict(self)}


class Check:
    """One look at a whole archive. deep: read every file; else only that each is there, of its size."""

    def __init__(self, archive: Archive, *, deep: bool, watch: Watch, stop: Callable[[], bool]) -> None:
        self.archive, self.deep, self.watch, self.stop = archive, deep, watch, stop
        self.report = ArchiveReport(deep=deep)
        self._all = 1

    def run(self) -> ArchiveReport:
        """Look at everything. Raises ArchiveRefused where there is no archive, and ServerGone."""
        self.archive.demand()
        chains = list(self._chains())
        bases = self._bases()
        self._all = sum(c.bytes for c in chains) + sum(b.bytes for b in bases)
        for chain in chains:
            self._chain(chain)
        for base in bases:
            self._base(base)
        self._together(chains, bases)
        return self.report

    def _wrong(self, file: str, what: str) -> None:
        self.report.problems.append(Finding(file, what))

    def _chains(self) -> Iterator[Chain]:
        for home in self.archive.partitions():
            try:
                chain = self.archive.known_chain(home)
            except ArchiveDamaged as error:
                self._wrong(manifest.chain_name(home), error.what)
                continue
            if chain is not None:
                self.report.partitions += 1
                yield chain

    def _bases(self) -> list[Base]:
        try:
            return self.archive.bases()
        except ArchiveDamaged as error:
            self._wrong("bases", error.what)
            return []

    # -- a partition ---------------------------------------------------------------------------------------------
    def _chain(self, chain: Chain) -> None:
        at = chain.start
        for one in chain.segments:
            name = manifest.segment_name(chain.home, one.start)
            if one.start != at and not _bridged(chain, at, one.start):
                self._wrong(name, f"it begins at offset {one.start}, the one before it ends at {at}")
            at = one.next
            self.report.segments += 1
            self.report.records += one.records
            before = len(self.report.problems)
            self._file(name, one.bytes, one.blake2b, partial(_segment_wrong, home=chain.home, of=one))
            if len(self.report.problems) > before and self._went(chain, one):
                del self.report.problems[before:]
            if self.stop():
                return
        folder = manifest.chain_name(chain.home).rpartition("/")[0]
        known = {manifest.segment_name(chain.home, s.start) for s in chain.segments}
        for name in self.archive.store.names(folder):
            if name.endswith(".avro") and name not in known:
                self.report.notes.append(
                    Finding(name, "it is in no manifest yet: `tandem archive run` takes it in, or removes it")
                )

    def _went(self, chain: Chain, one: Segment) -> bool:
        """Whether retention has removed a segment meanwhile."""
        now = self.archive.known_chain(chain.home)
        return now is not None and one.start < now.start

    def _file(self, name: str, size: int, digest: str, wrong: Callable[[IO[bytes]], str]) -> None:
        """One file: its size, its digest, and what is in it."""
        self.watch(name, self.report.bytes, self._all)
        self.report.bytes += size
        try:
            with self.archive.store.open(name) as file:
                if (there := file.seek(0, 2)) != size:
                    self._wrong(name, f"it has {there:,} bytes, not {size:,}")
                    return
                if not self.deep:
                    return
                file.seek(0)
                if segment.digest_of(file) != digest:
                    self._wrong(name, "its checksum is another: its contents have changed")
                    return
                file.seek(0)
                if what := wrong(file):
                    self._wrong(name, what)
        except FileNotFoundError:
            self._wrong(name, "it is missing")

    # -- a base --------------------------------------------------------------------------------------------------
    def _base(self, base: Base) -> None:
        self.report.bases += 1
        for table in base.tables.values():
            for one in table.files:
                self.report.rows += one.rows
                name = manifest.base_name(base.name, one.path)
                self._file(name, one.bytes, one.blake2b, partial(_rows_wrong, rows=one.rows))
                if self.stop():
                    return

    # -- both ----------------------------------------------------------------------------------------------------
    def _together(self, chains: Sequence[Chain], bases: Sequence[Base]) -> None:
        """From which base every later state can be rebuilt; and gaps that no base has behind it."""
        usable = [base for base in bases if all(_reaches(chain, base) for chain in chains)]
        self.report.rebuilds = usable[0].name if usable else ""
        for chain in chains:
            for gap in chain.gaps:
                what = (
                    f"offsets {gap.start} to {gap.end - 1} were not kept ({gap.why}), noticed {gap.noticed}"
                )
                behind = usable or gap.why == "compacted"
                if behind:
                    self.report.notes.append(Finding(manifest.chain_name(chain.home), what))
                else:
                    self._wrong(manifest.chain_name(chain.home), f"{what}; no base was made after them")
        for base in bases:
            if base not in usable:
                self.report.notes.append(
                    Finding(
                        manifest.base_name(base.name),
                        "the tail behind it is not whole: begin with a later one",
                    )
                )


def _reaches(chain: Chain, base: Base) -> bool:
    """Whether the chain has every record behind a base."""
    at = base.positions.get(chain.home.id, chain.start)
    return chain.start <= at and all(gap.end <= at for gap in chain.gaps)


def _bridged(chain: Chain, end: int, start: int) -> bool:
    """Whether expired offsets, which are told elsewhere, are all that lies between."""
    return any(g.why == "expired" and g.start <= end and g.end >= start for g in chain.gaps)


def _segment_wrong(file: IO[bytes], home: Partition, of: Segment) -> str:
    """What is wrong with a segment, read as anyone would read it."""
    count, last = 0, of.start - 1
    try:
        reader = fastavro.reader(file)
        for datum in reader:
            offset = datum["offset"]  # type: ignore[call-overload, index]
            if not last < offset < of.next:  # type: ignore[operator]
                return f"offset {offset} is not between {last} and {of.next}"
            if not count and offset != of.first:
                return f"it begins with offset {offset}, not {of.first}"
            count, last = count + 1, offset  # type: ignore[assignment]
    except Exception as error:  # fastavro lets out whatever the bytes lead to
        return f"it cannot be read: {type(error).__name__}: {error}"[:200]
    if count != of.records or last != of.last:
        return f"it has {count} records up to offset {last}, not {of.records} up to {of.last}"
    about = reader.metadata
    if (about.get("tandem.topic"), about.get("tandem.partition")) != (home.topic, str(home.partition)):
        return f"it is of {about.get('tandem.topic')}/{about.get('tandem.partition')}"
    return ""


def _rows_wrong(file: IO[bytes], rows: int) -> str:
    try:
        count = sum(1 for _ in fastavro.reader(file))
    except Exception as error:
        return f"it cannot be read: {type(error).__name__}: {error}"[:200]
    return "" if count == rows else f"it has {count} rows, not {rows}"
