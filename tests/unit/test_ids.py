"""Ids are a function of table and key, and integer keys can be read back from them."""

from __future__ import annotations

import hashlib
import json
from uuid import UUID

import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from consumers.mapping.ids import integer_key, object_id, row_key, table_tag

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
VALUES = st.one_of(INT64, st.text(), st.uuids())


def test_an_integer_key_by_hand() -> None:
    tag = hashlib.blake2b(b"public.users", digest_size=4).hexdigest()
    assert str(object_id("public.users", (1,))) == tag + "0000000000000001"
    assert str(object_id("public.users", (-1,))) == tag + "ffffffffffffffff"
    assert str(object_id("public.users", ((1 << 63) - 1,))) == tag + "7fffffffffffffff"


def test_any_other_key_by_hand() -> None:
    text = b'["public.t\xc3\xbc","a b","7","12345678-1234-5678-9234-567812345678"]'
    wanted = ObjectId(hashlib.blake2b(text, digest_size=12).digest())
    assert object_id("public.tü", ("a b", 7, UUID("12345678-1234-5678-9234-567812345678"))) == wanted


@given(INT64)
def test_an_integer_key_is_read_back(value: int) -> None:
    made = object_id("public.users", (value,))
    assert integer_key("public.users", made) == value
    assert integer_key("public.teams", made) is None


@given(st.lists(INT64, min_size=2, max_size=2, unique=True))
def test_ids_of_integers_order_as_the_keys_of_one_sign(values: list[int]) -> None:
    low, high = sorted(values)
    if (low < 0) == (high < 0):
        assert object_id("s.t", (low,)) < object_id("s.t", (high,))


@given(st.lists(VALUES, min_size=1, max_size=3))
def test_another_key_follows_the_documented_rule(key: list[int | str | UUID]) -> None:
    if len(key) == 1 and isinstance(key[0], int):
        return
    text = json.dumps(["s.t", *map(str, key)], separators=(",", ":"), ensure_ascii=False)
    assert object_id("s.t", key).binary == hashlib.blake2b(text.encode(), digest_size=12).digest()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1,), ("1",)),
        ((1, 2), ("1", 2, "")),
        (("a", "b"), ("ab",)),
        (('a","b',), ("a", "b")),
        ((1 << 63,), ((1 << 63) - 1,)),
    ],
)
def test_keys_that_look_alike(one: tuple[int | str, ...], other: tuple[int | str, ...]) -> None:
    assert object_id("s.t", one) != object_id("s.t", other)


def test_keys_as_texts() -> None:
    assert row_key((1, "a", UUID(int=1))) == '[1,"a","00000000-0000-0000-0000-000000000001"]'
    assert row_key(("1",)) == '["1"]'
    assert len(table_tag("public.users")) == 4
