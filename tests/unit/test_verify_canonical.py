"""PostgreSQL's text forms, and the values they stand for."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from bson import Decimal128, Int64
from bson.datetime_ms import DatetimeMS
from hypothesis import given
from hypothesis import strategies as st

from sync.verify import canonical
from sync.verify.canonical import Unfit, described, type_name


@pytest.mark.parametrize("text", ["0", "1.50", "-0.001", "1500", "NaN", "Infinity", "-Infinity", "9" * 34])
def test_a_numeric_keeps_digits_and_scale(text: str) -> None:
    assert canonical.decimal(text) == Decimal128(text)


def test_scales_are_told_apart() -> None:
    one, other = canonical.decimal("1.5"), canonical.decimal("1.50")
    assert isinstance(one, Decimal128)
    assert isinstance(other, Decimal128)
    assert one.bid != other.bid


@pytest.mark.parametrize("text", ["1" * 35, "1." + "0" * 33 + "1", "0." + "0" * 6176 + "1", "1e6145"])
def test_a_numeric_that_decimal128_does_not_hold(text: str) -> None:
    assert isinstance(canonical.decimal(text), Unfit)


@pytest.mark.parametrize(
    ("written", "value", "kind"),
    [
        ("1", 1, "int32"),
        ("-2147483648", -(2**31), "int32"),
        ("2147483648", 2**31, "int64"),
        ("9223372036854775807", 2**63 - 1, "int64"),
        ("9223372036854775808", Decimal128("9223372036854775808"), "decimal"),
        ("1.0", 1.0, "double"),
        ("1e2", 100.0, "double"),
        ("0.1", 0.1, "double"),
        ("0.10", 0.1, "double"),
        (
            "0.1000000000000000055511151231257827",
            Decimal128("0.1000000000000000055511151231257827"),
            "decimal",
        ),
        ("1e400", Decimal128("1E+400"), "decimal"),
        ('"a"', "a", "string"),
        ("null", None, "null"),
        ("true", True, "bool"),
        ('{"a": 1, "a": [1, {"$b.c": null}]}', {"a": [1, {"$b.c": None}]}, "object"),
    ],
)
def test_json(written: str, value: Any, kind: str) -> None:
    found = canonical.json_value(written)
    assert (found, type_name(found)) == (value, kind)


@pytest.mark.parametrize(
    "written",
    [
        "0." + "1" * 35,
        "1" * 5000,
        '{"a": [1, [' + "1" * 40 + "]]}",
        '["\\ud800"]',
        '{"\\u0000": 1}',
        "[" * 100_000 + "]" * 100_000,
    ],
)
def test_json_without_a_form(written: str) -> None:
    assert isinstance(canonical.json_value(written), Unfit)


@given(st.integers(-(2**63), 2**63 - 1))
def test_whole_numbers_of_json(value: int) -> None:
    found = canonical.json_value(str(value))
    assert found == value
    assert type_name(found) == ("int32" if -(2**31) <= value < 2**31 else "int64")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_fractions_of_json(value: float) -> None:
    written = repr(value)
    assert canonical.json_value(written) == value


def test_zeros_beyond_the_digits_become_an_exponent() -> None:
    assert canonical.decimal("1" + "0" * 40) == Decimal128("1." + "0" * 33 + "E+40")
    assert canonical.decimal("-1." + "0" * 40) == Decimal128("-1." + "0" * 33)


def test_dates() -> None:
    assert canonical.instant("-1") == DatetimeMS(-1)
    assert isinstance(canonical.instant("infinity"), Unfit)


def test_constants_as_yaml_reads_them() -> None:
    given_ = {
        "a": 0,
        "b": 2**40,
        "c": date(2024, 1, 2),
        "d": datetime(2024, 1, 2, 3, tzinfo=UTC),
        "e": [1.0, "x"],
    }
    found = canonical.constant(given_)
    assert found == {
        "a": 0,
        "b": Int64(2**40),
        "c": DatetimeMS(1704153600000),
        "d": DatetimeMS(1704164400000),
        "e": [1.0, "x"],
    }
    assert [type_name(value) for value in found.values()] == ["int32", "int64", "date", "date", "array"]


def test_values_are_described_with_their_type() -> None:
    assert described(1) == "int32 1"
    assert described(Int64(1)) == "int64 1"
    assert described(DatetimeMS(1)) == "date 1970-01-01T00:00:00.001Z"
    assert described(DatetimeMS(2**62)).endswith(" ms")
    assert len(described([1.0] * 768)) < 250
