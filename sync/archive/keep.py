"""The archiver: reads the pipeline's topics and writes them down in segments.

The order is: records into a file that nobody takes for whole; the file on the disk and given its name; the chain that
names it; then Kafka is told. Where to go on is the chain's to say, and a segment that its chain does not name yet
is taken in (`Archive.chain`): so whatever is killed, and wherever, the next one goes on with no record lost and
none twice. Any trouble in between is met in the same way: what is not a segment yet is dropped and read again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from connectors.archive import forms, manifest
from connectors.archive.archive import Archive
from connectors.archive.forms import Form
from connectors.archive.manifest import Chain, Gap, Segment
from connectors.archive.segment import SegmentWriter, written
from connectors.errors import ArchiveForeign, ArchiveGap, EventsExpired, Unavailable
from connectors.events import Entry
from connectors.positions import Partition
from sync.archive.prune import Going, prune
from sync.settings import Archive as ArchiveSettings

Log = Callable[..., None]
_POLL_MS, _POLL_RECORDS = 300, 2_000
#: topics, and partitions of them, that came since
_LOOK_EVERY_S = 10.0
_TELL_EVERY_S = 5.0
_WAIT_AT_MOST_S = 10.0
#: so many schemas a partition may have in a row, and one more after so many records: beyond that a record of another
#: shape is kept as it came, so that no shapes that alternate make a segment of each record
_FORMS, _RECORDS_PER_FORM = 8, 100
#: times in a row that Kafka has no such offset
_LOST_OFTEN = 3
#: segments that are written at a time
_FILES = 200


class Stream(Protocol):
    """The topics: `connectors.kafka.follow.Follower`."""

    def place(self, offsets: Mapping[Partition, int]) -> None:
        """Read these partitions and no others, each from its offset on."""

    def poll(self, timeout_ms: int, most: int) -> Mapping[Partition, list[Entry]]:
        """Up to so many records, per partition in their order."""

    def position(self, home: Partition) -> int:
        """The offset that would be read next; past markers of transactions."""

    def begins(self, homes: list[Partition]) -> Mapping[Partition, int]:
        """The first offset of each that the topic still has."""

    def since(self, homes: list[Partition], at_ms: int) -> Mapping[Partition, int]:
        """The first offset of each whose timestamp is not before this time; its end, where there is none."""

    def tell(self, offsets: Mapping[Partition, int], note: str, *, wait: bool = False) -> None:
        """Tell Kafka's tools where this is."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of the pipeline. id: Kafka's own; a topic made anew has another."""

    name: str
    partitions: int
    id: str
    table: str


@dataclass(slots=True)
class Kept:
    """What this process has kept. odd: records of which something did not fit its schema, and is kept as JSON or as
    bytes."""

    records: int = 0
    bytes: int = 0
    segments: int = 0
    odd: int = 0
    gaps: int = 0
    retries: int = 0
    partitions: int = 0
    open: int = 0

    def as_dict(self) -> dict[str, int]:
        """For `--json`."""
        names = ("records", "bytes", "segments", "odd", "gaps", "retries", "partitions")
        return {name: getattr(self, name) for name in names}


@dataclass(slots=True)
class _Home:
    """One partition, as it is kept now."""

    chain: Chain
    #: a record before this offset has waited for so long that compaction may have removed others beside it
    late_until: int = 0
    form: Form | None = None
    writer: SegmentWriter | None = None
    #: so many new schemas it may have at once; records give some back
    forms: int = _FORMS


class Archiver:
    """Keeps the topics of one pipeline. topics: those that there are now. columns: a table's, each with its type, as
    PostgreSQL has them now. accept_gaps: go on behind what Kafka has removed."""

    def __init__(
        self,
        archive: Archive,
        stream: Stream,
        settings: ArchiveSettings,
        *,
        topics: Callable[[], list[Topic]],
        columns: Callable[[str], Mapping[str, str]],
        log: Log,
        compaction_lag_ms: int = 0,
        accept_gaps: bool = False,
    ) -> None:
        self.archive, self.stream, self.settings, self.log = archive, stream, settings, log
        self.topics, self.columns = topics, columns
        self.compaction_lag_ms, self.accept_gaps = compaction_lag_ms, accept_gaps
        self.kept = Kept()
        self._homes: dict[Partition, _Home] = {}
        self._looked = self._told = 0.0
        self._stale = True

    # -- the whole -----------------------------------------------------------------------------------------------
    def run(self, stop: Callable[[], bool], until: Mapping[Partition, int] | None = None) -> Kept:
        """Keep records until stopped, or each partition has come to its offset in `until`; what is in hand becomes
        segments then. A server that is away is waited for. Raises ArchiveGap, ArchiveForeign, ArchiveTaken and
        others."""
        try:
            self._follow(stop, until)
            self._end()
        except Exception:
            self._drop()
            raise
        return self.kept

    def _follow(self, stop: Callable[[], bool], until: Mapping[Partition, int] | None) -> None:
        wait, lost = 0.5, 0
        while not stop():
            try:
                self._step()
                wait, lost = 0.5, 0
                if until is not None and self._reached(until):
                    return
            except Unavailable as error:
                self.log(f"waiting: {error.what}", remedy=error.remedy)
                self.kept.retries += 1
                self._drop()
                self._sleep(wait, stop)
                wait = min(wait * 2, _WAIT_AT_MOST_S)
            except EventsExpired:
                self._drop()  # what is gone is seen, and told, when it is looked where the topics begin
                lost += 1
                if (
                    lost >= _LOST_OFTEN
                ):  # they do not begin later: they end before the archive, or are other ones
                    raise

    def _step(self) -> None:
        if self._stale or time.monotonic() - self._looked > _LOOK_EVERY_S:
            self._look()
        for home, entries in self.stream.poll(_POLL_MS, _POLL_RECORDS).items():
            for entry in entries:
                self._take(self._homes[home], entry)
        now = time.monotonic()
        for one in self._homes.values():
            writer = one.writer
            if writer and (
                writer.bytes >= self.settings.segment_bytes or now - writer.began >= self.settings.segment_s
            ):
                self._close(one, self.stream.position(one.chain.home))
        self.kept.open = sum(one.writer.records for one in self._homes.values() if one.writer)
        if now - self._told > _TELL_EVERY_S:
            self._tell()

    def prune(self, going: Going) -> None:
        """Remove what may go, of the chains that this has in hand too."""
        prune(self.archive, going)
        for home, gone in going.segments.items():
            for one in self._homes.values():
                if one.chain.home.id == home:
                    one.chain = one.chain.from_(gone[-1].next)

    def _reached(self, until: Mapping[Partition, int]) -> bool:
        return all(home in self._homes and self.stream.position(home) >= end for home, end in until.items())

    def _end(self) -> None:
        """Close what is open. A store that is away then is not waited for: the next one reads it again."""
        for one in list(self._homes.values()):
            if one.writer:
                self._close(one, self.stream.position(one.chain.home))
        self._tell(wait=True)

    @staticmethod
    def _sleep(seconds: float, stop: Callable[[], bool]) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not stop():
            time.sleep(0.05)

    def _drop(self) -> None:
        for one in self._homes.values():
            if one.writer:
                one.writer.abandon()
                one.writer = None
        self._stale = True

    def _tell(self, *, wait: bool = False) -> None:
        self._told = time.monotonic()
        told = {home: one.chain.next for home, one in self._homes.items()}
        self.stream.tell(told, str(int(time.time())), wait=wait)

    # -- which partitions ----------------------------------------------------------------------------------------
    def _look(self) -> None:
        """Go on with every partition where its chain says; with those that are known already, only if all was
        dropped."""
        found = self.topics()
        wanted = {Partition(t.name, n): t for t in found for n in range(t.partitions)}
        fresh = [home for home in wanted if home not in self._homes]
        if self._stale:
            fresh = list(wanted)
            self._homes = {}
        for home, topic in wanted.items():
            if home in self._homes and self._homes[home].chain.topic_id != topic.id:
                raise _made_anew(self.archive, self._homes[home].chain)
        self._looked = time.monotonic()
        if not fresh:
            return
        begins, young = self.stream.begins(fresh), self._young(fresh)
        for home in fresh:
            self._homes[home] = self._begun(home, wanted[home], begins[home], young.get(home, 0))
        self.kept.partitions = len(self._homes)
        self._stale = False
        self.stream.place(
            {
                home: self.stream.position(home) if one.writer else one.chain.next
                for home, one in self._homes.items()
            }
        )

    def _young(self, homes: list[Partition]) -> Mapping[Partition, int]:
        """Where those records begin beside which compaction has removed none."""
        if not self.compaction_lag_ms:
            return {}
        return self.stream.since(homes, int(time.time() * 1_000) - self.compaction_lag_ms)

    def _begun(self, home: Partition, topic: Topic, begin: int, young: int) -> _Home:
        chain = self.archive.chain(home)
        if chain is None:
            chain = Chain(home.topic, home.partition, topic.id, topic.table, begin)
            if young > begin:  # before the archive's time: nobody was told that it would be here
                chain = chain.with_gap(Gap(begin, young, "compacted", _now()))
            self.archive.save(chain)
        if chain.topic_id != topic.id:
            raise _made_anew(self.archive, chain)
        one = _Home(chain)
        if begin > chain.next:
            self._gap(one, begin, "expired")
        known = max((g.end for g in chain.gaps if g.why == "compacted"), default=0)
        one.late_until = young if young > max(known, chain.next) else 0
        return one

    def _gap(self, one: _Home, end: int, why: str) -> None:
        """Offsets that cannot be kept any more: told, and written down when the operator lets it go on behind them."""
        chain = one.chain
        if not self.accept_gaps:
            raise ArchiveGap(
                f"{chain.home.id}: Kafka has removed {'' if why == 'expired' else 'some of '}the events from offset"
                f" {chain.next} to {end - 1}, which the archive has not kept",
                remedy="the archiver was stopped for longer than the topics keep their events. `tandem archive run"
                " --accept-gaps` goes on behind them and writes down what is missing; then make a new base with `tandem"
                " archive base`, as no state in between can be rebuilt",
                archive=self.archive.store.place,
            )
        one.chain = chain.with_gap(Gap(chain.next, end, why, _now()))
        self.archive.save(one.chain)
        self.kept.gaps += 1
        self.log(
            "a gap: events that Kafka has removed are not in the archive",
            partition=chain.home.id,
            from_offset=chain.next,
            to_offset=end - 1,
            why=why,
        )

    # -- records -------------------------------------------------------------------------------------------------
    def _take(self, one: _Home, entry: Entry) -> None:
        self._not_too_late(one, entry)
        key, value = forms.loaded(entry.record.key), forms.loaded(entry.record.value)
        if one.form is None or not forms.fits(one.form, key, value):
            self._reform(one, entry, key, value)
        if one.writer is None:
            self._make_room()
            self._open(one)
        assert one.writer is not None
        with written(one.writer.file):
            one.writer.add(entry, key, value)

    def _reform(self, one: _Home, entry: Entry, key: object, value: object) -> None:
        """A record of another shape, as after ALTER TABLE: the next segment has a schema for it."""
        if one.form is not None and one.forms < 1:
            return
        made = forms.form_for(key, value, self._columns(one), one.form)
        if made != one.form:
            if one.writer:
                self._close(one, entry.record.offset)
            one.form, one.forms = made, one.forms - 1

    def _columns(self, one: _Home) -> Mapping[str, str]:
        try:
            return self.columns(one.chain.table)
        except Unavailable as error:  # the schema is a convenience: what does not fit it is kept as JSON
            self.log(f"the columns of {one.chain.table} are not known now: {error.what}")
            return {}

    def _make_room(self) -> None:
        """A process may have only so many files open: the oldest segment ends before its time."""
        at_work = [one for one in self._homes.values() if one.writer]
        if len(at_work) >= _FILES:
            oldest = min(at_work, key=lambda one: one.writer.began if one.writer else 0.0)
            assert oldest.writer is not None
            self._close(oldest, oldest.writer.last + 1)

    def _open(self, one: _Home) -> None:
        home, start = one.chain.home, one.chain.next
        assert one.form is not None
        file = self.archive.store.spool(manifest.segment_name(home, start))
        with written(file):
            one.writer = SegmentWriter(file, home, start, one.form, self.settings.codec, one.chain.table)

    def _close(self, one: _Home, next_: int) -> None:
        """What is in hand becomes a segment."""
        writer = one.writer
        assert writer is not None
        with written(writer.file):
            made = writer.finish(next_)
        self.archive.store.put(manifest.segment_name(one.chain.home, writer.start), writer.file)
        one.writer = None
        one.forms = min(_FORMS, one.forms + made.records // _RECORDS_PER_FORM)
        one.chain = one.chain.and_(made)
        self.archive.save(one.chain)
        self._count(made)
        if writer.reason:
            self.log(
                "values that do not fit the schema are kept as they came",
                partition=one.chain.home.id,
                records=made.odd,
                first=writer.reason,
            )

    def _count(self, made: Segment) -> None:
        self.kept.segments += 1
        self.kept.records += made.records
        self.kept.bytes += made.bytes
        self.kept.odd += made.odd

    def _not_too_late(self, one: _Home, entry: Entry) -> None:
        """Compaction leaves only what is younger than its lag as it was: behind that, events may be missing."""
        if entry.record.offset < one.late_until:
            until, one.late_until = one.late_until, 0
            self._gap(one, until, "compacted")


def _made_anew(archive: Archive, chain: Chain) -> ArchiveForeign:
    return ArchiveForeign(
        f"the topic {chain.topic} was made anew since the archive {archive.store.place} was begun: its offsets are"
        " others",
        remedy="name another, empty place in archive.url for the pipeline as it is now; the old archive stays what it"
        " is",
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
