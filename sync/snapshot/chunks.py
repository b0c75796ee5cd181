"""What is to be loaded, cut into chunks of keys. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bson import Int64

from connectors.mongo.client import Document
from connectors.postgres.rows import KeyRange


@dataclass(frozen=True, slots=True)
class Chunk:
    """A range of one collection's keys. tries: how often it was begun before; 0: nothing of it can be there."""

    collection: str
    number: int
    keys: KeyRange
    rows: int
    done: bool
    tries: int

    @property
    def id(self) -> str:
        """The `_id` of its document."""
        return f"{self.collection}/{self.number}"

    def document(self) -> Document:
        """As it is kept in MongoDB."""
        return {
            "_id": self.id,
            "collection": self.collection,
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
            document["number"],
            KeyRange(None if low is None else tuple(low), None if high is None else tuple(high)),
            int(document["rows"]),
            document["done"],
            document["tries"],
        )


def cut(collection: str, boundaries: Sequence[tuple[str, ...]], rows: int, every: int) -> list[Chunk]:
    """Chunks that together cover every key there is or may come: the first and the last are open-ended."""
    ends: list[tuple[str, ...] | None] = [None, *boundaries, None]
    return [
        Chunk(collection, n, KeyRange(low, high), min(every, max(rows - n * every, 0)), done=False, tries=0)
        for n, (low, high) in enumerate(pairwise(ends))
    ]
