"""Computed ids: a document's `_id` is a function of its table and primary key, so that a foreign key becomes a
reference without lookup, in any order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from uuid import UUID

import orjson
from bson import ObjectId

KeyValue = int | str | UUID
_INT64 = range(-(1 << 63), 1 << 63)


@lru_cache(maxsize=4096)
def table_tag(table: str) -> bytes:
    """4 bytes that stand for `schema.table`: BLAKE2b of its UTF-8 name."""
    return hashlib.blake2b(table.encode(), digest_size=4).digest()


def object_id(table: str, key: Sequence[KeyValue]) -> ObjectId:
    """The `_id` of the row of `schema.table` with this primary key, values in the key's column order.

    One integer of up to 64 bits: the table's tag, then the integer, big-endian, two's complement, so it can be
    read back. Any other key: 12 bytes of BLAKE2b over the JSON list of the table's name and each value's text.
    """
    if len(key) == 1:
        value = key[0]
        if type(value) is not str and isinstance(value, int) and value in _INT64:
            return ObjectId(table_tag(table) + value.to_bytes(8, "big", signed=True))
    text = orjson.dumps([table, *(str(value) for value in key)])
    return ObjectId(hashlib.blake2b(text, digest_size=12).digest())


def integer_key(table: str, oid: ObjectId) -> int | None:
    """Read the integer key back from an id of this table; None where it cannot be one of its integer keys."""
    raw = oid.binary
    return int.from_bytes(raw[4:], "big", signed=True) if raw[:4] == table_tag(table) else None


def row_key(key: Sequence[KeyValue]) -> str:
    """The key as text, for `_id`s of staged rows and parked events: a JSON list."""
    return orjson.dumps([v if type(v) is int else str(v) for v in key]).decode()
