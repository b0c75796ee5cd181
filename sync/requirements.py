"""What PostgreSQL and Connect have to be like, judged from facts: one complaint for each thing that is not in order.
`tandem setup` refuses with them, `tandem preflight` shows them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from connectors.debezium.config import CONVERTER
from connectors.debezium.connect import PLUGIN
from connectors.postgres.catalog import Table
from connectors.postgres.slots import ServerFacts

OLDEST = 150_000
#: earlier ones lose events of one LSN around a restart: docs/adr/0006-debezium-3-7-1.md
OLDEST_DEBEZIUM = (3, 7, 1)
OLDEST_CONNECT = (3, 5)


class Complaint(NamedTuple):
    """One thing that is not in order, and what is to be done."""

    what: str
    remedy: str


#: pg_class.relkind
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence"}


def older_than(version: str, oldest: tuple[int, ...]) -> bool:
    """Whether a version such as `3.6.3.Final` is before this one. False for one that can't be read."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    return found is not None and tuple(int(part or 0) for part in found.groups()) < oldest


def of_server(facts: ServerFacts, slot_exists: bool, publication_exists: bool = False) -> list[Complaint]:
    """What is not in order with the server, and with the role that logs in."""
    wrong: list[Complaint] = []
    if facts.in_recovery:
        wrong.append(Complaint("it is a standby", "give the primary's address"))
    if facts.version < OLDEST:
        wrong.append(Complaint(f"its version is {facts.version // 10_000}", "15 or later is needed"))
    if facts.wal_level != "logical":
        wrong.append(
            Complaint(
                f"wal_level is '{facts.wal_level}', not 'logical'",
                "ALTER SYSTEM SET wal_level = 'logical', then restart the server",
            )
        )
    if not facts.may_replicate:
        wrong.append(
            Complaint(
                f"the role {facts.role} has no REPLICATION attribute",
                f'ALTER ROLE "{facts.role}" REPLICATION',
            )
        )
    if not publication_exists and not facts.may_create:
        wrong.append(
            Complaint(
                f"the role {facts.role} may not create a publication in the database {facts.database}",
                f'GRANT CREATE ON DATABASE "{facts.database}" TO "{facts.role}"; it has to own the mapped tables too',
            )
        )
    if not slot_exists and facts.used_slots >= facts.max_slots:
        wrong.append(
            Complaint(
                f"all {facts.max_slots} replication slots are in use",
                "raise max_replication_slots and restart, or drop a slot that nobody needs",
            )
        )
    return wrong


def of_tables(
    tables: Mapping[str, Table], collections: Mapping[str, Sequence[str]]
) -> dict[str, list[Complaint]]:
    """What keeps tables from being replicated as they are, by table. collections: table -> who maps it."""
    return {
        name: wrong
        for name, table in tables.items()
        if (wrong := list(of_table(f"{name} (mapped by {', '.join(collections.get(name, ()))})", table)))
    }


def of_table(where: str, table: Table) -> Iterable[Complaint]:
    """What keeps one table from being replicated as it is. where: how the complaints call it."""
    name = table.name
    if table.kind not in ("r", "p"):
        yield Complaint(
            f"{where} is no table but {_KINDS.get(table.kind, 'something else')}",
            f"map the tables that {name} is made from",
        )
        return
    if any(part.startswith('"') or part.endswith('"') for part in (table.schema, table.relation)):
        # io.debezium.relational.TableId quotes no such name, and its parser stops the task at the first change
        yield Complaint(
            f"{where} has a name, or a schema's, that begins or ends with a double quote, which Debezium cannot read",
            "rename it",
        )
    if table.persistence != "p":
        yield Complaint(
            f"{where} is not logged, so its changes are in no WAL", f"ALTER TABLE {name} SET LOGGED"
        )
    names = [column.name for column in table.columns]
    if alike := [name for name in names if sum(name.lower() == other.lower() for other in names) > 1]:
        yield Complaint(
            f"{where} has columns that differ only by case, which Debezium refuses: {', '.join(alike)}",
            f"ALTER TABLE {quoted(table.name)} RENAME COLUMN ...",
        )
    yield from of_key(where, table)


def quoted(name: str) -> str:
    """`schema.table` as SQL wants it."""
    return ".".join(_quoted(part) for part in name.split(".", 1))


def _quoted(name: str) -> str:
    if re.fullmatch(r"[a-z_][a-z0-9_$]*", name):
        return name
    return '"' + name.replace('"', '""') + '"'


