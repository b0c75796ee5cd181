"""Foreign keys that lead to no document, and embedded rows whose parent has none: asked of PostgreSQL in SQL.

Ids are computed from the bytes of keys, so keys are compared by their bytes here too: 'a' and 'A' of a collation that
does not tell them apart are two ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from connectors.postgres import sql
from connectors.postgres.catalog import Table
from connectors.postgres.facts import TableFacts
from connectors.postgres.rows import Row, identifier
from consumers.mapping import spec
from consumers.mapping.plan import Plan, RowPlan

Ask = Callable[[sql.Composed], list[Row]]
_INTEGERS = {"smallint", "integer", "bigint", "oid"}
_EXAMPLES = "tandem: key "


@dataclass(frozen=True)
class Link:
    """Columns of one use that hold the key of another's row. field: the reference's, or the array's."""

    use: RowPlan
    field: str
    columns: tuple[str, ...]
    to: RowPlan
    embeds: bool

    @property
    def place(self) -> str:
        """Where it is declared."""
        path = self.use.path[:-1] if self.embeds else self.use.path
        return ".".join((self.use.collection, *path, self.field))


@dataclass(frozen=True)
class Broken:
    """A link's rows that lead nowhere. missing: there is no such row; else its filter leaves it out."""

    link: Link
    missing: int
    filtered: int
    examples: tuple[tuple[str, ...], ...]


def links(plan: Plan) -> Iterator[Link]:
    """Every reference and every embed of a mapping."""
    for name, declared in plan.declared.collections.items():
        if name not in plan.documents:
            continue
        uses = [(plan.documents[name], declared.references)]
        for use in plan.staged(name):
            if use.array:
                uses.append((use, _embed(declared, use.path).references))
                yield Link(
                    use, use.array, use.parent_columns, plan.at(use.home) or plan.documents[name], True
                )
            elif use.copied:
                uses.append((use, declared.copies[use.copied].references))
        for use, references in uses:
            for field, reference in references.items():
                yield Link(use, field, reference.columns, plan.documents[reference.to], False)


def _embed(declared: spec.Collection, path: Sequence[str]) -> spec.Embed:
    """The embed at the end of a path of arrays."""
    found = declared.embed[path[0]]
    for array in path[1:]:
        found = found.embed[array]
    return found


def cannot_break(link: Link, facts: Mapping[str, TableFacts]) -> bool:
    """Whether a foreign key of PostgreSQL and no filter say that every row leads somewhere."""
    of = facts.get(link.use.table.name)
    target = link.to.table
    if of is None or link.to.where_sql or link.columns[0] in of.nondeterministic:
        return False
    kinds = _kinds(link.use.table.table), _kinds(target.table)
    if any(kinds[0][c] != kinds[1][k] for c, k in zip(link.columns, target.key, strict=True)):
        return False
    to = facts.get(target.name)
    if to is None or set(target.key) & to.nondeterministic or set(link.columns) & of.nondeterministic:
        return False
    wanted = dict(zip(link.columns, target.key, strict=True))
    return any(
        key.table == target.name and dict(zip(key.columns, key.key, strict=True)) == wanted
        for key in of.foreign_keys
    )


def never_meets(link: Link) -> str:
    """Why ids computed on both sides can never be the same; empty where they can."""
    mine, theirs = _kinds(link.use.table.table), _kinds(link.to.table.table)
    for column, key in zip(link.columns, link.to.table.key, strict=True):
        if (mine[column] in _INTEGERS) is not (theirs[key] in _INTEGERS):
            return f"{column} is {mine[column]}, {link.to.table.name}.{key} is {theirs[key]}"
    return ""


def _kinds(table: Table) -> dict[str, str]:
    return {c.name: c.type for c in table.columns}


def look(link: Link, ask: Ask, examples: int, sample: sql.Composable | None) -> Broken:
    """Count a link's rows that lead nowhere."""
    joined = _joined(link, sample)
    count = sql.SQL(
        "SELECT count(*) FILTER (WHERE t.inside IS NULL), count(*) FILTER (WHERE NOT t.inside) FROM {}"
    ).format(joined)
    missing, filtered = ask(count)[0]
    found: list[Row] = []
    if missing + filtered and examples:
        keys = sql.SQL(", ").join(
            sql.SQL("c.{}").format(sql.Identifier(f"{_EXAMPLES}{n}")) for n in range(len(link.use.table.key))
        )
        found = ask(
            sql.SQL("SELECT {} FROM {} WHERE t.inside IS NOT TRUE LIMIT {}").format(
                keys, joined, sql.Literal(examples)
            )
        )
    return Broken(link, missing, filtered, tuple(tuple(map(str, row)) for row in found))


def _joined(link: Link, sample: sql.Composable | None) -> sql.Composed:
    """`(rows of the use) AS c LEFT JOIN (rows of the target, inside or not) AS t`."""
    use, to = link.use, link.to
    mine = [f"tandem: to {n}" for n in range(len(link.columns))]
    theirs = [f"tandem: at {n}" for n in range(len(to.table.key))]
    columns = [
        *(_as(_bytes(use.table.table, c), name) for c, name in zip(link.columns, mine, strict=True)),
        *(
            _as(sql.SQL("{}::text").format(sql.Identifier(c)), f"{_EXAMPLES}{n}")
            for n, c in enumerate(use.table.key)
        ),
    ]
    not_null = [sql.SQL("{} IS NOT NULL").format(sql.Identifier(c)) for c in link.columns]
    conditions = [*not_null, *([sql.SQL("({})").format(sql.SQL(use.where_sql))] if use.where_sql else [])]
    keys = [_as(_bytes(to.table.table, c), name) for c, name in zip(to.table.key, theirs, strict=True)]
    inside = sql.SQL("(" + to.where_sql + ") IS TRUE") if to.where_sql else sql.SQL("true")
    table = identifier(use.table.name)
    return sql.SQL(
        "(SELECT {columns} FROM {table} WHERE {conditions}) AS c"
        " LEFT JOIN (SELECT {keys}, {inside} AS inside FROM {to}) AS t ON {on}"
    ).format(
        columns=sql.SQL(", ").join(columns),
        table=table if sample is None else sql.SQL(" ").join([table, sample]),
        conditions=sql.SQL(" AND ").join(conditions),
        keys=sql.SQL(", ").join(keys),
        inside=inside,
        to=identifier(to.table.name),
        on=_equal(mine, theirs),
    )


def _equal(mine: Sequence[str], theirs: Sequence[str]) -> sql.Composed:
    return sql.SQL(" AND ").join(
        sql.SQL("c.{} = t.{}").format(sql.Identifier(a), sql.Identifier(b))
        for a, b in zip(mine, theirs, strict=True)
    )


def _as(expression: sql.Composable, name: str) -> sql.Composed:
    return sql.SQL("{} AS {}").format(expression, sql.Identifier(name))


def _bytes(table: Table, column: str) -> sql.Composed:
    """A column as ids see it: whole numbers as they are, anything else by the bytes of its key's text."""
    kind = _kinds(table)[column]
    name = sql.Identifier(column)
    if kind in _INTEGERS:
        return sql.SQL("{}::bigint").format(name)
    if kind == "numeric":
        return sql.SQL("textsend(trim_scale({})::text)").format(name)
    if kind in ("real", "double precision"):
        return sql.SQL("textsend(({}::float8 + 0)::text)").format(name)
    return sql.SQL("textsend({}::text)").format(name)
