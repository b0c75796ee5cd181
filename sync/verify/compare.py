"""What tells a document from what PostgreSQL says it has to be. Pure, strict about types."""

from __future__ import annotations

import re
from array import array
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import isnan
from struct import pack
from types import MappingProxyType
from typing import Any

from bson import Decimal128, Int64, ObjectId

from sync.verify.canonical import Unfit, decoded, described, masked, type_name

SYNC = "_sync"
NO_FIELD = "no such field"
#: of an element
_INDEX = re.compile(r"\[\d+\]")


@dataclass(frozen=True)
class Mismatch:
    """One field that differs. at: the place inside it, `members[2].role`, down to the first difference."""

    field: str
    at: str
    expected: str
    found: str


def mismatches(
    expected: Mapping[str, Any],
    document: Mapping[str, Any],
    copy: Mapping[str, ObjectId | None] = MappingProxyType({}),
    secret: Collection[str] = (),
) -> Iterator[Mismatch]:
    """Every field of a document that is not as expected, and every one that is too much or not there.

    expected: the fields less `_id` (documents are found by it) and `_sync`, of which the form is looked at, and what
    it says of the rows that are copied into the document. copy: the `_id`s of these. secret: places whose values are
    masked, such as `members.token`.
    """
    for field, value in expected.items():
        if field not in document:
            yield Mismatch(field, field, _shown(value, field, secret), NO_FIELD)
        elif (found := first_difference(value, document[field], field, secret)) is not None:
            yield Mismatch(field, *found)
    for field, value in document.items():
        if field not in expected and field not in ("_id", SYNC):
            yield Mismatch(field, field, NO_FIELD, _shown(decoded(value), field, secret))
    if (wrong := wrong_sync(document)) is not None:
        yield Mismatch(SYNC, SYNC, "{at: topic offset or null, lsn: int64}", wrong)
        return
    kept = document[SYNC].get("copy")
    for field, pointer in copy.items():
        at = f"{SYNC}.copy.{field}"
        if not isinstance(kept, dict) or field not in kept:
            yield Mismatch(SYNC, at, described(pointer), NO_FIELD)
        elif (found := first_difference(pointer, kept[field], at)) is not None:
            yield Mismatch(SYNC, *found)


def wrong_sync(document: Mapping[str, Any]) -> str | None:
    """What is wrong with the document's `_sync`; None where it is as tandem writes it."""
    if SYNC not in document:
        return NO_FIELD
    sync = document[SYNC]
    if (
        isinstance(sync, dict)
        and type(sync.get("lsn")) is Int64
        and "at" in sync
        and (sync["at"] is None or type(sync["at"]) in (int, Int64))
    ):
        return None
    return described(decoded(sync))


def first_difference(
    expected: Any, found: Any, at: str, secret: Collection[str] = ()
) -> tuple[str, str, str] | None:
    """Where two values part, and what each says there; None where they are the same.

    Types have to be the same, and the scale of decimals. The order of an array counts, an object's doesn't.
    """
    found = decoded(found)
    if isinstance(expected, Unfit) or type_name(expected) != type_name(found):
        return at, _shown(expected, at, secret), _shown(found, at, secret)
    if isinstance(expected, dict):
        return _in_object(expected, found, at, secret)
    if isinstance(expected, list):
        return _in_array(expected, found, at, secret)
    if _same(expected, found):
        return None
    return at, _shown(expected, at, secret), _shown(found, at, secret)


def _shown(value: Any, at: str, secret: Collection[str]) -> str:
    """A value for people, with what is secret in it masked."""
    return described(_hidden(value, _INDEX.sub("", at), secret) if secret else value)


def _hidden(value: Any, place: str, secret: Collection[str]) -> Any:
    if any(place == one or place.startswith(f"{one}.") for one in secret):
        return masked(value)
    if isinstance(value, dict):
        return {name: _hidden(decoded(member), f"{place}.{name}", secret) for name, member in value.items()}
    if isinstance(value, list):
        return [_hidden(decoded(element), place, secret) for element in value]
    return value


def _same(expected: Any, found: Any) -> bool:
    if isinstance(expected, float):
        return pack("<d", expected) == pack("<d", found) or (isnan(expected) and isnan(found))
    if isinstance(expected, Decimal128):
        return bool(expected.bid == found.bid)
    return bool(expected == found)


def _in_object(
    expected: dict[str, Any], found: dict[str, Any], at: str, secret: Collection[str]
) -> tuple[str, str, str] | None:
    for name, value in expected.items():
        place = f"{at}.{name}"
        if name not in found:
            return place, _shown(value, place, secret), NO_FIELD
        if (difference := first_difference(value, found[name], place, secret)) is not None:
            return difference
    for name, value in found.items():
        if name not in expected:
            place = f"{at}.{name}"
            return place, NO_FIELD, _shown(decoded(value), place, secret)
    return None


def _in_array(
    expected: list[Any], found: list[Any], at: str, secret: Collection[str]
) -> tuple[str, str, str] | None:
    if len(expected) != len(found):
        return at, _shown(expected, at, secret), _shown(found, at, secret)
    if set(map(type, expected)) == {float} == set(map(type, found)) and (
        array("d", expected).tobytes() == array("d", found).tobytes()
    ):
        return None
    for index, (value, other) in enumerate(zip(expected, found, strict=True)):
        if (difference := first_difference(value, other, f"{at}[{index}]", secret)) is not None:
            return difference
    return None
