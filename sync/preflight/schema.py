"""$jsonSchema as MongoDB evaluates it, on documents that are not written yet. Pure.

Source: MongoDB documentation, "$jsonSchema", its table of keywords. Messages name fields and types, never values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

from bson import Decimal128

from sync.preflight.equality import bson_type, comparable

_NUMBERS = {"int", "long", "double", "decimal"}
#: `type` is JSON Schema's own: its names differ
_JSON_TYPES = {"boolean": "bool"}
#: say nothing about a document
_WORDS = {"title", "description"}


def unsupported(schema: Any) -> set[str]:
    """Keywords in a schema that are not evaluated here."""
    found: set[str] = set()
    if not isinstance(schema, Mapping):
        return found
    for word, of in schema.items():
        if word in _WORDS:
            continue
        if word not in _KEYWORDS:
            found.add(str(word))
        patterns = [of] if word == "pattern" else list(of) if word == "patternProperties" else []
        found |= {f"the pattern {p}" for p in patterns if _compiled(p) is None}
        for inner in _schemas_in(word, of):
            found |= unsupported(inner)
    return found


def _schemas_in(word: str, of: Any) -> Sequence[Any]:
    if word in ("properties", "patternProperties") and isinstance(of, Mapping):
        return list(of.values())
    if word in ("allOf", "anyOf", "oneOf"):
        return list(of)
    if word == "items":
        return list(of) if isinstance(of, list) else [of]
    if word in ("not", "additionalProperties", "additionalItems"):
        return [of]
    if word == "dependencies" and isinstance(of, Mapping):
        return [inner for inner in of.values() if isinstance(inner, Mapping)]
    return []


def violations(value: Any, schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """What a value breaks of a schema: `field: what`, in the schema's order."""
    for word, wanted in schema.items():
        rule = _KEYWORDS.get(word)
        if rule is not None:
            yield from rule(value, wanted, path, schema)


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether nothing is broken."""
    return next(violations(value, schema), None) is None


Rule = Callable[[Any, Any, str, Mapping[str, Any]], Iterator[str]]


def _place(path: str) -> str:
    return path or "the document"


def _is_type(value: Any, wanted: str) -> bool:
    kind = bson_type(value)
    return kind == _JSON_TYPES.get(wanted, wanted) or (wanted == "number" and kind in _NUMBERS)


def _types(value: Any, wanted: Any, path: str, _: Mapping[str, Any]) -> Iterator[str]:
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    if not any(_is_type(value, name) for name in names):
        yield f"{_place(path)}: {' or '.join(names)} wanted, it is {bson_type(value)}"


def _enum(value: Any, wanted: Any, path: str, _: Mapping[str, Any]) -> Iterator[str]:
    if comparable(value) not in [comparable(one) for one in wanted]:
        yield f"{_place(path)}: none of the values of its enum"


def _required(value: Any, wanted: Any, path: str, _: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(value, dict):
        for name in wanted:
            if name not in value:
                yield f"{_join(path, name)}: required, and not there"


def _join(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def _properties(value: Any, wanted: Any, path: str, _: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in wanted.items():
            if name in value:
                yield from violations(value[name], inner, _join(path, name))


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    """None for one that only PCRE, MongoDB's, knows: `unsupported` names it."""
    try:
        return re.compile(pattern)
    except re.error:
        return None


def _found(pattern: str, text: str, unknown: bool) -> bool:
    compiled = _compiled(pattern)
    return unknown if compiled is None else compiled.search(text) is not None


