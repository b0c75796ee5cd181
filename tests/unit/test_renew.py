"""A lost slot that is replaced while others are late (docs/write-rule.md, clause 6)."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any
from unittest.mock import patch

import pytest

from connectors.errors import ServerGone
from connectors.mongo import ledger
from sync.setup.renew import begins_anew, replace_slot
from tests.support.simulation import FEATURES, LATER_FEATURES, TEAMS, Actor, World


@pytest.mark.parametrize(
    ("healing", "in_order", "force", "anew"),
    [
        pytest.param(None, True, False, False, id="nothing is lost"),
        pytest.param(False, False, False, True, id="it is lost"),
        pytest.param(ledger.NO_SLOT, True, False, True, id="a slot of a run that died in between"),
        pytest.param(True, True, False, True, id="of a run of before"),
        pytest.param(ledger.NEW_SLOT, True, False, False, id="the walk is left"),
        pytest.param(ledger.NEW_SLOT, False, False, True, id="lost again"),
        pytest.param(ledger.NEW_SLOT, True, True, True, id="made by hand, says somebody"),
    ],
)
def test_a_slot_counts_when_positions_lie_where_it_begins(
    healing: object, in_order: bool, force: bool, anew: bool
) -> None:
    assert begins_anew(healing, in_order=in_order, force=force) is anew


def test_the_order() -> None:
    done: list[Any] = []

    def step(name: str, answer: Any = None) -> Callable[..., Any]:
        return lambda *given: (done.append((name, *given)), answer)[1]

    ends = iter(("before", "after"))
    replace_slot(
        stop=step("stop"),
        ends=lambda: next(ends),  # type: ignore[arg-type,return-value]
        take=step("take"),
        make=step("make", 7),
        start=step("start"),
        move=step("move"),
    )
    assert done == [("stop",), ("take", "before"), ("make",), ("start",), ("move", "after", 7)]


@pytest.fixture
def world() -> Any:
    """A team that is applied, whose next change is decoded and not sent when the slot is lost."""
    world = World(
        3,
        without=frozenset((*FEATURES, *LATER_FEATURES)),
        mood={"tables": (TEAMS,), "width": 1, "workers": 1, "partitions": 1},
        trace=[],
    )
    world.sessions.clear()
    with world._patched():
        world._begin()
        world.quiet = True
        change(world, "a")
        send(world)
        while not world._at_rest():
            world._work(world.actors[0], 12)
        yield world


def test_what_a_worker_that_was_cut_off_sends_late_is_not_applied(world: World) -> None:
    change(world, "b")
    world.late, world.slot = list(world.pg.wal[world.sent :]), False
    change(world, "c")

    def late() -> None:
        world._to_kafka(world.late.pop())

    meanwhile(world, "the connector is put", late)
    world._reload()
    rest(world)


@pytest.mark.parametrize("fenced", [True, False])
def test_who_stood_still_while_another_healed(world: World, fenced: bool) -> None:
    """It has read the ends, and nothing more. Another heals, its slot sends, is lost, and the first goes on."""
    world.slot = False
    change(world, "b")

    def other() -> None:
        first = world.heals
        world._reload()
        change(world, "c")
        send(world)
        world.slot = False
        change(world, "d")
        world.heals = None if fenced else first

    meanwhile(world, "plain find _tandem_positions", other, after="the connector is taken away")
    world._reload()
    told = "\n".join(world.trace or [])
    assert ("the session was ended" in told) is fenced
    assert world.slot is not fenced
    rest(world)


def test_who_stood_still_before_the_slot_makes_none_beside_another(world: World) -> None:
    """It holds all. Another heals to the end, and streams: its slot is not replaced by the late one."""
    world.slot = False
    change(world, "b")

    def other() -> None:
        world._reload()
        assert world.slot
        change(world, "c")

    meanwhile(world, "drop the slot", other)
    world._reload()
    assert "the session was ended" in "\n".join(world.trace or [])
    rest(world)


def test_who_lost_the_hold_says_nothing_of_the_slot(world: World) -> None:
    """It has made the slot. Another begins a walk: what was sent before it took over may be applied by that one."""
    world.slot = False
    change(world, "b")

    def other() -> None:
        for position in world.store.collection(ledger.POSITIONS).values():
            world.store.plain_write(ledger.POSITIONS, position["_id"], {**position, "holder": "heal:other"})

    meanwhile(world, "find _tandem_positions", other, after="the connector is put")
    world._reload()
    assert "the hold was taken over" in "\n".join(world.trace or [])
    assert world._healing() == ledger.NO_SLOT
    rest(world)


def test_a_reload_does_not_let_go_what_a_heal_that_died_holds(world: World) -> None:
    """The slot is made, the connector put, the positions are not moved: the old slot's last events are still ahead."""
    change(world, "b")
    world.late, world.slot = list(world.pg.wal[world.sent :]), False
    change(world, "c")

    def dies() -> None:
        raise ServerGone("the server does not answer", remedy="it is tried again")

    def late() -> None:
        world._to_kafka(world.late.pop())
        meanwhile(world, "find _tandem_positions", dies)

    meanwhile(world, "the connector is put", late)
    world._reload()
    assert world._healing() == ledger.NO_SLOT
    assert world.slot
    with patch.object(world, "_to_be_healed", lambda: False):
        world._reload()
    assert "has not come to its end" in "\n".join(world.trace or [])
    assert world._held(ledger.WALK)
    rest(world)


def test_who_is_late_does_not_say_that_another_is_done(world: World) -> None:
    db: Any = world.store.db
    for how_far, left in ((ledger.NO_SLOT, ledger.NO_SLOT), (ledger.NEW_SLOT, False)):
        world._as(Actor("late"), lambda how_far=how_far: ledger.set_state(db, "pipeline", healing=how_far))
        world._as(Actor("late"), lambda: ledger.healed(db))
        assert world._healing() == left


def meanwhile(world: World, what: str, then: Callable[[], None], after: str = "") -> None:
    """Ahead of an operation, the first time behind another one."""
    waits = [after] if after else []
    left = [then]

    def before(now: str) -> None:
        world.__class__.moment(world, now)
        if waits and now == waits[0]:
            waits.clear()
        elif not waits and now == what and left:
            left.pop()()

    world.moment = before  # type: ignore[method-assign]
    world.store.before = before


def change(world: World, name: str) -> None:
    """The team has another name."""
    tx = world.pg.begin()
    row = {"id": 1, "team_name": name, "description": "d", "is_active": True, "score": Decimal(1)}
    if (1,) in tx.rows(TEAMS):
        tx.update(TEAMS, (1,), team_name=name)
    else:
        tx.insert(TEAMS, row)
    tx.commit()
    tx.show()


def send(world: World) -> None:
    """All that the slot has."""
    while world.sent < len(world.pg.wal):
        world._send()


def rest(world: World) -> None:
    """It ends as the source is."""
    world._come_to_rest()
    world._judge()
