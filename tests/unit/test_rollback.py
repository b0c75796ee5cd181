"""The rollback in a world in memory: an application that writes where it may, and a controller that dies anywhere."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from connectors.errors import Disagreement, ServerGone
from sync.passage import Condition, Facts, Outcome, Predicted, Stop
from sync.rollback import states
from sync.rollback.machine import Limits, Machine
from sync.rollback.states import At, State, World


class Died(BaseException):
    """The controller's process is no more."""


class Place:
    """Both databases, the application, and what stands between them. known: what the application was told is
    written."""

    def __init__(self) -> None:
        self.flag, self.fenced, self.sealed, self.reverse = "mongo", False, True, True
        self.mongo: set[int] = set()
        self.postgres: set[int] = set()
        self.known: set[int] = set()
        self.next = 0
        self.deaths = 0
        self.document: dict[str, Any] = {"state": "planned", "intent": None, "entries": []}

    def application(self) -> None:
        """One write, wherever the flag says; and one from somebody who reads the flag late, a deletion say, that the
        fence of MongoDB does not hold."""
        self.next += 1
        if self.flag == "mongo":
            if not self.fenced or self.next % 5 == 0:
                self.mongo.add(self.next)
                self.known.add(self.next)
        elif not self.sealed:
            assert self.known <= self.postgres, "the application reads PostgreSQL, which lacks what it wrote"
            self.postgres.add(self.next)
            self.known.add(self.next)

    def comes_back(self) -> None:
        if self.reverse:
            self.postgres |= self.mongo


class FakeActions:
    def __init__(self, place: Place, point: Callable[[str], None], fails: Exception | None = None) -> None:
        self.place, self._point, self.fails = place, point, fails
        self.figures = Predicted({"drain": 1.0})
        self.bad = ""

    def conditions(self, goal: State) -> list[Condition]:
        self.place.application()
        return [Condition("gate", not self.bad, self.bad)] if goal is State.CHECKED else []

    def predicted(self) -> Predicted:
        return self.figures

    def world(self) -> World:
        return World(self.place.fenced, self.place.flag == "postgres")

    def act(self, goal: State, stop: Stop) -> Facts:
        place = self.place
        self._point(f"before {goal}")
        place.application()
        if goal is State.VERIFIED and self.fails is not None:
            raise self.fails
        if goal is State.FENCED:
            place.fenced = True
        elif goal in (State.DRAINED, State.SETTLED):
            place.comes_back()
            if goal is State.SETTLED:
                place.reverse = False
        elif goal is State.FLAGS_FLIPPED:
            place.flag = "postgres"
        elif goal is State.LIFTED:
            assert place.flag == "postgres"
            assert not place.reverse, "both would write to PostgreSQL"
            place.sealed = False
        elif goal is State.FORWARD_ON:
            assert not place.sealed
            place.fenced = False
        place.application()
        self._point(f"behind {goal}")
        return {}

    def open(self) -> None:
        self._point("opening")
        assert self.place.flag == "mongo", "MongoDB would take writes of nobody"
        self.place.fenced = False


class Controllers:
    """Controllers of one place, one after the other. at: where the first one dies."""

    def __init__(self, place: Place, dies_at: int | None = None) -> None:
        self.place, self.dies_at = place, dies_at
        self.points = 0

    def point(self, _: str) -> None:
        self.points += 1
        if self.points - 1 == self.dies_at:
            raise Died

    def write(self, entry: dict[str, Any], **fields: object) -> None:
        self.point("")
        self.place.document["entries"].append(entry)
        self.place.document |= copy.deepcopy(fields)
        self.point("")

    def actions(self, **options: Any) -> FakeActions:
        return FakeActions(self.place, self.point, **options)

    def at(self) -> At:
        known = self.place.document
        return At(State(known["state"]), State(known["intent"]) if known["intent"] else None)

    def machine(self, actions: FakeActions, limits: Limits | None = None) -> Machine:
        return Machine(self, actions, limits or Limits(pause_s=0), lambda *_, **__: None, self.at())

    def resumed(self) -> Outcome[State] | str:
        actions = self.actions()
        found = states.resume(self.at(), actions.world())
        return found if isinstance(found, str) else self.machine(actions).resume(found)

    def given_up(self) -> Outcome[State] | str:
        actions = self.actions()
        why = states.abort(self.at(), actions.world())
        return why if why is not None else self.machine(actions).give_up()


