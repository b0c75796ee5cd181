"""One application session at play: its connection, its dice, its transactions, and the values it makes up."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any
from uuid import UUID

from connectors.postgres.client import Session

ODD_TEXTS = (
    "",
    " ",
    "NULL",
    "\\N",
    "\\",
    "%s",
    "$set",
    "a.b",
    'O\'Brien "Bob"',
    "tab\there",
    "two\nlines\r\n",
    "\u0001\u001f\u007f",
    "Zoë",
    "Zoe\u0308",
    "İstanbul ıŞ ß",
    "李小龍",
    "עברית \u200fمرحبا",
    "👩‍👩‍👧 🇪🇺 😀",
    "\ufeffmark",
    "line\u2028separator",
    "\U0010fffd",
)
WORDS = (
    "alpha",
    "notes",
    "draft",
    "relay",
    "quartz",
    "harbour",
    "lantern",
    "north",
    "copper",
    "violet",
    "übung",
)
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789äé–日本 "
DIMENSIONS = 768
#: a row picked from the first few ids, so that sessions meet on it
HOT = 0.2
#: how often an application pauses inside of a transaction, so that transactions overlap
THOUGHT, THOUGHT_S = 0.03, 0.01


class NothingToDo(Exception):
    """The database holds no row that this kind of change could be made to."""


class Play:
    """One application session: its connection, its dice, and how many rows its open transaction has changed.

    committed: told the number of row changes of each transaction, after its COMMIT.
    rival: opens (once) a second session, for changes that two sessions make to one row.
    """

    def __init__(
        self, session: Session, rival: Callable[[], Session], dice: Random, committed: Callable[[int], None]
    ) -> None:
        self.session = session
        self.rival = rival
        self.dice = dice
        self.committed = committed
        self._changed = 0

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """BEGIN ... COMMIT; one in ten reads from one snapshot and so may fail to serialize."""
        self._changed = 0
        with self.session.transaction():
            if self.dice.random() < 0.1:
                self.session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            yield
        self.committed(self._changed)

    @contextmanager
    def undone(self) -> Iterator[None]:
        """A transaction, or inside of one a savepoint, that ends with a rollback."""
        before = self._changed
        with self.session.transaction(force_rollback=True):
            yield
        self._changed = before

    def do(self, sql: str, *values: object) -> int:
        """Change rows; how many."""
        if self.dice.random() < THOUGHT:
            time.sleep(THOUGHT_S)
        rows = max(self.session.execute(sql, values).rowcount, 0)
        self._changed += rows
        return rows

    def insert(self, table: str, **columns: object) -> Any:
        """Insert one row; its first column, the key or the start of it."""
        marks = ", ".join(["%s"] * len(columns))
        first = "team_id" if table == "team_members" else "id"
        self._changed += 1
        found = self.session.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks}) RETURNING {first}",
            tuple(columns.values()),
        ).fetchone()
        assert found is not None
        return found[0]

    def set(self, table: str, key: object, **columns: object) -> int:
        """Update one row by its key: a number, a uuid, or (team, user)."""
        marks = ", ".join(f"{name} = %s" for name in columns)
        return self.do(f"UPDATE {table} SET {marks} WHERE {where(table)}", *columns.values(), *parts(key))

    def delete(self, table: str, key: object) -> int:
        return self.do(f"DELETE FROM {table} WHERE {where(table)}", *parts(key))

    def truncate(self, table: str) -> None:
        """Counts as one change."""
        self.session.execute(f"TRUNCATE {table}")
        self._changed += 1

    def row(self, sql: str, *values: object) -> tuple[Any, ...]:
        found = self.session.execute(sql, values).fetchone()
        if found is None:
            raise NothingToDo(sql)
        return found

    def pick(self, table: str, having: str = "true") -> Any:
        """The key of some row. having: a condition in SQL."""
        start: tuple[object, ...]
        if table == "file_embeddings":
            start = (UUID(int=self.dice.getrandbits(128)),)
        else:
            first = "team_id" if table == "team_members" else "id"
            (top,) = self.row(f"SELECT coalesce(max({first}), 1) FROM {table}")
            low = self.dice.randint(1, min(5, top) if self.dice.random() < HOT else top)
            start = (low, self.dice.randint(1, 50)) if table == "team_members" else (low,)
        columns = "(team_id, user_id)" if table == "team_members" else "(id)"
        wanted = columns.strip("()")
        after = f"{columns} >= ({', '.join(['%s'] * len(start))})"
        for place, values in ((after, start), ("true", ())):
            found = self.session.execute(
                f"SELECT {wanted} FROM {table} WHERE {place} AND ({having}) ORDER BY {wanted} LIMIT 1", values
            ).fetchone()
            if found is not None:
                return found if len(found) > 1 else found[0]
        raise NothingToDo(f"no row of {table} where {having}")

    def several(self, table: str, count: int, having: str = "true") -> list[Any]:
        """Keys of that many different rows."""
        keys: list[Any] = []
        for _ in range(count * 8):
            key = self.pick(table, having)
            if key not in keys:
                keys.append(key)
            if len(keys) == count:
                return keys
        raise NothingToDo(f"not {count} rows of {table} where {having}")

    def chance(self, of: float) -> bool:
        return self.dice.random() < of

    def text(self) -> str:
        if self.chance(0.3):
            return self.dice.choice(ODD_TEXTS)
        return " ".join(self.dice.choices(WORDS, k=self.dice.randint(1, 6)))

    def text_or_null(self) -> str | None:
        return None if self.chance(0.25) else self.text()

    def unique(self, prefix: str) -> str:
        """A text that no row has, one in eight with odd letters in it."""
        odd = self.dice.choice(ODD_TEXTS) if self.chance(0.125) else ""
        return f"{prefix}-{self.dice.getrandbits(64):016x}{odd}"

    def long_text(self) -> str:
        """Over 8 kB, and too irregular to be compressed into the row: stored out of line."""
        return "".join(self.dice.choices(LETTERS, k=self.dice.randint(8_300, 20_000)))

    def vector(self) -> str:
        return "[" + ",".join(f"{self.dice.uniform(-1, 1):.6f}" for _ in range(DIMENSIONS)) + "]"

    def uuid(self) -> UUID:
        return UUID(int=self.dice.getrandbits(128), version=4)

    def metadata(self) -> str:
        """A JSON object with what makes documents difficult: dots, dollars, odd names, large numbers."""
        some: dict[str, object] = {
            "lang": self.dice.choice(["en", "de", None]),
            "size": self.dice.choice([0, -1, 2**31, 2**53 + 1, 2**63 - 1]),
            "tags": [self.text(), None, {"x": []}],
            "a.b": 1,
            "$odd": True,
            "": "no name",
            "nested": {"$set": {"a.b.c": []}, "empty": {}},
            "ratio": self.dice.choice([0.1, 2.5, 1e-7, 1e300]),
        }
        kept = {name: value for name, value in some.items() if self.chance(0.6)}
        written = json.dumps(kept, ensure_ascii=False)
        if self.chance(0.2):  # digits that no float holds
            written = written[:-1] + (", " if kept else "") + '"exact": 12345678901234567890.123456789}'
        return written

    def span(self) -> str:
        """An interval to add to now()."""
        return f"{self.dice.randint(1, 72)} hours"


def where(table: str) -> str:
    """The condition for one row by its key."""
    return "team_id = %s AND user_id = %s" if table == "team_members" else "id = %s"


def parts(key: object) -> tuple[object, ...]:
    """The key's values, in the order of `where`."""
    return key if isinstance(key, tuple) else (key,)
