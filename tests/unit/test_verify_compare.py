"""Each kind of fault is found, and named at its place."""

from __future__ import annotations

from copy import deepcopy
from typing import Any
from uuid import UUID

import pytest
from bson import BSON, Decimal128, Int64, ObjectId
from bson.binary import Binary
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef

from connectors.mongo.client import CODEC
from consumers.mapping.plan import digest_of
from consumers.mapping.spec import parse
from sync.verify.canonical import Unfit
from sync.verify.compare import Mismatch, first_difference, mismatches, wrong_sync

ID = ObjectId("65f000000000000000000001")
EXPECTED: dict[str, Any] = {
    "small": 1,
    "big": Int64(1),
    "real": 1.0,
    "nan": float("nan"),
    "price": Decimal128("1.50"),
    "name": "Zoë",
    "raw": b"\x00\x01",
    "uuid": UUID(int=1),
    "at": DatetimeMS(1_700_000_000_123),
    "far": DatetimeMS(2**60),
    "ref": ID,
    "nothing": None,
    "flag": True,
    "meta": {"a": 1, "b": {"$ref": "x", "$id": [1, 2]}},
    "embedding": [0.1, 0.2, float("inf")],
    "members": [{"userId": ID, "role": "owner"}, {"userId": ID, "role": "admin"}],
}


def document(**changes: Any) -> dict[str, Any]:
    """What the driver decodes from a document that agrees, but for the changes; `...` takes a field out."""
    made = deepcopy(EXPECTED) | {"_id": ID, "_sync": {"at": Int64(5), "lsn": Int64(7)}} | changes
    made = {name: value for name, value in made.items() if value is not ...}
    return BSON.encode(made, codec_options=CODEC).decode(CODEC)


def found(**changes: Any) -> list[Mismatch]:
    return list(mismatches(EXPECTED, document(**changes)))


def test_a_document_that_agrees() -> None:
    assert found() == []
    assert found(_sync={"at": None, "lsn": Int64(7)}) == []


def test_the_order_of_an_objects_members_does_not_count() -> None:
    assert found(meta={"b": {"$id": [1, 2], "$ref": "x"}, "a": 1}) == []


@pytest.mark.parametrize(
    ("field", "value", "at"),
    [
        ("small", Int64(1), "small"),
        ("small", 1.0, "small"),
        ("small", True, "small"),
        ("big", 1, "big"),
        ("real", 1, "real"),
        ("real", Decimal128("1.0"), "real"),
        ("nan", 0.0, "nan"),
        ("price", Decimal128("1.5"), "price"),
        ("price", Decimal128("1.51"), "price"),
        ("price", "1.50", "price"),
        ("name", "Zoe", "name"),
        ("name", "Zoe\u0308", "name"),
        ("name", "Zoë".encode(), "name"),
        ("raw", Binary(b"\x00\x01", 128), "raw"),
        ("uuid", Binary(UUID(int=1).bytes, 0), "uuid"),
        ("uuid", str(UUID(int=1)), "uuid"),
        ("at", DatetimeMS(1_700_000_000_122), "at"),
        ("at", Int64(1_700_000_000_123), "at"),
        ("ref", str(ID), "ref"),
        ("ref", None, "ref"),
        ("nothing", "", "nothing"),
        ("flag", 1, "flag"),
        ("meta", {"a": 1}, "meta.b"),
        ("meta", EXPECTED["meta"] | {"c": None}, "meta.c"),
        ("meta", {"a": 1, "b": DBRef("x", [1, 3])}, "meta.b.$id[1]"),
        ("embedding", [0.1, 0.2], "embedding"),
        ("embedding", [0.2, 0.1, float("inf")], "embedding[0]"),
        ("embedding", [0.1, 0.2, 1], "embedding[2]"),
        ("members", EXPECTED["members"][::-1], "members[0].role"),
        ("members", [*EXPECTED["members"], EXPECTED["members"][1]], "members"),
        ("members", EXPECTED["members"][:1], "members"),
        ("members", None, "members"),
        ("members", [{"userId": ID, "role": "owner"}, {"userId": ID}], "members[1].role"),
        ("extra", 1, "extra"),
        ("_sync", {"at": 1, "lsn": 7}, "_sync"),
        ("_sync", {"lsn": Int64(7)}, "_sync"),
        ("_sync", {"at": "1", "lsn": Int64(7)}, "_sync"),
        ("_sync", None, "_sync"),
    ],
)
def test_one_fault_is_one_difference_at_its_place(field: str, value: Any, at: str) -> None:
    [mismatch] = found(**{field: value})
    assert (mismatch.field, mismatch.at) == (field, at)
    assert mismatch.expected != mismatch.found


