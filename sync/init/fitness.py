"""Which tables a mapping can have as they are, and what has to be done about the others. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from connectors.debezium.config import topic_of
from connectors.postgres.schema_facts import TableFacts
from consumers.mapping import keys
from sync import requirements
from sync.init.proposal import LeftOut

#: pg_class.relkind
_NO_TABLES = {
    "v": ("a view: it has no rows of its own, so no changes", "map the tables that it is made from"),
    "m": (
        "a materialized view: its changes are in no WAL that Debezium reads",
        "map the tables that it is made from",
    ),
    "f": ("a foreign table: its rows are in another database", "run a pipeline of that database"),
}
#: as the mapping takes a table's name
_NAME = re.compile(r"^[^.\x00]+\.[^.\x00]+$")


def quoted(name: str) -> str:
    """An identifier as SQL."""
    return '"' + name.replace('"', '""') + '"'


def unfit(facts: TableFacts) -> LeftOut | None:
    """Why this table cannot be mapped as it is; None where it can."""
    table, sql = facts.table, f"{quoted(facts.schema)}.{quoted(facts.relation)}"
    if table.kind in _NO_TABLES:
        return LeftOut(facts.name, *_NO_TABLES[table.kind])
    if facts.extension:
        return LeftOut(facts.name, f"it belongs to the extension {facts.extension}")
    if not facts.readable:
        return LeftOut(
            facts.name,
            "this role may not read it",
            f"GRANT USAGE ON SCHEMA {quoted(facts.schema)}, and SELECT ON {sql}, to the role",
        )
    if not _NAME.match(facts.name):
        return LeftOut(facts.name, "a dot in the name of a schema or table cannot be mapped yet", "rename it")
    for complaint in requirements.of_table("it", table):
        return LeftOut(facts.name, complaint.what, complaint.remedy)
    for name in table.key:
        column = table.column(name)
        if column is not None and keys.form(column) is None:
            return LeftOut(
                facts.name,
                f"its key has the column {name} of type {column.type}, from which no id can be computed",
                "name the columns of another unique index over NOT NULL columns with `key:`, or give it one",
            )
    return None


def fit(tables: Sequence[TableFacts]) -> tuple[list[TableFacts], list[LeftOut]]:
    """The tables that can be mapped, and the others."""
    good: list[TableFacts] = []
    left_out: list[LeftOut] = []
    topics: dict[str, str] = {}
    for facts in (replace(f, table=replace(f.table, key=keys.chosen(f.table, None))) for f in tables):
        found = unfit(facts)
        topic = topic_of("", facts.name)
        if found is None and topic in topics:
            found = LeftOut(
                facts.name,
                f"its name differs from {topics[topic]}'s only in what a topic's name cannot have",
                "rename one of them, or give it a pipeline of its own",
            )
        if found is not None:
            left_out.append(found)
        else:
            topics[topic] = facts.name
            good.append(facts)
    return good, left_out
