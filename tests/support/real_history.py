"""Random histories of a real PostgreSQL: sessions, real locks, savepoints, rollbacks, truncates, swaps, long values.

A history is data: a list of steps, each of one session. `Driver` plays them in this order, one at a time: a statement
that has to wait for another session's lock is left waiting, and its session's later steps are put off until it has
come through. Whatever steps are left out, the rest can be played, so that a failing history can be made shorter.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg

#: how a set of tables is made. loose: no foreign key; tied: cascades, whole old rows in the WAL; paired: the child's
#: key holds its parent's, so that a child that moves has another key
SHAPES = ("loose", "tied", "paired")
_TEAMS = """
CREATE TABLE {s}.teams (id bigint PRIMARY KEY, name text NOT NULL UNIQUE DEFERRABLE INITIALLY DEFERRED,
    is_active boolean, score numeric, about text, changed_at timestamptz);
ALTER TABLE {s}.teams ALTER COLUMN about SET STORAGE EXTERNAL;
"""
_MEMBERS = """
CREATE TABLE {s}.members (id bigint, team_id bigint {tie}, place integer, status text, weight numeric, note text,
    PRIMARY KEY ({key}));
ALTER TABLE {s}.members ALTER COLUMN note SET STORAGE EXTERNAL;
"""
_TIE = "REFERENCES {s}.teams ON UPDATE CASCADE ON DELETE CASCADE"
_MAPPING = """
  {s}_teams:
    from: {s}.teams
    where: is_active
    rename: {{id: originalId}}
    embed:
      members:
        from: {s}.members
        foreign_key: team_id
        where: "status = 'active'"
        rename: {{id: memberId}}
        order_by: place
    indexes: [{{keys: {{name: 1}}, unique: true}}]
  {s}_memberships:
    from: {s}.members
    where: "status <> 'gone'"
    rename: {{id: memberId}}
    references: {{teamId: {{column: team_id, to: {s}_teams}}}}
"""
#: longer than this a row is TOASTed: 2 kB
_LONG = 2_100


def shape_of(number: int) -> str:
    """The shape of a set of tables."""
    return SHAPES[number % len(SHAPES)]


def tables_of(number: int) -> tuple[str, str]:
    """Its parents and its children."""
    return f"h{number}.teams", f"h{number}.members"


def ddl(number: int) -> str:
    """What makes it."""
    s, shape = f"h{number}", shape_of(number)
    tie = _TIE.format(s=s) if shape == "tied" else "NOT NULL" if shape == "paired" else ""
    key = "team_id, id" if shape == "paired" else "id"
    made = f"CREATE SCHEMA {s};" + _TEAMS.format(s=s) + _MEMBERS.format(s=s, tie=tie, key=key)
    if shape == "tied":
        made += f"ALTER TABLE {s}.members REPLICA IDENTITY FULL; ALTER TABLE {s}.teams REPLICA IDENTITY FULL;"
    return made


def mapping(numbers: Sequence[int]) -> str:
    """The mapping of these sets, and of the table whose rows are marks in the stream."""
    collections = "".join(_MAPPING.format(s=f"h{n}") for n in numbers)
    return f"version: 1\ncollections:\n  marks: {{from: public.marks}}\n{collections}"


# -- steps -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a session does. act: `do`, or the end of a transaction: `commit`, `rollback`."""

    session: int
    act: str
    words: str
    sql: str = ""
    values: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"session {self.session}: {self.words}"


