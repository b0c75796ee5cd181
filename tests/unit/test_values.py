"""Values of every codec: the event's form and the row's give the same native one, and that gives the BSON promised."""

from __future__ import annotations

import base64
import json
import math
import struct
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import bson
import pytest
from bson import Binary, Decimal128, Int64
from bson.datetime_ms import DatetimeMS
from hypothesis import given
from hypothesis import strategies as st

from connectors.errors import DecodeFailed, MappingFailed
from consumers.mapping import values
from consumers.mapping.codecs import CODECS, OTHER
from consumers.mapping.composed import codec
from consumers.mapping.moments import days_from_civil
from consumers.mapping.values import Codec, NotFaithful, json_to_bson

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
Y2000 = datetime(2000, 1, 1, tzinfo=UTC)


def through(convert: Any, value: Any) -> Any:
    return value if convert is None else convert(value)


def both(type_name: str, event: Any, row: Any) -> Any:
    """The BSON value; fails unless the event and the row lead to the same."""
    found = codec(type_name)
    assert found.carried
    natives = through(found.from_event, event), through(found.from_row, row)
    made = [through(found.to_bson, native) for native in natives]
    assert bson.encode({"v": made[0]}) == bson.encode({"v": made[1]}), natives
    assert natives[0] == natives[1] or (natives[0] != natives[0] and natives[1] != natives[1])
    return made[0]


# -- the forms of each type --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("type_name", "event", "row", "expected"),
    [
        ("smallint", -7, -7, -7),
        ("integer", 2147483647, 2147483647, 2147483647),
        ("bigint", 1, 1, Int64(1)),
        ("oid", 4294967295, 4294967295, Int64(4294967295)),
        ("boolean", True, True, True),
        ("double precision", 0.1, 0.1, 0.1),
        ("double precision", 3, 3.0, 3.0),
        ("double precision", "-Infinity", -math.inf, -math.inf),
        ("double precision", "NaN", math.nan, math.nan),
        ("real", 3.3, 3.299999952316284, 3.299999952316284),
        ("real", "NaN", math.nan, math.nan),
        ("real", 3.4028235e38, 3.4028234663852886e38, 3.4028234663852886e38),
        ("real", 1e-45, 1.401298464324817e-45, 1.401298464324817e-45),
        ("numeric", "1.50", Decimal("1.50"), Decimal128("1.50")),
        ("numeric", "NAN", Decimal("NaN"), Decimal128("NaN")),
        ("numeric", "POSITIVE_INFINITY", Decimal("Infinity"), Decimal128("Infinity")),
        ("numeric", "NEGATIVE_INFINITY", Decimal("-Infinity"), Decimal128("-Infinity")),
        ("text", "ä\0", "ä\0", "ä\0"),
        ("character varying", "", "", ""),
        ("character", "ab   ", "ab   ", "ab   "),
        ("citext", "MiXed", "MiXed", "MiXed"),
        ("enum", "it's", "it's", "it's"),
        ("name", "n", "n", "n"),
        ("uuid", str(UUID(int=5)), UUID(int=5), Binary(UUID(int=5).bytes, 4)),
        ("json", '{"a": 1}', b'{"a": 1}', {"a": 1}),
        ("jsonb", '{"a": 1}', b'\x01{"a": 1}', {"a": 1}),
        ('"char"', "x", "x", "x"),
        ("inet", "10.1.2.3", "10.1.2.3", "10.1.2.3"),
        ("cidr", "10.0.0.0/8", "10.0.0.0/8", "10.0.0.0/8"),
        ("macaddr", "08:00:2b:01:02:03", "08:00:2b:01:02:03", "08:00:2b:01:02:03"),
        ("macaddr8", "08:00:2b:01:02:03:04:05", "08:00:2b:01:02:03:04:05", "08:00:2b:01:02:03:04:05"),
        ("ltree", "Top.Science", "Top.Science", "Top.Science"),
        ("tsvector", "'cat':2 'fat':1A", "'cat':2 'fat':1A", "'cat':2 'fat':1A"),
        ("bytea", "AP8Q", b"\x00\xff\x10", b"\x00\xff\x10"),
        ("bytea", "", b"", b""),
        ("date", 0, -10_957, DatetimeMS(0)),
        ("date", -719_162, -730_119, DatetimeMS(-62_135_596_800_000)),
        ("timestamp without time zone", -1, -946_684_800_000_001, DatetimeMS(-1)),
        ("time without time zone", 86_400_000_000, 86_400_000_000, "24:00:00"),
        ("time without time zone", 49_890_120_000, 49_890_120_000, "13:51:30.12"),
        ("time without time zone", 1, 1, "00:00:00.000001"),
        (
            "timestamp with time zone",
            "2024-02-29T10:34:56.789999Z",
            762_518_096_789_999,
            DatetimeMS(1709202896789),
        ),
    ],
)
def test_the_event_and_the_row_give_the_same(type_name: str, event: Any, row: Any, expected: Any) -> None:
    assert bson.encode({"v": both(type_name, event, row)}) == bson.encode({"v": expected})


