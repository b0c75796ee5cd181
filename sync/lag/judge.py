"""What samples say: how far behind, getting better or worse, and until when the slot has room. Pure.

Of a number that could not be asked nothing is made up: it is None, and `unknown` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from connectors.mongo.ledger import Position
from connectors.positions import Lsn, Partition
from connectors.postgres.slots import WalFacts
from sync.lag.phase import phase_of

#: heartbeats move an idle slot once a second; below this nobody has to wait for anything
CAUGHT_UP_S = 3.0
#: rates are of so many seconds, the slot's growth of more: its end moves in segments of 16 MB
_RATE_OVER_S, _GROWTH_OVER_S = 10.0, 60.0
#: the least time that says anything of a trend
_TREND_S = 1.5
#: gaining less than so many seconds per second is not catching up
_GAIN = 0.01


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at all three servers, in the order wal, ends, positions.

    at: seconds of a clock that only goes forward. wal, ends, positions, parked: None where the part could not be
    asked, and unknown[part] says why. oldest_ms: commit time of the first record that is not applied, of each
    partition that has one (PostgreSQL's clock).
    """

    at: float
    wal: WalFacts | None
    ends: Mapping[Partition, int] | None
    positions: Mapping[Partition, Position] | None
    parked: Mapping[str, int] | None
    oldest_ms: Mapping[Partition, int] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class SlotReport:
    """The replication slot. growth: bytes of retained WAL per second. left_bytes: until `limit` is reached, which is
    `max_slot_wal_keep_size` or `disk`, or `lost`."""

    active: bool
    wal_status: str
    retained_bytes: int
    growth: float | None = None
    limit: str | None = None
    left_bytes: int | None = None
    full_in_seconds: float | None = None

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {name: _short(getattr(self, name)) for name in self.__slots__}


@dataclass(slots=True)
class CollectionLag:
    """One collection with the tables that are in it."""

    name: str
    table: str
    phase: str = "unknown"
    records: int | None = None
    seconds: float | None = None
    parked: int | None = None
    records_in: float | None = None
    records_out: float | None = None

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {name: _short(getattr(self, name)) for name in self.__slots__}


@dataclass(slots=True)
class LagReport:
    """The four numbers, whole and by collection.

    wal_bytes: not yet in Kafka. records: in Kafka, not yet applied. seconds: since the commit of the oldest change
    that may not be applied. rates: per second. state: caught_up, catching_up, falling_behind, stalled or unknown.
    catch_up_s: until it has caught up, None where it does not, or that is unknown. unknown: why a number is None.
    """

    at: str
    wal_bytes: int | None = None
    records: int | None = None
    seconds: float | None = None
    parked: int | None = None
    wal_bytes_in: float | None = None
    records_in: float | None = None
    records_out: float | None = None
    state: str = "unknown"
    catch_up_s: float | None = None
    slot: SlotReport | None = None
    #: of the collections that stream alone: what a load holds is behind by its nature
    streaming_seconds: float | None = None
    collections: list[CollectionLag] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """All four numbers are known."""
        return not self.unknown

    def as_dict(self) -> dict[str, object]:
        """For `--json`, and the dashboard."""
        return {
            "at": self.at,
            "wal_bytes": self.wal_bytes,
            "records": self.records,
            "seconds": _short(self.seconds),
            "parked": self.parked,
            "unknown": self.unknown,
            "rates": {
                name: _short(getattr(self, name)) for name in ("wal_bytes_in", "records_in", "records_out")
            },
            "catch_up": {"state": self.state, "seconds": _short(self.catch_up_s)},
            "slot": self.slot.as_dict() if self.slot else None,
            "collections": [c.as_dict() for c in self.collections],
        }


def _short(value: object) -> object:
    return round(value, 3) if isinstance(value, float) else value


def in_kafka_until(wal: WalFacts, ticks: Sequence[tuple[int, Lsn]]) -> int | None:
    """Milliseconds since 1970: what was committed by then is in Kafka. None where nothing says so.

    ticks: positions that the WAL had reached by a time.
    """
    if wal.slot is None or wal.slot.wal_status == "lost":
        return None
    if wal.slot.confirmed >= wal.position:
        return wal.at_ms
    # notes of the future are of before PostgreSQL's clock was set back
    known = (ms for ms, position in ticks if position <= wal.slot.confirmed and ms <= wal.at_ms)
    return max(known, default=None)


def behind_seconds(
    sample: Sample, ticks: Sequence[tuple[int, Lsn]], tables: frozenset[str] | None = None
) -> float | None:
    """Since when the oldest change waits that may not be applied; of these tables, or of all. None: unknown."""
    if sample.wal is None or sample.ends is None or sample.positions is None or "seconds" in sample.unknown:
        return None
    if not _any(sample, tables):
        return None
    until = in_kafka_until(sample.wal, ticks)
    if until is None:
        return None
    for partition, ms in sample.oldest_ms.items():
        position = sample.positions.get(partition)
        if tables is None or (position is not None and position.table in tables):
            until = min(until, ms)
    return max(0.0, (sample.wal.at_ms - until) / 1_000)


