"""Arrays in arrays and copies, when two consumers write at once: a few rows, one change for each of them, and the
second one's comes in between at every single operation of the first. At rest, documents have to be what the rows say,
whatever the order (the judge is that of tests/support/simulation.py, by hand from the rows)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import permutations
from typing import Any
from unittest.mock import patch
from uuid import UUID
from zlib import crc32

import pytest

import consumers.apply.copies as copies_module
import consumers.apply.jobs as jobs_module
import consumers.apply.write as write_module
from connectors.positions import Partition
from tests.support.memory_postgres import SourceTransaction
from tests.support.mutants import MUTANTS, broken
from tests.support.simulation import BADGES, FEATURES, FILES, LATER_FEATURES, MEMBERS, TEAMS, Failed, World

Change = Callable[[SourceTransaction], object]
#: documents that a parent writes in its own transaction: all, none, one
FEW = (200, 0, 1)


def team(n: int = 1, **other: Any) -> Change:
    row = {"id": n, "team_name": f"t{n}", "description": "d", "is_active": True, "score": Decimal(1), **other}
    return lambda tx: tx.insert(TEAMS, row)


def member(n: int = 1, team_id: int | None = 1, **other: Any) -> Change:
    row = {"id": n, "team_id": team_id, "place": n, "joined": 0, "note": "n", "status": "active"}
    return lambda tx: tx.insert(MEMBERS, {**row, "weight": Decimal(1), **other})


def badge(n: int = 1, member_id: int | None = 1, **other: Any) -> Change:
    row = {"id": n, "member_id": member_id, "rank": n, "label": "l", "shown": True, **other}
    return lambda tx: tx.insert(BADGES, row)


def file(n: int = 1, team_id: int | None = 1) -> Change:
    row = {"id": UUID(int=n), "folder": "f", "name": f"f{n}", "team_id": team_id, "body": "b", "meta": "{}"}
    return lambda tx: tx.insert(FILES, row)


def key_of(table: str, n: int) -> tuple[Any, ...]:
    return (UUID(int=n),) if table == FILES else (n,)


def update(table: str, n: int = 1, **values: Any) -> Change:
    return lambda tx: tx.update(table, key_of(table, n), **values)


def delete(table: str, n: int = 1) -> Change:
    return lambda tx: tx.delete(table, key_of(table, n))


def truncate(table: str) -> Change:
    return lambda tx: tx.truncate(table)


@dataclass
class Pair:
    """Two consumers of one world: the first reads the partitions of some tables, the second all others."""

    world: World
    mine: Callable[[Partition], bool]

    @classmethod
    def of(cls, mine: Callable[[Partition], bool], partitions: int = 1) -> Pair:
        world = World(
            0,
            without=frozenset((*FEATURES, *LATER_FEATURES)),
            only=frozenset({"deep"}),
            mood={"tables": (TEAMS, MEMBERS, BADGES), "workers": 2, "partitions": partitions},
        )
        world.sessions.clear()
        world.store.lifetime_s = 1e9  # nobody is rid of a transaction that stands still
        return cls(world, mine)

    def begin(self) -> None:
        self.world._begin()
        self.world.quiet = True
        one, two = (a.name for a in self.world.actors)
        first = frozenset(p for p in self.world.topics.logs if self.mine(p))
        self.world.group.assign({one: first, two: frozenset(self.world.topics.logs) - first})

    def commit(self, changes: Sequence[Change]) -> None:
        """Each in a transaction of its own; then Kafka has them."""
        for change in changes:
            tx = self.world.pg.begin()
            change(tx)
            tx.commit()
            tx.show()
        while self.world.sent < len(self.world.pg.wal):
            self.world._send()

    def work(self, which: int) -> None:
        """Batches, then jobs."""
        actor = self.world.actors[which]
        self.world._work(actor, 8)
        assert actor.worker is not None
        self.world._as(actor, actor.worker.jobs.run)

    def rest(self) -> None:
        self.world._come_to_rest()
        self.world._judge()


def interleaved(
    before: Sequence[Change],
    first: Sequence[Change],
    second: Sequence[Change],
    mine: Callable[[Partition], bool],
    *,
    few: int = 200,
    partitions: int = 1,
    applied: bool = False,
    start: int = 0,
    every: int = 1,
) -> int:
    """Play it for every operation of the first consumer, or some. applied: what comes first is applied by the second
    one, and only the jobs that it leaves are the first one's. Returns how many operations there were."""
    at = start
    while True:
        pair = Pair.of(mine, partitions)
        with (
            pair.world._patched(),
            patch.object(copies_module, "FEW", few),
            patch.object(copies_module, "SLOTS", 8),
            patch.object(jobs_module, "_AT_ONCE", 1),
            patch.object(write_module, "SLOTS", 8),
        ):
            pair.begin()
            pair.commit(before)
            for _ in range(2):
                pair.work(0)
                pair.work(1)
            pair.commit(first)
            if applied:
                pair.work(1)
            seen = _with_a_break(pair, at, second)
            pair.rest()
        if seen <= at:
            return seen
        at += every


