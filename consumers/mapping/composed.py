"""The codec of every type: arrays, composite types, ranges and multiranges are made of those of their parts.

Their native form is PostgreSQL's text, taken apart when a document is made of it, so that a value without a form parks
its row and no other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from bson import Int64

from connectors.postgres.types import Type, TypeKind, named
from consumers.mapping import texts, values
from consumers.mapping.codecs import CODECS, OTHER
from consumers.mapping.values import Codec, Convert, fail

#: ranges that events carry as PostgreSQL writes them; those of timestamptz would be in the time zone of Connect
_CARRIED_RANGES: Final = frozenset({"int4range", "int8range", "numrange", "daterange", "tsrange"})
_NUMBER: Final = re.compile(r"[^\s()<>{}\[\],]+")

Document = dict[str, Any]


# -- what is made of a text --------------------------------------------------------------------------------------
def _array(element: Convert, delimiter: str, *, any_bounds: bool = False) -> Convert:
    def to_bson(text: str) -> list[Any]:
        items, from_one = texts.array(text, delimiter)
        if not (from_one or any_bounds):
            raise fail("an array whose indices do not start at 1 (`convert` it to elements, or to text)")
        return texts.each(items, element)

    return to_bson


def _indices(element: Convert) -> Convert:
    """int2vector and oidvector: numbers with blanks between."""
    return lambda text: [element(item) for item in text.split()]


def _range(bound: Convert) -> Convert:
    def to_bson(text: str) -> Document:
        found = texts.bounds(text)
        if found is None:
            return {"empty": True}
        return {
            "lower": None if found.lower is None else bound(found.lower),
            "upper": None if found.upper is None else bound(found.upper),
            "lowerInclusive": found.lower_inclusive,
            "upperInclusive": found.upper_inclusive,
        }

    return to_bson


def _multirange(element: Convert) -> Convert:
    return lambda text: [element(item) for item in texts.ranges(text)]


def _composite(fields: tuple[tuple[str, Convert], ...]) -> Convert:
    def to_bson(text: str) -> Document:
        found = texts.fields(text) if fields else []
        return {
            name: None if item is None else convert(item)
            for (name, convert), item in zip(fields, found, strict=True)
        }

    return to_bson


# -- geometry, and other documents -------------------------------------------------------------------------------
def _numbers(text: str) -> list[float]:
    return [float(found) for found in _NUMBER.findall(text)]


def _point(x: float, y: float) -> Document:
    return {"x": x, "y": y}


def _points(text: str) -> list[Document]:
    numbers = _numbers(text)
    return [_point(x, y) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]


def _line(text: str) -> Document:
    return dict(zip("abc", _numbers(text), strict=True))


def _segment(text: str) -> Document:
    return dict(zip(("from", "to"), _points(text), strict=True))


def _box(text: str) -> Document:
    return dict(zip(("upperRight", "lowerLeft"), _points(text), strict=True))


def _path(text: str) -> Document:
    return {"closed": text.startswith("("), "points": _points(text)}


def _circle(text: str) -> Document:
    x, y, radius = _numbers(text)
    return {"center": _point(x, y), "radius": radius}


def _sparse(text: str) -> Document:
    """pgvector counts from 1 in its text; its binary form and its clients count from 0, and so do we."""
    body, _, dimensions = text.partition("/")
    pairs = [pair.split(":") for pair in body[1:-1].split(",")] if len(body) > 2 else []
    return {
        "dims": int(dimensions),
        "indices": [int(index) - 1 for index, _ in pairs],
        "values": [values.float4_from_event(value) for _, value in pairs],
    }


_INTERVAL: Final = re.compile(
    r"P(?:(-?\d+)Y)?(?:(-?\d+)M)?(?:(-?\d+)D)?(?:T(?:(-?\d+)H)?(?:(-?\d+)M)?(?:(-?)(\d+)(?:\.(\d+))?S)?)?"
)


def _interval(text: str) -> Document:
    """Of the text in IntervalStyle iso_8601."""
    match = _INTERVAL.fullmatch(text)
    if match is None:
        raise fail("an infinite interval")
    years, months, days, hours, minutes, minus, seconds, fraction = (part or "" for part in match.groups())
    micros = int(seconds or 0) * 1_000_000 + int((fraction or "0").ljust(6, "0"))
    whole = (int(hours or 0) * 60 + int(minutes or 0)) * 60_000_000
    return {
        "months": int(years or 0) * 12 + int(months or 0),
        "days": int(days or 0),
        "microseconds": Int64(whole + (-micros if minus else micros)),
    }


def _documents(convert: Convert, select: str = "text") -> Codec:
    return Codec(select, "text", False, None, None, {"document": convert, "text": None})


#: base types that are taken apart from their text
OTHERS: Final[dict[str, Codec]] = {
    "point": _documents(lambda text: _points(text)[0]),
    "line": _documents(_line),
    "lseg": _documents(_segment),
    "box": _documents(_box),
    "path": _documents(_path),
    "polygon": _documents(lambda text: {"points": _points(text)}),
    "circle": _documents(_circle),
    "hstore": _documents(texts.pairs),
    "sparsevec": _documents(_sparse),
    "interval": Codec("text", "text", False, None, None, {"text": None, "document": _interval}),
    "int2vector": Codec("text", "text", False, None, None, {"array": _indices(int), "text": None}),
    "oidvector": Codec(
        "text", "text", False, None, None, {"array": _indices(lambda t: Int64(int(t))), "text": None}
    ),
}
#: printed in a way that only a cast of the whole takes apart; in a row or a range they stay as printed
_PRINTED: Final = {
    "money": "numeric",
    **{name: "oid" for name, kind in CODECS.items() if kind.select == "oid"},
}


# -- the codec of a type -----------------------------------------------------------------------------------------
def codec(name: str) -> Codec:
    """Of a type that is known by its name alone."""
    return codec_of(named(name))


@lru_cache(maxsize=1_000)
def codec_of(of: Type) -> Codec:
    """The codec of a type. Any type without a rule of its own is text, read from the row."""
    if of.kind in (TypeKind.BASE, TypeKind.ENUM):
        return CODECS.get(of.name) or OTHERS.get(of.name) or OTHER
    select = "text"
    if of.kind is TypeKind.ARRAY and of.element is not None and of.element.name in _PRINTED:
        select = f"{_PRINTED[of.element.name]}[]::text"
    carried = of.name in _CARRIED_RANGES
    return Codec(select, "text", carried, None, None, {**_policies(of, cast=select != "text"), "text": None})


def _policies(of: Type, *, cast: bool) -> Mapping[str, Convert]:
    """Of a type made of others. cast: what it is made of was cast to a type that PostgreSQL prints plainly."""
    if of.kind is TypeKind.COMPOSITE:
        fields = tuple((name, _part(part, cast=False)[1]) for name, part in of.fields)
        return {"document": _composite(fields)}
    assert of.element is not None, f"{of.name} has no element"
    delimiter, parts = of.element.delimiter, list(_parts(of.element, cast=cast and of.kind is TypeKind.ARRAY))
    default = parts[0][1]
    if of.kind is TypeKind.ARRAY:
        made = {name: _array(part, delimiter) for name, part in parts[1:]}
        return {
            "array": _array(default, delimiter),
            "elements": _array(default, delimiter, any_bounds=True),
            **made,
        }
    of_part: Callable[[Convert], Convert] = _range if of.kind is TypeKind.RANGE else _multirange
    name = "document" if of.kind is TypeKind.RANGE else "array"
    return {name: of_part(default), **{other: of_part(part) for other, part in parts[1:]}}


def _parts(of: Type, *, cast: bool) -> Iterator[tuple[str, Convert]]:
    """From a part's text to BSON, by each policy but `text`, which is the whole's; the default first."""
    if of.name in _PRINTED and not cast:
        yield "text", _unchanged
        return
    if of.kind not in (TypeKind.BASE, TypeKind.ENUM):
        yield from _policies(of, cast=False).items()
        return
    kind = codec_of(of)
    for number, (name, convert) in enumerate(kind.policies.items()):
        if number == 0 or name != "text":
            yield name, _both(kind.from_text, convert)


def _part(of: Type, *, cast: bool) -> tuple[str, Convert]:
    return next(_parts(of, cast=cast))


def _unchanged(text: str) -> str:
    return text


def _both(first: Convert | None, second: Convert | None) -> Convert:
    if first is None or second is None:
        return first or second or _unchanged
    return lambda text: second(first(text))


def policies(of: Type) -> tuple[str, ...]:
    """The names of the policies that fit a type, its default first."""
    return tuple(codec_of(of).policies)
