"""PostgreSQL's text of composed values, taken apart: what the output functions of arrays, rows and ranges write.

Source: PostgreSQL documentation, 8.15.6 (arrays), 8.16.6 (composite types), 8.17.5 (ranges), F.17 (hstore); and
array_out, record_out, range_out, multirange_out, hstore_out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

_QUOTED = r'"([^"\\]*(?:\\.[^"\\]*)*)"'  # in arrays and hstore: a backslash escapes
#: in rows and ranges a quote may be doubled as well
_DOUBLING = r'"([^"\\]*(?:(?:""|\\.)[^"\\]*)*)"'
_BOUND = rf'{_DOUBLING}|([^"\\,()\[\]]*)'
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_DOUBLED = re.compile(r'\\(.)|"(")', re.DOTALL)
_LOWER = re.compile(r"\[(-?\d+):")
_PAIR = re.compile(f"{_QUOTED}=>(?:NULL|{_QUOTED})", re.DOTALL)
_FIELD = re.compile(rf'(?:{_DOUBLING}|([^"\\,()]*))(,|\Z)', re.DOTALL)
_RANGE = re.compile(rf"[\[(](?:{_BOUND}),(?:{_BOUND})[\])]", re.DOTALL)


class Array(NamedTuple):
    """items: texts, None for NULL, lists of such for more dimensions. from_one: every lower bound is 1."""

    items: list[Any]
    from_one: bool


class Bounds(NamedTuple):
    """A range that is not empty. lower, upper: None where there is no bound."""

    lower: str | None
    upper: str | None
    lower_inclusive: bool
    upper_inclusive: bool


def _plain(text: str) -> str:
    return _ESCAPED.sub(r"\1", text) if "\\" in text else text


def _undoubled(text: str) -> str:
    return _DOUBLED.sub(lambda found: found[1] or found[2], text) if "\\" in text or '"' in text else text


@lru_cache
def _tokens(delimiter: str) -> re.Pattern[str]:
    return re.compile(rf"{_QUOTED}|([{{}}])|([^{{}}\"{delimiter}]+)|{delimiter}", re.DOTALL)


def array(text: str, delimiter: str = ",") -> Array:
    """The elements of an array. Raises ValueError for what is no array's text."""
    start, from_one = 0, True
    if text.startswith("["):
        start = text.index("=") + 1
        from_one = set(_LOWER.findall(text[:start])) == {"1"}
    body = text[start:]
    if not (body.startswith("{") and body.endswith("}")):
        raise ValueError("this is not the text of an array")
    if '"' not in body and body.find("{", 1) < 0:
        items = body[1:-1].split(delimiter) if len(body) > 2 else []
        return Array([None if item == "NULL" else item for item in items], from_one)
    return Array(_nested(body, delimiter), from_one)


def _nested(body: str, delimiter: str) -> list[Any]:
    open_: list[list[Any]] = [[]]
    for found in _tokens(delimiter).finditer(body):
        quoted, brace, bare = found.groups()
        if quoted is not None:
            open_[-1].append(_plain(quoted))
        elif brace == "{":
            open_.append([])
        elif brace == "}":
            done = open_.pop()
            open_[-1].append(done)
        elif bare is not None:
            open_[-1].append(None if bare == "NULL" else bare)
    [[items]] = open_
    return list(items)


def each(items: list[Any], convert: Callable[[str], Any]) -> list[Any]:
    """The elements of an array converted, NULLs kept, dimensions kept."""
    return [
        None if item is None else each(item, convert) if isinstance(item, list) else convert(item)
        for item in items
    ]


def fields(text: str) -> list[str | None]:
    """The fields of a row's text, None for NULL."""
    body, found, at = text[1:-1], list[str | None](), 0
    while match := _FIELD.match(body, at):
        quoted, bare, end = match.groups()
        found.append(_undoubled(quoted) if quoted is not None else bare or None)
        if not end:
            return found
        at = match.end()
    raise ValueError("this is not the text of a row")


def bounds(text: str) -> Bounds | None:
    """The bounds of a range; None for the empty one."""
    if text == "empty":
        return None
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError("this is not the text of a range")
    low, bare_low, high, bare_high = match.groups()
    return Bounds(
        _undoubled(low) if low is not None else bare_low or None,
        _undoubled(high) if high is not None else bare_high or None,
        text[0] == "[",
        text[-1] == "]",
    )


def ranges(text: str) -> list[str]:
    """The texts of a multirange's ranges."""
    return [found[0] for found in _RANGE.finditer(text)]


def pairs(text: str) -> dict[str, str | None]:
    """The pairs of an hstore, in its order."""
    return {
        _plain(found[1]): None if found[2] is None else _plain(found[2]) for found in _PAIR.finditer(text)
    }