def test_every_carried_type_is_among_those() -> None:
    [mark] = [m for m in test_the_event_and_the_row_give_the_same.pytestmark if m.name == "parametrize"]  # type: ignore[attr-defined]
    assert {case[0] for case in mark.args[1]} == {name for name, kind in CODECS.items() if kind.carried}


@pytest.mark.parametrize(
    "name",
    ["bit", "bit varying", "tsquery", "xml", "jsonpath", "pg_lsn", "timetz", "cube", "public.x"],
)
def test_any_other_type_is_text_and_read_again(name: str) -> None:
    assert codec(name) is OTHER
    assert not OTHER.carried


# -- numbers -----------------------------------------------------------------------------------------------------
@given(st.floats(width=32, allow_nan=False))
def test_a_real_is_the_exact_value_of_its_32_bits(value: float) -> None:
    shortest = next(
        (f"{value:.{n}g}" for n in range(1, 10) if _as_float4(float(f"{value:.{n}g}")) == value), "NaN"
    )
    sent = float(shortest) if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")
    both("real", sent, value)


def _as_float4(value: float) -> float:
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return math.inf


@given(st.decimals(allow_nan=False, allow_infinity=False).filter(lambda d: abs(d.as_tuple().exponent) < 400))  # type: ignore[arg-type]
def test_a_numeric_keeps_digits_and_scale_or_is_refused(value: Decimal) -> None:
    plain = Decimal(format(value, "f"))  # as PostgreSQL writes it
    _, digits, exponent = plain.as_tuple()
    significant = "".join(map(str, digits)).strip("0")
    try:
        made = both("numeric", str(plain), plain)
    except MappingFailed:
        assert len(significant) > 34
        return
    assert made.to_decimal() == plain
    if len(digits) <= 34:
        assert made.to_decimal().as_tuple() == plain.as_tuple()
    assert isinstance(exponent, int)


@pytest.mark.parametrize("text", ["1" * 35, "0." + "1" * 35, "1e-6177", "0e-6177", "1e6145", "10e-6177"])
def test_a_numeric_that_decimal128_has_no_room_for(text: str) -> None:
    with pytest.raises(MappingFailed):
        values.decimal_to_bson(Decimal(text))


def test_zeros_beyond_34_digits_become_an_exponent() -> None:
    assert values.decimal_to_bson(Decimal("1" + "0" * 60)) == Decimal128(
        "1.000000000000000000000000000000000E+60"
    )
    assert values.decimal_to_bson(Decimal("1." + "0" * 60)) == Decimal128("1." + "0" * 33)


# -- time --------------------------------------------------------------------------------------------------------
@given(st.dates())
def test_days_as_the_calendar_counts_them(day: date) -> None:
    assert days_from_civil(day.year, day.month, day.day) == (day - date(1970, 1, 1)).days


@given(st.integers(-5000, 300_000), st.integers(1, 12), st.integers(1, 28))
def test_days_of_years_beyond_the_calendar(year: int, month: int, day: int) -> None:
    """400 years have 146,097 days, whichever they are."""
    shift = (2000 - year) // 400
    assert days_from_civil(year, month, day) + shift * 146_097 == days_from_civil(
        year + 400 * shift, month, day
    )


@given(st.datetimes(timezones=st.just(UTC)))
def test_instants(moment: datetime) -> None:
    micros = (moment - EPOCH) // MICROSECOND
    row = (moment - Y2000) // MICROSECOND
    text = moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    trimmed = moment.replace(tzinfo=None).isoformat() + "Z"  # no fraction where there is none
    wanted = DatetimeMS(micros // 1000)
    for sent in (text, trimmed):
        assert both("timestamp with time zone", sent, row) == wanted
    assert both("timestamp without time zone", micros, row) == wanted
    days = (moment.date() - date(1970, 1, 1)).days
    assert both("date", days, days - 10_957) == DatetimeMS(days * 86_400_000)


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00Z", 0),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1969-12-31T18:30:00-05:30", 0),
        ("1970-01-01T00:00:00.1Z", 100_000),
        ("1970-01-01T00:00:00.123456789Z", 123_456),
        ("+10000-01-01T00:00:00Z", 253_402_300_800_000_000),
        ("0000-01-01T00:00:00Z", -62_167_219_200_000_000),
        ("-0001-01-01T00:00:00Z", -62_198_755_200_000_000),
    ],
)
def test_instants_by_hand(text: str, micros: int) -> None:
    kind = CODECS["timestamp with time zone"]
    assert through(kind.from_event, text) == micros


