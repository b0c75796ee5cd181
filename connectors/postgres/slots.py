"""Publication, replication slot and WAL positions (PostgreSQL documentation, 9.28.6, 29.1 and 54.4)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from psycopg import sql

from connectors.errors import Contended, Refused
from connectors.positions import Lsn, Snapshot
from connectors.postgres.client import Session, connect, translated
from connectors.settings import SourceEndpoint


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What setup has to know of a server and of the role that logs in."""

    version: int
    wal_level: str
    in_recovery: bool
    system_identifier: str
    database: str
    role: str
    may_replicate: bool
    may_create: bool
    max_slots: int
    used_slots: int


@dataclass(frozen=True, slots=True)
class SlotFacts:
    """One replication slot, as pg_replication_slots shows it."""

    plugin: str
    database: str
    active: bool
    wal_status: str
    confirmed: Lsn
    retained_bytes: int


def server_facts(session: Session) -> ServerFacts:
    """Settings and rights. The system identifier tells this cluster from every other."""
    row = session.execute(
        "SELECT current_setting('server_version_num')::int, current_setting('wal_level'), pg_is_in_recovery(),"
        " (SELECT system_identifier::text FROM pg_control_system()), current_database()::text, current_user::text,"
        " (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user),"
        " has_database_privilege(current_database(), 'CREATE'),"
        " current_setting('max_replication_slots')::int, (SELECT count(*) FROM pg_replication_slots)::int"
    ).fetchone()
    assert row is not None
    return ServerFacts(*row)


def slot_facts(session: Session, slot: str) -> SlotFacts | None:
    """The slot of this name, or None."""
    row = session.execute(
        "SELECT plugin::text, database::text, active, coalesce(wal_status, ''),"
        " coalesce(confirmed_flush_lsn, '0/0')::text,"
        " coalesce(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn), 0)::bigint"
        " FROM pg_replication_slots WHERE slot_name = %s",
        [slot],
    ).fetchone()
    if row is None:
        return None
    return SlotFacts(row[0] or "", row[1] or "", row[2], row[3], Lsn.parse(row[4]), row[5])


#: the lock file has the time at which it was made, the server says when it began: about the same
_STARTED_WITHIN_S = 5


@dataclass(frozen=True, slots=True)
class WalFacts:
    """The WAL and a slot at one moment. at_ms: PostgreSQL's clock, milliseconds since 1970, from before position was
    read. slot: None where there is none. safe_bytes: how much more WAL may come before the slot is lost, None where
    max_slot_wal_keep_size sets no limit. disk_free_bytes: where pg_wal lies, None where it cannot be known."""

    at_ms: int
    position: Lsn
    slot: SlotFacts | None
    safe_bytes: int | None
    disk_free_bytes: int | None


def wal_facts(session: Session, slot: str) -> WalFacts:
    """PostgreSQL documentation, 53.20 pg_replication_slots."""
    row = session.execute(
        "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint, pg_current_wal_insert_lsn()::text,"
        " (SELECT setting FROM pg_settings WHERE name = 'data_directory'),"
        " extract(epoch FROM pg_postmaster_start_time())::bigint,"
        " (SELECT safe_wal_size FROM pg_replication_slots WHERE slot_name = %s)",
        [slot],
    ).fetchone()
    assert row is not None
    free = _disk_free(session, row[2], row[3]) if row[2] else None
    return WalFacts(row[0], Lsn.parse(row[1]), slot_facts(session, slot), row[4], free)


def _disk_free(session: Session, data: str, started: int) -> int | None:
    """Free bytes where pg_wal lies, when the server is of this machine: its own lock file says so."""
    try:
        lines = Path(data, "postmaster.pid").read_text(encoding="utf-8").splitlines()
        if lines[3] != str(session.info.port) or abs(int(lines[2]) - started) > _STARTED_WITHIN_S:
            return None  # another server, at the same place of this machine
        return shutil.disk_usage(Path(data, "pg_wal")).free
    except (OSError, ValueError, IndexError):
        return None


def wal_position(session: Session) -> Lsn:
    """Up to where WAL has been inserted: whatever is committed now is below it."""
    row = session.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    assert row is not None
    return Lsn.parse(row[0])


def emit_marker(session: Session) -> None:
    """Write something that the slot has to send, so that its confirmed position passes what is there now."""
    session.execute("SELECT pg_logical_emit_message(false, 'tandem.marker', '')")


