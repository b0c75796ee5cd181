"""Facts about servers and tables judged into findings. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from connectors.mongo.probe import TargetFacts
from connectors.postgres.catalog import Table
from connectors.postgres.facts import SourceFacts, TableFacts
from connectors.postgres.slots import ServerFacts
from consumers.mapping.plan import Plan
from sync import requirements
from sync.preflight.findings import Finding, Level

#: a slot that is allowed less than this may be lost in a load's time
_LEAST_WAL_BYTES = 1 << 30
_UNITS = {"kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}


def assess_server(
    server: ServerFacts, slot_exists: bool, publication_exists: bool, facts: SourceFacts
) -> Iterator[Finding]:
    """What setup would refuse the server for, and what would stop it later."""
    check = "PostgreSQL"
    for what, remedy in requirements.of_server(server, slot_exists, publication_exists):
        yield Finding(Level.ERROR, check, "server", server.database, what, remedy)
    most = int(facts.settings.get("max_wal_senders", "10"))
    if not slot_exists and facts.used_senders >= most:
        yield Finding(
            Level.ERROR,
            check,
            "senders",
            "max_wal_senders",
            f"all {most} WAL senders are in use: nobody could stream from a new slot",
            "raise max_wal_senders and restart, or end a sender that nobody needs",
        )
    publication = facts.publication
    if publication is not None and (publication.all_tables or not publication.owned):
        why = "is FOR ALL TABLES" if publication.all_tables else f"is not owned by the role {server.role}"
        yield Finding(
            Level.ERROR,
            check,
            "publication",
            "publication",
            f"the publication that setup would use is there and {why}",
            "give another name with TANDEM_SOURCE__PUBLICATION",
        )
    if facts.settings.get("server_encoding") == "SQL_ASCII":
        yield Finding(
            Level.ERROR,
            check,
            "encoding",
            "server_encoding",
            "the database's encoding is SQL_ASCII: what its texts mean is not known",
            "move it into a database with encoding UTF8 first",
        )


def assess_retention(facts: SourceFacts) -> Iterator[Finding]:
    """How long the slot may be behind before it is lost, or fills the disk."""
    check, known = "PostgreSQL", facts.settings
    kept = known.get("max_slot_wal_keep_size", "-1")
    if kept == "-1":
        yield Finding(
            Level.WARNING,
            check,
            "slot-retention",
            "max_slot_wal_keep_size",
            "max_slot_wal_keep_size is not set: a slot that nobody reads fills the disk of PostgreSQL",
            "ALTER SYSTEM SET max_slot_wal_keep_size to what the disk has to spare, then SELECT pg_reload_conf()",
        )
    elif as_bytes(kept) < _LEAST_WAL_BYTES:
        yield Finding(
            Level.WARNING,
            check,
            "slot-retention",
            "max_slot_wal_keep_size",
            f"max_slot_wal_keep_size is {kept}: a slot that falls further behind is lost, and all is loaded anew",
            "raise it: what is written while Connect is away has to fit",
        )
    idle = known.get("idle_replication_slot_timeout", "0")
    if idle not in ("0", ""):
        yield Finding(
            Level.WARNING,
            check,
            "slot-timeout",
            "idle_replication_slot_timeout",
            f"idle_replication_slot_timeout is {idle}: the slot is lost when Connect is away for that long",
            "set it to 0, or to longer than any outage that you want to survive",
        )


def assess_timeouts(facts: SourceFacts, role: str) -> Iterator[Finding]:
    """Limits that would end the load's long reads."""
    for name in ("statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout"):
        value = facts.settings.get(name, "0")
        if value != "0":
            yield Finding(
                Level.WARNING,
                "PostgreSQL",
                "timeout",
                name,
                f"{name} is {value} for the role {role}: a load that reads for longer is ended by it",
                f'ALTER ROLE "{role}" SET {name} = 0',
            )


def assess_waiting(facts: SourceFacts) -> Iterator[Finding]:
    """Transactions that a new slot has to wait for."""
    for waiting in facts.transactions:
        kind = "the prepared transaction" if waiting.prepared else "a transaction of"
        end = (
            f"COMMIT PREPARED or ROLLBACK PREPARED '{waiting.name}'"
            if waiting.prepared
            else "let it end, or end it with pg_terminate_backend"
        )
        yield Finding(
            Level.WARNING,
            "PostgreSQL",
            "old-transaction",
            waiting.name,
            f"{kind} {waiting.name} is open for {waiting.seconds:,} s: a new slot waits for its end",
            end,
            facts={"seconds": waiting.seconds},
        )


