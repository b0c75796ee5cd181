"""A key's values have one form each; which columns hold a key, and what may point to it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.postgres.catalog import Column, Table, Unique
from consumers.mapping import keys
from consumers.mapping.ids import object_id
from consumers.mapping.moments import DAY_PLUS_INFINITY, MINUS_INFINITY, PLUS_INFINITY

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def column(kind: str, **more: Any) -> Column:
    return Column("k", kind, True, False, kind, **more)


@pytest.mark.parametrize(
    ("kind", "native", "text"),
    [
        ("bigint", 7, 7),
        ("uuid", UUID(int=7), UUID(int=7)),
        ("boolean", True, "true"),
        ("boolean", False, "false"),
        ("numeric", Decimal("1.500"), "1.5"),
        ("numeric", Decimal("1E+3"), "1000"),
        ("numeric", Decimal("100"), "100"),
        ("numeric", Decimal("NaN"), "NaN"),
        ("numeric", Decimal("-Infinity"), "-Infinity"),
        ("double precision", -0.0, "0.0"),
        ("double precision", 1e300, "1e+300"),
        ("real", float("nan"), "nan"),
        ("character", "ab  ", "ab"),
        ("text", "ab  ", "ab  "),
        ("bytea", b"\x00\xff", "\\x00ff"),
        ("timestamp with time zone", 0, "1970-01-01 00:00:00+00"),
        ("timestamp with time zone", -1, "1969-12-31 23:59:59.999999+00"),
        ("timestamp with time zone", PLUS_INFINITY, "infinity"),
        ("timestamp without time zone", MINUS_INFINITY, "-infinity"),
        ("timestamp without time zone", -62_167_219_200_000_000 - 1, "0002-12-31 23:59:59.999999 BC"),
        ("date", -719_163, "0001-12-31 BC"),
        ("date", 2_145_042_905 - 2_000_000_000, "399083-12-27"),
        ("date", DAY_PLUS_INFINITY, "infinity"),
        ("time without time zone", 86_400_000_000, "24:00:00"),
        ("time without time zone", 1_500_000, "00:00:01.5"),
        ("inet", "10.0.0.0/8", "10.0.0.0/8"),
    ],
)
def test_the_form_of_a_value(kind: str, native: Any, text: Any) -> None:
    assert keys.part(column(kind)).value(native) == text


@given(st.datetimes(timezones=st.just(UTC)))
def test_an_instant_as_postgresql_writes_it(moment: datetime) -> None:
    us = (moment - EPOCH) // timedelta(microseconds=1)
    fraction = f".{moment.microsecond:06d}".rstrip("0") if moment.microsecond else ""
    wanted = f"{moment.year:04d}-{moment:%m-%d %H:%M:%S}{fraction}+00"
    assert keys.part(column("timestamp with time zone")).value(us) == wanted


@given(st.dates())
def test_a_date_as_postgresql_writes_it(day: date) -> None:
    assert keys.part(column("date")).value((day - date(1970, 1, 1)).days) == day.isoformat()


@given(st.decimals(allow_nan=False, allow_infinity=False), st.integers(0, 9))
def test_equal_numerics_are_one_key(value: Decimal, zeros: int) -> None:
    of = keys.part(column("numeric"))
    assert Decimal(str(of.value(value))) == value
    if "E" not in str(value):
        longer = Decimal(f"{value}{'' if '.' in str(value) else '.'}{'0' * zeros}")
        assert of.value(longer) == of.value(value)


@pytest.mark.parametrize(
    ("kind", "sent", "native"),
    [
        ("timestamp with time zone", "2024-01-01T00:00:00Z", 1_704_067_200_000_000),
        ("numeric", "1.50", Decimal("1.5")),
        ("bytea", "AP8=", b"\x00\xff"),
        ("inet", "10.0.0.1", "10.0.0.1"),
        ("inet", "10.0.0.0/8", "10.0.0.0/8"),
        ("real", 3.3, 3.299999952316284),
        ("date", 19_000, 19_000),
    ],
)
def test_the_key_of_an_event_is_that_of_its_row(kind: str, sent: Any, native: Any) -> None:
    assert keys.event_part(column(kind))(sent) == keys.part(column(kind)).value(native)


def test_a_single_boolean_is_no_integer_key() -> None:
    truth = keys.part(column("boolean")).value(True)
    assert object_id("s.t", (truth,)) != object_id("s.t", (1,))


@pytest.mark.parametrize("kind", ["json", "interval", "text[]", "vector", "tsvector"])
def test_types_that_no_record_can_be_told_apart_by(kind: str) -> None:
    assert keys.form(column(kind)) is None


@pytest.mark.parametrize(
    ("held", "key", "fits"),
    [
        (column("integer"), column("bigint"), True),
        (column("text"), column("character"), True),
        (column("real"), column("double precision"), True),
        (column("numeric"), column("bigint"), False),
        (column("text"), column("uuid"), False),
        (column("date"), column("timestamp with time zone"), False),
        (column("citext"), column("citext"), False),
        (column("text", deterministic=False), column("text"), False),
        (column("text"), column("text", deterministic=False), False),
        (Column("k", "enum", True, False, "a.mood"), Column("k", "enum", True, False, "a.mood"), True),
        (Column("k", "enum", True, False, "a.mood"), Column("k", "enum", True, False, "b.mood"), False),
        (column("json"), column("bigint"), False),
    ],
)
def test_what_can_hold_a_key(held: Column, key: Column, fits: bool) -> None:
    assert (keys.refers(held, key) is None) == fits


def test_keys_whose_equal_values_are_sent_in_several_forms() -> None:
    assert keys.many_forms(column("numeric"))
    assert not keys.many_forms(column("numeric", modified=True))
    assert keys.many_forms(column("double precision"))
    assert keys.many_forms(column("character"))
    assert not keys.many_forms(column("character", modified=True))
    assert not keys.many_forms(column("text", deterministic=False))


def test_which_key_is_taken() -> None:
    uniques = (Unique("b", ("b",)), Unique("x", ("c", "d")))
    table = Table("s.t", "r", (), (), "d", "p", False, -1, uniques=uniques)
    keyed = Table("s.t", "r", (), ("a",), "d", "p", False, -1, uniques=uniques)
    by_index = Table("s.t", "r", (), (), "i", "p", False, -1, uniques=uniques, carried=frozenset("cd"))
    assert keys.chosen(keyed, None) == ("a",)
    assert keys.chosen(keyed, ("c", "d")) == ("c", "d")
    assert keys.chosen(table, None) == ("b",)
    assert keys.chosen(by_index, None) == ("c", "d")
    assert keys.chosen(Table("s.t", "r", (), (), "f", "p", False, -1), None) == ()