@pytest.mark.parametrize(
    "text", ["", "now", "2024-02-29", "2024-02-29 10:00:00Z", "2024-02-29T10:00:00", "Infinity", "1Z"]
)
def test_what_is_no_instant(text: str) -> None:
    with pytest.raises(DecodeFailed):
        through(CODECS["timestamp with time zone"].from_event, text)


@pytest.mark.parametrize(
    ("type_name", "event", "row"),
    [
        ("timestamp with time zone", "infinity", (1 << 63) - 1),
        ("timestamp with time zone", "-infinity", -(1 << 63)),
    ],
)
def test_infinities_are_the_same_on_both_ways_and_have_no_form(type_name: str, event: Any, row: int) -> None:
    kind = codec(type_name)
    assert through(kind.from_event, event) == through(kind.from_row, row) == row
    with pytest.raises(MappingFailed, match="infinite"):
        through(kind.to_bson, row)


@pytest.mark.parametrize(
    ("type_name", "event"),
    [
        ("timestamp without time zone", 9223372036825200000),  # an infinity
        ("timestamp without time zone", -9223372036832400000),
        ("timestamp without time zone", 9223372036854775807),  # one of timestamp(3); or a year beyond 294247
        ("timestamp without time zone", -9223372036853775810),  # 294276-12-31, wrapped
        ("date", -2147472692),
        ("date", -2147472691),
    ],
)
def test_numbers_that_stand_for_something_else_make_the_row_be_read(type_name: str, event: int) -> None:
    with pytest.raises(NotFaithful):
        through(codec(type_name).from_event, event)


@pytest.mark.parametrize(
    ("type_name", "row"),
    [
        ("timestamp without time zone", (1 << 63) - 1),
        ("timestamp without time zone", -(1 << 63)),
        ("date", (1 << 31) - 1),
        ("date", -(1 << 31)),
    ],
)
def test_infinities_of_a_row_have_no_form(type_name: str, row: int) -> None:
    kind = codec(type_name)
    with pytest.raises(MappingFailed, match="infinite"):
        through(kind.to_bson, through(kind.from_row, row))


@given(st.times())
def test_times_are_written_as_postgresql_prints_them(moment: Any) -> None:
    micros = ((moment.hour * 60 + moment.minute) * 60 + moment.second) * 1_000_000 + moment.microsecond
    text = moment.isoformat()
    assert both("time without time zone", micros, micros) == (text.rstrip("0") if "." in text else text)


# -- JSON --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-0", 0),
        ("2147483647", 2147483647),
        ("2147483648", Int64(2147483648)),
        ("-2147483648", -2147483648),
        ("9223372036854775807", Int64((1 << 63) - 1)),
        ("9223372036854775808", Decimal128("9223372036854775808")),
        ("-9223372036854775809", Decimal128("-9223372036854775809")),
        ("1.0", 1.0),
        ("1e0", 1.0),
        ("-0.0", -0.0),
        ("0.1", 0.1),
        ("0.10", 0.1),
        ("0.1000000000000000055511151231257827", Decimal128("0.1000000000000000055511151231257827")),
        ("1e400", Decimal128("1E+400")),
        ("1e-400", Decimal128("1E-400")),
        ("1.5e308", 1.5e308),
        ("1e23", 1e23),
        ("9007199254740993.0", Decimal128("9007199254740993.0")),
        ("1" + "0" * 5000, Decimal128("1" + "0" * 33 + "E+4967")),
        ("null", None),
        ("true", True),
        ('""', ""),
        ("[]", []),
        ("{}", {}),
        ('{"a":1,"a":2}', {"a": 2}),
        ('{"b":1,"a":{"c.d":[{"$e":null}]}}', {"b": 1, "a": {"c.d": [{"$e": None}]}}),
        ('"\\ud83d\\ude80"', "🚀"),
    ],
)
def test_json(text: str, value: Any) -> None:
    assert bson.encode({"v": json_to_bson(text)}) == bson.encode({"v": value})


