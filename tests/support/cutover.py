"""A world in memory for the controller: an application that writes where its flags say and where it may, two databases,
a fence with a lease, and points at which the controller dies."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from connectors.errors import FenceLapsed, ServerGone, TakenOver
from sync.cutover.budget import Numbers
from sync.cutover.health import Pulse
from sync.cutover.machine import Limits, Machine
from sync.cutover.states import At, State, World, abort, resume
from sync.passage import Condition, Facts, Outcome, Stop


class Died(BaseException):
    """The controller's process is no more."""


class Place:
    """Both databases, the application, and what stands between them."""

    def __init__(self) -> None:
        self.fence = "none"
        self.flag = "postgres"
        self.forward = True
        self.postgres: set[int] = set()
        self.mongo: set[int] = set()
        self.next = 0
        self.refused = 0
        self.document: dict[str, Any] = {"state": "planned", "intent": None, "owner": "", "entries": []}

    def application(self) -> None:
        """One write, wherever the flags say."""
        self.next += 1
        if self.flag == "mongo":
            assert self.postgres <= self.mongo, (
                "the application reads MongoDB, which lacks what it wrote before"
            )
            self.mongo.add(self.next)
        elif self.fence in ("up", "sealed"):
            self.refused += 1
        else:
            self.postgres.add(self.next)

    def stream(self) -> None:
        """The forward consumers."""
        if self.forward:
            self.mongo |= self.postgres

    def time_passes(self) -> None:
        """Longer than the lease."""
        if self.fence == "up":
            self.fence = "lapsed"


class MemoryJournal:
    """The journal of a place, in the hands of one controller."""

    def __init__(self, place: Place, owner: str, point: Callable[[str], None]) -> None:
        self.place, self.owner, self._point = place, owner, point
        place.document["owner"] = owner

    def write(self, entry: dict[str, Any], **fields: object) -> None:
        self._point(f"before writing {entry['what']} {entry['goal']}")
        if self.place.document["owner"] != self.owner:
            raise TakenOver("another controller has taken over", remedy="")
        self.place.document["entries"].append(entry)
        self.place.document |= copy.deepcopy(fields)
        self._point(f"after writing {entry['what']} {entry['goal']}")


class FakeActions:
    """What the controller does to a place. fails: goals whose act raises, and what."""

    def __init__(
        self, place: Place, point: Callable[[str], None], fails: Mapping[State, Exception] | None = None
    ) -> None:
        self.place, self._point, self.fails = place, point, dict(fails or {})
        self.done: list[str] = []
        self.bad: dict[State, str] = {}
        self.figures = Numbers(lock_s=0, behind=0, rate=100, lag_s=0.1)
        self.now = Pulse()
        self.readable = True

    def conditions(self, goal: State) -> list[Condition]:
        self.place.application()
        return [Condition("gate", goal not in self.bad, self.bad.get(goal, "fine"))]

    def numbers(self) -> Numbers:
        return self.figures

    def pulse(self) -> Pulse:
        return self.now

    def world(self) -> World:
        return World(self.place.fence, self.place.flag == "mongo" if self.readable else None)

    def act(self, goal: State, stop: Stop) -> Facts:
        place = self.place
        self._point(f"before {goal}")
        place.application()
        if goal in self.fails:
            raise self.fails[goal]
        if goal is State.FENCED:
            place.fence = "up"
        elif goal is State.DRAINED:
            place.stream()
        elif goal is State.VERIFIED:
            assert place.fence == "up", "verified without a fence"
            assert place.mongo == place.postgres
        elif goal is State.SEALED:
            if place.fence not in ("up", "sealed"):
                raise FenceLapsed("the fence has lapsed", remedy="")
            place.fence = "sealed"
            self._point(f"in the middle of {goal}")
            place.forward = False
        elif goal is State.FLAGS_FLIPPED:
            place.flag = "mongo"
        place.application()
        self._point(f"behind {goal}")
        self.done.append(str(goal))
        return {}

    def renew(self) -> None:
        if self.place.fence != "up":
            raise FenceLapsed("the fence has lapsed", remedy="")

    def open(self, *, flags: bool) -> None:
        if flags:
            if not self.readable:
                raise ServerGone("the flags cannot be written", remedy="")
            self.place.flag = "postgres"
        self._point("before opening")
        self.place.forward = True
        self._point("in the middle of opening")
        self.place.fence = "none"

    def go_back(self, had: State, stop: Stop) -> Facts:
        self.open(flags=True)
        self._point("behind going back")
        return {}


class Controllers:
    """Controllers of one place, one after the other. at: where the first one dies; every point that is met is kept."""

    def __init__(self, place: Place, dies_at: int | None = None) -> None:
        self.place, self.dies_at = place, dies_at
        self.points: list[str] = []
        self.serial = 0

    def point(self, name: str) -> None:
        self.points.append(name)
        if self.dies_at is not None and len(self.points) - 1 == self.dies_at:
            raise Died(name)

    def actions(self, **options: Any) -> FakeActions:
        return FakeActions(self.place, self.point, **options)

    def machine(self, actions: FakeActions, limits: Limits | None = None) -> Machine:
        self.serial += 1
        journal = MemoryJournal(self.place, f"c{self.serial}", self.point)
        known = self.place.document
        at = At(State(known["state"]), State(known["intent"]) if known["intent"] else None)
        return Machine(
            journal, actions, limits or Limits(lease_s=1_000, pause_s=0), lambda *_, **__: None, at
        )

    def resumed(self, actions: FakeActions) -> Outcome[State] | str:
        """`tandem cutover resume`."""
        machine = self.machine(actions)
        found = resume(machine.at, actions.world())
        if isinstance(found, str):
            return found
        return machine.resume(found)

    def aborted(self, actions: FakeActions) -> Outcome[State] | str:
        """`tandem cutover abort`."""
        machine = self.machine(actions)
        why = abort(machine.at, actions.world())
        return why if why is not None else machine.go_back()
