"""The fence: while it stands, no application writes to the fenced tables.

It is a lease. Triggers refuse every statement that would write, as long as the server's clock has not reached the
moment that the lease ends at; whoever holds the fence moves that moment on. When the holder dies, writes come back by
themselves. A sealed fence has no such moment.

The moment lies in a sequence, since a sequence is outside of transactions: whoever reads it sees it as it is, also a
transaction whose snapshot is older than the fence. A trigger reads the clock first and the moment after it, and a
renewal looks at the clock after it has moved the moment: when the old one had passed by then somebody may have written,
and the renewal says so (`FenceLapsed`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from connectors.errors import Contended, FenceLapsed
from connectors.positions import Lsn
from connectors.postgres import slots
from connectors.postgres.client import Session, translated
from connectors.postgres.reverse import PASS
from connectors.postgres.sql import SQL, Composed, Identifier, Literal

#: no moment: the largest value of a sequence
_FOREVER = (1 << 63) - 1
_SCHEMA = "tandem"
#: read_only_sql_transaction (PostgreSQL documentation, Appendix A): what applications meet on a standby, and retry
REFUSED_STATE = "25006"

_FUNCTION = """
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS {body}
"""
# TG_ARGV: the roles that pass. The clock comes first: see above. The way back passes by a secret that its session has
# set, and that only who has the schema can read: its role may be the application's.
_BODY = """
DECLARE
  now_ms bigint := floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint;
  until_ms bigint;
BEGIN
  SELECT last_value INTO STRICT until_ms FROM {sequence};
  IF now_ms < until_ms AND NOT coalesce(session_user::text = ANY (TG_ARGV), false) THEN
    IF to_regclass('tandem.passes') IS NOT NULL THEN
      IF EXISTS (SELECT FROM tandem.passes WHERE name = {name} AND secret = current_setting({pass_}, true)) THEN
        RETURN NULL;
      END IF;
    END IF;
    RAISE EXCEPTION USING ERRCODE = {state},
      MESSAGE = format('writes to %I.%I are refused for now: the application is being moved to another database',
        TG_TABLE_SCHEMA, TG_TABLE_NAME),
      HINT = 'Nothing was written. Try again in a few seconds, or ask where the application writes now.';
  END IF;
  RETURN NULL;
END
"""
_FAMILY = """
WITH RECURSIVE family AS (
  SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname || '.' || c.relname = ANY (%s) AND c.relkind IN ('r', 'p')
  UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN family f ON f.oid = i.inhparent
)
SELECT n.nspname::text, c.relname::text FROM family f
JOIN pg_catalog.pg_class c ON c.oid = f.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') ORDER BY 1, 2
"""
_TRIGGERS = """
SELECT n.nspname::text, c.relname::text, t.tgenabled = 'A'
FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE t.tgname IN (%s, %s) AND NOT t.tgisinternal ORDER BY 1, 2
"""
_MOMENT = "SELECT last_value, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint FROM {}"


class Standing(StrEnum):
    """How a fence is."""

    NONE = "none"
    LAPSED = "lapsed"
    UP = "up"
    SEALED = "sealed"


@dataclass(frozen=True)
class FenceFacts:
    """A fence as the server has it. left_s: of the lease, None where there is none. open: tables without it."""

    standing: Standing
    left_s: float | None = None
    open: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether no application can write."""
        return self.standing in (Standing.UP, Standing.SEALED) and not self.open