def connections(session: Session) -> tuple[int, int]:
    """How many sessions of clients and walsenders there are, and how many there may be."""
    row = session.execute(
        # of others' sessions an ordinary role sees no type, but that they have a user
        "SELECT count(*) FILTER (WHERE backend_type = 'client backend' OR (backend_type IS NULL AND usesysid IS NOT"
        " NULL)), current_setting('max_connections')::int"
        " FROM pg_stat_activity"
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def probe(session: Session) -> None:
    """The smallest transaction that waits for the WAL to be on disk: as long as it takes, so long a user waits."""
    session.execute("SELECT pg_logical_emit_message(true, 'tandem.probe', '')")


def current_transaction(session: Session) -> int:
    """A transaction id of now: whatever began before has a lower one."""
    row = session.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
    assert row is not None
    return int(row[0])


def visible_now(session: Session) -> Snapshot:
    """What a statement that begins now would see. The server is the primary."""
    row = session.execute("SELECT pg_current_snapshot()::text").fetchone()
    assert row is not None
    return Snapshot.parse(row[0])


def published_tables(session: Session, publication: str) -> list[str] | None:
    """Names of its tables as `schema.table`; None where there is no such publication."""
    if session.execute("SELECT 1 FROM pg_publication WHERE pubname = %s", [publication]).fetchone() is None:
        return None
    rows = session.execute(
        "SELECT schemaname || '.' || tablename FROM pg_publication_tables WHERE pubname = %s ORDER BY 1",
        [publication],
    )
    return [row[0] for row in rows.fetchall()]


def publish(session: Session, publication: str, tables: Mapping[str, bool]) -> None:
    """Create the publication, or make it publish just these tables; a partitioned one through its root.

    tables: each with whether it is published alone, without the tables that inherit from it.
    """
    names = sql.SQL(", ").join(
        sql.SQL("ONLY {}" if alone else "{}").format(sql.Identifier(*table.split(".", 1)))
        for table, alone in tables.items()
    )
    if published_tables(session, publication) is None:
        session.execute(
            sql.SQL("CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = true)").format(
                sql.Identifier(publication), names
            )
        )
    else:
        name = sql.Identifier(publication)
        session.execute(sql.SQL("ALTER PUBLICATION {} SET TABLE {}").format(name, names))
        options = "publish_via_partition_root = true, publish = 'insert, update, delete, truncate'"
        session.execute(sql.SQL("ALTER PUBLICATION {} SET (" + options + ")").format(name))


def drop_publication(session: Session, publication: str) -> None:
    """Safe to repeat."""
    session.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(publication)))


def drop_slot(session: Session, slot: str) -> bool:
    """Drop it. False where there is none. Raises Contended while something streams from it."""
    found = slot_facts(session, slot)
    if found is None:
        return False
    if found.active:
        raise Contended(f"the slot {slot} is in use", remedy="wait until the connector has let it go")
    session.execute("SELECT pg_drop_replication_slot(%s)", [slot])
    return True


class ExportedSnapshot:
    """A snapshot that other sessions can take while this is open.

    name: for SET TRANSACTION SNAPSHOT. lsn: where the stream begins that goes on from it, or a WAL position
    read before it was taken.
    """

    def __init__(self, session: Session, name: str, lsn: Lsn) -> None:
        self.session, self.name, self.lsn = session, name, lsn

    def __enter__(self) -> ExportedSnapshot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.session.close()


def create_slot(source: SourceEndpoint) -> ExportedSnapshot:
    """Create the slot with pgoutput; its snapshot shows just what the slot will not send, while it is held open."""
    session = connect(source, replication=True, name="tandem slot")
    with translated(source):
        row = session.execute(
            sql.SQL("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput (SNAPSHOT 'export')").format(
                sql.Identifier(source.slot)
            )
        ).fetchone()
    assert row is not None
    return ExportedSnapshot(session, row[2], Lsn.parse(row[1]))


def make_slot(session: Session, slot: str) -> Lsn:
    """Create the slot with pgoutput in this session, without a snapshot. Returns where its stream begins."""
    row = session.execute(
        "SELECT lsn::text FROM pg_create_logical_replication_slot(%s, 'pgoutput')", [slot]
    ).fetchone()
    assert row is not None
    return Lsn.parse(row[0])


def fence(session: Session, slot: str, within_s: float = 30) -> list[int]:
    """From here on only this session replaces the slot. Whoever could before has its session ended, so that it cannot
    do so late: returns the process ids of these sessions. Raises Refused where one cannot be ended.

    A lock of the session: it goes with it (PostgreSQL documentation, 13.3.5).
    """
    key = ["tandem heal", slot]
    ended: list[int] = []
    until = time.monotonic() + within_s
    while not _is_true(session, "SELECT pg_try_advisory_lock(hashtext(%s), hashtext(%s))", key):
        rows = session.execute(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND classid::bigint = hashtext(%s)::bigint & 4294967295"
            " AND objid::bigint = hashtext(%s)::bigint & 4294967295",
            key,
        )
        holders = [int(row[0]) for row in rows.fetchall()]
        if time.monotonic() > until:
            raise Refused(
                f"a session of an earlier `tandem heal` does not end: {holders}",
                remedy="end it: SELECT pg_terminate_backend(PID), as its role or a superuser",
            )
        for pid in holders:
            session.execute("SELECT pg_terminate_backend(%s)", [pid])
        ended += [pid for pid in holders if pid not in ended]
        time.sleep(0.05)
    return ended


def _is_true(session: Session, query: str, values: list[str]) -> bool:
    row = session.execute(query, values).fetchone()
    return bool(row and row[0])


def export_snapshot(source: SourceEndpoint) -> ExportedSnapshot:
    """A snapshot of now. Its lsn was read before, so every row in it is at least as new."""
    session = connect(source, name="tandem snapshot")
    with translated(source):
        lsn = wal_position(session)
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        row = session.execute("SELECT pg_export_snapshot()").fetchone()
    assert row is not None
    return ExportedSnapshot(session, row[0], lsn)