class _Author:
    """Writes histories. Keys are few, so that transactions meet."""

    def __init__(self, seed: int, shape: str) -> None:
        self.rng, self.shape, self.serial = random.Random(f"history {seed}"), shape, 0
        self.width = self.rng.choice((1, 2, 2, 3, 3))
        self.truncates = self.rng.random() < 0.5
        self.parents_only = self.rng.random() < 0.25

    def write(self, sessions: int, transactions: int) -> list[Step]:
        lines = [deque(self._session(n, transactions)) for n in range(1, sessions + 1)]
        steps = list(self._first()) if self.rng.random() < 0.75 else []
        while alive := [line for line in lines if line]:
            line = self.rng.choice(alive)
            for _ in range(self.rng.choice((1, 1, 2, 4))):
                if line:
                    steps.append(line.popleft())
        return steps

    def _first(self) -> Iterator[Step]:
        """Rows to begin with."""
        for key in range(1, self.width + 1):
            row = (key, f"n{key}", True, self._number(), self._text(), self._moment())
            told = f"insert team {key}: n{key} active about {_short(row[4])}"
            yield Step(1, "do", told, "INSERT INTO teams VALUES (%s, %s, %s, %s, %s, %s)", row)
        yield Step(1, "commit", "commit")
        for key in range(1, self.width + 1 if not self.parents_only else 1):
            child = (key, self._key(), self.rng.choice((1, 2, None)), "active", self._number(), self._text())
            told = (
                f"insert member {key} of team {child[1]}, place {child[2]}, active, note {_short(child[5])}"
            )
            yield Step(1, "do", told, "INSERT INTO members VALUES (%s, %s, %s, %s, %s, %s)", child)
        yield Step(1, "commit", "commit")

    def _session(self, number: int, transactions: int) -> Iterator[Step]:
        for _ in range(transactions):
            for _ in range(self.rng.choice((1, 1, 2, 3))):
                point = self.rng.random() < 0.12
                if point:
                    yield Step(number, "do", "savepoint", "SAVEPOINT p")
                for words, sql, values in self._statement():
                    yield Step(number, "do", words, sql, values)
                if point:
                    yield Step(number, "do", "rollback to the savepoint", "ROLLBACK TO SAVEPOINT p")
            if self.rng.random() < 0.1:
                yield Step(number, "rollback", "rollback")
            else:
                yield Step(number, "commit", "commit")

    def _statement(self) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
        if self.truncates and self.rng.random() < 0.12:
            if self.parents_only or self.rng.random() < 0.4:
                yield "truncate teams", "TRUNCATE teams CASCADE", ()
            else:
                yield "truncate members", "TRUNCATE members", ()
        elif self.parents_only or self.rng.random() < 0.5:
            yield from self._of_team(self._key())
        else:
            yield from self._of_member(self._key(), self._key())

    def _key(self) -> int:
        return self.rng.randrange(self.width) + 1

    def _text(self) -> str | None:
        """A value that is TOASTed, mostly. Short in words, for people."""
        self.serial += 1
        return self.rng.choice((f"{self.serial} " * _LONG, f"{self.serial} " * _LONG, f"{self.serial}", None))

    def _number(self) -> str:
        self.serial += 1
        return self.rng.choice((f"{self.serial}", f"{self.serial}.50", f"-{self.serial}.001"))

    def _moment(self) -> str:
        self.serial += 1
        return f"2024-01-01 00:00:00.{self.serial:06d}+00"

    # -- parents -------------------------------------------------------------------------------------------------
    def _of_team(self, key: int) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
        kinds = ("insert", "insert", "upsert", "name", "score", "active", "about", "whole", "delete", "again")
        kind = self.rng.choice((*kinds, "rekey", "swap", "swap", "swap", "third"))
        name, active = self.rng.choice("abc"), self.rng.choice((True, True, True, False, None))
        row = (key, name, active, self._number(), self._text(), self._moment())
        told = f"{name} {'active' if active else 'not active'} about {_short(row[4])}"
        insert = "INSERT INTO teams VALUES (%s, %s, %s, %s, %s, %s)"
        if kind in ("delete", "again"):
            yield f"delete team {key}", "DELETE FROM teams WHERE id = %s", (key,)
        if kind in ("insert", "again"):
            yield f"insert team {key}: {told}", insert, row
        elif kind == "upsert":
            change = " ON CONFLICT (id) DO UPDATE SET score = excluded.score"
            yield f"upsert team {key}: {told}", insert + change, row
        elif kind == "name":
            yield f"team {key} is named {name}", "UPDATE teams SET name = %s WHERE id = %s", (name, key)
        elif kind == "score":
            yield f"team {key} scores {row[3]}", "UPDATE teams SET score = %s WHERE id = %s", (row[3], key)
        elif kind == "active":
            sql = "UPDATE teams SET is_active = NOT coalesce(is_active, false) WHERE id = %s"
            yield f"team {key} goes in or out of the filter", sql, (key,)
        elif kind == "about":
            sql = "UPDATE teams SET about = %s WHERE id = %s"
            yield f"team {key} is about {_short(row[4])}", sql, (row[4], key)
        elif kind == "whole":
            sql = "UPDATE teams SET name = %s, is_active = %s, score = %s, about = %s, changed_at = %s WHERE id = %s"
            yield f"all of team {key}: {told}", sql, (*row[1:], key)
        elif kind == "rekey":
            other = self._key()
            yield f"team {key} becomes team {other}", "UPDATE teams SET id = %s WHERE id = %s", (other, key)
        elif kind == "swap":
            other = self._key()
            sql = "UPDATE teams AS t SET name = o.name FROM teams AS o WHERE (t.id, o.id) IN ((%s, %s), (%s, %s))"
            yield f"teams {key} and {other} swap names", sql, (key, other, other, key)
        elif kind == "third":
            other = self._key()
            sql = "UPDATE teams SET name = %s WHERE id = %s"
            yield f"team {key} is named t{key}", sql, (f"t{key}", key)
            yield f"team {other} is named {name}", sql, (name, other)
            yield f"team {key} is named {name}2", sql, (f"{name}2", key)

    # -- children ------------------------------------------------------------------------------------------------
    def _of_member(self, key: int, team: int | None) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
        kinds = (
            "insert",
            "insert",
            "insert",
            "place",
            "status",
            "status",
            "note",
            "whole",
            "delete",
            "again",
        )
        kind = self.rng.choice((*kinds, "move", "move", "rekey", "all", "of a team"))
        status = self.rng.choice(("active", "active", "active", "away", "gone", None))
        if self.shape != "paired" and self.rng.random() < 0.1:
            team = None
        place = self.rng.choice((1, 2, 3, None))
        row = (key, team, place, status, self._number(), self._text())
        told = f"of team {team}, place {place}, {status}, note {_short(row[5])}"
        one = "WHERE id = %s" if self.shape != "paired" else "WHERE id = %s AND team_id = %s"
        this: tuple[Any, ...] = (key,) if self.shape != "paired" else (key, self._key())
        name = f"member {key}" if self.shape != "paired" else f"member {key} of {this[1]}"
        if kind in ("delete", "again"):
            yield f"delete {name}", f"DELETE FROM members {one}", this
        if kind in ("insert", "again"):
            yield f"insert member {key} {told}", "INSERT INTO members VALUES (%s, %s, %s, %s, %s, %s)", row
        elif kind == "place":
            yield f"{name} to place {place}", f"UPDATE members SET place = %s {one}", (place, *this)
        elif kind == "status":
            yield f"{name} is {status}", f"UPDATE members SET status = %s {one}", (status, *this)
        elif kind == "note":
            yield f"{name}: note {_short(row[5])}", f"UPDATE members SET note = %s {one}", (row[5], *this)
        elif kind == "whole":
            sql = f"UPDATE members SET team_id = %s, place = %s, status = %s, weight = %s, note = %s {one}"
            yield f"all of {name}: {told}", sql, (*row[1:], *this)
        elif kind == "move":
            yield f"{name} moves to team {team}", f"UPDATE members SET team_id = %s {one}", (team, *this)
        elif kind == "rekey":
            other = self._key()
            yield f"{name} becomes {other}", f"UPDATE members SET id = %s {one}", (other, *this)
        elif kind == "all":
            yield "all members one place back", "UPDATE members SET place = place + 1", ()
        elif kind == "of a team":
            yield f"delete all members of team {team}", "DELETE FROM members WHERE team_id = %s", (team,)