@pytest.mark.parametrize("field", [*EXPECTED, "_sync"])
def test_a_missing_field_is_not_null(field: str) -> None:
    [mismatch] = found(**{field: ...})
    assert (mismatch.field, mismatch.found) == (field, "no such field")


def test_every_faulty_field_is_named() -> None:
    assert {m.field for m in found(small=2, name="x", big=...)} == {"small", "name", "big"}


def test_the_sign_of_zero_counts() -> None:
    assert first_difference(0.0, -0.0, "x") is not None
    assert first_difference([0.0], [-0.0], "x") == ("x[0]", "double 0.0", "double -0.0")
    assert first_difference([float("nan")], [float("nan")], "x") is None


def test_nothing_agrees_with_a_value_that_has_no_form() -> None:
    assert first_difference(Unfit("why"), None, "x") is not None


def test_sync_of_another_client() -> None:
    assert wrong_sync({}) == "no such field"
    assert wrong_sync({"_sync": {"at": 1, "lsn": Int64(1)}}) is None


# -- what is copied -------------------------------------------------------------------------------------------------
OTHER = ObjectId("65f000000000000000000002")


@pytest.mark.parametrize(
    ("copy", "wanted", "at"),
    [
        ({"owner": ID}, {"owner": ID}, None),
        ({"owner": None}, {"owner": None}, None),
        ({"owner": OTHER}, {"owner": ID}, "_sync.copy.owner"),
        ({"owner": None}, {"owner": ID}, "_sync.copy.owner"),
        ({"owner": ID}, {"owner": None}, "_sync.copy.owner"),
        ({}, {"owner": None}, "_sync.copy.owner"),
        (..., {"owner": ID}, "_sync.copy.owner"),
        ({"owner": ID, "shop": OTHER}, {"owner": ID, "shop": ID}, "_sync.copy.shop"),
    ],
)
def test_what_a_document_points_by(copy: Any, wanted: dict[str, ObjectId | None], at: str | None) -> None:
    """Its parent's next change reaches it by that."""
    sync = {"at": None, "lsn": Int64(7), **({} if copy is ... else {"copy": copy})}
    assert [m.at for m in mismatches(EXPECTED, document(_sync=sync), wanted)] == ([at] if at else [])


# secrets


def test_secret_values_are_masked_wherever_they_are_and_can_be_told_apart() -> None:
    expected = {"token": "hunter2", "who": "a", "members": [{"id": 1, "pin": 7}], "raw": {"a": b"xyz"}}
    secret = {"token", "members.pin", "raw"}

    def told(**changed: Any) -> list[Mismatch]:
        found = {"_id": ID, "_sync": {"at": None, "lsn": Int64(1)}, **deepcopy(expected), **changed}
        return list(mismatches(expected, found, secret=secret))

    [one] = told(token="hunter3")
    assert one.expected.startswith("string of 7, secret ")
    assert one.expected != one.found
    [again] = told(token="hunter4")
    assert (again.expected, again.found != one.found) == (one.expected, True)
    assert told(token=None)[0].found == "null"
    [pin] = told(members=[{"id": 1, "pin": 8}])
    assert (pin.at, pin.expected[:13]) == ("members[0].pin", "int32, secret")
    [longer] = told(members=[{"id": 1, "pin": 7}, {"id": 2, "pin": 9}])
    assert "int32 2" in longer.found
    assert "pin: int32, secret" in longer.found
    [inside] = told(raw={"a": b"abc"})
    assert inside.at == "raw.a"
    every = repr([one, again, pin, longer, inside])
    for hidden in ("hunter", "int32 7", "int32 8", "int32 9", b"xyz".hex(), b"abc".hex()):
        assert hidden not in every, hidden
    assert "hunter3" in repr(list(mismatches(expected, {**expected, "token": "hunter3"})))


def test_a_secret_changes_no_digest() -> None:
    plain = (
        "version: 1\ncollections: {t: {from: public.t, embed: {c: {from: public.c, foreign_key: t_id%s}}%s}}"
    )
    assert digest_of(parse(plain % ("", ""))) == digest_of(
        parse(plain % (", secret: pin", ", secret: [a, b]"))
    )
