"""`tandem cutover`, put together: the machine, its journal in the target, and what each step does."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from typing import Any, TypeVar

import psutil

from connectors.errors import (
    CutoverState,
    Disagreement,
    GateClosed,
    Kind,
    NotComplete,
    NotSetUp,
    ServerGone,
    SyncError,
)
from connectors.mongo import client as mongo
from connectors.mongo import cohort, ledger, verified
from connectors.mongo import journal as kept
from connectors.mongo.client import Database, Document
from connectors.mongo.transaction import Transaction, Transactions
from connectors.positions import Lsn
from connectors.postgres import slots, writers
from connectors.postgres.client import Session, connect
from connectors.postgres.fence import Fence
from connectors.rsync.program import Rsync
from connectors.services import answers
from sync import app, back, passage, proof, steps
from sync.cutover import gate, states
from sync.cutover.budget import Numbers
from sync.cutover.health import Pulse, Tolerance
from sync.cutover.machine import Limits, Machine
from sync.cutover.states import ORDER, At, State, World
from sync.dashboard import gate as readiness
from sync.files.copy import Pass
from sync.files.state import State as Copied
from sync.lag.judge import LagReport
from sync.lag.watch import LagWatch
from sync.passage import Condition, Facts, Forgotten, Outcome, Stop
from sync.settings import Settings

Log = Callable[..., None]
Result = TypeVar("Result")
#: a controller that has not been heard of for so long is dead
SILENT_S = 10.0
_BEAT_S = 2.0
#: looks at the lag, so that rates are known
#: times that a gate is looked at when something of it is unknown
_ASKED = 4
_LOOKS, _BETWEEN_S, _FRESH_S = 3, 0.7, 15.0
_ENDED = (str(State.DONE), str(State.ABORTED))
#: of a session, where none was measured
_SUPPOSED_SESSION_S = 0.1


class Live:
    """What each step does. Holds sessions with PostgreSQL, one of them for the fence alone."""

    def __init__(
        self, settings: Settings, run: str, stack: ExitStack, log: Log, begun: Document | None = None
    ) -> None:
        self.settings, self.run, self.log = settings, run, log
        self.wished = settings.cutover
        self.db = mongo.connect(settings.target, name="tandem cutover")
        stack.callback(self.db.client.close)
        # two of them, so that the fence can be renewed while a step asks something long
        self._sessions: dict[str, Session] = {}
        stack.callback(self._close)
        positions = ledger.positions(self.db)
        if not positions:
            raise NotSetUp(
                "the pipeline is not set up", remedy="run `tandem setup` and `tandem snapshot` first"
            )
        self.tables = tuple(sorted({p.table for p in positions.values()}))
        self.fence = Fence(settings.source.slot, self.tables, self.wished.passing_roles)
        self._lag = stack.enter_context(closing(LagWatch(settings)))
        self._looked_at = -_FRESH_S
        self._lsn = _lsn_of(begun)

    @property
    def session(self) -> Session:
        """With PostgreSQL; a new one where the last was cut off."""
        return self._session("tandem cutover")

    @property
    def renewing(self) -> Session:
        """The same for the fence alone."""
        return self._session("tandem cutover fence")

    def _close(self) -> None:
        for session in self._sessions.values():
            session.close()

    def _session(self, name: str) -> Session:
        known = self._sessions.get(name)
        if known is None or known.closed or known.broken:
            known = self._sessions[name] = connect(self.settings.source, name=name)
        return known

    # -- looking -------------------------------------------------------------------------------------------------
    def conditions(self, goal: State) -> list[Condition]:
        """What has to be so before this step, as it is now."""
        if goal is State.CHECKED:
            return [*self._ready(), *self._prepared()]
        if goal is State.FENCED:
            return self._ready()
        if goal is State.SEALED:
            facts = self.fence.facts(self.session)
            return [
                gate.fence_is(facts.standing, ("up", "sealed"), facts.open),
                self._way_back(on=True),
            ]
        if goal is State.FLAGS_FLIPPED:
            facts = self.fence.facts(self.session)
            return [gate.fence_is(facts.standing, ("sealed",), facts.open)]
        return []

    def _ready(self) -> list[Condition]:
        """The readiness gate of the dashboard; what is unknown is asked again, since a server may only be slow."""
        found: list[Condition] = []
        for _ in range(_ASKED):
            found = self._gate()
            if all(c.ok is not None for c in found):
                break
        return found

    def _gate(self) -> list[Condition]:
        lag, status = self._looked().as_dict(), app.status(self.settings).as_dict()
        control, parts = status.get("control"), status.get("components")
        if isinstance(parts, list):  # where the cutover stands closes no gate of its own
            status["components"] = [part for part in parts if part["name"] != "cutover"]
        seen = readiness.Seen(lag, status, control if isinstance(control, Mapping) else None, 0.0, 0.0)
        wished = self.settings.dashboard
        verdict = readiness.judge(seen, wished.ready_below_s, wished.verified_within_h * 3_600)
        return list(verdict.conditions)

    def _prepared(self) -> list[Condition]:
        found = [self._way_back()]
        names, trouble, says = self.settings.flags.names, "", dict[str, bool | None]()
        try:
            says = self._flags_say()
        except SyncError as error:
            trouble = error.what
        found.append(gate.flags_are(names, says, trouble))
        facts = self.fence.facts(self.session)
        found.append(gate.fence_is(facts.standing, ("none", "lapsed"), facts.open))
        found += [
            Condition(f"{name} answers", ok, "it does" if ok else "it does not")
            for name, ok in self._services().items()
        ]
        if self._has_files:
            found.append(_tried("files can be moved", self._files_plan))
        if self._has_sessions:
            found.append(_tried("sessions can be moved", lambda: self._sessions_rehearsed()))
        if self.wished.backup:
            found.append(_tried("a backup can be made", self._backup_rehearsed))
        return found

    def _way_back(self, *, on: bool = False) -> Condition:
        """on: it has to be at work already."""
        wanted = self.wished.way_back
        if wanted == "none":
            return gate.way_back_is(wanted, [])
        return gate.way_back_is(wanted, back.trouble(self.settings, on=on))

    def _files_plan(self) -> str:
        files = self.settings.files
        if files.old != files.new:
            Rsync.find()
        plan = app.files(files).plan(predict=False)
        if not plan.ok:
            raise GateClosed("; ".join(plan.complaints), remedy="see `tandem files plan`")
        return f"{plan.workspaces:,} workspaces"

    def _sessions_rehearsed(self) -> str:
        moved = steps.sessions_migrate(self.settings, rehearse=True)
        if not moved.ok:
            raise GateClosed(
                moved.gave_up or "the agent does not take sessions", remedy="see `tandem sessions migrate`"
            )
        return f"{moved.total:,} sessions, {moved.agent}"

    def _backup_rehearsed(self) -> str:
        made = steps.backup_create(self.settings, name=self.run, rehearse=True)
        if not made.ok:
            raise GateClosed("a backup cannot be made", remedy="see `tandem backup create`")
        return "there is room, and its tools fit"

    def _looked(self) -> LagReport:
        """The lag, with rates: of several looks, unless the last ones were just now."""
        if time.monotonic() - self._looked_at > _FRESH_S:
            for _ in range(_LOOKS - 1):
                self._lag.look()
                time.sleep(_BETWEEN_S)
        found = self._lag.look()
        self._looked_at = time.monotonic()
        return found

    def numbers(self) -> Numbers:
        """What the time that writes are refused is predicted from."""
        lag = self._looked()
        behind = lag.records
        rate = lag.records_out or None
        files_s: float | None = 0.0
        if self._has_files:
            prediction = app.files(self.settings.files).plan().prediction
            files_s = None if prediction is None else prediction.seconds
        sessions = steps.sessions_migrate(self.settings, rehearse=True) if self._has_sessions else None
        return Numbers(
            lock_s=writers.longest_s(self.session, self.tables),
            behind=behind,
            rate=rate,
            lag_s=min(lag.seconds, self.settings.dashboard.ready_below_s)
            if lag.seconds is not None
            else None,
            files_s=files_s,
            sessions=0 if sessions is None else sessions.total - sessions.already,
            session_s=_session_s(sessions),
            session_workers=self.settings.sessions.parallel,
            verify_s=self._verify_s(),
        )

    def _verify_s(self) -> float | None:
        last = verified.last(self.db, coverage=1.0)
        took = None if last is None else last.report.get("took_s")
        return None if took is None else float(took) * self.wished.verify_sample / 100

    def pulse(self) -> Pulse:
        """How the machines are."""
        used, most = slots.connections(self.session)
        memory = psutil.virtual_memory()
        places = [
            p for p in (self.settings.files.new, self.settings.backup.path) if p is not None and p.exists()
        ]
        disk = shutil.disk_usage(places[0] if places else ".")
        return Pulse(memory.total - memory.available, disk.used, used, most, self._services())

    def _services(self) -> dict[str, bool]:
        named = (service.partition("=") for service in self.wished.services)
        return {name: answers(url) for name, _, url in named}

    def world(self) -> World:
        """How fence and flags are."""
        standing = str(self.fence.facts(self.session).standing)
        if not self.settings.flags.names:
            return World(standing, False)
        try:
            says = self._flags_say()
        except SyncError:
            return World(standing, None)
        return World(standing, True if says["on"] else False if says["off"] else None)

    def _flags_say(self) -> dict[str, bool | None]:
        wished = self.settings.flags
        with steps.flags_of(self.settings) as flags:
            return {
                "on": flags.says(wished.names, wished.on) is True,
                "off": flags.says(wished.names, wished.off) is True,
            }

    # -- acting --------------------------------------------------------------------------------------------------
    def act(self, goal: State, stop: Stop) -> Facts:
        """Take this step."""
        acts: dict[State, Callable[[Stop], Facts]] = {
            State.BACKED_UP: self._back_up,
            State.NOTIFIED: self._notify,
            State.FILES_COPIED: lambda stop: self._files("hot", stop),
            State.SESSIONS_WAITED: self._wait,
            State.FENCED: self._put_up,
            State.DRAINED: self._drain,
            State.FILES_FINAL: lambda stop: self._files("final", stop),
            State.SESSIONS_MOVED: self._move,
            State.VERIFIED: self._verify,
            State.REVERSE_ON: self._open_way_back,
            State.SEALED: self._seal,
            State.FLAGS_FLIPPED: self._turn,
            State.DONE: self._observe,
        }
        return acts[goal](stop) if goal in acts else {}

    def _back_up(self, stop: Stop) -> Facts:
        if not self.wished.backup:
            return {"skipped": "cutover.backup is off"}
        return steps.backup_create(self.settings, name=self.run, stop=_event(stop)).as_dict()

    @property
    def _has_files(self) -> bool:
        return self.settings.files.old is not None

    @property
    def _has_sessions(self) -> bool:
        return self.settings.sessions.agent_url is not None

    def _notify(self, stop: Stop) -> Facts:
        wished = self.settings.sessions
        if not (wished.webhook_url or wished.notify_channel or wished.notice_collection):
            return {"skipped": "no channel is set: sessions.webhook_url, notify_channel or notice_collection"}
        sent = steps.sessions_notify(
            self.settings, notice=steps.announcement(wished, id_=self.run), stop=_event(stop)
        )
        if not sent.ok:
            raise GateClosed(
                f"{len(sent.failures)} of {sent.users} users were not told",
                remedy="see `tandem sessions notify`, mend it, then `tandem cutover resume`",
            )
        return {"users": sent.users, "sessions": sent.sessions}

    def _files(self, which: Pass, stop: Stop) -> Facts:
        if not self._has_files:
            return {"skipped": "no folders are set: files.old, files.new"}
        room = app.files(self.settings.files, None, stop)
        # what an earlier last pass has put in its place, when the fence has fallen since, is brought up to date
        again = which == "final" and room.standing().state in (Copied.PLACING, Copied.PLACED)
        return room.copy(which, again=again).as_dict()

    def _wait(self, stop: Stop) -> Facts:
        if not self._has_sessions:
            return {"skipped": "no agent is set: sessions.agent_url"}
        waited = steps.sessions_wait(self.settings, stop=_event(stop))
        if not waited.ok:
            raise GateClosed(
                f"{waited.left} sessions of {waited.users} users are still in use after {waited.seconds:.0f} s",
                remedy="wait and resume; or set sessions.on_timeout: go_on, to move them as they are",
            )
        return {"left": waited.left, "seconds": round(waited.seconds, 1)}

    def _put_up(self, stop: Stop) -> Facts:
        self._lsn = self.fence.raise_(self.session, self.wished.lease_s, self.wished.lock_timeout_s)
        return {"lsn": str(self._lsn), "tables": len(self.tables)}

    def _drain(self, stop: Stop) -> Facts:
        if self._lsn is None:
            raise CutoverState(
                "it is not known at which LSN the fence went up", remedy="abort, and begin again"
            )
        try:
            token = app.wait_for(self.settings, str(self._lsn), 5.0)
        except NotComplete as error:
            if stop():
                raise
            raise ServerGone(f"not drained yet: {error.what}", remedy="it is waited on") from error
        return {"lsn": str(token.lsn), "positions": len(token.positions)}

    def _move(self, stop: Stop) -> Facts:
        if not self._has_sessions:
            return {"skipped": "no agent is set: sessions.agent_url"}
        moved = steps.sessions_migrate(self.settings, stop=_event(stop), retry_failed=True)
        if (
            moved.gave_up or moved.pending
        ):  # single ones that failed keep their reason, and are tried again later
            raise GateClosed(
                f"{moved.pending} sessions were not tried to the end: {moved.gave_up or 'the agent was too slow'}",
                remedy="see `tandem sessions migrate --dry-run`, mend the agent, then `tandem cutover resume`",
            )
        return {
            "moved": moved.moved,
            "already": moved.already,
            "failed": len(moved.failures),
            "left": moved.pending,
        }

    def _verify(self, stop: Stop) -> Facts:
        percent = self.wished.verify_sample
        asked = proof.Asked(
            sample=None if percent >= 100 else percent, resume=False, timeout_s=self.wished.max_blocked_s
        )
        report = proof.verify(self.settings, asked, log=self.log)
        if not report.ok:
            first = report.differences[0] if report.differences else None
            where = f"; the first: {first.collection} {first.id} {first.field or first.kind}" if first else ""
            raise Disagreement(
                f"MongoDB differs from PostgreSQL: {report.total} differences{where}",
                remedy="see `tandem verify --last`, and `tandem verify --repair`",
            )
        rows = sum(counts.rows for counts in report.collections.values())
        return {"rows": rows, "seconds": round(report.took_s, 1), "lsn": str(report.lsn)}

    def _open_way_back(self, stop: Stop) -> Facts:
        """From here on what is written to MongoDB reaches PostgreSQL: seen by a mark that goes all the way."""
        if self.wished.way_back == "none":
            return {"way_back": "none"}
        facts = back.turn_on(self.settings, self.run)
        try:
            return {**facts, **back.drain(self.settings, 5.0, stop)}
        except NotComplete as error:
            if stop():
                raise
            raise ServerGone(f"nothing comes back yet: {error.what}", remedy="it is waited on") from error

    def _seal(self, stop: Stop) -> Facts:
        self.fence.seal(self.renewing)
        held = self._transact(lambda tx: ledger.retire(tx, self.run))
        told = steps.sessions_publish(self.settings) if self._has_sessions else 0
        return {"partitions_held": held, "sessions_told": told}

    def _turn(self, stop: Stop) -> Facts:
        wished = self.settings.flags
        names = (*wished.names, *wished.reads)
        with steps.flags_of(self.settings) as flags:
            flags.turn(names, wished.on)
            if flags.says(names, wished.on) is not True:
                raise ServerGone(
                    "the flags are not all turned when they are read back", remedy="it is tried again"
                )
        cohort.let_go(self.db)  # all are what it was
        return {"flags": list(names), "variant": wished.on}

    def _observe(self, stop: Stop) -> Facts:
        until = time.monotonic() + self.wished.observe_s
        while time.monotonic() < until and not stop():
            time.sleep(min(0.2, self.wished.observe_s))
        return {"watched_s": self.wished.observe_s}

    # -- the fence, and back -------------------------------------------------------------------------------------
    def renew(self) -> None:
        """Let the fence stand for another lease."""
        self.fence.renew(self.renewing, self.wished.lease_s)

    def open(self, *, flags: bool) -> None:
        """Back to before the fence."""
        if flags:
            wished = self.settings.flags
            with steps.flags_of(self.settings) as found:
                names = (*wished.names, *wished.reads)
                found.turn(names, wished.off)
                if found.says(names, wished.off) is not True:
                    raise ServerGone("the flags do not all say PostgreSQL when they are read back", remedy="")
        back.turn_off(self.settings)
        self._files_back()
        self._transact(ledger.unretire)
        if not self.fence.lift(self.renewing):
            self.log(
                "the fence is open, and its triggers are left where tables are locked; abort takes them away"
            )

    def _transact(self, work: Callable[[Transaction], Result]) -> Result:
        transactions = Transactions(self.db)
        try:
            return transactions.repeat(work)
        finally:
            transactions.close()

    def _files_back(self) -> None:
        """Where workspaces are moved within one root, the application that goes on finds them where they were."""
        files = self.settings.files
        if files.old is None or files.old != files.new:
            return
        try:
            room = app.files(files)
            if room.standing().placed:
                room.undo()
        except SyncError as error:  # writes are let in all the same; an abort tries it again
            self.log("workspaces could not be put back", why=error.what, remedy=error.remedy)

    def go_back(self, had: State, stop: Stop) -> Facts:
        """Everything as it was, as far as it was changed."""
        facts: dict[str, object] = {}
        reached = ORDER.index(had) if had in ORDER else len(ORDER)
        self.open(flags=reached >= ORDER.index(State.FLAGS_FLIPPED) and bool(self.settings.flags.names))
        if self._has_sessions and reached >= ORDER.index(State.SESSIONS_MOVED):
            facts["sessions_withdrawn"] = steps.sessions_withdraw(self.settings)
        if self._has_files and reached >= ORDER.index(State.FILES_COPIED):
            facts["files"] = app.files(self.settings.files, None, stop).undo().as_dict()
        return facts


class Rehearsal(Live):
    """The same looks and the same guards; nothing is changed."""

    def act(self, goal: State, stop: Stop) -> Facts:
        """Say what it would be."""
        if goal is State.NOTIFIED and self._has_sessions:
            return {"would": "tell users", "sessions": steps.sessions_wait(self.settings, rehearse=True).left}
        if goal is State.FENCED:
            return {"would": f"refuse writes to {', '.join(self.tables)}"}
        if goal is State.FLAGS_FLIPPED:
            wished = self.settings.flags
            with steps.flags_of(self.settings) as flags:
                changes = flags.turn((*wished.names, *wished.reads), wished.on, rehearse=True)
            return {"would": [line for change in changes for line in change.lines()]}
        return {"would": states.MEANING[goal]}

    def conditions(self, goal: State) -> list[Condition]:
        """Those that can be known before anything is done."""
        return super().conditions(goal) if goal in (State.CHECKED, State.FENCED) else []

    def renew(self) -> None:
        """There is no fence."""

    def open(self, *, flags: bool) -> None:
        """Nothing was closed."""

    def go_back(self, had: State, stop: Stop) -> Facts:
        """Nothing was done."""
        return {}


# -- the commands ----------------------------------------------------------------------------------------------------
def plan(settings: Settings, log: Log) -> Outcome[State]:
    """What `run` would do, and for how long writes would be refused. Changes nothing."""
    with ExitStack() as stack:
        actions = Rehearsal(settings, "rehearsal", stack, log)
        machine = Machine(Forgotten(), actions, _limits(settings), log, At(State.PLANNED))
        return machine.rehearse()


def ready(settings: Settings, log: Log) -> list[Condition]:
    """Whether MongoDB can be read as PostgreSQL would be: what every fence waits for, too."""
    with ExitStack() as stack:
        return Live(settings, "ready", stack, log)._ready()


def run(
    settings: Settings, log: Log, *, until: State = State.DONE, stop: Stop = lambda: False
) -> Outcome[State]:
    """A new cutover, from its beginning. Raises CutoverState where one has not ended."""
    name = f"c-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}"
    with ExitStack() as stack:
        actions = Live(settings, name, stack, log)
        journal = kept.Journal(actions.db, me())
        began = {"state": str(State.PLANNED), "intent": None, "began": datetime.now(UTC), "baseline": None}
        journal.begin(name, began, _ENDED)
        stack.enter_context(Beating(journal, log))
        return _machine(settings, log, journal, actions, At(State.PLANNED), stop).run(until)


def resume(
    settings: Settings, log: Log, *, until: State = State.DONE, stop: Stop = lambda: False
) -> Outcome[State]:
    """Go on with the cutover that a controller has left. Raises CutoverState where that cannot be, or another works."""
    with ExitStack() as stack:
        known, journal, actions = _taken_over(settings, log, stack)
        at = at_of(known)
        found = states.resume(at, actions.world())
        if isinstance(found, str):
            raise CutoverState(found, remedy="see `tandem cutover status`")
        return _machine(settings, log, journal, actions, at, stop, _baseline(known)).resume(found, until)


def abort(settings: Settings, log: Log, *, stop: Stop = lambda: False) -> Outcome[State]:
    """Back to PostgreSQL. Raises CutoverState once the application may have written to MongoDB."""
    with ExitStack() as stack:
        known, journal, actions = _taken_over(settings, log, stack)
        at = at_of(known)
        why = states.abort(at, actions.world())
        if why is not None:
            raise CutoverState(why, remedy="see `tandem cutover status`, and docs/runbook.md")
        return _machine(settings, log, journal, actions, at, stop).go_back()


def status(settings: Settings) -> dict[str, object]:
    """Where the last cutover is, as its journal and the world say."""
    with ExitStack() as stack:
        db = mongo.connect(settings.target, name="tandem cutover")
        stack.callback(db.client.close)
        known = kept.current(db)
        found: dict[str, object] = {"cutover": None if known is None else told(known)}
        early = cohort.held(db)
        found["cohort"] = (
            None if early is None else {**early, "since": early["since"].isoformat(timespec="seconds")}
        )
        tables = tuple(sorted({p.table for p in ledger.positions(db).values()}))
        session = stack.enter_context(closing(connect(settings.source, name="tandem cutover")))
        facts = Fence(settings.source.slot, tables).facts(session)
        found["fence"] = {"standing": str(facts.standing), "left_s": facts.left_s, "open": list(facts.open)}
        return found


def told(known: Document) -> dict[str, object]:
    """A journal for people and for JSON."""
    at = at_of(known)
    return passage.told(
        known,
        at.state,
        at.intent,
        states.after(at.state),
        states.MEANING[at.state],
        refused=states.writes_refused(at.state),
    )


def shown(settings: Settings, timeout_ms: int) -> dict[str, object] | None:
    """The last cutover in a few words, for the page."""
    db = mongo.connect(settings.target, timeout_ms=timeout_ms, name="tandem dashboard")
    try:
        known = kept.current(db)
    finally:
        db.client.close()
    if known is None:
        return None
    at = at_of(known)
    writes = (
        "MongoDB"
        if states.has_turned(At(at.state))
        else "nowhere"
        if states.writes_refused(at.state)
        else "PostgreSQL"
    )
    last = known["entries"][-1] if known["entries"] else None
    failed = last is not None and last["what"] in ("failed", "fell back")
    found: dict[str, object] = {
        "run": known["run"],
        "state": f"{at.state}: {states.MEANING[at.state]}",
        "under_way": None if at.intent is None else str(at.intent),
        "writes_go_to": writes,
        "since": None if last is None else last["at"].isoformat(timespec="seconds"),
        "failed": last["facts"].get("why") if last is not None and failed else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def at_of(known: Document) -> At:
    """Where a journal says that it is."""
    return At(State(known["state"]), State(known["intent"]) if known.get("intent") else None)


class Beating:
    """Says that the controller lives, until it ends."""

    def __init__(self, journal: kept.Journal, log: Log) -> None:
        self._journal, self._log, self._end = journal, log, threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="beat")

    def __enter__(self) -> Beating:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        try:
            self._journal.let_go()
        except SyncError as error:
            self._log(
                "another controller waits a little: it could not be said that this one has ended",
                why=error.what,
            )

    def _work(self) -> None:
        while not self._end.wait(_BEAT_S):
            try:
                self._journal.beat()
            except SyncError as error:
                if error.kind is not Kind.RETRY:
                    return


def silent(db: Database, known: Document, which: str = kept.CUTOVER) -> Document:
    """The journal, once its controller has ended or was not heard of for long enough. Raises CutoverState while it
    lives."""
    until = time.monotonic() + SILENT_S
    while known["owner"] is not None and time.monotonic() < until:
        time.sleep(0.5)
        now = kept.current(db, which)
        assert now is not None
        if (now["beat"], now["serial"]) != (known["beat"], known["serial"]):
            raise CutoverState(
                f"another controller is at work on {known['run']}",
                remedy="stop it, or wait until it has ended",
                controller=str(now["owner"]),
            )
        known = now
    return known


def _taken_over(settings: Settings, log: Log, stack: ExitStack) -> tuple[Document, kept.Journal, Live]:
    """The journal, once its controller has ended or is silent."""
    db = mongo.connect(settings.target, name="tandem cutover")
    stack.callback(db.client.close)
    known = kept.current(db)
    if known is None:
        raise CutoverState("there was no cutover yet", remedy="see `tandem cutover plan`")
    known = silent(db, known)
    actions = Live(settings, str(known["run"]), stack, log, known)
    journal = kept.Journal(actions.db, me())
    journal.take(known)
    stack.enter_context(Beating(journal, log))
    return known, journal, actions


def _machine(
    settings: Settings,
    log: Log,
    journal: kept.Journal,
    actions: Live,
    at: At,
    stop: Stop,
    baseline: Pulse | None = None,
) -> Machine:
    return Machine(journal, actions, _limits(settings), log, at, baseline=baseline, stop=stop)


def _limits(settings: Settings) -> Limits:
    wished = settings.cutover
    return Limits(
        wished.max_blocked_s,
        wished.lease_s,
        wished.tries,
        tolerance=Tolerance(wished.memory_factor, wished.disk_factor),
    )


def _baseline(known: Document) -> Pulse | None:
    found = known.get("baseline")
    return None if found is None else Pulse(**found)


def _lsn_of(known: Document | None) -> Lsn | None:
    """The LSN behind which nobody has written, of the fence that stands."""
    entries = [] if known is None else known["entries"]
    found = [
        e["facts"].get("lsn") for e in entries if (e["what"], e["goal"]) == ("reached", str(State.FENCED))
    ]
    return Lsn.parse(found[-1]) if found else None


def _session_s(moved: Any) -> float:
    if moved is None or not moved.total:
        return 0.0
    return float((moved.predicted_s or 0) / moved.total) or _SUPPOSED_SESSION_S


def _tried(name: str, look: Callable[[], str]) -> Condition:
    try:
        return Condition(name, True, look())
    except SyncError as error:
        return Condition(name, None if error.kind is Kind.RETRY else False, error.what)


def _event(stop: Stop) -> threading.Event:
    """As an event, for who takes one; looked at when it is asked."""

    class _Asked(threading.Event):
        def is_set(self) -> bool:
            return super().is_set() or stop()

        def wait(self, timeout: float | None = None) -> bool:
            until = None if timeout is None else time.monotonic() + timeout
            while not self.is_set() and (until is None or time.monotonic() < until):
                left = 0.2 if until is None else min(0.2, until - time.monotonic())
                super().wait(max(left, 0.0))
            return self.is_set()

    return _Asked()


def me() -> str:
    """This process, by a name that no other has."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