def _pattern_properties(value: Any, wanted: Any, path: str, _: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(value, dict):
        for pattern, inner in wanted.items():
            for name, member in value.items():
                if _found(pattern, name, False):
                    yield from violations(member, inner, _join(path, name))


def _additional_properties(value: Any, wanted: Any, path: str, schema: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(value, dict):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, member in value.items():
        if name in known or any(_found(p, name, True) for p in patterns):
            continue
        if wanted is False:
            yield f"{_join(path, name)}: a field that the schema does not allow"
        elif isinstance(wanted, Mapping):
            yield from violations(member, wanted, _join(path, name))


def _dependencies(value: Any, wanted: Any, path: str, _: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(value, dict):
        for name, of in wanted.items():
            if name not in value:
                continue
            if isinstance(of, Mapping):
                yield from violations(value, of, path)
            else:
                yield from _required(value, of, path, {})


def _items(value: Any, wanted: Any, path: str, schema: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(value, list):
        return
    if isinstance(wanted, list):
        for number, (member, inner) in enumerate(zip(value, wanted, strict=False)):
            yield from violations(member, inner, _join(path, number))
        more = schema.get("additionalItems", True)
        if more is False and len(value) > len(wanted):
            yield f"{_place(path)}: more elements than the schema allows"
        elif isinstance(more, Mapping):
            for member in value[len(wanted) :]:
                yield from violations(member, more, path)
    else:
        for member in value:
            yield from violations(member, wanted, f"{path}[]")


def _unique_items(value: Any, wanted: Any, path: str, _: Mapping[str, Any]) -> Iterator[str]:
    if wanted and isinstance(value, list) and len({comparable(v) for v in value}) < len(value):
        yield f"{_place(path)}: elements are not unique"


def _count(kind: type, least: bool, what: str) -> Rule:
    def rule(value: Any, wanted: Any, path: str, _: Mapping[str, Any]) -> Iterator[str]:
        if not isinstance(value, kind):
            return
        number = len(value)  # type: ignore[arg-type]
        if number < wanted if least else number > wanted:
            yield f"{_place(path)}: {'fewer' if least else 'more'} {what} than {wanted}"

    return rule


def _number(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal128):
        return None
    return value.to_decimal() if isinstance(value, Decimal128) else Decimal(value)


def _bound(least: bool, flag: str) -> Rule:
    def rule(value: Any, wanted: Any, path: str, schema: Mapping[str, Any]) -> Iterator[str]:
        number, limit = _number(value), _number(wanted)
        if number is None or limit is None:
            return
        beyond = number.is_nan() or (number < limit if least else number > limit)
        if beyond or (schema.get(flag) is True and number == limit):
            yield f"{_place(path)}: {'below' if least else 'above'} its {'minimum' if least else 'maximum'}"

    return rule


def _multiple_of(value: Any, wanted: Any, path: str, _: Mapping[str, Any]) -> Iterator[str]:
    number, step = _number(value), _number(wanted)
    if number is None or step is None:
        return
    if not number.is_finite() or number % step != 0:
        yield f"{_place(path)}: no multiple of its multipleOf"


def _pattern(value: Any, wanted: Any, path: str, _: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(value, str) and not _found(wanted, value, True):
        yield f"{_place(path)}: does not match its pattern"


def _all_of(value: Any, wanted: Any, path: str, _: Mapping[str, Any]) -> Iterator[str]:
    for inner in wanted:
        yield from violations(value, inner, path)


def _any_of(value: Any, wanted: Any, path: str, _: Mapping[str, Any]) -> Iterator[str]:
    if not any(fits(value, inner) for inner in wanted):
        yield f"{_place(path)}: none of its anyOf fits"


def _one_of(value: Any, wanted: Any, path: str, _: Mapping[str, Any]) -> Iterator[str]:
    if sum(fits(value, inner) for inner in wanted) != 1:
        yield f"{_place(path)}: not just one of its oneOf fits"


def _not(value: Any, wanted: Any, path: str, _: Mapping[str, Any]) -> Iterator[str]:
    if fits(value, wanted):
        yield f"{_place(path)}: what its `not` forbids"


def _nothing(*_: Any) -> Iterator[str]:
    return iter(())


_KEYWORDS: Mapping[str, Rule] = {
    "bsonType": _types,
    "type": _types,
    "enum": _enum,
    "required": _required,
    "properties": _properties,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "dependencies": _dependencies,
    "items": _items,
    "additionalItems": _nothing,  # with items
    "uniqueItems": _unique_items,
    "minItems": _count(list, True, "elements"),
    "maxItems": _count(list, False, "elements"),
    "minLength": _count(str, True, "characters"),
    "maxLength": _count(str, False, "characters"),
    "minProperties": _count(dict, True, "fields"),
    "maxProperties": _count(dict, False, "fields"),
    "minimum": _bound(True, "exclusiveMinimum"),
    "maximum": _bound(False, "exclusiveMaximum"),
    "exclusiveMinimum": _nothing,  # with minimum
    "exclusiveMaximum": _nothing,
    "multipleOf": _multiple_of,
    "pattern": _pattern,
    "allOf": _all_of,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
}