def as_bytes(setting: str) -> int:
    """`512MB` as a number; MB where there is no unit, as max_slot_wal_keep_size has it."""
    number = setting.rstrip("kMGTB")
    return int(number) * _UNITS.get(setting[len(number) :], 1 << 20)


# -- tables ------------------------------------------------------------------------------------------------------
def assess_tables(
    tables: Mapping[str, Table],
    collections: Mapping[str, Sequence[str]],
    facts: Mapping[str, TableFacts],
    role: str,
) -> Iterator[Finding]:
    """Tables that cannot be replicated as they are, or not all of them."""
    for name, complaints in requirements.of_tables(tables, collections).items():
        for what, remedy in complaints:
            yield Finding(Level.ERROR, "tables", "table", name, what, remedy)
    for name, of in facts.items():
        yield from _rights(name, of, role)
        yield from _partitions(name, of)


def _rights(name: str, of: TableFacts, role: str) -> Iterator[Finding]:
    if not of.may_select:
        yield Finding(
            Level.ERROR,
            "tables",
            "rights",
            name,
            f"the role {role} may not read {name}",
            f'GRANT SELECT ON {name} TO "{role}"',
        )
    if not of.owned:
        yield Finding(
            Level.ERROR,
            "tables",
            "rights",
            name,
            f"the role {role} does not own {name}, so it may not publish it",
            f'GRANT the owner of {name} TO "{role}"',
        )
    if of.row_security:
        yield Finding(
            Level.ERROR,
            "tables",
            "row-security",
            name,
            f"row security hides rows of {name} from the role {role}: the load would not see them, the stream would",
            f'ALTER ROLE "{role}" BYPASSRLS',
        )


def _partitions(name: str, of: TableFacts) -> Iterator[Finding]:
    if of.unlogged_partitions or of.foreign_partitions:
        kinds = f"{of.unlogged_partitions} unlogged and {of.foreign_partitions} foreign"
        yield Finding(
            Level.ERROR,
            "tables",
            "partition",
            name,
            f"{name} has {kinds} partitions: their changes are in no WAL",
            "make them logged tables of this server, or detach them",
        )
    if of.partitions:
        yield Finding(
            Level.WARNING,
            "tables",
            "partition-truncate",
            name,
            f"{name} has {of.partitions} partitions: TRUNCATE, DETACH, ATTACH or DROP of a single one sends no event",
            "DELETE the rows instead, or truncate the whole table; `tandem verify` finds what was missed",
            facts={"partitions": of.partitions},
        )


#: policies that make one value of several
_LOSSY = frozenset({"double", "date-or-null", "date-clamped"})


def assess_columns(plan: Plan) -> Iterator[Finding]:
    """What the mapping's columns cost, or lose by rule."""
    for table in plan.tables.values():
        kinds = {c.name: c.type for c in table.table.columns if c.name in table.names}
        converted = _converted(plan, table.name)
        plain = {n: kind for n, kind in kinds.items() if n not in converted}
        yield from _note(
            "reread",
            table.name,
            sorted(table.reread),
            "Debezium cannot carry them faithfully: each changed row is read from PostgreSQL again",
            "leave them out of the mapping if they are not needed: `omit`",
        )
        yield from _note(
            "padded",
            table.name,
            sorted(n for n, kind in plain.items() if kind == "character"),
            "char(n) keeps its blanks at the end: queries for the text without them miss",
            "ALTER the column to text, or query with the blanks",
        )
        yield from _note(
            "enum-order",
            table.name,
            sorted(n for n, kind in plain.items() if kind == "enum"),
            "enums become strings: MongoDB orders them by their letters, PostgreSQL by declaration",
            "look at queries that sort or compare by them",
        )
        yield from _note(
            "milliseconds",
            table.name,
            sorted(n for n, kind in plain.items() if kind.startswith("timestamp")),
            "dates have milliseconds: microseconds are cut off",
            "`convert: {column: micros}` keeps them, as a number: docs/types.md",
        )
        yield from _note(
            "lossy-policy",
            table.name,
            sorted(n for n, policy in converted.items() if policy in _LOSSY),
            "their policy in the mapping makes one value of several",
            "see docs/types.md; the default keeps every value, or parks the row",
        )


