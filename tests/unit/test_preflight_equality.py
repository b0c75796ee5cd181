"""When MongoDB takes two values for one, what is in a partial index, and equal digests among many rows."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from bson import Binary, DatetimeMS, Decimal128, Int64

from sync.preflight.equality import comparable, index_entries, matches, unknown_in
from sync.preflight.spill import Spill


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, Int64(1)),
        (1, 1.0),
        (Decimal128("1.50"), Decimal128("1.5")),
        (Decimal128("150"), 150),
        (Decimal128("1E+3"), 1000),
        (0.0, -0.0),
        (Decimal128("-0"), 0),
        (float("nan"), Decimal128("NaN")),
        (float("inf"), Decimal128("Infinity")),
        (0.5, Decimal128("0.5")),
        (UUID(int=7), Binary.from_uuid(UUID(int=7))),
        (DatetimeMS(5), DatetimeMS(5)),
        (b"a", Binary(b"a", 0)),
        ({"a": [1, 2.0]}, {"a": [1.0, Int64(2)]}),
    ],
)
def test_values_that_are_one(one: Any, other: Any) -> None:
    assert comparable(one) == comparable(other)
    assert index_entries({"v": one}, ["v"]) == index_entries({"v": other}, ["v"])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a", "A"),
        ("a", "a "),
        ("1", 1),
        (1, 10),
        (0.5, 5),
        (Decimal128("1.5"), 15),
        (1, -1),
        (True, 1),
        (None, ""),
        (0.1, Decimal128("0.1")),
        (b"a", "a"),
        (DatetimeMS(5), 5),
        (Binary(b"a", 4), Binary(b"a", 0)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ([1], 1),
        (Int64(2**53), float(2**53) + 2),
    ],
)
def test_values_that_are_not(one: Any, other: Any) -> None:
    assert comparable(one) != comparable(other)


def test_an_index_sees_nothing_as_null_and_every_element_of_an_array() -> None:
    assert index_entries({}, ["a"]) == index_entries({"a": None}, ["a"])
    document = {"a": [{"b": 1}, {"b": 2}, {}], "c": "x"}
    one = index_entries({"a": {"b": 2}, "c": "x"}, ["a.b", "c"])
    assert one < index_entries(document, ["a.b", "c"])
    assert len(index_entries(document, ["a.b", "c"])) == 3
    assert index_entries({"a": []}, ["a"]) != index_entries({"a": None}, ["a"])
    assert index_entries({"a": [[1]]}, ["a"]) != index_entries({"a": [1]}, ["a"])


@pytest.mark.parametrize(
    ("condition", "inside"),
    [
        ({"a": {"$type": "string"}}, [{"a": "x"}, {"a": [1, "x"]}]),
        ({"a": {"$type": ["number", 8]}}, [{"a": 1}, {"a": True}, {"a": [1, "x"]}]),
        ({"a": {"$exists": True}}, [{"a": "x"}, {"a": None}, {"a": 1}, {"a": True}, {"a": [1, "x"]}]),
        ({"a": {"$exists": False}}, [{}]),
        ({"a": {"$gt": 0}}, [{"a": 1}, {"a": [1, "x"]}]),
        ({"a": {"$gte": "x", "$lt": "y"}}, [{"a": "x"}, {"a": [1, "x"]}]),
        ({"a": None}, [{}, {"a": None}]),
        ({"a": {"$in": [True, "x"]}}, [{"a": "x"}, {"a": True}, {"a": [1, "x"]}]),
        ({"$and": [{"a": 1}, {"a": "x"}]}, [{"a": [1, "x"]}]),
        ({"$or": [{"a": True}, {"a": None}]}, [{}, {"a": None}, {"a": True}]),
    ],
)
def test_what_is_in_a_partial_index(condition: dict[str, Any], inside: list[dict[str, Any]]) -> None:
    documents: list[dict[str, Any]] = [{}, {"a": None}, {"a": "x"}, {"a": 1}, {"a": True}, {"a": [1, "x"]}]
    found = [d for d in documents if matches(d, condition)]
    assert sorted(map(str, found)) == sorted(map(str, inside))


def test_operators_that_are_not_evaluated_are_named() -> None:
    assert unknown_in({"a": {"$geoWithin": {}}, "$nor": []}) == {"$geoWithin", "$nor"}
    assert unknown_in({"$and": [{"a": {"$type": 2, "$mod": [2, 0]}}]}) == {"$mod"}
    assert not unknown_in({"a": {"b": 1}, "c": {"$gt": 1}})


@pytest.mark.parametrize("part_bytes", [1 << 20, 200])
def test_equal_digests_are_found_in_memory_and_on_disk(part_bytes: int) -> None:
    with Spill(part_bytes) as spill:
        for n in range(500):
            spill.add([((n % 490).to_bytes(12, "little"), f"ключ{n}")])
        groups = sorted(spill.repeated())
    assert groups == sorted([f"ключ{n}", f"ключ{n + 490}"] for n in range(10))
