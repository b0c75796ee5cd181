"""What `LagWatch` makes of what the servers say, look by look: positions that move, records that come too late."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from connectors.errors import ServerGone
from connectors.events import Record
from connectors.mongo.ledger import Position
from connectors.positions import Lsn, Partition
from connectors.postgres.slots import SlotFacts, WalFacts

with warnings.catch_warnings():  # of kafka-python, on Python 3.11
    warnings.simplefilter("ignore", DeprecationWarning)
    from connectors.kafka.peek import Nothing
    from sync.lag import watch
    from sync.lag.asked import Asked
    from sync.lag.watch import LagWatch

NOW = 1_000_000_000
HOUR = 3_600_000


class World:
    """Servers as a test wants them. ages: how old the record at an offset is, milliseconds."""

    def __init__(self, partitions: int) -> None:
        self.partitions = [Partition("p.s.t", n) for n in range(partitions)]
        self.at = dict.fromkeys(self.partitions, 0)
        self.ends = dict.fromkeys(self.partitions, 0)
        self.first: dict[Partition, Any] = {}
        self.asked: list[set[Partition]] = []
        self.kafka = (SimpleNamespace(ends=lambda _: dict(self.ends)), SimpleNamespace(firsts=self.firsts))
        self.db = None

    def wal(self) -> WalFacts:
        slot = SlotFacts("pgoutput", "db", True, "reserved", Lsn(100), 0)
        return WalFacts(NOW, Lsn(100), slot, None, None)

    def marks(self) -> tuple[dict[Partition, Position], dict[str, int], list[Any]]:
        return {p: Position(p, "s.t", n, None, Lsn(0), "") for p, n in self.at.items()}, {}, []

    def firsts(self, offsets: Mapping[Partition, int], _: object) -> dict[Partition, Record | Nothing]:
        self.asked.append(set(offsets))
        found = {}
        for p, offset in offsets.items():
            what = self.first.get(p)
            if isinstance(what, Exception):
                raise what
            if isinstance(what, int):
                value = orjson.dumps({"source": {"ts_ms": NOW - what}})
                found[p] = Record(p, offset, b"", value, 0)
            elif what is not None:
                found[p] = what
        return found

    def close_postgres(self) -> None:
        """Nothing is open."""

    close_mongo = close_kafka = close_postgres


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Makes a watch on a world."""
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("version: 1\ncollections:\n  things: {from: s.t}\n")

    def made(world: World) -> LagWatch:
        monkeypatch.setattr(watch, "Servers", lambda *_: world)
        return LagWatch(SimpleNamespace(mapping=mapping))  # type: ignore[arg-type]

    return made


def test_a_consumer_that_works_off_a_backlog_stays_as_far_behind_as_it_is(look: Any) -> None:
    world = World(1)
    (p,) = world.partitions
    world.ends[p], world.first[p] = 1_000, HOUR
    on = look(world)
    for n in range(5):
        world.at[p] = n * 10
        assert on.look().seconds == 3_600


def test_a_record_that_does_not_come_in_time_is_unknown_not_new(look: Any) -> None:
    world = World(2)
    p, q = world.partitions
    world.ends[p] = world.ends[q] = 9
    world.first[p] = HOUR
    on = look(world)
    report = on.look()
    assert report.seconds is None
    assert q.id in report.unknown["seconds"]
    assert report.state == "unknown"
    world.first[q] = 1_000
    assert on.look().seconds == 3_600
    world.at[q], world.first[q] = 3, None  # late again: what was known before is old enough
    assert on.look().seconds == 3_600


def test_kafka_that_fails_under_the_look_is_unknown_with_its_reason(look: Any) -> None:
    world = World(1)
    (p,) = world.partitions
    world.ends[p], world.first[p] = 400_000, ServerGone("Kafka cannot be reached", remedy="x")
    on = look(world)
    report = on.look()
    assert (report.seconds, report.records) == (None, 400_000)
    assert "Kafka cannot be reached" in report.unknown["seconds"]
    world.first[p] = HOUR
    assert on.look().seconds == 3_600


def test_markers_alone_are_nothing_that_waits_until_a_record_follows_them(look: Any) -> None:
    world = World(1)
    (p,) = world.partitions
    world.ends[p], world.first[p] = 2, Nothing.MARKERS
    on = look(world)
    assert on.look().seconds == 0
    world.first[p] = HOUR  # none follows: it is not asked again
    assert on.look().seconds == 0
    world.ends[p] = 5
    assert on.look().seconds == 3_600


def test_an_open_transaction_counts_from_when_it_was_seen_and_then_by_its_record(look: Any) -> None:
    world = World(1)
    (p,) = world.partitions
    world.ends[p], world.first[p] = 2, Nothing.OPEN
    on = look(world)
    assert on.look().seconds == 0
    world.first[p] = 7_000
    assert on.look().seconds == 7


def test_with_very_many_partitions_each_is_looked_at_in_its_turn(
    look: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_PEEKED", 10)
    ticks = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))
    world = World(25)
    for p in world.partitions:
        world.ends[p], world.first[p] = 1_000, 500
    world.first[world.partitions[-1]] = HOUR
    on = look(world)
    seen = []
    for n in range(6):
        for p in world.partitions:
            world.at[p] = n
        seen.append(on.look().seconds)
    assert seen[:2] == [None, None]
    assert seen[2:] == [3_600] * 4
    assert set.union(*world.asked) == set(world.partitions)
    assert {p for some in world.asked[3:6] for p in some} == set(
        world.partitions
    )  # the longest ago comes first


def test_a_server_that_is_away_is_not_waited_for_again(look: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_BETWEEN_S", 0.0)
    world = World(1)
    looks = 0

    def marks() -> Any:
        nonlocal looks
        looks += 1
        raise ServerGone("MongoDB cannot be reached", remedy="x")

    world.marks = marks  # type: ignore[method-assign]
    report = look(world).settled()
    assert looks == 1
    assert report.parked is None
    assert "MongoDB" in report.unknown["parked"]


def test_a_question_whose_connection_cannot_even_be_closed_is_asked_again() -> None:
    answers = iter([ServerGone("away", remedy="x"), KeyError("odd"), 7])

    def question() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close() -> None:
        raise OSError("it is broken")

    asked = Asked("MongoDB", question, close)
    assert asked.ask() == (None, "away")
    assert asked.ask() == (None, "MongoDB cannot be asked: KeyError: 'odd'")
    assert asked.ask() == (7, "")
    asked.close()


def test_a_question_that_hangs_is_not_asked_again_before_it_is_answered() -> None:
    began, asked_times = time.monotonic(), 0

    def question() -> int:
        nonlocal asked_times
        asked_times += 1
        time.sleep(0.6)
        return asked_times

    asked = Asked("Kafka", question)
    assert asked.ask(0.1)[1].startswith("Kafka has not answered for")
    assert asked.ask(0.1)[1].startswith("Kafka has not answered for")
    assert time.monotonic() - began < 0.5
    time.sleep(0.6)
    assert asked.ask(2)[0] == 2  # what came too late is not true any more