def written(place: Place) -> None:
    for _ in range(7):
        place.application()


def whole(place: Place) -> None:
    """The application goes on on PostgreSQL, and nothing is missing."""
    assert (place.flag, place.sealed, place.fenced, place.reverse) == ("postgres", False, False, False)
    before = len(place.postgres)
    written(place)
    assert len(place.postgres) == before + 7
    assert place.known <= place.postgres


def as_before(place: Place) -> None:
    assert (place.flag, place.sealed, place.fenced, place.reverse) == ("mongo", True, False, True)
    before = len(place.mongo)
    written(place)
    assert len(place.mongo) == before + 7


def test_it_comes_to_its_end_and_loses_nothing() -> None:
    place = Place()
    written(place)
    outcome = Controllers(place).machine(Controllers(place).actions()).run()
    assert outcome.ok
    assert outcome.state is State.DONE
    assert outcome.blocked_s is not None
    whole(place)


def _points() -> int:
    counted = Controllers(Place())
    counted.machine(counted.actions()).run()
    return counted.points


@pytest.mark.parametrize("dies_at", range(_points()))
@pytest.mark.parametrize("then", ["resume", "abort"])
def test_killed_anywhere_it_is_resumed_or_given_up(dies_at: int, then: str) -> None:
    place = Place()
    written(place)
    first = Controllers(place, dies_at)
    with pytest.raises(Died):
        first.machine(first.actions()).run()
    written(place)
    second = Controllers(place)
    if then == "abort" and second.at().state is not State.DONE:
        given_up = second.given_up()
        if not isinstance(given_up, str):
            assert given_up.state is State.ABORTED
            as_before(place)
            return
        assert place.flag == "postgres" or states.has_turned(second.at())
    resumed = second.resumed()
    if isinstance(resumed, str):
        assert second.at().state is State.DONE
    else:
        assert resumed.state is State.DONE, resumed.refusals
    whole(place)


def test_a_step_that_fails_before_the_flags_lets_writes_in() -> None:
    for error in (Disagreement("they differ", remedy=""), ServerGone("away", remedy="")):
        place = Place()
        controllers = Controllers(place)
        limits = Limits(pause_s=0, max_blocked_s=0.05) if isinstance(error, ServerGone) else None
        actions = controllers.actions(fails=error)
        actions.figures = Predicted({"drain": 0.0})
        outcome = controllers.machine(actions, limits).run()
        assert not outcome.ok
        assert outcome.state is State.CHECKED
        as_before(place)


def test_what_is_not_in_order_is_named_and_nothing_is_refused() -> None:
    place = Place()
    controllers = Controllers(place)
    actions = controllers.actions()
    actions.bad = "3 documents are parked"
    assert "3 documents are parked" in controllers.machine(actions).run().refusals[0]
    actions.bad, actions.figures = "", Predicted({"verify": 90.0})
    assert "are allowed" in controllers.machine(actions).run().refusals[0]
    actions.figures = Predicted({}, ("drain",))
    rehearsed = controllers.machine(actions).rehearse()
    assert "drain is not known" in rehearsed.refusals[0]
    as_before(place)


def test_writes_that_came_back_by_themselves_make_it_begin_before_the_fence() -> None:
    found = states.resume(At(State.VERIFIED), World(fenced=False, turned=False))
    assert isinstance(found, states.Resume)
    assert found.at is State.CHECKED
    assert "takes writes again" in found.why
    assert states.abort(At(State.FLAGS_FLIPPED), World(True, True)) is not None
    assert states.abort(At(State.VERIFIED, State.FLAGS_FLIPPED), World(True, None)) is not None
    assert states.abort(At(State.VERIFIED, State.FLAGS_FLIPPED), World(True, False)) is None