def _short(text: str | None) -> str:
    return "nothing" if text is None else f"{text.split()[0]}{'...' if ' ' in text else ''}"


def random_history(seed: int, number: int) -> list[Step]:
    """The steps of a seed, for a set of tables."""
    author = _Author(seed, shape_of(number))
    rng = random.Random(f"size {seed}")
    return author.write(rng.choice((1, 2, 2, 3)), rng.choice((2, 4, 6)))


def insert_before_delete() -> list[Step]:
    """The later insert, in the order of commits, has the lower LSN: its row is in the WAL before it waits."""
    team = "INSERT INTO teams VALUES (%s, %s, true, 1, NULL, NULL)"
    return [
        Step(1, "do", "insert team 1: a", team, (1, "a")),
        Step(1, "commit", "commit"),
        Step(1, "do", "team 1 scores 2", "UPDATE teams SET score = 2 WHERE id = 1"),
        Step(2, "do", "insert team 1: b (waits)", team, (1, "b")),
        Step(1, "do", "delete team 1", "DELETE FROM teams WHERE id = 1"),
        Step(1, "commit", "commit"),
        Step(2, "commit", "commit"),
    ]


# -- played ------------------------------------------------------------------------------------------------------
class _Session:
    """A connection with a thread of its own, so that a statement of it can wait."""

    def __init__(self, dsn: str, schema: str) -> None:
        self.link = psycopg.connect(dsn)
        self.link.execute(f"SET search_path = {schema}")
        self.link.execute("SET deadlock_timeout = '20ms'")
        self.link.execute("SET lock_timeout = '4s'")
        self.link.execute("SET timezone = 'UTC'")
        self.link.commit()
        self.pid = self.link.info.backend_pid
        self._todo: queue.Queue[Callable[[], object] | None] = queue.Queue()
        self.idle = threading.Event()
        self.idle.set()
        self.trouble = ""
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def start(self, step: Step) -> None:
        self.idle.clear()
        self._todo.put(lambda: self._do(step))

    def _serve(self) -> None:
        while (what := self._todo.get()) is not None:
            try:
                what()
            finally:
                self.idle.set()

    def _do(self, step: Step) -> None:
        self.trouble = ""
        try:
            if step.act == "commit":
                self.link.commit()
            elif step.act == "rollback":
                self.link.rollback()
            else:
                self.link.execute(step.sql.encode(), step.values or None)
        except psycopg.Error as error:
            self.trouble = str(error).partition("\n")[0]
            if step.act != "do":
                self.link.rollback()
        # a failed transaction stays so until its end, or until it is rolled back to a savepoint

    def close(self) -> None:
        self._todo.put(None)
        self._thread.join(10)
        with suppress(psycopg.Error):
            self.link.close()


