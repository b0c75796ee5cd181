"""Applications at work on an ACP database: several sessions at once, every kind of change in `changes`.

A seed repeats all choices. With one session the same seed on the same database also makes the same rows, but
for timestamps; with more of them the order of their transactions is the server's.

For a run by hand: `python -m sync.dev.writer --changes 2000 --seed 1 --dsn ...`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Annotated

import typer
from pydantic import SecretStr

from connectors.errors import ServerGone
from connectors.postgres import errors
from connectors.postgres.client import Session, connect
from connectors.settings import SourceEndpoint
from sync.dev.changes import KINDS, TRUNCATES, Kind
from sync.dev.play import NothingToDo, Play

#: how long a session tries to reach a server that has gone away
PATIENCE_S = 120.0
#: how long `stop` waits for open transactions
STOP_WITHIN_S = 60.0
PAUSE_S = 0.05
#: an application that waits longer for a lock gives up, as one behind a connection pool would
LOCK_TIMEOUT = "15s"


@dataclass(frozen=True, slots=True)
class Counts:
    """What was done so far.

    changes: committed row changes by kind; what goes by ON DELETE CASCADE is not counted, a TRUNCATE is one.
    done: by kind, how often it went through. conflicts: transactions undone, by SQLSTATE. refused: writes
    that the server did not want (a fence, a read-only server). nothing: kinds that found no row to change.
    reconnects: lost sessions; the transaction that was under way may be committed and not counted.
    """

    changes: Mapping[str, int]
    done: Mapping[str, int]
    conflicts: Mapping[str, int]
    transactions: int
    refused: int
    nothing: int
    reconnects: int

    @property
    def total(self) -> int:
        """Committed row changes."""
        return sum(self.changes.values())


class _Tally:
    """The counts, and the goal that all sessions share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changes: Counter[str] = Counter()
        self._done: Counter[str] = Counter()
        self._conflicts: Counter[str] = Counter()
        self._plain: Counter[str] = Counter()
        self._total = 0
        self.goal: int | None = None

    @property
    def reached(self) -> bool:
        return self.goal is not None and self._total >= self.goal

    @property
    def total(self) -> int:
        return self._total

    def committed(self, kind: str, rows: int) -> None:
        with self._lock:
            self._changes[kind] += rows
            self._total += rows
            self._plain["transactions"] += 1

    def done(self, kind: str) -> None:
        with self._lock:
            self._done[kind] += 1

    def conflict(self, sqlstate: str) -> None:
        with self._lock:
            self._conflicts[sqlstate] += 1

    def count(self, what: str) -> None:
        with self._lock:
            self._plain[what] += 1

    def counts(self) -> Counts:
        with self._lock:
            return Counts(
                dict(self._changes),
                dict(self._done),
                dict(self._conflicts),
                transactions=self._plain["transactions"],
                refused=self._plain["refused"],
                nothing=self._plain["nothing"],
                reconnects=self._plain["reconnects"],
            )


class _Session:
    """One application session. It outlives its thread, so that a later run goes on with the same dice."""

    def __init__(self, source: SourceEndpoint, dice: Random, kinds: list[Kind], tally: _Tally) -> None:
        self.source = source
        self.dice = dice
        self.kinds = kinds
        self.tally = tally
        self.kind = kinds[0]
        self._round: list[Kind] = []
        self._open: list[Session] = []
        self._rows = 0

    def work(self, halt: threading.Event, interval_s: float | None) -> None:
        """Make changes until halted or until the goal is reached. interval_s: the time of one change."""
        due = time.monotonic()
        try:
            play = self._connected(halt)
            while play is not None and not halt.is_set() and not self.tally.reached:
                before = self._rows
                if not self._one(play):
                    self.close()
                    self.tally.count("reconnects")
                    play = self._connected(halt)
                if interval_s:  # time that was lost in the last second is made up for
                    due = max(due + interval_s * (self._rows - before), time.monotonic() - 1)
                    halt.wait(max(0.0, due - time.monotonic()))
        finally:
            self.close()

    def _one(self, play: Play) -> bool:
        """One kind of change; False when the connection is lost."""
        self.kind = self._draw()
        try:
            self.kind.act(play)
            self.tally.done(self.kind.name)
        except NothingToDo:
            self.tally.count("nothing")
        except ServerGone:
            return False
        except Exception as error:
            if errors.is_conflict(error):
                self.tally.conflict(errors.sqlstate(error))
            elif errors.is_refused(error):
                self.tally.count("refused")
                time.sleep(PAUSE_S)
            elif errors.is_gone(error):
                return False
            else:
                raise
        return True

    def _draw(self) -> Kind:
        """From a shuffled round with each kind as often as its weight says: none stays out by chance."""
        if not self._round:
            self._round = [kind for kind in self.kinds for _ in range(kind.weight)]
            self.dice.shuffle(self._round)
        return self._round.pop()

    def _connected(self, halt: threading.Event) -> Play | None:
        """A play on a new connection; None when halted. Raises ServerGone out of patience."""
        end = time.monotonic() + PATIENCE_S
        while not halt.is_set():
            try:
                session = self._session()
            except ServerGone:
                if time.monotonic() > end:
                    raise
                halt.wait(PAUSE_S * 4)
            else:
                return Play(session, self._rival, self.dice, self._committed)
        return None

    def _session(self) -> Session:
        session = connect(self.source, name="acp")
        self._open.append(session)
        session.execute("SELECT set_config('lock_timeout', %s, false)", (LOCK_TIMEOUT,))
        return session

    def _rival(self) -> Session:
        """The second connection; the first one is made by _connected."""
        return self._open[1] if len(self._open) > 1 else self._session()

    def _committed(self, rows: int) -> None:
        self._rows += rows
        self.tally.committed(self.kind.name, rows)

    def close(self) -> None:
        while self._open:
            self._open.pop().close()


