"""Debezium's change event, decoded. Pure.

Source: Debezium documentation, connector for PostgreSQL, "Data change events". Keys are wrapped in one field by the
connector's transformation (see `config`), so that a truncate has a key too and may lie in a compacted topic.
"""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from connectors.errors import DecodeFailed
from connectors.events import ChangeEvent, Operation, Record

#: the one field of every key
KEY_FIELD = "k"
_OPERATIONS = {op.value: op for op in Operation}


@lru_cache(maxsize=8)
def stand_ins(placeholder: str) -> tuple[str, str]:
    """What an event has for a TOASTed value that was not sent: a text and its like, and a bytea in base64."""
    return placeholder, base64.b64encode(placeholder.encode()).decode()


def decode_key(record: Record) -> dict[str, Any]:
    """The key's columns of a record, whatever its value is; empty where it has none. Raises DecodeFailed."""
    try:
        return _key(record)
    except (orjson.JSONDecodeError, TypeError, AttributeError, ValueError) as error:
        raise _undecodable(record, error) from error


def _key(record: Record) -> dict[str, Any]:
    key = (orjson.loads(record.key) or {}).get(KEY_FIELD) or {} if record.key else {}
    if not isinstance(key, dict):
        raise ValueError("the record's key is no object")
    return key


def _undecodable(record: Record, error: Exception) -> DecodeFailed:
    return DecodeFailed(
        f"{record.home.id} offset {record.offset} is not a change event: {type(error).__name__}: {error}",
        remedy="look at the record; only this pipeline's connector may write to its topics",
    )


def committed_ms(record: Record) -> int:
    """When the change of a record was committed, milliseconds since 1970 by PostgreSQL's clock; of one that does not
    say, a tombstone for example, when it was sent."""
    try:
        return int(orjson.loads(record.value or b"")["source"]["ts_ms"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return record.timestamp_ms


class Origin(NamedTuple):
    """Where a record's transaction stands. after: the LSN of the commit before it in the stream, None where the record
    does not say. lsn: the record's own. commit_us: when it was committed, microseconds since 1970 by PostgreSQL's
    clock."""

    after: int | None
    lsn: int
    commit_us: int


def origin(record: Record) -> Origin | None:
    """None of a record that tells of none, a tombstone. Raises DecodeFailed.

    `source.sequence` is the LSN of the last commit before, and the record's own (Debezium documentation, connector for
    PostgreSQL, "Data change events"). A message of `pg_logical_emit_message` has it too.
    """
    if record.value is None:
        return None
    try:
        source = orjson.loads(record.value)["source"]
        after = (orjson.loads(source["sequence"]) if source.get("sequence") else [None])[0]
        commit_us = source.get("ts_us") or source["ts_ms"] * 1_000
        return Origin(None if after is None else int(after), int(source["lsn"]), int(commit_us))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise _undecodable(record, error) from error


def decode(record: Record, placeholder: str) -> ChangeEvent:
    """One record as an event. Raises DecodeFailed.

    placeholder: what the connector sends for a TOASTed value that did not change.
    """
    try:
        key = _key(record)
        if record.value is None:
            return ChangeEvent(
                record.home, record.offset, "", Operation.TOMBSTONE, key, None, frozenset(), 0, None, 0
            )
        return _event(record, key, orjson.loads(record.value), placeholder)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise _undecodable(record, error) from error


def _event(record: Record, key: dict[str, Any], value: dict[str, Any], placeholder: str) -> ChangeEvent:
    source = value["source"]
    operation = _OPERATIONS[value["op"]]
    row: dict[str, Any] | None = None
    unsent: frozenset[str] = frozenset()
    if operation in (Operation.CREATE, Operation.UPDATE, Operation.READ):
        row = value["after"]
        text, binary = stand_ins(placeholder)
        missing = [name for name, sent in row.items() if sent in (text, binary)]
        if missing:
            unsent = frozenset(missing)
            row = {name: sent for name, sent in row.items() if name not in unsent}
    if operation is not Operation.TRUNCATE and not key:
        raise ValueError("the record has no key")
    return ChangeEvent(
        home=record.home,
        offset=record.offset,
        table=f"{source['schema']}.{source['table']}",
        op=operation,
        key=key,
        row=row,
        unsent=unsent,
        lsn=source["lsn"],
        tx=source["txId"],
        commit_ms=source["ts_ms"],
    )
