"""What tells a document from what PostgreSQL says it has to be. Pure, strict about types."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isnan
from struct import pack
from types import MappingProxyType
from typing import Any

from bson import Decimal128, Int64, ObjectId

from sync.verify.canonical import Unfit, decoded, described, type_name

SYNC = "_sync"
NO_FIELD = "no such field"


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
) -> Iterator[Mismatch]:
    """Every field of a document that is not as expected, and every one that is too much or not there.

    expected: the fields less `_id` (documents are found by it) and `_sync`, of which the form is looked at, and what
    it says of the rows that are copied into the document. copy: the `_id`s of these.
    """
    for field, value in expected.items():
        if field not in document:
            yield Mismatch(field, field, described(value), NO_FIELD)
        elif (found := first_difference(value, document[field], field)) is not None:
            yield Mismatch(field, *found)
    for field, value in document.items():
        if field not in expected and field not in ("_id", SYNC):
            yield Mismatch(field, field, NO_FIELD, described(decoded(value)))
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


def first_difference(expected: Any, found: Any, at: str) -> tuple[str, str, str] | None:
    """Where two values part, and what each says there; None where they are the same.

    Types have to be the same, and the scale of decimals. The order of an array counts, an object's doesn't.
    """
    found = decoded(found)
    if isinstance(expected, Unfit) or type_name(expected) != type_name(found):
        return at, described(expected), described(found)
    if isinstance(expected, dict):
        return _in_object(expected, found, at)
    if isinstance(expected, list):
        return _in_array(expected, found, at)
    return None if _same(expected, found) else (at, described(expected), described(found))


def _same(expected: Any, found: Any) -> bool:
    if isinstance(expected, float):
        return pack("<d", expected) == pack("<d", found) or (isnan(expected) and isnan(found))
    if isinstance(expected, Decimal128):
        return bool(expected.bid == found.bid)
    return bool(expected == found)


def _in_object(expected: dict[str, Any], found: dict[str, Any], at: str) -> tuple[str, str, str] | None:
    for name, value in expected.items():
        place = f"{at}.{name}"
        if name not in found:
            return place, described(value), NO_FIELD
        if (difference := first_difference(value, found[name], place)) is not None:
            return difference
    for name, value in found.items():
        if name not in expected:
            return f"{at}.{name}", NO_FIELD, described(decoded(value))
    return None


def _in_array(expected: list[Any], found: list[Any], at: str) -> tuple[str, str, str] | None:
    if len(expected) != len(found):
        return at, described(expected), described(found)
    if set(map(type, expected)) == {float} == set(map(type, found)) and (
        array("d", expected).tobytes() == array("d", found).tobytes()
    ):
        return None
    for index, (value, other) in enumerate(zip(expected, found, strict=True)):
        if (difference := first_difference(value, other, f"{at}[{index}]")) is not None:
            return difference
    return None
