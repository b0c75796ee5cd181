"""What each field of a collection's documents is made from, and where in the mapping that stands. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from consumers.mapping.plan import RowPlan
from consumers.mapping.spec import Collection, Conversion, Lines, Path_, Rewrite


class Origin(NamedTuple):
    """what: for people. place: the deepest part of the file that says it."""

    what: str
    place: Path_


def origins(name: str, declared: Collection, use: RowPlan) -> dict[str, Origin]:
    """Of each field."""
    path: Path_ = ("collections", name)
    found: dict[str, Origin] = {}
    for field, column, _ in use.fields:
        found[field] = _column(path, declared, field, column)
    for field, reference in declared.references.items():
        to = declared.references[field].to
        what = f"_id in {to} of {', '.join(reference.columns)}"
        found[field] = Origin(what, (*path, "references", field))
        for kept, column in reference.kept:
            found[kept] = Origin(
                f"column {column}, kept beside {field}", (*path, "references", field, "keep")
            )
    for field, expression in declared.computed.items():
        found[field] = Origin(f"computed: {expression}", (*path, "computed", field))
    for field, embed in declared.embed.items():
        by = ", ".join(embed.foreign_key)
        found[field] = Origin(f"rows of {embed.table} by {by}", (*path, "embed", field))
    for field, copy in declared.copies.items():
        by = ", ".join(copy.foreign_key)
        found[field] = Origin(f"the row of {copy.table} that {by} points to", (*path, "copy", field))
    for field in declared.constants:
        found[field] = Origin("constant", (*path, "constants", field))
    for field in declared.defaults:
        if field in found:
            found[field] = Origin(f"{found[field].what}, or a default", (*path, "defaults", field))
    return found


def _column(path: Path_, declared: Collection, field: str, column: str) -> Origin:
    if column in declared.convert:
        what = f"column {column}, as {_named(declared.convert[column])}"
        return Origin(what, (*path, "convert", column))
    if column in declared.rename:
        return Origin(f"column {column}", (*path, "rename", column))
    return Origin(f"column {column}", (*path, "from"))


def _named(conversion: Conversion) -> str:
    return "a path that is moved" if isinstance(conversion, Rewrite) else str(conversion)


def numbered(found: Mapping[str, Origin], lines: Lines) -> dict[str, tuple[str, int]]:
    """Each with its line."""
    return {field: (origin.what, lines.line(*origin.place)) for field, origin in found.items()}
