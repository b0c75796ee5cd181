"""Texts of arrays, rows, ranges and hstore, written here by PostgreSQL's rules and taken apart by the code."""

from __future__ import annotations

import re
import struct
from typing import Any

import pytest
from bson import Decimal128, Int64
from bson.datetime_ms import DatetimeMS
from hypothesis import given
from hypothesis import strategies as st

from connectors.errors import MappingFailed
from connectors.postgres.types import Type, TypeKind, named
from consumers.mapping import rendered, texts
from consumers.mapping.composed import codec, codec_of, policies

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8) | st.sampled_from(
    ["", "NULL", "null", '"', "\\", ",", "{}", "a b", "[1:2]={3}", "=>", "(,)", "empty", "\n"]
)


# -- as array_out, record_out, range_out and hstore_out write ------------------------------------------------------
def _escaped(text: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def array_out(items: list[Any]) -> str:
    def one(item: Any) -> str:
        if isinstance(item, list):
            return array_out(item)
        if item is None:
            return "NULL"
        plain = item and item.upper() != "NULL" and not re.search(r'[{}",\\\s]', item)
        return item if plain else _escaped(item)

    return "{" + ",".join(map(one, items)) + "}"


def _doubled(text: str | None, special: str) -> str:
    if text is None:
        return ""
    if text and not re.search(rf'["\\,\s{special}]', text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '""') + '"'


def record_out(fields: list[str | None]) -> str:
    return "(" + ",".join(_doubled(field, "()") for field in fields) + ")"


def range_out(low: str | None, high: str | None, ends: str) -> str:
    low, high = (_doubled(bound, r"()\[\]") for bound in (low, high))
    return f"{ends[0]}{low},{high}{ends[1]}"


ENDS = st.sampled_from(["[]", "[)", "(]", "()"])
FLAT = st.lists(WORDS | st.none(), max_size=5)


@given(FLAT | st.lists(st.lists(WORDS | st.none(), min_size=2, max_size=2), min_size=1, max_size=3))
def test_arrays(items: list[Any]) -> None:
    assert texts.array(array_out(items)) == (items, True)
    low = f"[0:{len(items) - 1}]" if items else ""
    if items:
        assert texts.array(f"{low}={array_out(items)}") == (items, False)


@given(
    st.lists(
        st.lists(st.lists(WORDS, min_size=1, max_size=1), min_size=2, max_size=2), min_size=1, max_size=2
    )
)
def test_arrays_of_three_dimensions(items: list[Any]) -> None:
    assert texts.array(array_out(items)).items == items


@given(st.lists(WORDS | st.none(), min_size=1, max_size=6))
def test_rows(fields: list[str | None]) -> None:
    assert texts.fields(record_out(fields)) == fields


@given(st.lists(st.lists(WORDS | st.none(), min_size=1, max_size=3), max_size=3))
def test_rows_in_arrays_in_rows(rows: list[list[str | None]]) -> None:
    written = record_out([array_out([record_out(row) for row in rows])])
    [inner] = texts.fields(written)
    assert inner is not None
    assert [texts.fields(item) for item in texts.array(inner).items] == rows


@given(WORDS | st.none(), WORDS | st.none(), ENDS)
def test_ranges(low: str | None, high: str | None, ends: str) -> None:
    written = range_out(low, high, ends)
    assert texts.bounds(written) == (low, high, ends[0] == "[", ends[1] == "]")
    several = "{" + ",".join([written] * 3) + "}"
    assert texts.ranges(several) == [written] * 3
    assert texts.ranges("{}") == []


@given(st.dictionaries(WORDS, WORDS | st.none(), max_size=4))
def test_hstores(pairs: dict[str, str | None]) -> None:
    written = ", ".join(f"{_escaped(k)}=>{'NULL' if v is None else _escaped(v)}" for k, v in pairs.items())
    assert texts.pairs(written) == pairs


# -- what becomes of them ------------------------------------------------------------------------------------------
INT4RANGE = Type("int4range", TypeKind.RANGE, named("integer"))
TSTZRANGE = Type("tstzrange", TypeKind.RANGE, named("timestamp with time zone"))
PAIR = Type("public.pair", TypeKind.COMPOSITE, None, (("a", named("numeric")), ("b", named("text[]"))))
BOX = Type("box", delimiter=";")


def array_of(of: Type) -> Type:
    return Type(f"{of.name}[]", TypeKind.ARRAY, of)


def made(of: Type, text: str, policy: str | None = None) -> Any:
    kind = codec_of(of)
    convert = kind.to_bson if policy is None else kind.policies[policy]
    return text if convert is None else convert(text)


def span(low: Any, high: Any, *, upper: bool = False) -> dict[str, Any]:
    return {"lower": low, "upper": high, "lowerInclusive": low is not None, "upperInclusive": upper}


@pytest.mark.parametrize(
    ("of", "text", "wanted"),
    [
        (INT4RANGE, "[1,5)", span(1, 5)),
        (INT4RANGE, "empty", {"empty": True}),
        (INT4RANGE, "(,)", span(None, None)),
        (TSTZRANGE, '["1970-01-01 00:00:00.0015+00",)', span(DatetimeMS(1), None)),
        (Type("m", TypeKind.MULTIRANGE, INT4RANGE), "{[1,2),[3,)}", [span(1, 2), span(3, None)]),
        (array_of(INT4RANGE), '{"[1,2)",empty,NULL}', [span(1, 2), {"empty": True}, None]),
        (PAIR, '(1.50,"{x,NULL}")', {"a": Decimal128("1.50"), "b": ["x", None]}),
        (PAIR, "(,)", {"a": None, "b": None}),
        (array_of(PAIR), '{"(1,{})",NULL}', [{"a": Decimal128("1"), "b": []}, None]),
        (Type("public.nothing", TypeKind.COMPOSITE), "()", {}),
        (array_of(BOX), "{(2,2),(1,1);(4,4),(3,3)}", [
            {"upperRight": {"x": n + 1.0, "y": n + 1.0}, "lowerLeft": {"x": float(n), "y": float(n)}} for n in (1, 3)
        ]),
        (named("path"), "[(1,2),(3,4)]", {"closed": False, "points": [{"x": 1.0, "y": 2.0}, {"x": 3.0, "y": 4.0}]}),
        (named("path"), "((1,2))", {"closed": True, "points": [{"x": 1.0, "y": 2.0}]}),
        (named("circle"), "<(1,-0),1e-300>", {"center": {"x": 1.0, "y": -0.0}, "radius": 1e-300}),
        (named("sparsevec"), "{1:1.5,5:-2}/5", {"dims": 5, "indices": [0, 4], "values": [1.5, -2.0]}),
        (named("sparsevec"), "{}/3", {"dims": 3, "indices": [], "values": []}),
        (named("int2vector"), "", []),
        (named("oidvector"), "1 2", [Int64(1), Int64(2)]),
        (named("vector[]"), '{"[1,3.3]"}', [[1.0, 3.299999952316284]]),
        (named("money[]"), "{1.50}", [Decimal128("1.50")]),
        (Type("c", TypeKind.COMPOSITE, None, (("m", named("money")),)), '("$1,234.50")', {"m": "$1,234.50"}),
        (Type("c", TypeKind.COMPOSITE, None, (("m", named("money[]")),)), '("{""$1,234.50""}")', {"m": ["$1,234.50"]}),
    ],
)  # fmt: skip
def test_values_made_of_others(of: Type, text: str, wanted: Any) -> None:
    assert made(of, text) == wanted
    assert made(of, text, "text") == text


@pytest.mark.parametrize(
    ("text", "months", "days", "micros"),
    [
        ("PT0S", 0, 0, 0),
        ("P1Y2M-3DT4H5M6.7S", 14, -3, 14_706_700_000),
        ("P-1M1DT-0.000001S", -1, 1, -1),
        ("PT-0.5S", 0, 0, -500_000),
        ("PT-2562047788H-54.775808S", 0, 0, -(1 << 63)),
        ("P-178000000Y", -2_136_000_000, 0, 0),
        ("P2147483647D", 0, 2_147_483_647, 0),
    ],
)
def test_intervals_as_documents(text: str, months: int, days: int, micros: int) -> None:
    wanted = {"months": months, "days": days, "microseconds": Int64(micros)}
    assert made(named("interval"), text, "document") == wanted
    assert made(named("interval"), text) == text


def test_infinite_intervals_have_no_document() -> None:
    for text in ("infinity", "-infinity"):
        assert made(named("interval"), text) == text
        with pytest.raises(MappingFailed, match="infinite interval"):
            made(named("interval"), text, "document")


def test_policies_of_a_part_are_the_wholes_but_for_text() -> None:
    assert policies(array_of(TSTZRANGE)) == (
        "array",
        "elements",
        "date-or-null",
        "date-clamped",
        "micros",
        "text",
    )
    assert policies(PAIR) == ("document", "text")
    endless = '["1970-01-01 00:00:00+00",infinity)'
    with pytest.raises(MappingFailed, match="infinite timestamp"):
        made(TSTZRANGE, endless)
    assert made(TSTZRANGE, endless, "date-or-null") == span(DatetimeMS(0), None)
    assert made(TSTZRANGE, endless, "micros") == span(Int64(0), Int64((1 << 63) - 1))


# -- numbers as PostgreSQL prints them (src/test/regress/expected/float4.out, float8.out, and measured) --------------
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"), (-0.0, "-0"), (1e15, "1e+15"), (999999999999999.9, "999999999999999.9"), (1e-5, "1e-05"),
        (0.0001, "0.0001"), (5e-324, "5e-324"), (1.7976931348623157e308, "1.7976931348623157e+308"),
        (623203260495222.75, "623203260495222.8"), (float("nan"), "NaN"), (float("-inf"), "-Infinity"),
    ],
)  # fmt: skip
def test_doubles_as_text(value: float, text: str) -> None:
    assert rendered.double(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.299999952316284, "3.3"), (1e6, "1e+06"), (999999.0, "999999"), (95285616.0, "9.5285616e+07"),
        (4194303.75, "4.1943038e+06"), (1.401298464324817e-45, "1e-45"), (3.4028234663852886e38, "3.4028235e+38"),
        (16777216.0, "1.6777216e+07"),
    ],
)  # fmt: skip
def test_reals_as_text(value: float, text: str) -> None:
    assert rendered.real(value) == text


@given(st.floats(allow_nan=False))
def test_a_doubles_text_gives_it_back(value: float) -> None:
    assert struct.pack("d", float(rendered.double(value))) == struct.pack("d", value)


@given(st.floats(width=32, allow_nan=False))
def test_a_reals_text_gives_it_back(value: float) -> None:
    assert struct.pack("f", float(rendered.real(value))) == struct.pack("f", value)


@given(st.integers(-210_866_803_200_000_000, 9_224_318_015_999_999_999))
def test_an_instants_text_is_read_back(micros: int) -> None:
    kind = codec("timestamp with time zone")
    text = kind.policies["text"]
    assert text is not None
    assert kind.from_text is not None
    assert kind.from_text(text(micros)) == micros
