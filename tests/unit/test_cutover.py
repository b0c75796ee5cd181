"""The controller of a cutover: killed at every point, and what becomes of it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from connectors.errors import ServerGone, TargetNotReady
from sync.cutover import budget, health
from sync.cutover.budget import Numbers
from sync.cutover.health import Pulse, Tolerance
from sync.cutover.machine import Limits
from sync.cutover.states import ORDER, At, State, World, abort, after, resume, writes_refused
from sync.passage import Outcome
from tests.support.cutover import Controllers, Died, FakeActions, Place


def points() -> list[str]:
    """Every point at which a controller can die, of a cutover that goes well."""
    controllers = Controllers(Place())
    assert controllers.machine(controllers.actions()).run().state is State.DONE
    return controllers.points


POINTS = points()


def lived_through(place: Place, *, cut_over: bool) -> None:
    """It ended as it has to: all on one side, nothing lost, and an application that writes."""
    before = place.refused
    place.application()
    if cut_over:
        assert place.document["state"] == "done"
        assert (place.flag, place.fence, place.forward) == ("mongo", "sealed", False)
        assert place.postgres <= place.mongo
    else:
        assert place.document["state"] == "aborted"
        assert (place.flag, place.fence, place.forward) == ("postgres", "none", True)
        place.stream()
        assert place.postgres == place.mongo
    assert place.refused == before


def test_it_goes_through_all_states_in_their_order() -> None:
    place = Place()
    controllers = Controllers(place)
    outcome = controllers.machine(controllers.actions()).run()
    assert outcome.ok
    reached = [e["goal"] for e in place.document["entries"] if e["what"] == "reached"]
    assert reached == [str(state) for state in ORDER[1:]]
    lived_through(place, cut_over=True)
    assert place.refused > 0


def test_each_act_is_journaled_before_it_is_taken() -> None:
    for goal in ORDER[1:]:
        names = [
            f"after writing begins {goal}",
            f"before {goal}",
            f"behind {goal}",
            f"before writing reached {goal}",
        ]
        places = [POINTS.index(name) for name in names]
        assert places == sorted(places)


def died_at(number: int, *, lapses: bool) -> tuple[Place, Controllers]:
    """A cutover whose controller has died at this point, and an application that has written since."""
    place = Place()
    controllers = Controllers(place, dies_at=number)
    with pytest.raises(Died):
        controllers.machine(controllers.actions()).run()
    controllers.dies_at = None
    if lapses:
        place.time_passes()
    place.application()
    return place, controllers


@pytest.mark.parametrize("lapses", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("number", range(len(POINTS)), ids=[p.replace(" ", "-") for p in POINTS])
def test_killed_anywhere_it_is_resumed_to_its_end(number: int, lapses: bool) -> None:
    place, controllers = died_at(number, lapses=lapses)
    outcome = controllers.resumed(controllers.actions())
    if place.document["state"] == "done" and isinstance(outcome, str):
        assert number >= POINTS.index("after writing reached done")
    else:
        assert isinstance(outcome, Outcome)
        assert outcome.ok, outcome.refusals
    lived_through(place, cut_over=True)


@pytest.mark.parametrize("lapses", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("number", range(len(POINTS)), ids=[p.replace(" ", "-") for p in POINTS])
def test_killed_anywhere_it_is_aborted_unless_the_flags_are_turned(number: int, lapses: bool) -> None:
    place, controllers = died_at(number, lapses=lapses)
    turned = place.flag == "mongo"
    outcome = controllers.aborted(controllers.actions())
    assert isinstance(outcome, str) is turned
    if turned:  # what is refused changes nothing, and resume ends it
        controllers.resumed(controllers.actions())
    lived_through(place, cut_over=turned)


def test_an_abort_that_is_killed_is_repeated() -> None:
    place = Place()
    controllers = Controllers(place)
    first = controllers.actions(
        fails={State.FLAGS_FLIPPED: TargetNotReady("the flags are not there", remedy="")}
    )
    first.readable = False
    controllers.machine(first).run()
    assert place.fence == "sealed"
    begins = len(controllers.points)
    for number in range(begins, begins + 8):
        controllers.dies_at = number
        try:
            controllers.aborted(controllers.actions())
        except Died:
            continue
        break
    controllers.dies_at = None
    if place.document["state"] != "aborted":
        controllers.aborted(controllers.actions())
    lived_through(place, cut_over=False)


@pytest.mark.parametrize("goal", ORDER[1:])
def test_a_step_that_fails_lets_writes_in_and_is_gone_on_with(goal: State) -> None:
    place = Place()
    controllers = Controllers(place)
    outcome = controllers.machine(
        controllers.actions(fails={goal: TargetNotReady("it is not to be", remedy="mend it")})
    ).run()
    assert outcome.refusals == ["it is not to be: mend it"]
    if place.flag == "postgres":
        assert place.fence == "none"
        assert place.forward
        before = place.refused
        place.application()
        assert place.refused == before
    again = controllers.resumed(controllers.actions())
    assert isinstance(again, Outcome)
    assert again.ok
    lived_through(place, cut_over=True)


@pytest.mark.parametrize("goal", ORDER[1:])
def test_a_gate_that_is_closed_is_named(goal: State) -> None:
    place = Place()
    controllers = Controllers(place)
    actions = controllers.actions()
    actions.bad[goal] = "it is raining"
    outcome = controllers.machine(actions).run()
    assert any("it is raining" in why for why in outcome.refusals)
    assert str(goal) not in actions.done
    if goal in ORDER[: ORDER.index(State.FLAGS_FLIPPED) + 1]:
        assert (place.flag, place.fence) == ("postgres", "none")


def test_what_may_be_tried_again_is() -> None:
    place = Place()
    controllers = Controllers(place)
    actions = controllers.actions()
    act, failed = actions.act, list[State]()

    def once(goal: State, stop: Any) -> Any:
        if goal not in failed:
            failed.append(goal)
            raise ServerGone("it is away", remedy="wait")
        return act(goal, stop)

    actions.act = once  # type: ignore[method-assign]
    assert controllers.machine(actions).run().ok
    lived_through(place, cut_over=True)


def test_writes_come_back_when_the_time_is_over() -> None:
    place = Place()
    controllers = Controllers(place)
    actions = controllers.actions()
    act = actions.act

    def slow(goal: State, stop: Any) -> Any:
        found = act(goal, stop)
        if goal is State.DRAINED:
            until = time.monotonic() + 5
            while not stop() and time.monotonic() < until:
                time.sleep(0.01)
        return found

    actions.act = slow  # type: ignore[method-assign]
    outcome = controllers.machine(actions, Limits(max_blocked_s=0.7, lease_s=0.1)).run()
    assert "writes were refused for 0." in outcome.refusals[0]
    assert outcome.state is State.SESSIONS_WAITED
    assert (place.flag, place.fence, place.forward) == ("postgres", "none", True)


def test_a_fence_that_lapses_unseen_is_not_gone_on_with() -> None:
    place = Place()
    controllers = Controllers(place)
    actions = controllers.actions()
    act = actions.act

    def lapsing(goal: State, stop: Any) -> Any:
        found = act(goal, stop)
        if goal is State.DRAINED:
            place.fence = "lapsed"
            place.application()
            until = time.monotonic() + 5
            while not stop() and time.monotonic() < until:
                time.sleep(0.01)
        return found

    actions.act = lapsing  # type: ignore[method-assign]
    outcome = controllers.machine(actions, Limits(lease_s=0.1)).run()
    assert "lapsed" in outcome.refusals[0]
    assert (place.flag, place.fence) == ("postgres", "none")


def test_a_second_controller_ends_the_first() -> None:
    place = Place()
    controllers = Controllers(place)
    first = controllers.actions()
    machine = controllers.machine(first)
    machine.run(State.VERIFIED)
    second = controllers.resumed(controllers.actions())
    assert isinstance(second, Outcome)
    assert second.ok
    outcome = machine.run()
    assert "taken over" in outcome.refusals[0]
    lived_through(place, cut_over=True)


# -- what is decided -------------------------------------------------------------------------------------------------
def test_sealed_without_a_fence_goes_on_only_where_it_is_known_who_writes() -> None:
    at = At(State.SEALED)
    assert resume(at, World("sealed", False)).at is State.SEALED  # type: ignore[union-attr]
    assert resume(at, World("none", False)).at is State.SESSIONS_WAITED  # type: ignore[union-attr]
    assert "find out" in str(resume(at, World("none", None)))
    assert "find out" in str(resume(at, World("lapsed", True)))


def test_an_abort_that_was_begun_is_ended_not_gone_on_from() -> None:
    at = At(State.DRAINED, State.ABORTED)
    assert "end it with" in str(resume(at, World("none", False)))
    assert abort(at, World("none", False)) is None


def test_flags_that_cannot_be_read_close_the_way_back() -> None:
    at = At(State.SEALED, State.FLAGS_FLIPPED)
    assert abort(at, World("sealed", False)) is None
    assert "cannot be read" in str(abort(at, World("sealed", None)))
    assert "rollback" in str(abort(At(State.OBSERVING), World("sealed", True)))


def test_writes_are_refused_from_the_fence_until_the_flags() -> None:
    refused = [state for state in ORDER if writes_refused(state)]
    assert refused == list(ORDER[ORDER.index(State.FENCED) : ORDER.index(State.FLAGS_FLIPPED)])
    assert after(State.DONE) is None
    assert after(State.ABORTED) is None


@pytest.mark.parametrize(
    ("numbers", "most", "why"),
    [
        (Numbers(0, 0, 100, 0.2), 5, None),
        (Numbers(0, 1_000, 100, 0.2), 5, "about 10.1 s (drain 10.0 s"),
        (Numbers(0, 1_000, None, 0.2), 5, "drain is not known"),
        (Numbers(None, 0, 100, 0.2), 5, "fence is not known"),
        (Numbers(0, 0, 100, 0.2, files_s=None), 5, "files is not known"),
        (Numbers(0, 0, 100, 0.2, sessions=500, session_s=0.1, session_workers=10), 5, "sessions 5.0 s"),
        (Numbers(7, 0, 100, 0.2), 5, "fence 7.0 s"),
    ],
)
def test_the_time_is_predicted_or_said_to_be_unknown(numbers: Numbers, most: float, why: str | None) -> None:
    found = budget.predict(numbers).over(most)
    assert (found is None) is (why is None)
    assert why is None or why in str(found)


def test_over_budget_nothing_is_fenced() -> None:
    place = Place()
    controllers = Controllers(place)
    actions: FakeActions = controllers.actions()
    actions.figures = Numbers(lock_s=0, behind=10_000, rate=10, lag_s=0)
    outcome = controllers.machine(actions).run()
    assert "are allowed" in outcome.refusals[0]
    assert place.refused == 0


def test_health_is_compared_with_what_it_was() -> None:
    first = Pulse(100, 100, 10, 100, {"app": True, "old": False})
    assert health.worse(first, Pulse(149, 119, 90, 100, {"app": True, "old": False}), Tolerance()) == []
    found = health.worse(first, Pulse(151, 121, 91, 100, {"app": False, "old": False}), Tolerance())
    assert [why.split(" is ")[0] for why in found] == [
        "memory in use",
        "disk in use",
        "PostgreSQL has 91 of 100 connections",
        "app does not answer any more",
    ]
