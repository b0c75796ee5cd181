"""What is to be loaded, cut into chunks of keys. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bson import Int64

from connectors.mongo.client import Document
from connectors.postgres.rows import KeyRange


@dataclass(frozen=True, slots=True)
class Chunk:
    """A range of keys, of a collection's own table or of one whose rows are only staged for it.

    place: where its rows go. tries: how often it was begun before; 0: nothing of it can be there.
    """

    collection: str
    place: str
    number: int
    keys: KeyRange
    rows: int
    done: bool
    tries: int

    @property
    def id(self) -> str:
        """The `_id` of its document."""
        return f"{self.place}/{self.number}"

    @property
    def staged(self) -> bool:
        """Whether its rows are what documents are made from, so that it comes before these."""
        return self.place != self.collection

    def document(self) -> Document:
        """As it is kept in MongoDB."""
        return {
            "_id": self.id,
            "collection": self.collection,
            "place": self.place,
            "number": self.number,
            "low": list(self.keys.low) if self.keys.low is not None else None,
            "high": list(self.keys.high) if self.keys.high is not None else None,
            "rows": Int64(self.rows),
            "done": self.done,
            "tries": self.tries,
        }

    @classmethod
    def of(cls, document: Document) -> Chunk:
        """From its document."""
        low, high = document["low"], document["high"]
        return cls(
            document["collection"],
            document["place"],
            document["number"],
            KeyRange(None if low is None else tuple(low), None if high is None else tuple(high)),
            int(document["rows"]),
            document["done"],
            document["tries"],
        )


def cut(
    collection: str, place: str, boundaries: Sequence[tuple[str, ...]], rows: int, every: int
) -> list[Chunk]:
    """Chunks that together cover every key there is or may come: the first and the last are open-ended."""
    ends: list[tuple[str, ...] | None] = [None, *boundaries, None]
    return [
        Chunk(
            collection,
            place,
            n,
            KeyRange(low, high),
            min(every, max(rows - n * every, 0)),
            done=False,
            tries=0,
        )
        for n, (low, high) in enumerate(pairwise(ends))
    ]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the walk over a table: a range of its `rows`, its `parked` ones, or what is `left` in a target without
    a row. stamp: what the walk is for; parts of another one count for nothing."""

    table: str
    number: int
    what: str
    keys: KeyRange
    rows: int
    stamp: str
    target: str = ""
    done: bool = False

    @property
    def id(self) -> str:
        """The `_id` of its document."""
        return f"{self.table}/{self.number}"

    def document(self) -> Document:
        """As it is kept in MongoDB."""
        return {
            "_id": self.id,
            "table": self.table,
            "number": self.number,
            "what": self.what,
            "low": list(self.keys.low) if self.keys.low is not None else None,
            "high": list(self.keys.high) if self.keys.high is not None else None,
            "rows": Int64(self.rows),
            "stamp": self.stamp,
            "target": self.target,
            "done": self.done,
        }

    @classmethod
    def of(cls, document: Document) -> Part:
        """From its document."""
        low, high = document["low"], document["high"]
        return cls(
            document["table"],
            document["number"],
            document["what"],
            KeyRange(None if low is None else tuple(low), None if high is None else tuple(high)),
            int(document["rows"]),
            document["stamp"],
            document["target"],
            document["done"],
        )


def parts_of(
    table: str,
    boundaries: Sequence[tuple[str, ...]],
    rows: int,
    every: int,
    targets: Sequence[str],
    stamp: str,
) -> list[Part]:
    """The parts that together cover every row, every document and everything parked of a table."""
    ranges = [
        Part(table, c.number, "rows", c.keys, c.rows, stamp)
        for c in cut(table, table, boundaries, rows, every)
    ]
    others = [("parked", ""), *(("left", target) for target in targets)]
    return ranges + [
        Part(table, len(ranges) + n, what, KeyRange(None, None), 0, stamp, target)
        for n, (what, target) in enumerate(others)
    ]


def levels(tables: Sequence[str], feeds: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Tables in the order of a walk: those embedded in a document before the one that it is made from.

    feeds: a collection's table -> the tables embedded in it. Those that go round in a circle come last, together.
    """
    left, done = list(tables), list[list[str]]()
    while left:
        ready = [t for t in left if not any(child in left for child in feeds.get(t, ()))]
        done.append(ready or left)
        left = [t for t in left if t not in done[-1]]
    return done
