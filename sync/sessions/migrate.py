"""Moving sessions to the agent: several at a time, each tried again, none forgotten."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Protocol

from connectors.errors import AgentFailed, ServerGone, SessionRefused, Stopped, SyncError
from connectors.mongo import ledger, sessions
from connectors.mongo.client import Database
from connectors.mongo.sessions import FAILED, MIGRATED, MIGRATING, Move, Session
from connectors.settings import SessionShape

#: in `_tandem_state`: how fast the last run was
_STATE = "sessions"
#: calls of a session, each with the way to the agent and back, where no run was measured: connect, new, restore
_CALLS = 3


class Agent(Protocol):
    """Who takes sessions: `connectors.acp.agent.Agent`."""

    info: Mapping[str, Any]

    def initialize(self, within_s: float) -> None: ...

    def new_session(self, cwd: str, meta: Mapping[str, Any], within_s: float) -> str: ...

    def extension(self, method: str, params: Mapping[str, Any], within_s: float) -> object: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Terms:
    """parallel: sessions at a time, each over a connection of its own. deadline_s: for one session with all its
    attempts. backoff_s: before the second attempt, twice that before the third."""

    restore_method: str
    parallel: int = 8
    attempts: int = 3
    deadline_s: float = 30
    backoff_s: float = 0.5

    @property
    def gives_up_after(self) -> int:
        """So many sessions in a row that did not reach the agent, and it is taken for dead."""
        return max(2 * self.parallel, 8)


@dataclass(frozen=True, slots=True)
class Unmoved:
    """A session that could not be moved. session: the `_id` of its document."""

    session: str
    user: str
    reason: str


@dataclass(slots=True)
class Moved:
    """What became of the sessions. already: moved by an earlier run. pending: not tried to the end; the next run does.
    published: documents that were told; None: they are still the consumers', and are told when those have ended."""

    total: int = 0
    already: int = 0
    moved: int = 0
    messages: int = 0
    failures: list[Unmoved] = field(default_factory=list)
    pending: int = 0
    seconds: float = 0.0
    rehearsed: bool = False
    predicted_s: float | None = None
    agent: str = ""
    gave_up: str = ""
    published: int | None = None

    @property
    def ok(self) -> bool:
        """Every session is moved. Of a rehearsal: none is known that could not be."""
        return not self.failures and (self.rehearsed or not self.pending)

    @property
    def done(self) -> int:
        """Sessions whose fate is known."""
        return self.already + self.moved + len(self.failures)

    def as_dict(self) -> dict[str, object]:
        """The report for `--json`."""
        return {
            "ok": self.ok,
            "rehearsed": self.rehearsed,
            "agent": self.agent,
            "sessions": self.total,
            "migrated": self.moved,
            "migrated_before": self.already,
            "messages": self.messages,
            "migration_failed": [
                {"session": f.session, "user": f.user, "reason": f.reason} for f in self.failures
            ],
            "pending": self.pending,
            "gave_up": self.gave_up or None,
            "seconds": round(self.seconds, 2),
            "predicted_s": self.predicted_s,
            "published": self.published,
        }


