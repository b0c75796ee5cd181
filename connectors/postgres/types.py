"""PostgreSQL's types as the catalog has them, followed down to what they are made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from connectors.postgres.client import Session


class TypeKind(StrEnum):
    """What a type is made of. A domain is its base type."""

    BASE = "base"
    ENUM = "enum"
    ARRAY = "array"
    COMPOSITE = "composite"
    RANGE = "range"
    MULTIRANGE = "multirange"


@dataclass(frozen=True, slots=True)
class Type:
    """One type. name: `format_type` without modifier for PostgreSQL's own, the bare name for an extension's,
    `schema.name` for others, `enum` for every enum, an array's element and `[]`.

    element: of an array, or a range's subtype; a multirange has its range. fields: of a composite type.
    delimiter: between the elements of an array of it.
    """

    name: str
    kind: TypeKind = TypeKind.BASE
    element: Type | None = None
    fields: tuple[tuple[str, Type], ...] = ()
    delimiter: str = ","


def named(name: str) -> Type:
    """A type by its name alone: a base type or an enum, or an array of one."""
    if name.endswith("[]"):
        return Type(name, TypeKind.ARRAY, named(name[:-2]))
    return Type(name, TypeKind.ENUM if name == "enum" else TypeKind.BASE)


#: numeric(p, s) with s < 0: s is the modifier's low 11 bits, signed (PostgreSQL, numeric_typmod_scale)
NEGATIVE_SCALE = Type("numeric of negative scale")

_TYPES = """
SELECT t.oid, t.typname::text, n.nspname::text, t.typtype::text, format_type(t.oid, NULL), t.typdelim::text,
       t.typbasetype, t.typtypmod,
       (SELECT e.oid FROM pg_type e WHERE e.typarray = t.oid),
       (SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid),
       (SELECT r.rngtypid FROM pg_range r WHERE r.rngmultitypid = t.oid),
       (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
        WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped),
       (SELECT array_agg(a.atttypid ORDER BY a.attnum) FROM pg_attribute a
        WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped),
       EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid
               AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e')
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.oid = ANY(%s)
"""


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    kind: str
    delimiter: str
    base: int
    modifier: int
    element: int | None
    subtype: int | None
    range_: int | None
    fields: tuple[tuple[str, int], ...]

    @property
    def parts(self) -> list[int]:
        found = [self.base, self.element, self.subtype, self.range_, *(oid for _, oid in self.fields)]
        return [oid for oid in found if oid]


class Types:
    """Types by OID and modifier, each read once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._entries: dict[int, _Entry] = {}

    def read(self, oids: Iterable[int]) -> None:
        """Learn these types, and all that they are made of."""
        wanted = set(oids)
        while wanted := wanted - self._entries.keys():
            for oid, *found in self._session.execute(_TYPES, [list(wanted)]).fetchall():
                self._entries[oid] = _entry(*found)
            wanted = {part for oid in wanted for part in self._entries[oid].parts}

    def type(self, oid: int, modifier: int = -1) -> Type:
        """A type that has been read."""
        entry = self._entries[oid]
        while entry.kind == "d":
            oid, modifier = entry.base, entry.modifier if modifier < 0 else modifier
            entry = self._entries[oid]
        if entry.element:
            element = self.type(entry.element)
            return Type(f"{element.name}[]", TypeKind.ARRAY, element)
        if entry.subtype:
            return Type(entry.name, TypeKind.RANGE, self.type(entry.subtype))
        if entry.range_:
            return Type(entry.name, TypeKind.MULTIRANGE, self.type(entry.range_))
        if entry.kind == "c":
            fields = tuple((name, self.type(part)) for name, part in entry.fields)
            return Type(entry.name, TypeKind.COMPOSITE, None, fields)
        if entry.kind == "e":
            return Type("enum", TypeKind.ENUM)
        if entry.name == "numeric" and modifier >= 4 and (((modifier - 4) & 2047) ^ 1024) - 1024 < 0:
            return NEGATIVE_SCALE
        return Type(entry.name, delimiter=entry.delimiter)


def _entry(
    name: str,
    schema: str,
    kind: str,
    formatted: str,
    delimiter: str,
    base: int,
    modifier: int,
    element: int | None,
    subtype: int | None,
    range_: int | None,
    fields: list[str] | None,
    field_types: list[int] | None,
    of_extension: bool,
) -> _Entry:
    known: Any = formatted if schema == "pg_catalog" else name if of_extension else f"{schema}.{name}"
    named_fields = tuple(zip(fields or (), field_types or (), strict=True)) if kind == "c" else ()
    return _Entry(known, kind, delimiter, base, modifier, element, subtype, range_, named_fields)
