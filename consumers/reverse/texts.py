"""From BSON to the text that PostgreSQL reads as a column's value: each policy of docs/types.md, backwards. Pure.

What comes out need not be the text that PostgreSQL would print, only one that it reads as the same value. Nothing is
rounded or cut here; what has no such text raises NoText. Whoever writes a row reads it again and compares.
"""

from __future__ import annotations

import datetime as dt
import math
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

import orjson
from bson import Binary, DatetimeMS, Decimal128, ObjectId
from bson.binary import VECTOR_SUBTYPE

from connectors.errors import MappingFailed
from connectors.postgres.catalog import Column
from connectors.postgres.types import Type, TypeKind
from consumers.mapping import moments
from consumers.mapping.codecs import CODECS
from consumers.mapping.composed import OTHERS, policies
from consumers.mapping.conversion import moved
from consumers.mapping.spec import Conversion, Rewrite

#: from a BSON value that is not null to PostgreSQL's text; None: NULL
ToText = Callable[[Any], str | None]

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_DAY_MS: Final = 86_400_000
_LAST_MS, _FIRST_MS = 253_402_300_799_999, -62_135_596_800_000
_WHOLE: Final = {"int32", "int64"}


class NoText(MappingFailed):
    """A value of a document that its column has no value for."""


def no_text(what: str) -> NoText:
    """The error for it. what: said without the value."""
    return NoText(
        what, remedy="mend the document; it is tried again when it changes, or by `tandem reverse retry`"
    )


# -- numbers, texts ----------------------------------------------------------------------------------------------
def number(value: Any) -> Decimal:
    """A number of any BSON type. Raises NoText."""
    if isinstance(value, Decimal128):
        return value.to_decimal()
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise no_text(f"a {kind(value)} where a number is needed")
    return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)


def kind(value: Any) -> str:
    """What it is, for messages."""
    names = {
        str: "string", dict: "object", list: "array", bool: "bool", bytes: "binary", Binary: "binary",
        ObjectId: "ObjectId", float: "double", DatetimeMS: "date", dt.datetime: "date", Decimal128: "decimal",
    }  # fmt: skip
    return next((name for of, name in names.items() if type(value) is of), type(value).__name__)


def _whole(value: Any) -> str:
    found = number(value)
    if not found.is_finite() or found != found.to_integral_value():
        raise no_text("a number that is not whole")
    return str(int(found))


def _decimal(value: Any) -> str:
    found = number(value)
    if found.is_nan():
        return "NaN"
    return format(found, "f") if found.is_finite() else ("-Infinity" if found < 0 else "Infinity")


def _double(value: Any) -> str:
    if isinstance(value, float):
        if math.isfinite(value):
            return repr(value)
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return _decimal(value)


def text(value: Any) -> str:
    """A string. Raises NoText."""
    if not isinstance(value, str):
        raise no_text(f"a {kind(value)} where a string is needed")
    if "\0" in value:
        raise no_text("a string with NUL in it, which PostgreSQL does not take")
    return value


def _boolean(value: Any) -> str:
    if not isinstance(value, bool):
        raise no_text(f"a {kind(value)} where true or false is needed")
    return "true" if value else "false"


def _bytes(value: Any) -> str:
    if not isinstance(value, bytes):
        raise no_text(f"a {kind(value)} where binary data is needed")
    return "\\x" + bytes(value).hex()


def _uuid(value: Any) -> str:
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, bytes) and len(value) == 16:
        return str(uuid.UUID(bytes=bytes(value)))
    return text(value)


# -- points in time ----------------------------------------------------------------------------------------------
def milliseconds(value: Any) -> int:
    """Of a date, since 1970. Raises NoText."""
    if isinstance(value, DatetimeMS):
        return int(value)
    if isinstance(value, dt.datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=dt.UTC)
        return (aware - _EPOCH) // dt.timedelta(milliseconds=1)
    raise no_text(f"a {kind(value)} where a date is needed")


def _instant(show: Callable[[int], str]) -> ToText:
    return lambda value: show(milliseconds(value) * 1_000)


def _micros(show: Callable[[int], str]) -> ToText:
    return lambda value: show(int(_whole(value)))


def _day(value: Any) -> str:
    days, rest = divmod(milliseconds(value), _DAY_MS)
    if rest:
        raise no_text("a date with a time of day, for a column that has days only")
    return moments.date_text(days)


def _clamped(within: ToText) -> ToText:
    def to_text(value: Any) -> str | None:
        ends = {_LAST_MS: "infinity", _FIRST_MS: "-infinity"}
        return ends.get(milliseconds(value)) or within(value)

    return to_text