def _note(kind: str, table: str, columns: list[str], what: str, remedy: str) -> Iterator[Finding]:
    if columns:
        named = f"{', '.join(columns)}: {what}"
        yield Finding(Level.NOTE, "columns", kind, table, named, remedy, facts={"columns": columns})


def _converted(plan: Plan, table: str) -> dict[str, str]:
    """Columns with a policy of their own in some use of the table."""
    found = {}
    for _, shape in plan.declared.shapes():
        if shape.table == table:
            found.update({column: str(policy) for column, policy in shape.convert.items()})
    return found


# -- Kafka, Connect, MongoDB -------------------------------------------------------------------------------------
def assess_connect(plugins: Mapping[str, str], complaints: Iterable[str]) -> Iterator[Finding]:
    """complaints: Connect's, of the configuration that setup would give it."""
    for what, remedy in requirements.of_connect(plugins):
        yield Finding(Level.ERROR, "Connect", "plugin", "plugin", what, remedy)
    complaints = list(complaints)
    for what, remedy in requirements.of_exactly_once(complaints):
        yield Finding(Level.ERROR, "Connect", "exactly-once", "exactly.once.support", what, remedy)
    for complaint in complaints:
        name, _, what = complaint.partition(": ")
        if name != "exactly.once.support":
            yield Finding(
                Level.ERROR,
                "Connect",
                "configuration",
                name,
                f"Connect would not take the connector: {what or complaint}",
                "mend what it names: Connect has to reach PostgreSQL itself (connect.database_hostname)",
            )


def assess_topics(
    there: Mapping[str, Mapping[str, str]], wanted: Mapping[str, str], lag_hours: int
) -> Iterator[Finding]:
    """there: topic -> settings. wanted: topic -> table."""
    for name, found in there.items():
        for what, remedy in requirements.of_topic(name, found, lag_hours):
            yield Finding(Level.ERROR, "Kafka", "topic", name, what, remedy)
    tables: dict[str, list[str]] = {}
    for table, topic in wanted.items():
        tables.setdefault(topic, []).append(table)
    for topic, of in tables.items():
        if len(of) > 1:
            yield Finding(
                Level.ERROR,
                "Kafka",
                "topic-name",
                topic,
                f"{' and '.join(of)} would share a topic: their names differ only in what a topic's cannot have",
                "rename one of them, or give them pipelines of their own",
            )


def assess_target(facts: TargetFacts) -> Iterator[Finding]:
    """Whether MongoDB can hold a pipeline."""
    if facts.version < (5, 0):
        version = ".".join(map(str, facts.version))
        yield Finding(
            Level.ERROR,
            "MongoDB",
            "version",
            "version",
            f"its version is {version}",
            "5.0 or later is needed",
        )
    for what, why in facts.refused.items():
        yield Finding(
            Level.ERROR,
            "MongoDB",
            "rights",
            what,
            f"it refuses to {what}: {why}",
            "grant the user readWrite and dbAdmin on the target database",
        )
    for name in facts.foreign:
        yield Finding(
            Level.ERROR,
            "MongoDB",
            "foreign-documents",
            name,
            f"the collection {name} has documents that tandem did not write: the load would refuse",
            "empty it, map to another name, or load with --replace-existing",
        )


def assess_disk(free_bytes: int | None, needed_bytes: int) -> Iterator[Finding]:
    """needed_bytes: of the documents before compression."""
    if free_bytes is None:
        yield Finding(
            Level.UNKNOWN,
            "MongoDB",
            "disk",
            "disk",
            "this server does not say how much disk it has",
            f"see that {needed_bytes:,} bytes are free, and some for indexes",
        )
    elif free_bytes < needed_bytes * 1.2:
        level = Level.ERROR if free_bytes < needed_bytes // 3 else Level.WARNING
        yield Finding(
            level,
            "MongoDB",
            "disk",
            "disk",
            f"{free_bytes:,} bytes are free; the documents have about {needed_bytes:,} before compression",
            "give it more disk",
            facts={"free": free_bytes, "needed": needed_bytes},
        )
