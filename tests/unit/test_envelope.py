"""Debezium's envelopes: every operation, what stands in for values that were not sent, and what is no event."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest

from connectors.debezium.envelope import decode
from connectors.errors import DecodeFailed, Kind
from connectors.events import ChangeEvent, Operation, Record
from connectors.positions import Partition

HOME = Partition("p.public.t", 2)
PLACEHOLDER = "__unsent_1234"
SOURCE = {"schema": "public", "table": "t", "lsn": 77, "txId": 5, "ts_ms": 1000, "snapshot": "false"}


def record(key: object, value: object) -> Record:
    def raw(part: object) -> bytes | None:
        return part if part is None or isinstance(part, bytes) else orjson.dumps(part)

    return Record(HOME, 9, raw(key), raw(value), 1234)


def envelope(op: str, after: object = None, **source: object) -> dict[str, Any]:
    return {"before": None, "after": after, "source": SOURCE | source, "op": op, "ts_ms": 2000}


def event(op: str, after: object = None, key: object = None) -> ChangeEvent:
    return decode(record({"k": {"id": 1}} if key is None else key, envelope(op, after)), PLACEHOLDER)


@pytest.mark.parametrize("op", [Operation.CREATE, Operation.UPDATE, Operation.READ])
def test_a_row_that_is_there(op: Operation) -> None:
    found = event(op.value, {"id": 1, "v": None})
    assert found == ChangeEvent(
        HOME, 9, "public.t", op, {"id": 1}, {"id": 1, "v": None}, frozenset(), 77, 5, 1000
    )


@pytest.mark.parametrize("op", ["c", "u"])
def test_values_that_were_not_sent_are_named_and_absent(op: str) -> None:
    binary = base64.b64encode(PLACEHOLDER.encode()).decode()
    found = event(
        op,
        {
            "id": 1,
            "t": PLACEHOLDER,
            "by": binary,
            "near": PLACEHOLDER + " ",
            "n": 0,
            "e": "",
            "a": [PLACEHOLDER],
        },
    )
    assert found.unsent == {"t", "by"}
    assert found.row == {"id": 1, "near": PLACEHOLDER + " ", "n": 0, "e": "", "a": [PLACEHOLDER]}


def test_another_pipelines_placeholder_is_a_value() -> None:
    assert event("u", {"id": 1, "t": "__debezium_unavailable_value"}).unsent == frozenset()


def test_a_delete_has_its_key_and_no_row() -> None:
    made = {**envelope("d"), "before": {"id": 1, "v": "made up"}}
    found = decode(record({"k": {"id": 1}}, made), PLACEHOLDER)
    assert (found.op, found.key, found.row, found.unsent) == (Operation.DELETE, {"id": 1}, None, frozenset())


def test_a_tombstone_has_its_key_only() -> None:
    found = decode(record({"k": {"id": 1}}, None), PLACEHOLDER)
    assert (found.op, found.key, found.row, found.table) == (Operation.TOMBSTONE, {"id": 1}, None, "")


@pytest.mark.parametrize("key", [{"k": None}, {}, None, b""])
def test_a_truncate_has_no_key(key: object) -> None:
    found = decode(record(key, envelope("t")), PLACEHOLDER)
    assert (found.op, found.key, found.row, found.table, found.lsn) == (
        Operation.TRUNCATE,
        {},
        None,
        "public.t",
        77,
    )


def test_a_row_of_an_incremental_snapshot_has_no_transaction() -> None:
    found = decode(record({"k": {"id": 1}}, envelope("r", {"id": 1}, txId=None)), PLACEHOLDER)
    assert found.tx is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ({"k": {"id": 1}}, b"\xff\x00 not json"),
        (b"not json", envelope("c", {"id": 1})),
        ({"k": {"id": 1}}, b""),
        ({"k": {"id": 1}}, []),
        ({"k": {"id": 1}}, "text"),
        ({"k": {"id": 1}}, 5),
        ({"k": {"id": 1}}, {}),
        ({"k": {"id": 1}}, {"op": "c", "after": {"id": 1}}),
        ({"k": {"id": 1}}, envelope("x", {"id": 1})),
        ({"k": {"id": 1}}, envelope("m")),
        ({"k": {"id": 1}}, envelope("c", None)),
        ({"k": {"id": 1}}, envelope("u", [1])),
        ({"k": {"id": 1}}, {**envelope("c", {"id": 1}), "source": None}),
        ({"k": {"id": 1}}, {**envelope("c", {"id": 1}), "source": {"schema": "public"}}),
        ({"k": None}, envelope("c", {"id": 1})),
        ({"k": None}, envelope("d")),
        (None, envelope("u", {"id": 1})),
        ([1], envelope("c", {"id": 1})),
        ("k", envelope("c", {"id": 1})),
        ({"id": 1}, envelope("c", {"id": 1})),
    ],
)
def test_what_is_no_event(key: object, value: object) -> None:
    with pytest.raises(DecodeFailed) as caught:
        decode(record(key, value), PLACEHOLDER)
    assert caught.value.kind is Kind.PARK
    assert "p.public.t/2 offset 9" in caught.value.what


def test_a_key_that_is_no_object_is_no_event() -> None:
    for key in ({"k": 5}, {"k": "x"}, {"k": [1]}):
        with pytest.raises(DecodeFailed):
            decode(record(key, envelope("d")), PLACEHOLDER)