class Migration:
    """Moves the sessions of one target database. open_agent: a new connection, which is this one's to close.

    Before each attempt it is durable that the attempt begins, and with which idempotency key. So it may die anywhere,
    and is run again: what was moved is left, what was in the middle is tried with the same key.
    """

    def __init__(
        self,
        db: Database,
        shape: SessionShape,
        open_agent: Callable[[], Agent],
        terms: Terms,
        *,
        stop: threading.Event | None = None,
        watch: Callable[[Moved], None] = lambda _: None,
    ) -> None:
        self.db, self.shape, self.open_agent, self.terms = db, shape, open_agent, terms
        self.stop, self.watch = stop or threading.Event(), watch
        self.report = Moved()
        self._lock = threading.Lock()
        self._unreached = 0
        self._ending = threading.Event()
        self._anew: set[Any] = set()

    def rehearse(self, *, retry_failed: bool = False) -> Moved:
        """Everything but the moving: the agent is asked whether it is there, each session whether it could be moved.
        Raises what `run` would raise before its first session."""
        began = time.monotonic()
        todo = self._todo(retry_failed)
        self.report.rehearsed = True
        answer_s = self._knock()
        for session in todo:
            if wrong := unfit(session):
                self.report.failures.append(Unmoved(session.name, session.user, wrong))
        self.report.pending = len(todo) - sum(bool(unfit(s)) for s in todo)
        rate = (ledger.state(self.db, _STATE) or {}).get("perSecond")
        each_s = 1 / rate if rate else answer_s * _CALLS / self.terms.parallel
        self.report.predicted_s = math.ceil(self.report.pending * each_s * 100) / 100
        self.report.seconds = time.monotonic() - began
        return self.report

    def run(self, *, retry_failed: bool = False) -> Moved:
        """Move every session that is not moved. Those that failed before are left, unless retry_failed.

        Raises AgentRefused or ServerGone where the agent takes no session at all: then nothing is changed; and Stopped.
        """
        began = time.monotonic()
        todo = self._todo(retry_failed)
        self.report.pending = len(todo)
        if todo:
            self._knock()
            self._all(todo)
        self.report.seconds = time.monotonic() - began
        if self.stop.is_set() and self.report.pending:
            raise Stopped(
                f"stopped after {self.report.moved:,} of {len(todo):,} sessions",
                remedy="run it again, it goes on where it was",
            )
        if self.report.moved:
            ledger.set_state(self.db, _STATE, perSecond=self.report.moved / max(self.report.seconds, 0.001))
        return self.report

    # -- what is to be done ---------------------------------------------------------------------------------------
    def _todo(self, retry_failed: bool) -> list[Session]:
        found = sessions.candidates(self.db, self.shape)
        known = sessions.moves(self.db)
        self.report.total = len(found)
        todo = []
        for session in found:
            move = known.get(session.id)
            fate, reason = _fate(session, move)
            if move is not None and fate == MIGRATED and self._went_on(session, move):
                self._anew.add(session.id)
                todo.append(session)
            elif fate == MIGRATED:
                self.report.already += 1
            elif fate == FAILED and not retry_failed:
                self.report.failures.append(Unmoved(session.name, session.user, reason))
            else:
                todo.append(session)
        return todo

    def _went_on(self, session: Session, move: Move) -> bool:
        """Whether its conversation is no longer what was restored: it was used after it was moved, as happens when
        writes come back before the cutover has ended. Once its document says that it is moved, it is the agent's."""
        if move.published or move.digest is None:
            return False
        messages = sessions.conversation(self.db, self.shape, session)
        return sessions.digest_of(messages) != move.digest

    def _knock(self) -> float:
        """Whether the agent is there and takes sessions; returns how long it took to say so."""
        began = time.monotonic()
        with closing(self.open_agent()) as agent:
            agent.initialize(self.terms.deadline_s)
            self.report.agent = " ".join(str(agent.info[n]) for n in ("name", "version") if agent.info.get(n))
        return time.monotonic() - began

    # -- doing it -------------------------------------------------------------------------------------------------
    def _all(self, todo: list[Session]) -> None:
        work = iter(todo)
        with ThreadPoolExecutor(min(self.terms.parallel, len(todo))) as pool:
            tasks = [pool.submit(self._work, work) for _ in range(min(self.terms.parallel, len(todo)))]
        for task in tasks:
            task.result()

    def _work(self, work: Iterator[Session]) -> None:
        try:
            with closing(self.open_agent()) as agent:
                while not (self.stop.is_set() or self._ending.is_set()):
                    with self._lock:
                        session = next(work, None)
                    if session is None:
                        return
                    self._move(agent, session)
        except Stopped:
            return
        except BaseException:
            self._ending.set()  # the others need not meet the same trouble
            raise

    def _move(self, agent: Agent, session: Session) -> None:
        """One session, with all its attempts."""
        if wrong := unfit(session):
            self._end(session, sessions.begin(self.db, session), FAILED, reason=wrong)
            return
        until = time.monotonic() + self.terms.deadline_s
        try:
            messages = sessions.conversation(self.db, self.shape, session)
        except SyncError as error:
            if error.retry_helps:
                raise
            self._end(session, sessions.begin(self.db, session), FAILED, reason=error.what)
            return
        digest = sessions.digest_of(messages)
        for attempt in range(1, self.terms.attempts + 1):
            move = sessions.begin(self.db, session, anew=attempt == 1 and session.id in self._anew)
            try:
                made = self._attempt(agent, session, move, messages, until)
            except SessionRefused as error:
                self._end(session, move, FAILED, reason=error.what)
                return
            except (ServerGone, AgentFailed) as error:
                pause_s = self.terms.backoff_s * 2 ** (attempt - 1)
                if attempt == self.terms.attempts or time.monotonic() + pause_s >= until:
                    self._end(session, move, FAILED, reason=error.what)
                    self._count_unreached(error)
                    return
                if self.stop.wait(pause_s) or self._ending.is_set():
                    return
            else:
                self._unreached = 0
                self._end(session, move, MIGRATED, agent_id=made, size=len(messages), digest=digest)
                return

    def _attempt(self, agent: Agent, session: Session, move: Move, messages: list[Any], until: float) -> str:
        meta = {"tandem": {"idempotencyKey": move.key, "session": session.name, "userId": session.user}}
        made = agent.new_session(str(session.workspace), meta, until - time.monotonic())
        if messages:
            agent.extension(
                self.terms.restore_method,
                {"sessionId": made, "messages": messages, "idempotencyKey": move.key},
                until - time.monotonic(),
            )
        return made

    def _count_unreached(self, error: ServerGone | AgentFailed) -> None:
        with self._lock:
            self._unreached = self._unreached + 1 if isinstance(error, ServerGone) else 0
            if self._unreached >= self.terms.gives_up_after and not self._ending.is_set():
                self.report.gave_up = f"{self._unreached} sessions in a row: {error.what}"
                self._ending.set()

    def _end(
        self,
        session: Session,
        move: Move,
        status: str,
        *,
        agent_id: str | None = None,
        reason: str | None = None,
        size: int | None = None,
        digest: str | None = None,
    ) -> None:
        known = {"agent_id": agent_id, "reason": reason, "digest": digest}
        if not sessions.end(self.db, move, status, size=size, **known):
            return  # another run has taken it over: that one tells
        with self._lock:
            self.report.pending -= 1
            if status == MIGRATED:
                self.report.moved += 1
                self.report.messages += size or 0
            else:
                self.report.failures.append(Unmoved(session.name, session.user, reason or ""))
            self.watch(self.report)


def unfit(session: Session) -> str:
    """Why the agent could not work in a session's workspace; empty: it could."""
    if not isinstance(session.workspace, str) or not session.workspace:
        return "it has no workspace path"
    if not PurePosixPath(session.workspace).is_absolute():
        return "its workspace path is not absolute"
    return ""


def _fate(session: Session, move: Move | None) -> tuple[str, str]:
    """What is known of a session: by its move, or, where that is forgotten, by its document."""
    if move is None:
        known = session.status in (MIGRATED, FAILED)
        return (session.status, "as its document says") if known else (MIGRATING, "")
    return move.status, move.reason or ""