class Writer:
    """Changes the ACP tables of `source` as its applications would.

    rate: row changes a second of all sessions together, None for as fast as it goes. truncate: now and then a
    TRUNCATE of api_keys or user_sessions. `start` and `stop`, or a `with` block, write while something else
    goes on; `run` writes a number of changes.
    """

    def __init__(
        self,
        source: SourceEndpoint,
        *,
        seed: int,
        sessions: int = 2,
        rate: float | None = None,
        truncate: bool = False,
    ) -> None:
        self.seed = seed
        self._interval_s = sessions / rate if rate else None
        self._tally = _Tally()
        self._halt = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []
        kinds = KINDS + (TRUNCATES if truncate else [])
        self._sessions = [
            _Session(source, Random(f"{seed}/{number}"), kinds, self._tally)  # noqa: S311
            for number in range(sessions)
        ]

    @property
    def counts(self) -> Counts:
        return self._tally.counts()

    @property
    def alive(self) -> bool:
        """False when no session writes: not started, stopped, or failed; `stop` says which."""
        return any(thread.is_alive() for thread in self._threads)

    def start(self) -> Writer:
        """Write until `stop`."""
        self._start(goal=None)
        return self

    def stop(self) -> Counts:
        """End after the transactions under way. Raises the first error that writers don't normally meet."""
        self._halt.set()
        return self._joined(STOP_WITHIN_S)

    def run(self, changes: int) -> Counts:
        """Write until at least that many more row changes are committed."""
        self._start(goal=self._tally.total + changes)
        return self._joined(None)

    def __enter__(self) -> Writer:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.stop()
        else:
            self._halt.set()

    def _start(self, goal: int | None) -> None:
        if self._threads:
            raise RuntimeError("this writer is at work already")
        self._halt.clear()
        self._tally.goal = goal
        self._threads = [
            threading.Thread(target=self._work, args=(session,), name=f"acp-{number}", daemon=True)
            for number, session in enumerate(self._sessions)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self, session: _Session) -> None:
        try:
            session.work(self._halt, self._interval_s)
        except BaseException as error:
            error.add_note(f"in {session.kind.name}, seed {self.seed}")
            self._failures.append(error)
            self._halt.set()

    def _joined(self, within_s: float | None) -> Counts:
        end = None if within_s is None else time.monotonic() + within_s
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        if self.alive:
            raise TimeoutError(f"a session of the ACP writer has not ended within {within_s:.0f} s")
        self._threads = []
        if self._failures:
            raise self._failures.pop(0)
        return self.counts


def main(
    dsn: Annotated[str, typer.Option(envvar="POSTGRES_DSN", help="the ACP database")],
    changes: Annotated[int, typer.Option(help="row changes to commit")] = 1000,
    seed: int = 1,
    sessions: int = 2,
    rate: Annotated[float | None, typer.Option(help="row changes a second")] = None,
    truncate: bool = False,
) -> None:
    """Write to an ACP database as its applications would."""
    writer = Writer(
        SourceEndpoint(dsn=SecretStr(dsn)), seed=seed, sessions=sessions, rate=rate, truncate=truncate
    )
    started = time.monotonic()
    counts = writer.run(changes)
    seconds = time.monotonic() - started
    for name in sorted(counts.done):
        typer.echo(f"{name:42} {counts.done[name]:6} times {counts.changes.get(name, 0):7} rows")
    conflicts = ", ".join(f"{state} {times}" for state, times in sorted(counts.conflicts.items())) or "none"
    typer.echo(
        f"{counts.total} row changes in {counts.transactions} transactions, {counts.total / seconds:.0f}/s"
    )
    typer.echo(
        f"conflicts: {conflicts}; refused {counts.refused}, nothing to do {counts.nothing}, seed {seed}"
    )


if __name__ == "__main__":
    typer.run(main)