def _with_a_break(pair: Pair, at: int, second: Sequence[Change]) -> int:
    """The first one works; ahead of one of its operations all that comes second happens, and is applied."""
    world, seen = pair.world, 0

    def meanwhile(what: str) -> None:
        nonlocal seen
        world.moment(what)
        if world.stack[-1] is not world.actors[0]:
            return
        seen += 1
        if seen == at + 1:
            for change in second:
                pair.commit([change])
                pair.work(1)

    world.store.before = meanwhile
    pair.work(0)
    world.store.before = world.moment
    if seen <= at:
        pair.commit(second)
    return seen


def of_tables(*tables: str) -> Callable[[Partition], bool]:
    return lambda partition: partition.topic.split(".", 1)[1] in tables


FAMILY = (team(), team(2), member(), badge())
FILED = (team(), team(2), file(), file(2), file(5, None))
#: one change of each kind, by table: of the outer, the middle and the inner row
OUTER: dict[str, Change] = {
    "a team comes": team(3),
    "a team goes": delete(TEAMS),
    "a team leaves its filter": update(TEAMS, is_active=False),
    "a team changes": update(TEAMS, team_name="other"),
    "teams are truncated": truncate(TEAMS),
}
MIDDLE: dict[str, Change] = {
    "a member comes": member(2),
    "a member comes to a team that comes": member(2, 3),
    "a member moves": update(MEMBERS, team_id=2),
    "a member moves to a team that comes": update(MEMBERS, team_id=3),
    "a member moves away": update(MEMBERS, team_id=None),
    "a member goes": delete(MEMBERS),
    "a member leaves its filter": update(MEMBERS, status="disabled"),
    "a member changes": update(MEMBERS, note="other"),
    "members are truncated": truncate(MEMBERS),
}
INNER: dict[str, Change] = {
    "a badge comes": badge(2),
    "a badge comes to a member that comes": badge(2, 2),
    "a badge moves to a member that comes": update(BADGES, member_id=2),
    "a badge goes": delete(BADGES),
    "a badge leaves its filter": update(BADGES, shown=False),
    "a badge changes": update(BADGES, label="other"),
    "badges are truncated": truncate(BADGES),
}


def pairs() -> Iterator[Any]:
    kinds = ((TEAMS, OUTER), (MEMBERS, MIDDLE), (BADGES, INNER))
    for (table, ones), (_, others) in permutations(kinds, 2):
        for one, change in ones.items():
            yield pytest.param(
                table, change, list(others.values()), id=f"{one}, {next(iter(others)).split()[1]}"
            )


@pytest.fixture
def some(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> dict[str, int]:
    """Which operations something comes in between: all with --thorough, else other ones for each test."""
    if pytestconfig.getoption("--thorough"):
        return {}
    return {"start": crc32(request.node.name.encode()) % 15, "every": 15}


@pytest.mark.parametrize(("table", "one", "others"), list(pairs()))
def test_two_levels_change_at_once(
    table: str, one: Change, others: Sequence[Change], some: dict[str, int]
) -> None:
    for other in others:
        assert interleaved(FAMILY, [one], [other], of_tables(table), **some) > 5


@pytest.mark.parametrize("few", FEW)
@pytest.mark.parametrize(
    "child",
    [
        pytest.param([file(3)], id="a file comes"),
        pytest.param([update(FILES, team_id=2)], id="a file moves"),
        pytest.param([update(FILES, team_id=2), update(FILES, team_id=1)], id="a file moves there and back"),
        pytest.param([update(FILES, 5, team_id=1), file(4)], id="a file that had none"),
        pytest.param([update(FILES, body="other")], id="a file changes"),
        pytest.param([delete(FILES), file()], id="a file goes and comes again"),
        pytest.param([truncate(FILES), file()], id="files are truncated"),
    ],
)
def test_a_parent_and_its_children_change_at_once(
    child: Sequence[Change], few: int, some: dict[str, int]
) -> None:
    for parent in OUTER.values():
        for first, second, table in ((child, [parent], FILES), ([parent], child, TEAMS)):
            assert interleaved(FILED, first, second, of_tables(table), few=few, **some) > 5


def of_files(partition: int) -> int:
    """A file whose events are in this partition of two."""
    topics = Pair.of(of_tables(), partitions=2).world.topics
    return next(n for n in range(6, 50) if topics.home(FILES, key_of(FILES, n)).partition == partition)


def only_jobs(partition: Partition) -> bool:
    """Nothing but the jobs that write files."""
    return partition.partition == 0 and partition.topic.endswith(FILES)


ZERO, ONE = of_files(0), of_files(1)
#: races that few histories meet
RACES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "what is inside of an element comes with it": (
        (FAMILY, [member(2)], [badge(2, 2)], of_tables(MEMBERS)),
        {},
    ),
    "an element comes with what is inside of it": (
        (FAMILY, [badge(2, 2)], [member(2)], of_tables(BADGES)),
        {},
    ),
    "a parent changes while a child comes": (
        (FILED, [file(ONE)], [update(TEAMS, team_name="o")], of_tables(FILES)),
        {"partitions": 2},
    ),
    # a document looks right to whoever copies the old value again: a job is about to write what was in between
    "a parent goes back to what it was while a job stands still": (
        (
            (team(), file(ZERO), file(ONE)),
            [update(TEAMS, team_name="between")],
            [delete(FILES, ONE), update(TEAMS, team_name="t1")],
            only_jobs,
        ),
        {"few": 1, "partitions": 2, "applied": True},
    ),
    "a parent changes again while its job ends": (
        (
            (team(), file(ZERO)),
            [update(TEAMS, team_name="between")],
            [update(TEAMS, team_name="again")],
            only_jobs,
        ),
        {"few": 0, "partitions": 2, "applied": True},
    ),
}


