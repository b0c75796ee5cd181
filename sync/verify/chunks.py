"""What is walked, cut into ranges of keys; what a range was seen to be; hashes that add up. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

import bson
from bson import CodecOptions, Int64, ObjectId
from bson.binary import UuidRepresentation
from bson.errors import BSONError

from connectors.positions import Lsn
from connectors.postgres.sql import SQL, Composable, Composed, Identifier, Literal
from sync.verify.catalog import Table

#: a key as PostgreSQL's text of each of its columns
Bound = tuple[str, ...]
_HASHES = 1 << 128
_CODEC: CodecOptions[dict[str, Any]] = CodecOptions(uuid_representation=UuidRepresentation.STANDARD)


class KeyRange(NamedTuple):
    """Keys from low (included) to high (not), in the order of PostgreSQL's own index; None: no end."""

    low: Bound | None = None
    high: Bound | None = None


def within(table: Table, keys: KeyRange) -> Composable | None:
    """The condition for a row of the table to have a key in this range; None where it has no ends."""
    row = SQL("({})").format(SQL(", ").join(Identifier(table.parts[1], c.name) for c in table.key))

    def bound(values: Bound) -> Composed:
        typed = [
            SQL("{}::{}").format(Literal(v), SQL(c.sql_type)) for v, c in zip(values, table.key, strict=True)
        ]
        return SQL("({})").format(SQL(", ").join(typed))

    parts: list[Composable] = []
    if keys.low is not None:
        parts.append(SQL("{} >= {}").format(row, bound(keys.low)))
    if keys.high is not None:
        parts.append(SQL("{} < {}").format(row, bound(keys.high)))
    return SQL(" AND ").join(parts) if parts else None


def bound_after(table: Table, keys: KeyRange, rows: int) -> Composed:
    """What finds the key that so many rows of the range lie before; of the filter it knows nothing."""
    columns = [Identifier(table.parts[1], c.name) for c in table.key]
    condition = within(table, keys)
    return SQL("SELECT {} FROM {}{} ORDER BY {} OFFSET {} LIMIT 1").format(
        SQL(", ").join(SQL("{}::text").format(c) for c in columns),
        table.source,
        SQL("") if condition is None else SQL(" WHERE {}").format(condition),
        SQL(", ").join(columns),
        Literal(rows),
    )


@dataclass(frozen=True, slots=True)
class Chunk:
    """One range of a collection's own table. number: in the order of the keys, from 0."""

    collection: str
    number: int
    keys: KeyRange


@dataclass(slots=True)
class Seen:
    """What one look at a chunk saw. lsn: everything that was committed before it was read is in it.

    source, target: the sums of the hashes of its rows and of their documents; equal where all agree. doubts: the
    `_id`s of documents that were not as their rows, of any type. covered: rows of the table, filter not applied.
    """

    chunk: Chunk
    lsn: Lsn
    covered: int = 0
    rows: int = 0
    compared: int = 0
    fields: int = 0
    expiring: int = 0
    source: int = 0
    target: int = 0
    doubts: list[Any] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """As it is kept in the target."""
        keys, numbers = self.chunk.keys, ("covered", "rows", "compared", "fields", "expiring")
        return {
            "collection": self.chunk.collection,
            "number": self.chunk.number,
            "low": None if keys.low is None else list(keys.low),
            "high": None if keys.high is None else list(keys.high),
            "lsn": Int64(self.lsn),
            **{name: Int64(getattr(self, name)) for name in numbers},
            "source": hexed(self.source),
            "target": hexed(self.target),
            "doubts": list(self.doubts),
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Seen:
        """From its document."""
        low, high = document["low"], document["high"]
        keys = KeyRange(None if low is None else tuple(low), None if high is None else tuple(high))
        numbers = {n: int(document[n]) for n in ("covered", "rows", "compared", "fields", "expiring")}
        return cls(
            Chunk(document["collection"], document["number"], keys),
            Lsn(document["lsn"]),
            **numbers,
            source=int(document["source"], 16),
            target=int(document["target"], 16),
            doubts=list(document["doubts"]),
        )


def gaps(collection: str, done: Iterable[Chunk]) -> Iterator[tuple[Chunk, int | None]]:
    """The ranges between chunks that are done, with the number of the done one that follows each; the last has no such.

    A run that died has cut what is missing: where it ends is where the next one begins.
    """
    number, low = 0, None
    for chunk in sorted(done, key=lambda one: one.number):
        if chunk.number > number:
            yield Chunk(collection, number, KeyRange(low, chunk.keys.low)), chunk.number
        number, low = chunk.number + 1, chunk.keys.high
        if low is None:
            return
    yield Chunk(collection, number, KeyRange(low, None)), None


def drawn(sample: float | None, seed: int, chunk: Chunk) -> bool:
    """Whether a chunk is in a sample of so many percent; the same for the same seed and range."""
    if sample is None:
        return True
    text = repr((seed, chunk.collection, chunk.keys.low)).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") < sample / 100 * (1 << 64)


# -- hashes --------------------------------------------------------------------------------------------------------
def encoded(fields: Mapping[str, Any], order: Sequence[str]) -> bytes | None:
    """The canonical bytes of these fields, in this order: BSON. None where one is not there, or has no form.

    The same bytes are the same values of the same types. The same values may have other bytes: members of objects in
    another order, another NaN.
    """
    try:
        return bson.encode({name: fields[name] for name in order}, codec_options=_CODEC)
    except (KeyError, BSONError, OverflowError, ValueError, RecursionError, TypeError):
        return None


def row_hash(id_: ObjectId, content: bytes) -> int:
    """Of one row, or of its document."""
    return int.from_bytes(blake2b(id_.binary + content, digest_size=16).digest(), "big")


def plus(one: int, other: int) -> int:
    """Two hashes together, in whatever order."""
    return (one + other) % _HASHES


def hexed(value: int) -> str:
    """A hash for people and JSON."""
    return f"{value:032x}"