@dataclass(frozen=True)
class Fence:
    """The fence of one pipeline. tables: `schema.table`. passing: roles that write all the same."""

    name: str
    tables: tuple[str, ...]
    passing: tuple[str, ...] = ()

    @property
    def _object(self) -> Identifier:
        return Identifier(_SCHEMA, f"fence_{self.name}"[:63])

    @property
    def _triggers(self) -> tuple[str, str]:
        """Of statements that change rows, and of TRUNCATE. The names come first in the order of triggers."""
        return f"a_tandem_fence_{self.name}"[:63], f"a_tandem_fencet_{self.name}"[:63]

    def raise_(self, session: Session, lease_s: float, lock_timeout_s: float) -> Lsn:
        """Put it up, in one transaction that waits for every writer under way. Returns the WAL position behind which
        there is no write to these tables.

        Raises Contended where writers, or others who have a table locked, do not come to an end within the timeout:
        nothing is changed then, and applications have waited no longer than that.
        """
        with translated():
            with session.transaction():
                session.execute(
                    "SELECT set_config('lock_timeout', %s, true)", [f"{int(lock_timeout_s * 1000)}ms"]
                )
                self._make(session)
                for parts in self._family(session):
                    self._put_on(session, parts)
                self._set(session, lease_s)
            if self.facts(session).standing is not Standing.UP:
                raise Contended(
                    "the fence took longer to put up than its lease lasts", remedy="it is put up again"
                )
            return slots.wal_position(session)

    def renew(self, session: Session, lease_s: float) -> None:
        """Let it stand for that long from now. Raises FenceLapsed when writes may have passed."""
        with translated():
            self._move(session, lease_s)

    def seal(self, session: Session) -> None:
        """Let it stand until it is lifted. Raises FenceLapsed when writes may have passed, or a table has lost it."""
        with translated():
            self._move(session, None)
        facts = self.facts(session)
        if not facts.holds:
            raise FenceLapsed(
                f"the fence has gaps: {', '.join(facts.open) or facts.standing}",
                remedy="abort, and find out who changes triggers or tables during the cutover",
            )

    def lift(self, session: Session, lock_timeout_s: float = 5.0) -> bool:
        """Let writes in at once, and take everything away. False: the tables are locked by others, so that triggers
        which do nothing are left; lifting it again takes them away."""
        with translated():
            if self.facts(session).standing is not Standing.NONE:
                session.execute(SQL("SELECT setval({}, 1)").format(self._regclass))
            try:
                with session.transaction():
                    session.execute(
                        "SELECT set_config('lock_timeout', %s, true)", [f"{int(lock_timeout_s * 1000)}ms"]
                    )
                    for schema, table in dict.fromkeys((s, t) for s, t, _ in self._put_up(session)):
                        for trigger in self._triggers:
                            session.execute(
                                SQL("DROP TRIGGER IF EXISTS {} ON {}").format(
                                    Identifier(trigger), Identifier(schema, table)
                                )
                            )
                    session.execute(SQL("DROP FUNCTION IF EXISTS {}()").format(self._object))
                    session.execute(SQL("DROP SEQUENCE IF EXISTS {}").format(self._object))
            except Exception as error:
                if getattr(error, "sqlstate", None) in ("55P03", "40P01"):
                    return False
                raise
            return True

    def facts(self, session: Session) -> FenceFacts:
        """How it is."""
        with translated():
            there = session.execute(
                "SELECT to_regclass(quote_ident(%s) || '.' || quote_ident(%s)) IS NOT NULL",
                [_SCHEMA, f"fence_{self.name}"[:63]],
            ).fetchone()
            if not there or not there[0]:
                return FenceFacts(Standing.NONE)
            until, now = self._moment(session)
            whole = Counter((schema, table) for schema, table, always in self._put_up(session) if always)
            fenced = {f"{schema}.{table}" for (schema, table), number in whole.items() if number == 2}
            tables = [f"{schema}.{table}" for schema, table in self._family(session)]
        gaps = tuple(table for table in tables if table not in fenced)
        if until == _FOREVER:
            return FenceFacts(Standing.SEALED, None, gaps)
        if not fenced:
            return FenceFacts(Standing.NONE)
        return FenceFacts(Standing.UP if now < until else Standing.LAPSED, max(0, until - now) / 1000, gaps)

    # -- parts ---------------------------------------------------------------------------------------------------
    @property
    def _regclass(self) -> Composed:
        return SQL("{}::regclass").format(Literal(self._object.as_string(None)))

    def _make(self, session: Session) -> None:
        session.execute(SQL("CREATE SCHEMA IF NOT EXISTS {}").format(Identifier(_SCHEMA)))
        session.execute(SQL("CREATE SEQUENCE IF NOT EXISTS {} MINVALUE 0 START 1").format(self._object))
        body = SQL(_BODY).format(
            sequence=self._object,
            state=Literal(REFUSED_STATE),
            name=Literal(self.name),
            pass_=Literal(PASS),
        )
        session.execute(SQL(_FUNCTION).format(function=self._object, body=Literal(body.as_string(session))))

    def _put_on(self, session: Session, parts: Sequence[str]) -> None:
        table = Identifier(*parts)
        # of its own, so that it is this lock that is waited for, and the only one
        session.execute(SQL("LOCK TABLE ONLY {} IN SHARE ROW EXCLUSIVE MODE").format(table))
        for trigger, events in zip(self._triggers, ("INSERT OR UPDATE OR DELETE", "TRUNCATE"), strict=True):
            session.execute(
                SQL(
                    "CREATE OR REPLACE TRIGGER {} BEFORE "
                    + events
                    + " ON {} FOR EACH STATEMENT EXECUTE FUNCTION {}({})"
                ).format(
                    Identifier(trigger),
                    table,
                    self._object,
                    SQL(", ").join(Literal(role) for role in self.passing),
                )
            )
            # also where a session has set session_replication_role
            session.execute(
                SQL("ALTER TABLE ONLY {} ENABLE ALWAYS TRIGGER {}").format(table, Identifier(trigger))
            )

    def _put_up(self, session: Session) -> list[tuple[str, str, bool]]:
        """Schema and table of each trigger that is there, and whether it always fires; two of each table."""
        return list(session.execute(_TRIGGERS, list(self._triggers)).fetchall())

    def _family(self, session: Session) -> list[tuple[str, str]]:
        """The tables, their partitions, and the tables that inherit from them."""
        return [(s, t) for s, t in session.execute(_FAMILY, [list(self.tables)]).fetchall()]

    def _moment(self, session: Session) -> tuple[int, int]:
        found = session.execute(SQL(_MOMENT).format(self._object)).fetchone()
        assert found is not None
        return int(found[0]), int(found[1])

    def _set(self, session: Session, lease_s: float | None) -> None:
        if lease_s is None:
            moment: Composed = SQL("{}").format(Literal(_FOREVER))
        else:
            moment = SQL("floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint + {}").format(
                Literal(int(lease_s * 1000))
            )
        session.execute(SQL("SELECT setval({}, {})").format(self._regclass, moment))

    def _move(self, session: Session, lease_s: float | None) -> None:
        if self.facts(session).standing is Standing.NONE:
            raise FenceLapsed("the fence is not there", remedy=_REMEDY)
        before, now = self._moment(session)
        if before == _FOREVER:
            if lease_s is None:
                return
            raise FenceLapsed("the fence is sealed: it has no lease", remedy="lift it, or go on")
        if now >= before:
            raise FenceLapsed("the fence has lapsed: writes may have passed", remedy=_REMEDY)
        self._set(session, lease_s)
        _, after = self._moment(session)
        if after >= before:
            raise FenceLapsed("the fence lapsed while it was renewed: writes may have passed", remedy=_REMEDY)


_REMEDY = "go back, and begin again: what was drained before is no longer all there is"