def judge(
    samples: Sequence[Sample],
    ticks: Sequence[tuple[int, Lsn]],
    collections: Mapping[str, tuple[str, ...]],
    at: str,
) -> LagReport:
    """The report of the last sample. samples: at least one, the oldest first. collections: name -> its tables, its own
    first. at: the time, for people."""
    last = samples[-1]
    report = LagReport(at, unknown=dict(last.unknown))
    if last.wal is not None:
        if last.wal.slot is None:
            report.unknown.setdefault("wal_bytes", "there is no replication slot")
        elif last.wal.slot.wal_status == "lost":
            report.unknown["wal_bytes"] = "the slot is lost: changes are in no event"
            report.slot = _slot(samples)
        else:
            report.wal_bytes = max(0, last.wal.position - last.wal.slot.confirmed)
            report.slot = _slot(samples)
    report.records = _behind(last, None)
    report.parked = None if last.parked is None else sum(last.parked.values())
    report.seconds = behind_seconds(last, ticks)
    if report.seconds is None and "seconds" not in report.unknown:
        why = report.unknown.get("wal_bytes") or report.unknown.get("records")
        report.unknown["seconds"] = (
            why or "what the slot has confirmed is older than any position that was noted"
        )
    recent = _within(samples, _RATE_OVER_S)
    report.wal_bytes_in = _rate(recent, lambda s: None if s.wal is None else s.wal.position)
    report.records_in = _rate(recent, partial(_ends, tables=None))
    report.records_out = _rate(recent, partial(_positions, tables=None))
    _trend(report, recent, ticks)
    for name, tables in collections.items():
        mine = frozenset(tables)
        one = CollectionLag(name, tables[0])
        one.records, one.seconds = _behind(last, mine), behind_seconds(last, ticks, mine)
        one.records_in = _rate(recent, partial(_ends, tables=mine))
        one.records_out = _rate(recent, partial(_positions, tables=mine))
        if last.parked is not None:
            one.parked = sum(n for table, n in last.parked.items() if table in mine)
        if last.positions is not None:
            one.phase = phase_of([p.holder for p in last.positions.values() if p.table in mine])
        report.collections.append(one)
    streaming = {t for c in report.collections if c.phase == "streaming" for t in collections[c.name]}
    report.streaming_seconds = behind_seconds(last, ticks, frozenset(streaming)) if streaming else 0.0
    return report


def _trend(report: LagReport, recent: Sequence[Sample], ticks: Sequence[tuple[int, Lsn]]) -> None:
    """Whether it gets better, by the seconds themselves: they are of all stages at once."""
    if report.seconds is None or report.records is None:
        return
    idle = report.slot is not None and not report.slot.active
    if report.seconds <= CAUGHT_UP_S and not idle:
        report.state, report.catch_up_s = "caught_up", 0.0
        return
    known = [(s.at, b) for s in recent if (b := behind_seconds(s, ticks)) is not None]
    took = known[-1][0] - known[0][0]
    if took < _TREND_S:
        return
    gain = (known[0][1] - known[-1][1]) / took
    if gain > _GAIN:
        report.state, report.catch_up_s = "catching_up", report.seconds / gain
    else:
        waits = report.records > 0 or not _confirms(recent)
        report.state = "stalled" if waits and not report.records_out else "falling_behind"


def _confirms(recent: Sequence[Sample]) -> bool:
    seen = {s.wal.slot.confirmed for s in recent if s.wal is not None and s.wal.slot is not None}
    return len(seen) > 1


def _slot(samples: Sequence[Sample]) -> SlotReport | None:
    wal = samples[-1].wal
    if wal is None or wal.slot is None:
        return None
    found = SlotReport(wal.slot.active, wal.slot.wal_status, wal.slot.retained_bytes)
    found.growth = _rate(
        _within(samples, _GROWTH_OVER_S),
        lambda s: None if s.wal is None or s.wal.slot is None else s.wal.slot.retained_bytes,
    )
    if found.wal_status == "lost":
        found.limit, found.left_bytes, found.full_in_seconds = "lost", 0, 0.0
        return found
    limits = {"max_slot_wal_keep_size": wal.safe_bytes, "disk": wal.disk_free_bytes}
    known = {name: left for name, left in limits.items() if left is not None}
    if known:
        found.limit = min(known, key=lambda name: known[name])
        found.left_bytes = max(0, known[found.limit])
        if found.growth is not None and found.growth > 0:
            found.full_in_seconds = found.left_bytes / found.growth
    return found


def _within(samples: Sequence[Sample], seconds: float) -> list[Sample]:
    return [s for s in samples if s.at >= samples[-1].at - seconds]


def _rate(samples: Sequence[Sample], value: Callable[[Sample], int | None]) -> float | None:
    """Change per second between the first and the last that are known."""
    known = [(s.at, n) for s in samples if (n := value(s)) is not None]
    if len(known) < 2 or known[-1][0] <= known[0][0]:
        return None
    return float(known[-1][1] - known[0][1]) / float(known[-1][0] - known[0][0])


def _any(sample: Sample, tables: frozenset[str] | None) -> bool:
    """Whether any partition is of these tables: of none there is nothing to say."""
    known = (sample.positions or {}).values()
    return tables is None or any(p.table in tables for p in known)


def _mine(sample: Sample, tables: frozenset[str] | None) -> list[Partition] | None:
    if sample.ends is None or sample.positions is None or not _any(sample, tables):
        return None
    return [
        p for p in sample.ends if tables is None or ((q := sample.positions.get(p)) and q.table in tables)
    ]


def _ends(sample: Sample, tables: frozenset[str] | None) -> int | None:
    mine = _mine(sample, tables)
    return None if mine is None or sample.ends is None else sum(sample.ends[p] for p in mine)


def _positions(sample: Sample, tables: frozenset[str] | None) -> int | None:
    if sample.positions is None or not _any(sample, tables):
        return None
    return sum(q.at for q in sample.positions.values() if tables is None or q.table in tables)


def _behind(sample: Sample, tables: frozenset[str] | None) -> int | None:
    mine = _mine(sample, tables)
    if mine is None or sample.ends is None or sample.positions is None:
        return None
    return sum(max(0, sample.ends[p] - (q.at if (q := sample.positions.get(p)) else 0)) for p in mine)
