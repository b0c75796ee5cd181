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
            kind = "generated" if column.generated else f"of type {column.type}"
            return LeftOut(
                facts.name,
                f"its key has the column {name}, {kind}, by which Debezium's records cannot be told apart",
                "give it a unique index over other columns, NOT NULL, and a REPLICA IDENTITY USING INDEX of it",
            )
    return None


def keyed(facts: TableFacts) -> TableFacts:
    """The table with the key that tells its rows apart in the mapping: the one that its old rows in the WAL have."""
    table = facts.table
    key = keys.chosen(table, None)
    if table.replica_identity == "i" and not set(key) <= table.carried:
        stands = (unique.columns for unique in table.uniques if set(unique.columns) == table.carried)
        key = next(stands, key)
    return replace(facts, table=replace(table, key=key))


def fit(tables: Sequence[TableFacts]) -> tuple[list[TableFacts], list[LeftOut]]:
    """The tables that can be mapped, each with its key in the mapping, and the others."""
    good: list[TableFacts] = []
    left_out: list[LeftOut] = []
    topics: dict[str, str] = {}
    for facts in map(keyed, tables):
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