def _moments(show: Callable[[int], str]) -> dict[str, ToText]:
    date = _instant(show)
    return {
        "date": date,
        "date-or-null": date,
        "date-clamped": _clamped(date),
        "micros": _micros(show),
        "text": text,
    }


_MOMENTS: Final[Mapping[str, Mapping[str, ToText]]] = {
    "timestamp with time zone": _moments(moments.timestamptz_text),
    "timestamp without time zone": _moments(moments.timestamp_text),
    "date": {"date": _day, "date-or-null": _day, "date-clamped": _clamped(_day), "text": text},
    "time without time zone": {"text": text, "micros": _micros(moments.time_text)},
}


# -- JSON --------------------------------------------------------------------------------------------------------
def json_text(value: Any) -> str:
    """A JSON text that comes back as this value (docs/types.md, JSON). Raises NoText for what JSON has not got."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        try:
            return orjson.dumps(value).decode()
        except (UnicodeEncodeError, orjson.JSONEncodeError):
            raise no_text("half of a surrogate pair in a string") from None
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        if not math.isfinite(value):
            raise no_text("a number that JSON has not got (NaN or an infinity)")
        return repr(value)
    if isinstance(value, Decimal128):
        found = value.to_decimal()
        if not found.is_finite():
            raise no_text("a number that JSON has not got (NaN or an infinity)")
        return str(found)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(json_text, value))}]"
    if isinstance(value, Mapping):
        return (
            "{"
            + ",".join(f"{json_text(text(name))}:{json_text(member)}" for name, member in value.items())
            + "}"
        )
    raise no_text(f"a {kind(value)} inside of JSON, which has no such thing")


# -- vectors, geometry, and other documents ----------------------------------------------------------------------
def _vector(value: Any) -> str:
    if isinstance(value, Binary) and value.subtype == VECTOR_SUBTYPE:
        return f"[{','.join(repr(float(n)) for n in value.as_vector().data)}]"
    if not isinstance(value, list):
        raise no_text(f"a {kind(value)} where a vector is needed")
    return f"[{','.join(map(_double, value))}]"


def _member(value: Any, name: str) -> Any:
    if not isinstance(value, Mapping) or name not in value:
        raise no_text(
            f"an object without '{name}'" if isinstance(value, Mapping) else f"a {kind(value)}, no object"
        )
    return value[name]


def _items(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise no_text(f"a {kind(value)} where an array is needed")
    return list(value)


def _sparse(value: Any) -> str:
    pairs = zip(_items(_member(value, "indices")), _items(_member(value, "values")), strict=True)
    body = ",".join(f"{int(_whole(index)) + 1}:{_double(item)}" for index, item in pairs)
    return f"{{{body}}}/{_whole(_member(value, 'dims'))}"


def _point(value: Any) -> str:
    return f"({_double(_member(value, 'x'))},{_double(_member(value, 'y'))})"


def _points(value: Any) -> str:
    return ",".join(map(_point, _items(_member(value, "points"))))


def _path(value: Any) -> str:
    return f"({_points(value)})" if _member(value, "closed") is True else f"[{_points(value)}]"


def _line(value: Any) -> str:
    return "{" + ",".join(_double(_member(value, name)) for name in "abc") + "}"


def _between(first: str, second: str, form: str) -> ToText:
    return lambda value: form.format(_point(_member(value, first)), _point(_member(value, second)))


def _circle(value: Any) -> str:
    return f"<{_point(_member(value, 'center'))},{_double(_member(value, 'radius'))}>"


def _interval(value: Any) -> str:
    micros = int(_whole(_member(value, "microseconds")))
    seconds, rest = divmod(abs(micros), 1_000_000)
    minus = "-" if micros < 0 else ""
    months, days = _whole(_member(value, "months")), _whole(_member(value, "days"))
    return f"{months} months {days} days {minus}{seconds}.{rest:06d} seconds"


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _pairs(value: Any) -> str:
    if not isinstance(value, Mapping):
        raise no_text(f"a {kind(value)} where an object is needed")
    return ",".join(
        f"{_quoted(text(name))}=>{'NULL' if item is None else _quoted(text(item))}"
        for name, item in value.items()
    )


_DOCUMENTS: Final[Mapping[str, ToText]] = {
    "point": _point,
    "line": _line,
    "lseg": _between("from", "to", "[{},{}]"),
    "box": _between("upperRight", "lowerLeft", "{},{}"),
    "path": _path,
    "polygon": lambda value: f"({_points(value)})",
    "circle": _circle,
    "hstore": _pairs,
    "sparsevec": _sparse,
    "interval": _interval,
}
_SCALARS: Final[Mapping[str, ToText]] = {
    "int32": _whole, "int64": _whole, "decimal": _decimal, "double": _double, "bool": _boolean, "value": json_text,
}  # fmt: skip
_VECTORS: Final[Mapping[str, ToText]] = {"array": _vector, "binary": _vector, "text": text}


# -- types made of others ----------------------------------------------------------------------------------------
def _array(element: ToText, delimiter: str) -> ToText:
    def to_text(value: Any) -> str:
        parts = []
        for item in _items(value):
            if isinstance(item, list):
                parts.append(to_text(item))
            else:
                found = None if item is None else element(item)
                parts.append("NULL" if found is None else _quoted(found))
        return "{" + delimiter.join(parts) + "}"

    return to_text


def _range(bound: ToText) -> ToText:
    def to_text(value: Any) -> str:
        if isinstance(value, Mapping) and value.get("empty") is True:
            return "empty"
        sides = []
        for name in ("lower", "upper"):
            side = _member(value, name)
            found = None if side is None else bound(side)
            sides.append("" if found is None else _quoted(found))
        low = "[" if _member(value, "lowerInclusive") else "("
        high = "]" if _member(value, "upperInclusive") else ")"
        return f"{low}{sides[0]},{sides[1]}{high}"

    return to_text


def _multirange(element: ToText) -> ToText:
    return lambda value: "{" + ",".join(element(item) or "" for item in _items(value)) + "}"


def _composite(fields: tuple[tuple[str, ToText], ...]) -> ToText:
    def to_text(value: Any) -> str:
        parts = []
        for name, convert in fields:
            item = _member(value, name)
            found = None if item is None else convert(item)
            parts.append("" if found is None else _quoted(found))
        return f"({','.join(parts)})"

    return to_text


def _of_type(of: Type, policy: str) -> ToText:
    """By a policy of a type."""
    if policy == "text":
        return text
    if of.kind is TypeKind.COMPOSITE:
        return _composite(tuple((name, _default(member)) for name, member in of.fields))
    if of.kind is TypeKind.ARRAY and of.element is not None:
        inner = policies(of.element)
        chosen = policy if policy not in ("array", "elements") else inner[0]
        return _array(_part(of.element, chosen), of.element.delimiter)
    if of.kind is TypeKind.RANGE and of.element is not None:
        return _range(_part(of.element, policy if policy != "document" else policies(of.element)[0]))
    if of.kind is TypeKind.MULTIRANGE and of.element is not None:
        return _multirange(_of_type(of.element, policy if policy != "array" else "document"))
    return _of_base(of.name, policy)


def _part(of: Type, policy: str) -> ToText:
    """Of what is inside of another value: printed types stay the text that they are there."""
    if of.kind in (TypeKind.BASE, TypeKind.ENUM) and of.name not in CODECS and of.name not in OTHERS:
        return text
    return _of_type(of, policy)


def _of_base(name: str, policy: str) -> ToText:
    if name in _MOMENTS:
        return _MOMENTS[name][policy]
    if policy == "document":
        return _DOCUMENTS[name]
    if name in ("vector", "halfvec"):
        return _VECTORS[policy]
    if name in ("int2vector", "oidvector"):
        return lambda value: " ".join(map(_whole, _items(value)))
    if policy == "binary":
        return _uuid if name == "uuid" else _bytes
    return _SCALARS[policy]


def _default(of: Type) -> ToText:
    return _of_type(of, policies(of)[0])


def to_text(column: Column, wanted: Conversion | None) -> ToText:
    """What a document's value becomes in this column, under its conversion in the mapping."""
    if isinstance(wanted, Rewrite):
        return _moved_back(wanted)
    return _of_type(column.resolved, wanted or policies(column.resolved)[0])


def _moved_back(rewrite: Rewrite) -> ToText:
    old, new = rewrite.prefix.folders
    workspaces = rewrite.prefix.workspaces

    def back(value: Any) -> str:
        path = text(value)
        for candidate in _origins(path, old, new, workspaces):
            if moved(candidate, old, new, workspaces) == path:
                return candidate
        raise no_text(f"a path that no path under {old or '/'} becomes")

    return back


def _origins(path: str, old: str, new: str, workspaces: str | None) -> list[str]:
    """Paths that may have become this one, the likeliest first."""
    found = []
    if workspaces is not None and path.startswith(f"{new}/private/"):
        user, _, inside = path[len(new) + len("/private/") :].partition("/")
        if inside.startswith(f"{workspaces}/"):
            found.append(f"{old}/private/{user}/{inside[len(workspaces) + 1 :]}")
    if path == (new or "/") or path.startswith(f"{new}/"):
        found.append(f"{old}{path[len(new) :]}" or "/")
    return [*found, path]
