"""How far behind: never less than the truth, never a number for what could not be asked."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.mongo.ledger import Position
from connectors.positions import Lsn, Partition
from connectors.postgres.slots import SlotFacts, WalFacts

with warnings.catch_warnings():  # of kafka-python, on Python 3.11
    warnings.simplefilter("ignore", DeprecationWarning)
    from sync.lag.judge import CAUGHT_UP_S, LagReport, Sample, judge

P0, P1, Q0 = Partition("p.s.t", 0), Partition("p.s.t", 1), Partition("p.s.u", 0)
COLLECTIONS = {"things": ("s.t",), "others": ("s.u", "s.t")}
NOW = 1_000_000_000


def wal(
    position: int = 1_000,
    confirmed: int | None = 1_000,
    *,
    at_ms: int = NOW,
    active: bool = True,
    status: str = "reserved",
    retained: int = 500,
    safe: int | None = None,
    disk: int | None = None,
) -> WalFacts:
    slot = None
    if confirmed is not None:
        slot = SlotFacts("pgoutput", "db", active, status, Lsn(confirmed), retained)
    return WalFacts(at_ms, Lsn(position), slot, safe, disk)


def positions(
    at: Mapping[Partition, int], held: Mapping[Partition, str] | None = None
) -> dict[Partition, Position]:
    return {
        p: Position(p, "s.u" if p == Q0 else "s.t", n, (held or {}).get(p), Lsn(0), "") for p, n in at.items()
    }


def sample(at: float = 100.0, **given: Any) -> Sample:
    ends = given.pop("ends", {P0: 10, P1: 0, Q0: 5})
    reached = given.pop("reached", {P0: 10, P1: 0, Q0: 5})
    return Sample(
        at,
        given.pop("wal", wal()),
        ends,
        None if reached is None else positions(reached, given.pop("held", None)),
        given.pop("parked", {}),
        given.pop("oldest_ms", {}),
        given.pop("unknown", {}),
    )


def report(*samples: Sample, ticks: Sequence[tuple[int, Lsn]] = ()) -> LagReport:
    return judge(samples, ticks, COLLECTIONS, "now")


def test_caught_up() -> None:
    found = report(sample())
    assert (found.wal_bytes, found.records, found.seconds, found.parked) == (0, 0, 0.0, 0)
    assert (found.state, found.catch_up_s, found.known) == ("caught_up", 0.0, True)
    assert [c.phase for c in found.collections] == ["streaming", "streaming"]


def test_numbers_of_each_collection_are_of_its_tables() -> None:
    found = report(
        sample(
            ends={P0: 30, P1: 1, Q0: 9},
            oldest_ms={P0: NOW - 7_000, Q0: NOW - 2_000},
            parked={"s.t": 2, "s.u": 1, "p.s.u": 4},
            held={P0: "load:x"},
        )
    )
    things, others = found.collections
    assert (things.records, things.seconds, things.parked, things.phase) == (21, 7.0, 2, "loading")
    assert (others.records, others.seconds, others.parked) == (25, 7.0, 3)
    assert (found.records, found.seconds, found.parked) == (25, 7.0, 7)


def test_what_streams_is_told_apart_from_what_a_load_holds() -> None:
    found = judge(
        [
            sample(
                ends={P0: 30, P1: 1, Q0: 9},
                oldest_ms={P0: NOW - 90_000, Q0: NOW - 2_000},
                held={P0: "load:x"},
            )
        ],
        [],
        {"things": ("s.t",), "others": ("s.u",)},
        "now",
    )
    assert (found.seconds, found.streaming_seconds) == (90.0, 2.0)


@pytest.mark.parametrize(
    ("missing", "none"),
    [
        ({"wal": None, "unknown": {"wal_bytes": "away"}}, {"wal_bytes", "seconds"}),
        ({"ends": None, "unknown": {"records": "away"}}, {"records", "seconds"}),
        (
            {"reached": None, "parked": None, "unknown": {"records": "away", "parked": "away"}},
            {"records", "seconds", "parked"},
        ),
        ({"wal": wal(confirmed=None)}, {"wal_bytes", "seconds"}),
    ],
)
def test_what_cannot_be_asked_is_unknown_with_a_reason_and_never_zero(
    missing: dict[str, Any], none: set[str]
) -> None:
    found = report(sample(**missing))
    assert {n for n in ("wal_bytes", "records", "seconds", "parked") if getattr(found, n) is None} == none
    assert set(found.unknown) == none
    assert all(found.unknown.values())
    assert (found.state, found.catch_up_s, found.known) == ("unknown", None, False)
    for one in found.collections:
        assert one.seconds is None
        assert (one.records is None) == ("records" in none)


def test_an_idle_source_is_as_old_as_the_position_that_the_slot_has_confirmed() -> None:
    ticks = [(NOW - 9_000, Lsn(100)), (NOW - 5_000, Lsn(300)), (NOW - 1_000, Lsn(900))]
    assert report(sample(wal=wal(1_000, 400)), ticks=ticks).seconds == 5.0
    assert report(sample(wal=wal(1_000, 300)), ticks=ticks).seconds == 5.0
    assert report(sample(wal=wal(1_000, 299)), ticks=ticks).seconds == 9.0
    nothing = report(sample(wal=wal(1_000, 99)), ticks=ticks)
    assert nothing.seconds is None
    assert "older than any position" in nothing.unknown["seconds"]


@given(
    commits=st.lists(st.integers(1, 5_000), min_size=1, max_size=30),
    confirmed=st.integers(0, 30),
    applied=st.integers(0, 30),
    every_ms=st.integers(200, 3_000),
)
def test_it_is_never_less_than_the_truth_and_hardly_more(
    commits: list[int], confirmed: int, applied: int, every_ms: int
) -> None:
    """A source that commits at these times, 10 bytes each; a slot and a consumer that have come so far."""
    times = [NOW - sum(commits[n:]) for n in range(len(commits))]
    in_kafka = min(confirmed, len(times))
    done = min(applied, in_kafka)
    ticks = [
        (ms, Lsn(10 * sum(t <= ms for t in times)))
        for ms in range(times[0] - every_ms, NOW, every_ms)
    ]  # fmt: skip
    oldest = {P0: times[done]} if done < in_kafka else {}
    found = report(
        sample(
            wal=wal(10 * len(times), 10 * in_kafka), ends={P0: in_kafka}, reached={P0: done}, oldest_ms=oldest
        ),
        ticks=ticks,
    )
    truth = (NOW - times[done]) / 1_000 if done < len(times) else 0.0
    assert found.seconds is not None
    assert truth <= found.seconds <= truth + every_ms / 1_000 + 0.001


def stepping(*seconds: float, out: int = 10, confirmed: bool = True) -> list[Sample]:
    """A look a second; each so far behind, with so many records applied in between."""
    return [
        sample(
            float(n),
            wal=wal(5_000, 5_000 if confirmed else 4_000, at_ms=NOW + n * 1_000),
            ends={P0: 1_000 + 20 * n},
            reached={P0: 100 + out * n},
            oldest_ms={P0: NOW + n * 1_000 - int(s * 1_000)},
        )
        for n, s in enumerate(seconds)
    ]


def test_gaining_on_it_says_when_it_will_have_caught_up() -> None:
    found = report(*stepping(60, 55, 50, 45))
    assert (found.state, found.catch_up_s) == ("catching_up", pytest.approx(9.0))
    assert (found.records_in, found.records_out) == (20.0, 10.0)


def test_losing_ground_and_standing_still_are_told_apart() -> None:
    assert report(*stepping(60, 60.5, 61)).state == "falling_behind"
    stalled = report(*stepping(60, 61, 62, out=0))
    assert (stalled.state, stalled.catch_up_s) == ("stalled", None)
    # all that Kafka has is applied, and Debezium sends nothing any more, or still does
    ticks = [(NOW - 61_000, Lsn(100))]
    for confirmed, state in ((100, "stalled"), (110, "falling_behind")):
        looks = [
            sample(
                float(n),
                wal=wal(9_000, confirmed if n else 100, at_ms=NOW + n * 1_000),
                ends={P0: 5},
                reached={P0: 5},
            )
            for n in range(3)
        ]
        assert report(*looks, ticks=ticks).state == state


def test_one_look_alone_says_nothing_of_a_trend() -> None:
    assert report(*stepping(60)).state == "unknown"
    assert report(*stepping(CAUGHT_UP_S)).state == "caught_up"


def test_gaps_are_no_zeros_in_rates() -> None:
    first, last = stepping(60, 55, 50)[::2]
    gap = sample(1.0, ends=None, reached=None, parked=None, unknown={"records": "x", "parked": "x"})
    assert report(first, gap, last).records_out == 10.0
    assert report(gap, sample(2.0)).records_out is None


def test_the_slot_says_when_it_is_full_and_by_what() -> None:
    grown = [
        sample(float(n), wal=wal(retained=1_000 + 200 * n, safe=10_000 - 200 * n, disk=50_000))
        for n in range(11)
    ]
    slot = report(*grown).slot
    assert slot is not None
    assert (slot.limit, slot.left_bytes, slot.growth) == ("max_slot_wal_keep_size", 8_000, 200.0)
    assert slot.full_in_seconds == 40.0
    disk = report(sample(wal=wal(disk=77))).slot
    assert disk is not None
    assert (disk.limit, disk.left_bytes, disk.full_in_seconds) == ("disk", 77, None)
    none = report(sample()).slot
    assert none is not None
    assert (none.limit, none.left_bytes) == (None, None)


def test_a_slot_that_shrinks_is_never_full() -> None:
    slot = report(*(sample(float(n), wal=wal(retained=9_000 - n, disk=100)) for n in range(5))).slot
    assert slot is not None
    assert slot.full_in_seconds is None


def test_the_report_for_scripts() -> None:
    found = report(sample(wal=None, unknown={"wal_bytes": "away"})).as_dict()
    assert found["wal_bytes"] is None
    assert found["unknown"] == {"wal_bytes": "away", "seconds": "away"}
    assert found["catch_up"] == {"state": "unknown", "seconds": None}
    assert found["slot"] is None
