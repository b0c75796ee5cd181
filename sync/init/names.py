"""Names of collections and fields: camelCase, valid in MongoDB, each once. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from consumers.mapping.spec import camel_case

#: tandem's own, or an application's trouble: `id` beside `_id`
_TAKEN = frozenset({"_id", "_sync"})
_FIELD = re.compile(r"^[^.$\x00][^.\x00]*$")
#: what MongoDB keeps for itself, or tandem
_OWN_COLLECTIONS = re.compile(r"^(system$|system\.|_tandem)")


def free(wanted: str, taken: Iterable[str]) -> str:
    """The name, or the first of name2, name3, … that is not taken."""
    used = set(taken)
    if wanted not in used:
        return wanted
    number = 2
    while f"{wanted}{number}" in used:
        number += 1
    return f"{wanted}{number}"


def plain(name: str) -> str:
    """camelCase of what is left when everything but letters, digits and `_` separates words."""
    words = re.sub(r"[^\w]+", "_", name).strip("_")
    return camel_case(words) if words else "unnamed"


def is_field(name: str) -> bool:
    """Whether it can be a field's name that is not tandem's own."""
    return bool(_FIELD.match(name)) and name not in _TAKEN


def collections(tables: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """A collection's name for each (schema, relation): its camelCase, after its schema's where several have it.

    The tables of the schema `public` keep the short name.
    """
    short = {table: _collection(table[1]) for table in tables}
    many = {name for name in short.values() if list(short.values()).count(name) > 1}
    found: dict[tuple[str, str], str] = {}
    for table in sorted(tables, key=lambda t: (short[t] in many and t[0] != "public", t)):
        wanted = short[table]
        if wanted in many and table[0] != "public":
            wanted = _collection(f"{table[0]}_{table[1]}")
        found[table] = free(wanted, found.values())
    return {table: found[table] for table in tables}


def _collection(relation: str) -> str:
    name = plain(relation)
    return f"{name}Rows" if _OWN_COLLECTIONS.match(name) else name


def inside(relation: str, parent: str) -> str:
    """An array's name for a child's rows: the child's name less its parent's where it begins with that.

    `team_members` in `teams` is `members`.
    """
    for start in (parent, parent.removesuffix("s"), re.sub("ies$", "y", parent)):
        rest = relation.removeprefix(f"{start}_")
        if start and rest != relation and rest.strip("_"):
            return plain(rest)
    return plain(relation)


def fields(
    columns: Sequence[str], key: Sequence[str], fixed: Mapping[str, str], taken: Iterable[str] = ()
) -> tuple[dict[str, str], dict[str, str]]:
    """Fields of these columns, and of those that need a `rename` the reason.

    fixed: column -> field, decided before (references). taken: names that are no columns'. A name that can
    stay as it is stays; whatever meets a name that is taken gets a number.
    """
    found: dict[str, str] = dict(fixed)
    used = {*fixed.values(), *taken}
    reasons: dict[str, str] = {}
    # first those whose own name is already right, so that the others give way to them
    for column in sorted(columns, key=lambda c: (camel_case(c) != c, columns.index(c))):
        if column in found:
            continue
        wanted, why = camel_case(column), ""
        if column in ("id", "_id") and (column in key or column == "_id"):
            wanted, why = "originalId", "`_id` is computed from the key; its PostgreSQL value is kept here"
        elif not is_field(wanted):
            wanted, why = plain(column), f"'{wanted}' cannot be a field's name in MongoDB"
        if wanted in used:
            why = f"'{wanted}' is another field already"
        found[column] = free(wanted, used)
        used.add(found[column])
        if found[column] != camel_case(column):
            reasons[column] = why
    return found, {column: reasons[column] for column in columns if column in reasons}
