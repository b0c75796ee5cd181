"""`tandem rollback`, put together: its machine, its journal in the target, and what each step does."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from datetime import UTC, datetime

from connectors.errors import CutoverState, Disagreement, NotComplete, ServerGone, SyncError
from connectors.mongo import client as mongo
from connectors.mongo import fence as target_fence
from connectors.mongo import journal as kept
from connectors.mongo import ledger
from connectors.mongo.client import Document
from connectors.mongo.transaction import Transactions
from connectors.postgres.client import Session, connect
from connectors.postgres.fence import Fence
from sync import app, back, controller, passage, steps, story
from sync.cutover import states as forward
from sync.passage import Condition, Facts, Forgotten, Outcome, Predicted, Stop
from sync.rollback import states
from sync.rollback.machine import Limits, Machine
from sync.rollback.states import At, State, World
from sync.settings import Settings

Log = Callable[..., None]
#: the journal's document of a rollback
_WHICH = kept.ROLLBACK
_ENDED = (str(State.DONE), str(State.ABORTED))
_LEAST_DRAIN_S = 0.5
#: a document that is compared with its rows, where none was measured
_COMPARED_S = 0.005


class Live:
    """What each step does."""

    def __init__(self, settings: Settings, run: str, stack: ExitStack, log: Log) -> None:
        self.settings, self.run, self.log = settings, run, log
        self.db = mongo.connect(settings.target, name="tandem rollback")
        stack.callback(self.db.client.close)
        self._open: Session | None = None
        stack.callback(self._close)
        tables = tuple(sorted({p.table for p in ledger.positions(self.db).values()}))
        self.fence = Fence(settings.source.slot, tables, settings.cutover.passing_roles)
        self.collections = back.collections(settings)

    @property
    def session(self) -> Session:
        """With PostgreSQL; a new one where the last was cut off."""
        if self._open is None or self._open.closed or self._open.broken:
            self._open = connect(self.settings.source, name="tandem rollback")
        return self._open

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()

    # -- looking -------------------------------------------------------------------------------------------------
    def conditions(self, goal: State) -> list[Condition]:
        """What has to be so before this step, as it is now."""
        if goal is State.CHECKED:
            return [self._moved_over(), self._flags(), self._fenced(), self._way_back()]
        if goal is State.FENCED:
            return [self._fenced(), self._way_back()]
        if goal is State.LIFTED:
            facts = self.fence.facts(self.session)
            return [
                Condition("nobody has written to PostgreSQL", str(facts.standing) in ("sealed", "none"), "")
            ]
        return []

    def _moved_over(self) -> Condition:
        known = kept.current(self.db)
        name = "the application was moved to MongoDB"
        if known is None:
            return Condition(name, False, "there was no cutover")
        at = controller.at_of(known)
        return Condition(name, forward.has_turned(at) and at.intent is None, f"the cutover is {at.state}")

    def _flags(self) -> Condition:
        wished, name = self.settings.flags, "the flags can be read, and say MongoDB"
        try:
            with steps.flags_of(self.settings) as flags:
                on = flags.says(wished.names, wished.on) is True
        except SyncError as error:
            return Condition(name, None, error.what)
        return Condition(name, on, ", ".join(wished.names) if on else "they do not, or only some do")

    def _fenced(self) -> Condition:
        facts = self.fence.facts(self.session)
        why = f"tables without it: {', '.join(facts.open[:4])}" if facts.open else f"it is {facts.standing}"
        return Condition("PostgreSQL's fence is sealed", facts.holds and str(facts.standing) == "sealed", why)

    def _way_back(self) -> Condition:
        status = back.status(self.settings)
        lag = "" if status.lag_s is None else f"{status.lag_s:.1f} s behind"
        return Condition(
            "what is written to MongoDB reaches PostgreSQL", status.ok, "; ".join(status.why()) or lag
        )

    def predicted(self) -> Predicted:
        """For how long writes would be refused."""
        status = back.status(self.settings)
        changed = back.changed(self.settings)
        unknown = () if status.lag_s is not None else ("drain",)
        parts = {
            "drain": max(status.lag_s or 0.0, _LEAST_DRAIN_S),
            "verify": changed * _COMPARED_S,
            "flags": 0.1,
            "settle": self.settings.rollback.settle_s + _LEAST_DRAIN_S,
        }
        return Predicted(parts, unknown)

    def world(self) -> World:
        """How fence and flags are."""
        fenced = target_fence.stands(self.db, self.collections)
        wished = self.settings.flags
        try:
            with steps.flags_of(self.settings) as flags:
                off = flags.says(wished.names, wished.off) is True
                on = flags.says(wished.names, wished.on) is True
        except SyncError:
            return World(fenced, None)
        return World(fenced, True if off else False if on else None)

    # -- acting --------------------------------------------------------------------------------------------------
    def act(self, goal: State, stop: Stop) -> Facts:
        """Take this step."""
        acts: Mapping[State, Callable[[Stop], Facts]] = {
            State.FENCED: self._refuse,
            State.DRAINED: self._drain,
            State.VERIFIED: self._compare,
            State.FLAGS_FLIPPED: self._turn,
            State.SETTLED: self._settle,
            State.LIFTED: self._lift,
            State.FORWARD_ON: self._forward,
            State.DONE: self._end,
        }
        return acts[goal](stop) if goal in acts else {}

    def _refuse(self, stop: Stop) -> Facts:
        target_fence.raise_(self.db, self.collections)
        return {"collections": len(self.collections)}

    def _drain(self, stop: Stop) -> Facts:
        try:
            return back.drain(self.settings, 5.0, stop)
        except NotComplete as error:
            if stop():
                raise
            raise ServerGone(f"not drained yet: {error.what}", remedy="it is waited on") from error

    def _compare(self, stop: Stop) -> Facts:
        found = back.compare(self.settings, stop)
        if found.differing:
            raise Disagreement(
                f"PostgreSQL differs from MongoDB in {len(found.differing)} documents; the first: {found.differing[0]}",
                remedy="`tandem reverse resync --dry-run` lists them; `tandem reverse resync` writes them",
            )
        return {"documents": found.documents}

    def _turn(self, stop: Stop) -> Facts:
        wished = self.settings.flags
        names = (*wished.names, *wished.reads)
        with steps.flags_of(self.settings) as flags:
            flags.turn(names, wished.off)
            if flags.says(names, wished.off) is not True:
                raise ServerGone(
                    "the flags are not all turned when they are read back", remedy="it is tried again"
                )
        return {"flags": list(names), "variant": wished.off}

    def _settle(self, stop: Stop) -> Facts:
        """Whoever had not seen the fence or the flags yet has by now; what it wrote to MongoDB meanwhile comes too."""
        if back.is_off(self.settings):
            return {"again": True}
        time.sleep(self.settings.rollback.settle_s)
        facts = dict(self._drain(stop))
        facts |= self._compare(stop)
        facts["sequences"] = back.advance_sequences(self.settings)
        back.turn_off(self.settings)
        return facts

    def _lift(self, stop: Stop) -> Facts:
        whole = self.fence.lift(self.session)
        return {"triggers_left": not whole}

    def _forward(self, stop: Stop) -> Facts:
        target_fence.lift(self.db)
        facts = back.hand_over(self.settings, self.log)
        transactions = Transactions(self.db)
        try:
            transactions.repeat(ledger.unretire)
        finally:
            transactions.close()
        self.fence.lift(self.session)  # triggers that were left where tables were locked
        return {**facts, **story.make_anew(self.settings, back.to_make_anew(self.settings), stop)}

    def _end(self, stop: Stop) -> Facts:
        """The cutover that is undone has ended, so that another may begin."""
        known = kept.current(self.db)
        if known is None or known["state"] in (str(forward.State.ABORTED),):
            return {}
        journal = kept.Journal(self.db, self.run)
        journal.take(known)
        entry = {
            "at": datetime.now(UTC),
            "what": "reached",
            "goal": str(forward.State.ABORTED),
            "facts": {"by": f"rollback {self.run}"},
        }
        journal.write(entry, state=str(forward.State.ABORTED), intent=None)
        journal.let_go()
        return {"cutover": known["run"], "next": "`tandem run`, where no consumer runs; then `tandem verify`"}

    def open(self) -> None:
        """Let writes into MongoDB."""
        target_fence.lift(self.db)


# -- before the switch -------------------------------------------------------------------------------------------
def switched(settings: Settings) -> bool:
    """Whether the application may have been moved to MongoDB."""
    db = mongo.connect(settings.target, name="tandem rollback")
    with closing(db.client):
        known = kept.current(db)
        return known is not None and forward.has_turned(controller.at_of(known))


def take_away(settings: Settings, log: Log, *, drop_collections: bool, execute: bool) -> dict[str, object]:
    """Before the switch: end the cutover that is under way, and take away all that tandem made. The source's rows are
    not touched, and nothing of tandem is left in it."""
    db = mongo.connect(settings.target, name="tandem rollback")
    with closing(db.client):
        known = kept.current(db)
    under_way = known is not None and str(known["state"]) not in ("done", "aborted")
    found: dict[str, object] = {"abort": known["run"] if under_way and known is not None else None}
    if not execute:
        return {
            **found,
            "would_remove": [
                "connector, slot, publication, topics",
                "tandem's own collections",
                "schema tandem",
            ],
        }
    if under_way:
        outcome = controller.abort(settings, log)
        if not outcome.ok:
            raise CutoverState("; ".join(outcome.refusals), remedy="see `tandem cutover status`")
    removed = app.teardown(settings, log, drop_collections=drop_collections)
    return {**found, "removed": removed}


# -- the commands ------------------------------------------------------------------------------------------------
def plan(settings: Settings, log: Log) -> Outcome[State]:
    """What `run` would do, and for how long writes would be refused. Changes nothing."""
    with ExitStack() as stack:
        actions = Live(settings, "rehearsal", stack, log)
        return Machine(Forgotten(), actions, _limits(settings), log, At(State.PLANNED)).rehearse()


def run(
    settings: Settings, log: Log, *, until: State = State.DONE, stop: Stop = lambda: False
) -> Outcome[State]:
    """A new rollback, from its beginning. Raises CutoverState where one has not ended."""
    name = f"r-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}"
    with ExitStack() as stack:
        actions = Live(settings, name, stack, log)
        journal = kept.Journal(actions.db, controller.me(), _WHICH)
        journal.begin(name, {"state": str(State.PLANNED), "intent": None, "began": datetime.now(UTC)}, _ENDED)
        stack.enter_context(controller.Beating(journal, log))
        machine = Machine(journal, actions, _limits(settings), log, At(State.PLANNED), stop=stop)
        return machine.run(until)


def resume(
    settings: Settings, log: Log, *, until: State = State.DONE, stop: Stop = lambda: False
) -> Outcome[State]:
    """Go on with the rollback that a controller has left. Raises CutoverState where that cannot be."""
    with ExitStack() as stack:
        at, journal, actions = _taken_over(settings, log, stack)
        found = states.resume(at, actions.world())
        if isinstance(found, str):
            raise CutoverState(found, remedy="see `tandem rollback status`")
        return Machine(journal, actions, _limits(settings), log, at, stop=stop).resume(found, until)


def abort(settings: Settings, log: Log) -> Outcome[State]:
    """Back to MongoDB. Raises CutoverState once the application may look to PostgreSQL."""
    with ExitStack() as stack:
        at, journal, actions = _taken_over(settings, log, stack)
        why = states.abort(at, actions.world())
        if why is not None:
            raise CutoverState(why, remedy="see `tandem rollback status`")
        return Machine(journal, actions, _limits(settings), log, at).give_up()


def status(settings: Settings) -> dict[str, object] | None:
    """Where the last rollback is."""
    db = mongo.connect(settings.target, name="tandem rollback")
    with closing(db.client):
        known = kept.current(db, _WHICH)
    return None if known is None else _told(known)


def _told(known: Document) -> dict[str, object]:
    at = _at(known)
    return passage.told(
        known,
        at.state,
        at.intent,
        states.after(at.state),
        states.MEANING[at.state],
        refused=states.writes_refused(at.state),
    )


def _at(known: Document) -> At:
    return At(State(known["state"]), State(known["intent"]) if known.get("intent") else None)


def _taken_over(settings: Settings, log: Log, stack: ExitStack) -> tuple[At, kept.Journal, Live]:
    db = mongo.connect(settings.target, name="tandem rollback")
    stack.callback(db.client.close)
    known = kept.current(db, _WHICH)
    if known is None:
        raise CutoverState("there was no rollback yet", remedy="see `tandem rollback plan`")
    known = controller.silent(db, known, _WHICH)
    actions = Live(settings, str(known["run"]), stack, log)
    journal = kept.Journal(actions.db, controller.me(), _WHICH)
    journal.take(known)
    stack.enter_context(controller.Beating(journal, log))
    return _at(known), journal, actions


def _limits(settings: Settings) -> Limits:
    return Limits(settings.cutover.max_blocked_s, settings.cutover.tries)


__all__ = ["Live", "abort", "plan", "resume", "run", "status", "switched", "take_away"]