def of_key(where: str, table: Table) -> Iterable[Complaint]:
    """What is wrong with the key that tells its rows apart: it has to be unique, and old rows have to have it."""
    alter = f"ALTER TABLE {quoted(table.name)}"
    if not table.key:
        yield Complaint(
            f"{where} has no primary key, and no unique index over NOT NULL columns that could stand for it",
            f"{alter} ADD PRIMARY KEY (...)",
        )
        return
    key = f"({', '.join(table.key)})"
    stands = [unique for unique in table.uniques if set(unique.columns) == set(table.key)]
    if set(table.key) != set(table.primary) and not stands:
        yield Complaint(
            f"{where} has no unique index over just {key}: one that is valid, immediate, without a condition or an"
            " expression, over NOT NULL columns",
            f"CREATE UNIQUE INDEX ON {quoted(table.name)} ({', '.join(map(_quoted, table.key))}), with the columns"
            " SET NOT NULL; or take another `key:`",
        )
        return
    identity = f"USING INDEX {_quoted(stands[0].name)}" if stands else "DEFAULT"
    if table.replica_identity == "n":
        yield Complaint(
            f"{where} has REPLICA IDENTITY NOTHING: its updates and deletes would be refused",
            f"{alter} REPLICA IDENTITY {identity}",
        )
    elif set(table.key) <= table.carried:
        for leaf, carried in table.leaves:
            if not set(table.key) <= carried:
                yield Complaint(
                    f"{where} has a partition {leaf} whose REPLICA IDENTITY does not carry the key {key}",
                    f"ALTER TABLE {quoted(leaf)} REPLICA IDENTITY {'DEFAULT' if not stands else 'FULL'}",
                )
    elif table.replica_identity == "i":
        yield Complaint(
            f"{where} has REPLICA IDENTITY USING INDEX of other columns: its deletes would not carry the key {key}",
            f"{alter} REPLICA IDENTITY {identity}; or map it with `key: [{', '.join(sorted(table.carried))}]`",
        )
    else:
        yield Complaint(
            f"{where} has a REPLICA IDENTITY that does not carry the key {key}",
            f"{alter} REPLICA IDENTITY {identity}",
        )


def of_connect(plugins: Mapping[str, str]) -> list[Complaint]:
    """What is not in order with Connect's plugins: class -> version."""
    if PLUGIN not in plugins:
        return [
            Complaint(
                "Kafka Connect has no Debezium connector for PostgreSQL",
                "install debezium-connector-postgres 3.7.1 or later into Connect's plugin.path and restart it",
            )
        ]
    if older_than(plugins[PLUGIN], OLDEST_DEBEZIUM):
        return [
            Complaint(
                f"Kafka Connect has Debezium {plugins[PLUGIN]}, which loses rows of a COPY when it is restarted in it",
                "install debezium-connector-postgres 3.7.1 or later (docs/adr/0006) and restart Connect",
            )
        ]
    # one that is not listed is of a Connect that has no exactly-once either, and is refused for that
    if older_than(plugins.get(CONVERTER, ""), OLDEST_CONNECT):
        return [
            Complaint(
                f"Kafka Connect is of version {plugins[CONVERTER]}, which puts a column's DEFAULT in place of NULL",
                "install Kafka Connect 3.5 or later (KIP-581)",
            )
        ]
    return []


def of_exactly_once(complaints: Iterable[str]) -> list[Complaint]:
    """What Connect says of the wanted configuration, as far as it is about exactly-once delivery."""
    if any(c.startswith("exactly.once.support") for c in complaints):
        return [
            Complaint(
                "Kafka Connect does not deliver exactly once: a task that was replaced could write late",
                "start every Connect worker with exactly.once.source.support=enabled",
            )
        ]
    return []


def of_topic(name: str, found: Mapping[str, str], lag_hours: int) -> list[Complaint]:
    """A topic that removes events by age or size, or compacts them at once, would lose changes."""
    lag_ms = lag_hours * 3_600_000
    if found.get("cleanup.policy") != "compact" or int(found.get("min.compaction.lag.ms", 0)) < lag_ms:
        return [
            Complaint(
                f"the topic {name} does not keep every event for {lag_hours} h",
                f"set cleanup.policy=compact, and min.compaction.lag.ms and delete.retention.ms to {lag_ms}",
            )
        ]
    return []
