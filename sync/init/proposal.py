"""A mapping as it is proposed: what is to stand in the file, and why. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Line:
    """One entry of the file: `name: value`, and the reason behind it."""

    name: str
    value: Any
    why: str = ""


@dataclass(frozen=True, slots=True)
class IndexLine:
    """One index as the mapping has it, or (index is None) the reason why one is left out."""

    index: Mapping[str, Any] | None
    why: str


@dataclass(frozen=True, slots=True)
class Rows:
    """How a table's rows become documents or elements. renames, references: in the table's order."""

    table: str
    #: what tells its rows apart, where that is not the primary key
    key: Line | None = None
    renames: tuple[Line, ...] = ()
    references: tuple[Line, ...] = ()
    #: what the file says of these rows without an option of its own, one line each
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ArrayProposal:
    """A child table embedded as an array. arrays: those inside of its elements."""

    name: str
    rows: Rows
    foreign_key: tuple[str, ...]
    why: str
    arrays: tuple[ArrayProposal, ...] = ()

    def all(self) -> list[ArrayProposal]:
        """This one and those inside of it."""
        return [self, *(one for inner in self.arrays for one in inner.all())]


@dataclass(frozen=True, slots=True)
class ValidatorProposal:
    """What the validator asks for. properties: field -> JSON schema, and why."""

    required: tuple[str, ...] = ()
    properties: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True)
class CollectionProposal:
    """One collection. about: comments above it."""

    name: str
    rows: Rows
    about: tuple[str, ...] = ()
    arrays: tuple[ArrayProposal, ...] = ()
    indexes: tuple[IndexLine, ...] = ()
    validator: ValidatorProposal = field(default_factory=ValidatorProposal)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A table that the mapping has not. remedy: empty where there is nothing to do."""

    table: str
    what: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Proposal:
    """The whole file. schemas: those that were read."""

    schemas: tuple[str, ...]
    collections: tuple[CollectionProposal, ...]
    left_out: tuple[LeftOut, ...]

    def counts(self) -> dict[str, int]:
        """How much was proposed, by kind."""
        arrays = [one for c in self.collections for array in c.arrays for one in array.all()]
        indexes = [line for c in self.collections for line in c.indexes]
        rows = [c.rows for c in self.collections] + [array.rows for array in arrays]
        return {
            "collections": len(self.collections),
            "embedded": len(arrays),
            "references": sum(len(r.references) for r in rows),
            "renames": sum(len(r.renames) for r in rows),
            "indexes": sum(line.index is not None for line in indexes),
            "indexes_left_out": sum(line.index is None for line in indexes),
            "tables_left_out": len(self.left_out),
        }
