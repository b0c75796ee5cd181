"""The controller: one step after the other, each journaled before it is taken. What is decided is in `states`,
`budget` and `health`; what is done is in the actions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from connectors.errors import GateClosed, Kind, OverBudget, Stopped, SyncError, TakenOver
from sync.cutover import budget, health, states
from sync.cutover.actions import Actions
from sync.cutover.health import Pulse, Tolerance
from sync.cutover.states import MEANING, At, State
from sync.passage import Condition, Facts, Journal, Outcome

Tell = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Limits:
    """max_blocked_s: for how long writes may be refused. lease_s: of the fence. tries: of an act that may be tried
    again, outside of the fence; inside it the budget decides. pause_s: between them."""

    max_blocked_s: float = 30.0
    lease_s: float = 10.0
    tries: int = 5
    pause_s: float = 1.0
    tolerance: Tolerance = field(default_factory=Tolerance)


class _Keeper:
    """Renews the fence while writes are refused, and lets them in when that has lasted too long."""

    def __init__(self, actions: Actions, limits: Limits, tell: Tell) -> None:
        self._actions, self._limits, self._tell = actions, limits, tell
        self._lock, self._end = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self.since: float | None = None
        self.trouble: SyncError | None = None
        self._sealed = False

    @property
    def blocked_s(self) -> float | None:
        """For how long writes have been refused."""
        return None if self.since is None else time.monotonic() - self.since

    def begin(self) -> None:
        """The clock starts, before the fence is put up."""
        self.since, self.trouble, self._sealed = time.monotonic(), None, False
        self._end.clear()

    def watch(self) -> None:
        """The fence is up."""
        self._thread = threading.Thread(target=self._work, daemon=True, name="fence")
        self._thread.start()

    def stop(self) -> bool:
        """For an act: whether there is no more time for it."""
        return self.trouble is not None

    def demand(self) -> None:
        """Raises FenceLapsed or OverBudget when writes may have passed."""
        if self.trouble is not None:
            raise self.trouble

    def seal(self, act: Callable[[], Facts]) -> Facts:
        """Seal it: from then on it is neither renewed nor opened. Raises FenceLapsed or OverBudget."""
        with self._lock:
            self.demand()
            facts = act()
            self._sealed = True
        self.end()
        return facts

    def end(self) -> None:
        """No more of it."""
        self._end.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._thread = None

    def _work(self) -> None:
        while not self._end.wait(self._limits.lease_s / 4):
            with self._lock:
                if self._sealed or self._end.is_set():
                    return
                try:
                    if (self.blocked_s or 0) > self._limits.max_blocked_s:
                        self.trouble = OverBudget(
                            f"writes were refused for {self.blocked_s:.1f} s, and are let in again",
                            remedy="see which step took long, mend it, or allow more with --max-blocked",
                        )
                        self._actions.open(flags=False)
                        return
                    self._actions.renew()
                except SyncError as error:
                    if error.kind is not Kind.RETRY:
                        self.trouble = self.trouble or error
                        return
                    self._tell("the fence could not be renewed", why=error.what)


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
        baseline: Pulse | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.journal, self.actions, self.limits, self.tell = journal, actions, limits, tell
        self.at, self.baseline, self._stop = at, baseline, stop
        self._keeper = _Keeper(actions, limits, tell)
        self.outcome = Outcome(at.state, MEANING)

    def run(self, until: State = State.DONE) -> Outcome[State]:
        """Go on from where it is, up to this state. Never raises for what the outside does: it is in the outcome."""
        try:
            while self.at.state is not until and (goal := states.after(self.at.state)) is not None:
                if not states.writes_refused(self.at.state) and self._stop():
                    raise Stopped("stopped between two steps", remedy="`tandem cutover resume` goes on")
                self._advance(goal)
        except SyncError as error:
            self._came_to_nothing(error)
        finally:
            self._keeper.end()
        self.outcome.state = self.at.state
        return self.outcome

    def resume(self, found: states.Resume, until: State = State.DONE) -> Outcome[State]:
        """Go on after a crash. Where that is before the fence, what stands of it is taken away first."""
        try:
            self._go_on(found)
        except SyncError as error:
            self._came_to_nothing(error)
            self.outcome.state = self.at.state
            return self.outcome
        return self.run(until)

    def _go_on(self, found: states.Resume) -> None:
        if found.at is not self.at.state:
            self.actions.open(flags=False)
            facts = {"why": found.why, "from": str(self.at.state)}
            self._write("fell back", found.at, facts=facts, state=found.at, intent=None)
            self.tell(f"goes on at {found.at}", why=found.why)
        elif states.writes_refused(self.at.state) or self.at.intent is State.SEALED:
            self._keeper.begin()
            if self.actions.world().fence != "sealed":
                self.actions.renew()
                self._keeper.watch()

    def rehearse(self) -> Outcome[State]:
        """Every step, by actions that change nothing: all refusals, not the first one only."""
        while (goal := states.after(self.at.state)) is not None:
            try:
                conditions = self.actions.conditions(goal)
                self.tell_conditions(goal, conditions)
                self.outcome.refusals += [f"before {goal}: {c.name}: {c.why}" for c in conditions if not c.ok]
                if goal is State.CHECKED:
                    self._demand_budget()
                facts = self.actions.act(goal, self._stop)
                self.outcome.steps.append({"reached": str(goal), "facts": dict(facts)})
            except SyncError as error:
                self.outcome.refusals.append(f"{goal}: {error.what}")
            self.at = At(goal)
        self.outcome.state = State.PLANNED
        self.outcome.refusals = list(dict.fromkeys(self.outcome.refusals))
        return self.outcome

    def go_back(self) -> Outcome[State]:
        """Back to PostgreSQL. The caller has asked `states.abort`."""
        had = self.at.intent or self.at.state
        try:
            self._write("begins", State.ABORTED, intent=State.ABORTED)
            facts = self._tried(
                State.ABORTED, lambda: self.actions.go_back(had, self._stop), self.limits.tries
            )
            self._reached(State.ABORTED, facts)
        except SyncError as error:
            self.outcome.refusals.append(f"{error.what}: {error.remedy}")
        self.outcome.state = self.at.state
        return self.outcome

    # -- one step ------------------------------------------------------------------------------------------------
    def _advance(self, goal: State) -> None:
        self._demand(self.actions.conditions(goal), goal)
        if goal is State.CHECKED:
            self.baseline = self.actions.pulse()
        self._demand_health(goal)
        if goal in (State.CHECKED, State.FENCED):
            self._demand_budget()
        self._write("begins", goal, intent=goal)
        began = time.monotonic()
        facts = self._taken(goal)
        self._keeper.demand()
        more: dict[str, object] = {}
        if goal is State.CHECKED and self.baseline is not None:
            more["baseline"] = self.baseline.as_dict()
        self._reached(goal, {**facts, "seconds": round(time.monotonic() - began, 2)}, **more)
        if goal is State.FLAGS_FLIPPED:
            self.outcome.blocked_s = self._keeper.blocked_s
        self._demand_health(goal, before=False)

    def _taken(self, goal: State) -> Facts:
        act = lambda: self.actions.act(goal, self._no_more)  # noqa: E731
        if goal is State.FENCED:
            self._keeper.begin()
            facts = self._tried(goal, act, self.limits.tries)
            self._keeper.watch()
            return facts
        if goal is State.SEALED:
            return self._keeper.seal(lambda: self._tried(goal, act, self.limits.tries))
        return self._tried(goal, act, 1_000_000 if self._blocks else self.limits.tries)

    @property
    def _blocks(self) -> bool:
        """Whether the budget, not a number of tries, ends an act."""
        return (
            self._keeper.since is not None
            and self.at.state in states.ORDER[: states.ORDER.index(State.SEALED)]
        )

    def _no_more(self) -> bool:
        return self._keeper.stop() or (not states.writes_refused(self.at.state) and self._stop())

    def _tried(self, goal: State, act: Callable[[], Facts], tries: int) -> Facts:
        for number in range(1, tries + 1):
            self._keeper.demand()
            try:
                return act()
            except SyncError as error:
                if error.kind is not Kind.RETRY or number == tries:
                    raise
                self.tell(f"{goal}: {error.what}; it is tried again", attempt=number)
                time.sleep(self.limits.pause_s)
        raise AssertionError("a try that neither ends nor fails")

    # -- what has to be so ---------------------------------------------------------------------------------------
    def _demand(self, conditions: Sequence[Condition], goal: State) -> None:
        bad = [f"{c.name}: {c.why}" for c in conditions if not c.ok]
        self.tell_conditions(goal, conditions)
        if bad:
            raise GateClosed("; ".join(bad), remedy="mend what is named, then `tandem cutover resume`")

    def tell_conditions(self, goal: State, conditions: Sequence[Condition]) -> None:
        """Keep them for the report."""
        if conditions:
            self.outcome.steps.append({"before": str(goal), "conditions": [c.as_dict() for c in conditions]})

    def _demand_health(self, goal: State, *, before: bool = True) -> None:
        if self.baseline is None or (states.has_turned(At(goal)) and before):
            return
        found = health.worse(self.baseline, self.actions.pulse(), self.limits.tolerance)
        if not found:
            return
        told = f"{'before' if before else 'after'} {goal}: {'; '.join(found)}"
        if states.has_turned(self.at):  # it is told; going back is a decision of people
            self.tell("not as healthy as before the cutover", why=told)
            self.outcome.steps.append({"after": str(goal), "unhealthy": found})
            return
        raise GateClosed(told, remedy="find out what takes it, then `tandem cutover resume`")

    def _demand_budget(self) -> None:
        predicted = budget.predict(self.actions.numbers())
        self.outcome.predicted = predicted
        if why := predicted.over(self.limits.max_blocked_s):
            raise OverBudget(why, remedy="wait until it is less, or allow more with --max-blocked")

    # -- the journal ---------------------------------------------------------------------------------------------
    def _write(self, what: str, goal: State, *, facts: Facts | None = None, **fields: object) -> None:
        entry = {"at": datetime.now(UTC), "what": what, "goal": str(goal), "facts": dict(facts or {})}
        plain = {name: str(v) if isinstance(v, State) else v for name, v in fields.items()}
        self.journal.write(entry, **plain)
        intent = fields.get("intent")
        state = fields.get("state", self.at.state)
        assert isinstance(state, State)
        self.at = At(state, intent if isinstance(intent, State) else None)

    def _reached(self, goal: State, facts: Facts, **more: object) -> None:
        self._write("reached", goal, facts=facts, state=goal, intent=None, **more)
        self.outcome.steps.append({"reached": str(goal), "facts": dict(facts)})
        self.tell(str(goal), **facts)

    def _came_to_nothing(self, error: SyncError) -> None:
        """A step that failed. As long as the flags can be held at PostgreSQL, writes are let in."""
        self.outcome.refusals.append(f"{error.what}: {error.remedy}" if error.remedy else error.what)
        self.outcome.blocked_s = self._keeper.blocked_s
        self._keeper.end()
        if isinstance(error, TakenOver):
            return
        turning = self.at.intent is State.FLAGS_FLIPPED
        inside = states.writes_refused(self.at.state) or self.at.intent is State.FENCED
        if not inside or (states.has_turned(self.at) and not turning):
            with suppress(SyncError):
                self._write(
                    "failed",
                    self.at.intent or self.at.state,
                    facts={"why": error.what},
                    intent=self.at.intent,
                )
            return
        try:
            self.actions.open(flags=turning)
            self._write(
                "fell back",
                State.SESSIONS_WAITED,
                facts={"why": error.what, "from": str(self.at.state)},
                state=State.SESSIONS_WAITED,
                intent=None,
            )
            self.tell("writes to PostgreSQL are let in again", why=error.what)
        except SyncError as again:
            self.outcome.refusals.append(
                f"writes could not be let in: {again.what}. A fence that is not sealed lapses by itself;"
                " see `tandem cutover status`, then abort or resume"
            )
