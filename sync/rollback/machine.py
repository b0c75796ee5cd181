"""The controller of a rollback: one step after the other, each journaled before it is taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from connectors.errors import GateClosed, Kind, OverBudget, Stopped, SyncError, TakenOver
from sync.passage import Condition, Facts, Journal, Outcome, Predicted, Stop
from sync.rollback import states
from sync.rollback.states import At, State, World

Tell = Callable[..., None]


class Actions(Protocol):
    """What a rollback does to the world. All of it can be repeated."""

    def conditions(self, goal: State) -> list[Condition]:
        """What has to be so before this step, as it is now."""

    def predicted(self) -> Predicted:
        """For how long writes would be refused."""

    def world(self) -> World:
        """How fence and flags are."""

    def act(self, goal: State, stop: Stop) -> Facts:
        """Take this step. Raises named errors; of kind RETRY where it may be tried again at once."""

    def open(self) -> None:
        """Let writes into MongoDB: back to before the fence."""


@dataclass(frozen=True, slots=True)
class Limits:
    """max_blocked_s: for how long writes may be refused before the flags turn; then they are let in again. tries: of an
    act that may be tried again. pause_s: between them."""

    max_blocked_s: float = 30.0
    tries: int = 5
    pause_s: float = 0.5


class Machine:
    """One controller at its work."""

    def __init__(
        self,
        journal: Journal,
        actions: Actions,
        limits: Limits,
        tell: Tell,
        at: At,
        *,
        stop: Stop = lambda: False,
    ) -> None:
        self.journal, self.actions, self.limits, self.tell, self.at = journal, actions, limits, tell, at
        self._stop = stop
        self._since: float | None = None
        self.outcome = Outcome(at.state, states.MEANING)

    def run(self, until: State = State.DONE) -> Outcome[State]:
        """Go on from where it is, up to this state. Never raises for what the outside does: it is in the outcome."""
        try:
            while self.at.state is not until and (goal := states.after(self.at.state)) is not None:
                if not states.writes_refused(self.at.state) and self._stop():
                    raise Stopped("stopped between two steps", remedy="`tandem rollback resume` goes on")
                self._advance(goal)
        except SyncError as error:
            self._came_to_nothing(error)
        self.outcome.state = self.at.state
        return self.outcome

    def resume(self, found: states.Resume, until: State = State.DONE) -> Outcome[State]:
        """Go on after a crash."""
        try:
            if found.at is not self.at.state:
                self.actions.open()
                self._write("fell back", found.at, facts={"why": found.why}, state=found.at, intent=None)
                self.tell(f"goes on at {found.at}", why=found.why)
            elif states.writes_refused(self.at.state):
                self._since = time.monotonic()
        except SyncError as error:
            self._came_to_nothing(error)
            self.outcome.state = self.at.state
            return self.outcome
        return self.run(until)

    def rehearse(self) -> Outcome[State]:
        """What stands in the way, and for how long writes would be refused. Nothing is changed."""
        try:
            conditions = self.actions.conditions(State.CHECKED)
            self._keep(State.CHECKED, conditions)
            self.outcome.refusals += [f"{c.name}: {c.why}" for c in conditions if not c.ok]
            self._demand_budget()
        except SyncError as error:
            self.outcome.refusals.append(error.what)
        self.outcome.steps += [
            {"reached": str(s), "facts": {"would": states.MEANING[s]}} for s in states.ORDER[1:]
        ]
        self.outcome.state = State.PLANNED
        return self.outcome

    def give_up(self) -> Outcome[State]:
        """Back to MongoDB. The caller has asked `states.abort`."""
        try:
            self._write("begins", State.ABORTED, intent=State.ABORTED)
            self._tried(State.ABORTED, lambda: self._opened(), self.limits.tries)
            self._reached(State.ABORTED, {})
        except SyncError as error:
            self.outcome.refusals.append(f"{error.what}: {error.remedy}")
        self.outcome.state = self.at.state
        return self.outcome

    def _opened(self) -> Facts:
        self.actions.open()
        return {}

    # -- one step ------------------------------------------------------------------------------------------------
    def _advance(self, goal: State) -> None:
        conditions = self.actions.conditions(goal)
        self._keep(goal, conditions)
        if bad := [f"{c.name}: {c.why}" for c in conditions if not c.ok]:
            raise GateClosed("; ".join(bad), remedy="mend what is named, then `tandem rollback resume`")
        if goal in (State.CHECKED, State.FENCED):
            self._demand_budget()
        self._write("begins", goal, intent=goal)
        began = time.monotonic()
        if goal is State.FENCED:
            self._since = began
        turned = states.has_turned(self.at)
        # behind the flags there is no way but on: servers that are away are waited for
        tries = 1_000_000 if turned or states.writes_refused(self.at.state) else self.limits.tries
        facts = self._tried(goal, lambda: self.actions.act(goal, self._no_more), tries)
        self._reached(goal, {**facts, "seconds": round(time.monotonic() - began, 2)})
        if goal is State.LIFTED and self._since is not None:
            self.outcome.blocked_s = time.monotonic() - self._since

    def _over(self) -> bool:
        """Whether writes are refused for too long, and may be let in again."""
        turning = states.has_turned(self.at)
        return (
            not turning
            and self._since is not None
            and time.monotonic() - self._since > self.limits.max_blocked_s
        )

    def _no_more(self) -> bool:
        return self._over() or (not states.writes_refused(self.at.state) and self._stop())

    def _tried(self, goal: State, act: Callable[[], Facts], tries: int) -> Facts:
        for number in range(1, tries + 1):
            if self._over():
                raise OverBudget(
                    f"writes were refused for more than {self.limits.max_blocked_s:g} s, and are let in again",
                    remedy="see which step took long, mend it, or allow more with --max-blocked",
                )
            try:
                return act()
            except SyncError as error:
                if error.kind is not Kind.RETRY or number == tries:
                    raise
                self.tell(f"{goal}: {error.what}; it is tried again", attempt=number)
                time.sleep(self.limits.pause_s)
        raise AssertionError("a try that neither ends nor fails")

    def _demand_budget(self) -> None:
        self.outcome.predicted = self.actions.predicted()
        if why := self.outcome.predicted.over(self.limits.max_blocked_s):
            raise OverBudget(why, remedy="wait until it is less, or allow more with --max-blocked")

    def _keep(self, goal: State, conditions: Sequence[Condition]) -> None:
        if conditions:
            self.outcome.steps.append({"before": str(goal), "conditions": [c.as_dict() for c in conditions]})

    # -- the journal ---------------------------------------------------------------------------------------------
    def _write(self, what: str, goal: State, *, facts: Facts | None = None, **fields: object) -> None:
        entry = {"at": datetime.now(UTC), "what": what, "goal": str(goal), "facts": dict(facts or {})}
        plain = {name: str(v) if isinstance(v, State) else v for name, v in fields.items()}
        self.journal.write(entry, **plain)
        intent, state = fields.get("intent"), fields.get("state", self.at.state)
        assert isinstance(state, State)
        self.at = At(state, intent if isinstance(intent, State) else None)

    def _reached(self, goal: State, facts: Facts) -> None:
        self._write("reached", goal, facts=facts, state=goal, intent=None)
        self.outcome.steps.append({"reached": str(goal), "facts": dict(facts)})
        self.tell(str(goal), **facts)

    def _came_to_nothing(self, error: SyncError) -> None:
        """A step that failed. As long as the flags say MongoDB, writes are let in."""
        self.outcome.refusals.append(f"{error.what}: {error.remedy}" if error.remedy else error.what)
        if self._since is not None:
            self.outcome.blocked_s = time.monotonic() - self._since
        if isinstance(error, TakenOver):
            return
        inside = states.writes_refused(self.at.state) or self.at.intent is State.FENCED
        facts: dict[str, object] = {"why": error.what}
        if states.has_turned(self.at) or not inside:
            with suppress(SyncError):
                self._write("failed", self.at.intent or self.at.state, facts=facts, intent=self.at.intent)
            return
        try:
            self.actions.open()
            self._write("fell back", State.CHECKED, facts=facts, state=State.CHECKED, intent=None)
            self._since = None
        except SyncError as worse:
            self.outcome.refusals.append(f"and writes could not be let in again: {worse.what}")