class Driver:
    """Plays histories on one set of tables. ended: called after each step that may have ended a transaction, while
    nothing else moves. told: what happened."""

    def __init__(self, dsn: str, schema: str, monitor: psycopg.Connection[Any], sessions: int = 3) -> None:
        self.monitor = monitor
        self.sessions = {n: _Session(dsn, schema) for n in range(1, sessions + 1)}
        self.told: list[str] = []

    def play(self, steps: Sequence[Step], ended: Callable[[], None]) -> None:
        """All of them, and every transaction ended."""
        self.told = []
        ahead = {n: deque[Step]() for n in self.sessions}
        for step in steps:
            ahead[step.session].append(step)
            self._go_on(ahead, ended)
        until = time.monotonic() + 20
        while any(ahead.values()) or not all(s.idle.is_set() for s in self.sessions.values()):
            self._go_on(ahead, ended)
            if time.monotonic() > until:
                raise AssertionError(f"sessions wait for ever: {self.told[-5:]}")
            time.sleep(0.001)
        for number in self.sessions:
            self._one(number, Step(number, "rollback", "end"))
        ended()

    def _go_on(self, ahead: dict[int, deque[Step]], ended: Callable[[], None]) -> None:
        """Every session that can do its next step does it."""
        moved = True
        while moved:
            moved = False
            for number, steps in ahead.items():
                if steps and self.sessions[number].idle.is_set():
                    step = steps.popleft()
                    self._one(number, step)
                    moved = True
                    self._settle()
                    if step.act != "do":
                        ended()

    def _one(self, number: int, step: Step) -> None:
        session = self.sessions[number]
        session.start(step)
        waits = self._until_done_or_waiting(session)
        if step.words != "end":
            told = " (waits for a lock)" if waits else f" -- {session.trouble}" if session.trouble else ""
            self.told.append(f"{step}{told}")

    def _until_done_or_waiting(self, session: _Session) -> bool:
        while not session.idle.wait(0.003):
            found = self.monitor.execute("SELECT cardinality(pg_blocking_pids(%s))", [session.pid]).fetchone()
            if found is not None and found[0]:
                return True
        return False

    def _settle(self) -> None:
        """A transaction has ended: who waited for it comes through now, or waits for another one."""
        for session in self.sessions.values():
            if not session.idle.is_set():
                self._until_done_or_waiting(session)

    def close(self) -> None:
        """End the sessions."""
        for session in self.sessions.values():
            session.close()
