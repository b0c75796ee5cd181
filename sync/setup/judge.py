"""What PostgreSQL has to be like, judged from facts. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from connectors.errors import SourceNotReady, TableUnfit
from connectors.postgres.catalog import Table
from connectors.postgres.slots import ServerFacts

OLDEST = 150_000
#: earlier ones lose events of one LSN around a restart: docs/adr/0006-debezium-3-7.md
OLDEST_DEBEZIUM = (3, 7)


def older_than(version: str, oldest: tuple[int, int]) -> bool:
    """Whether a version such as `3.6.3.Final` is before this one. False for one that can't be read."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) < oldest


#: pg_class.relkind
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence"}


def judge_server(facts: ServerFacts, slot_exists: bool, publication_exists: bool = False) -> None:
    """Raise SourceNotReady, with all that is not in order."""
    wrong: list[tuple[str, str]] = []
    if facts.in_recovery:
        wrong.append(("it is a standby", "give the primary's address"))
    if facts.version < OLDEST:
        wrong.append((f"its version is {facts.version // 10_000}", "15 or later is needed"))
    if facts.wal_level != "logical":
        wrong.append(
            (
                f"wal_level is '{facts.wal_level}', not 'logical'",
                "ALTER SYSTEM SET wal_level = 'logical', then restart the server",
            )
        )
    if not facts.may_replicate:
        wrong.append(
            (f"the role {facts.role} has no REPLICATION attribute", f'ALTER ROLE "{facts.role}" REPLICATION')
        )
    if not publication_exists and not facts.may_create:
        wrong.append(
            (
                f"the role {facts.role} may not create a publication in the database {facts.database}",
                f'GRANT CREATE ON DATABASE "{facts.database}" TO "{facts.role}"; it has to own the mapped tables too',
            )
        )
    if not slot_exists and facts.used_slots >= facts.max_slots:
        wrong.append(
            (
                f"all {facts.max_slots} replication slots are in use",
                "raise max_replication_slots and restart, or drop a slot that nobody needs",
            )
        )
    if wrong:
        raise SourceNotReady(
            "PostgreSQL is not ready: " + "; ".join(what for what, _ in wrong),
            remedy="; ".join(remedy for _, remedy in wrong),
            database=facts.database,
        )


def judge_tables(tables: Mapping[str, Table], collections: Mapping[str, Sequence[str]]) -> None:
    """Raise TableUnfit with every table that cannot be replicated as it is. collections: table -> who maps it."""
    wrong: list[str] = []
    remedies: list[str] = []
    for name, table in tables.items():
        where = f"{name} (mapped by {', '.join(collections.get(name, ()))})"
        if table.kind not in ("r", "p"):
            wrong.append(f"{where} is no table but {_KINDS.get(table.kind, 'something else')}")
            remedies.append(f"map the tables that {name} is made from")
            continue
        if table.persistence != "p":
            wrong.append(f"{where} is not logged, so its changes are in no WAL")
            remedies.append(f"ALTER TABLE {name} SET LOGGED")
        if not table.key:
            wrong.append(f"{where} has no primary key")
            remedies.append(f"ALTER TABLE {name} ADD PRIMARY KEY (...)")
        elif table.replica_identity == "n":
            wrong.append(f"{where} has REPLICA IDENTITY NOTHING: its updates and deletes would be refused")
            remedies.append(f"ALTER TABLE {name} REPLICA IDENTITY DEFAULT")
        elif table.replica_identity == "i":
            wrong.append(
                f"{where} has REPLICA IDENTITY USING INDEX: its deletes would not carry the primary key"
            )
            remedies.append(f"ALTER TABLE {name} REPLICA IDENTITY DEFAULT")
        if table.has_children:
            wrong.append(
                f"{where} has tables that inherit from it: its rows and theirs come in different streams"
            )
            remedies.append("map the inheriting tables, each to a collection of its own")
    if wrong:
        raise TableUnfit(
            "tables cannot be replicated as they are: " + "; ".join(wrong), remedy="; ".join(remedies)
        )