@pytest.mark.parametrize("race", RACES)
def test_rare_races(race: str) -> None:
    given, more = RACES[race]
    assert interleaved(*given, **more) > 5


@pytest.mark.parametrize(
    ("clause", "race"),
    [
        (
            "anchors: an element that comes, goes or moves has none",
            "what is inside of an element comes with it",
        ),
        (
            "anchors: an element that comes, goes or moves has none",
            "an element comes with what is inside of it",
        ),
        (
            "anchors: an element has none for what is inside of it",
            "what is inside of an element comes with it",
        ),
        ("copies: a document writes no anchor", "a parent changes while a child comes"),
        ("copies: a parent writes no anchors", "a parent changes while a child comes"),
        ("copies: a parent writes one anchor of all", "a parent changes while a child comes"),
        (
            "copies: what looks right is not written",
            "a parent goes back to what it was while a job stands still",
        ),
        ("jobs: one that is late strikes the new one", "a parent changes again while its job ends"),
        ("truncate: a new job is struck with the old", "a parent changes again while its job ends"),
    ],
)
def test_a_broken_clause_loses_a_race(clause: str, race: str) -> None:
    given, more = RACES[race]
    with broken(next(mutant for mutant in MUTANTS if mutant.name == clause)), pytest.raises(Failed):
        interleaved(*given, **more)


# -- one after the other, in every order that partitions may come in -----------------------------------------------
TEAM_LIFE = [team(), update(TEAMS, team_name="o"), delete(TEAMS), team()]
FILE_LIFE = [file(), update(FILES, team_id=2), update(FILES, team_id=1)]
MEMBER_LIFE = [member(1, 2), update(MEMBERS, team_id=1), update(MEMBERS, status="gone")]
BADGE_LIFE = [badge(1, 2), update(BADGES, member_id=1), update(BADGES, shown=False)]


def orders(*lives: Sequence[Change]) -> list[tuple[int, ...]]:
    """Every way to merge so many streams."""
    which = [number for number, life in enumerate(lives) for _ in life]
    return sorted(set(permutations(which)))


def in_order(
    tables: Sequence[str], lives: Sequence[Sequence[Change]], order: Sequence[int], few: int
) -> None:
    """All is committed, stream by stream; then one event after the other is applied in this order of streams."""
    pair = Pair.of(of_tables())
    with pair.world._patched(), patch.object(copies_module, "FEW", few):
        pair.begin()
        pair.commit([team(2), member(2, 2)])
        pair.work(1)
        for life in lives:
            pair.commit(life)
        world = pair.world
        worker = world.actors[1].worker
        assert worker is not None
        worker.batch_events = 1
        for number in order:
            mine = frozenset(world.topics.of(tables[number]))
            world.group.assign({world.actors[0].name: frozenset(world.topics.logs) - mine, worker.name: mine})
            world._work(world.actors[1], 2)  # it is placed, and applies one event
        pair.rest()


@pytest.mark.parametrize("few", FEW)
def test_a_parents_and_its_childrens_events_in_every_order(few: int) -> None:
    for order in orders(TEAM_LIFE, FILE_LIFE):
        in_order((TEAMS, FILES), (TEAM_LIFE, FILE_LIFE), order, few)


def test_events_of_three_levels_in_every_order(pytestconfig: pytest.Config) -> None:
    lives = (TEAM_LIFE[:2], MEMBER_LIFE[:2], BADGE_LIFE[:2])
    if pytestconfig.getoption("--thorough"):
        lives = (TEAM_LIFE[:3], MEMBER_LIFE, BADGE_LIFE)
    for order in orders(*lives):
        in_order((TEAMS, MEMBERS, BADGES), lives, order, 200)