@pytest.mark.parametrize(
    "text",
    [
        "1" * 35,
        "0." + "1" * 35,
        '{"a":[' + "1" * 35 + "]}",
        "1" * 5000,
        '"\\ud800"',
        '{"\\uDC00":1}',
        '[["a\\uD800b"]]',
        "[" * 5000,
        "{",
    ],
)
def test_json_without_a_form(text: str) -> None:
    with pytest.raises(MappingFailed):
        json_to_bson(text)


@given(st.one_of(st.integers(-(1 << 80), 1 << 80), st.integers(-(1 << 33), 1 << 33)))
def test_whole_numbers_in_json(value: int) -> None:
    made = json_to_bson(str(value))
    back = bson.decode(bson.encode({"v": made}))["v"]
    kind = int if -(1 << 31) <= value < 1 << 31 else Int64 if -(1 << 63) <= value < 1 << 63 else Decimal128
    assert type(back) is kind
    assert (back.to_decimal() if isinstance(back, Decimal128) else back) == value


@given(st.decimals(-(10**20), 10**20, places=15))
def test_other_numbers_in_json_are_exact(value: Decimal) -> None:
    text = format(value, "f")
    try:
        made = json_to_bson(text)
    except MappingFailed:
        assert len(value.as_tuple().digits) > 34
        return
    if isinstance(made, float):
        assert Decimal(repr(made)) == value
    else:
        assert made.to_decimal() == value
        assert Decimal(repr(float(text))) != value


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_json_survives(value: Any) -> None:
    assert json_to_bson(json.dumps(value)) == value
    assert json_to_bson(json.dumps(value, ensure_ascii=False)) == value
    assert codec("jsonb").from_row is not None
    both("jsonb", json.dumps(value), b"\x01" + json.dumps(value).encode())


# -- bytes, vectors, arrays --------------------------------------------------------------------------------------
@given(st.binary())
def test_bytes(value: bytes) -> None:
    assert both("bytea", base64.b64encode(value).decode(), memoryview(value)) == value


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=20))
def test_vectors(floats: list[float]) -> None:
    raw = struct.pack(f">hh{len(floats)}f", len(floats), 0, *floats)
    assert through(CODECS["vector"].from_row, raw) == floats


@given(st.lists(st.floats(width=16, allow_nan=False), max_size=20))
def test_half_vectors(floats: list[float]) -> None:
    raw = struct.pack(f">hh{len(floats)}e", len(floats), 0, *floats)
    assert through(CODECS["halfvec"].from_row, raw) == floats


@pytest.mark.parametrize(
    ("name", "text", "made"),
    [
        ("integer[]", "{1,NULL}", [1, None]),
        ("integer[]", "{{1,2},{3,NULL}}", [[1, 2], [3, None]]),
        ("bigint[]", "{1,NULL}", [Int64(1), None]),
        ("numeric[]", "{1.50,NaN,NULL}", [Decimal128("1.50"), Decimal128("NaN"), None]),
        ("uuid[]", f"{{{UUID(int=1)}}}", [Binary(UUID(int=1).bytes, 4)]),
        ("boolean[]", "{t,f}", [True, False]),
        ("bytea[]", r'{"\\x00ff"}', [b"\x00\xff"]),
        ("jsonb[]", r'{"{\"a\": [1]}"}', [{"a": [1]}]),
        ("text[]", "{}", []),
        (
            "text[]",
            r'{a,NULL,"",null,"NULL","{,}","q\"\\z"}',
            ["a", None, "", "null", "NULL", "{,}", 'q"\\z'],
        ),
        ("time without time zone[]", "{24:00:00,00:00:00.5}", ["24:00:00", "00:00:00.5"]),
        ("date[]", '{"0001-12-31 BC",1970-01-01}', [DatetimeMS(-62_135_683_200_000), DatetimeMS(0)]),
        ("enum[]", "{sad,ok}", ["sad", "ok"]),
    ],
)
def test_arrays(name: str, text: str, made: list[Any]) -> None:
    kind: Codec = codec(name)
    assert not kind.carried
    assert bson.encode({"v": through(kind.to_bson, text)}) == bson.encode({"v": made})


def test_an_array_with_other_indices_has_no_form_but_by_its_policies() -> None:
    kind = codec("integer[]")
    text = "[0:1]={1,2}"
    with pytest.raises(MappingFailed, match="do not start at 1"):
        through(kind.to_bson, text)
    assert through(kind.policies["elements"], text) == [1, 2]
    assert through(kind.policies["text"], text) == text
