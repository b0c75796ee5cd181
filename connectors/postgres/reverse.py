"""What the way back keeps in PostgreSQL, in the schema of tandem: how far it is, which row a document is of, what could
not be written, what goes to no column, and rows that it has deleted.

How far it is lies in the transaction of the rows. Each writer has a serial number of its own; the row that says how far
moves only for that one, from where it was read, so a writer that was taken for dead changes nothing any more.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import psycopg

from connectors.errors import Contended, ReverseBusy, ReverseState, TakenOver
from connectors.postgres.client import Session, translated

SCHEMA = "tandem"
#: of a session: what lets its writes through the fence
PASS = "tandem.pass"  # noqa: S105 - a setting's name
TABLES = ("reverse", "reverse_ids", "reverse_seen", "reverse_parked", "reverse_aside", "reverse_gone")
_MADE = """
CREATE SCHEMA IF NOT EXISTS tandem;
CREATE TABLE IF NOT EXISTS tandem.passes (name text PRIMARY KEY, secret text NOT NULL);
REVOKE ALL ON tandem.passes FROM PUBLIC;
CREATE TABLE IF NOT EXISTS tandem.reverse (
  name text PRIMARY KEY, run text NOT NULL, state text NOT NULL, token text, writer bigint NOT NULL DEFAULT 0,
  events bigint NOT NULL DEFAULT 0, mark bigint NOT NULL DEFAULT 0, applied_at timestamptz, token_at timestamptz,
  trouble text, began timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS tandem.reverse_ids (
  name text NOT NULL, collection text NOT NULL, id text NOT NULL, key text[] NOT NULL,
  at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (name, collection, id));
CREATE TABLE IF NOT EXISTS tandem.reverse_seen (
  name text NOT NULL, collection text NOT NULL, id text NOT NULL, PRIMARY KEY (name, collection, id));
CREATE TABLE IF NOT EXISTS tandem.reverse_parked (
  name text NOT NULL, collection text NOT NULL, id text NOT NULL, class text NOT NULL, reason text NOT NULL,
  remedy text NOT NULL, since timestamptz NOT NULL DEFAULT now(), tries integer NOT NULL DEFAULT 1,
  due timestamptz NOT NULL DEFAULT now(), gone text, PRIMARY KEY (name, collection, id));
CREATE TABLE IF NOT EXISTS tandem.reverse_aside (
  name text NOT NULL, collection text NOT NULL, id text NOT NULL, fields json NOT NULL,
  at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (name, collection, id));
CREATE TABLE IF NOT EXISTS tandem.reverse_gone (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, collection text NOT NULL,
  id text NOT NULL, source text NOT NULL, held json NOT NULL, at timestamptz NOT NULL DEFAULT now())
"""
_SLOWEST_S = 60


@dataclass(frozen=True, slots=True)
class Standing:
    """How far it is. state: `on`, `off`. token: text of it. writer: the serial of the last one. events: applied since
    the beginning. mark: the last one that was read. applied_at: MongoDB's time of the last event that was applied.
    token_at: when the token was taken, by PostgreSQL's clock."""

    run: str
    state: str
    token: str | None
    writer: int
    events: int
    mark: int
    applied_at: datetime | None
    token_at: datetime | None
    trouble: str | None
    began: datetime


_FIELDS = tuple(field.name for field in fields(Standing))


@dataclass(frozen=True, slots=True)
class Parked:
    """A document that could not be written. gone: what it was, where it was deleted."""

    collection: str
    id: str
    parked_class: str
    reason: str
    remedy: str
    since: datetime
    tries: int
    gone: str | None = None

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "collection": self.collection,
            "id": self.id,
            "class": self.parked_class,
            "reason": self.reason,
            "remedy": self.remedy,
            "since": self.since.isoformat(timespec="seconds"),
            "tries": self.tries,
        }


class Reverse:
    """What is kept for one pipeline. Its methods run in the session's transaction, where there is one."""

    def __init__(self, session: Session, name: str) -> None:
        self.session, self.name = session, name
        self.writer, self._state = 0, "on"

    # -- on and off ----------------------------------------------------------------------------------------------
    def make(self) -> None:
        """Schema and tables. Safe to repeat."""
        with translated():
            if self.there:
                return
            with self.session.transaction():
                # two that make them at once would fail
                self._run("SELECT pg_advisory_xact_lock(hashtext('tandem.reverse'))")
                for statement in _MADE.split(";\n"):
                    self._run(statement)

    @property
    def there(self) -> bool:
        """Whether they are made."""
        return bool(self._one("SELECT to_regclass('tandem.reverse_gone') IS NOT NULL")[0])

    def standing(self) -> Standing | None:
        """How far it is; None where it never was."""
        with translated():
            if not self.there:
                return None
            found = self._run(
                f"SELECT {', '.join(_FIELDS)} FROM tandem.reverse WHERE name = %s", self.name
            ).fetchone()
        return None if found is None else Standing(*found)

    def turn_on(self, run: str, token: str) -> bool:
        """Begin at this token, for a cutover. False: it was on for it already, and stays where it is."""
        with translated(), self.session.transaction():
            known = self.standing()
            if known is not None and known.run == run and known.state == "on":
                return False
            for table in ("reverse", "reverse_ids", "reverse_parked", "reverse_seen"):
                self._run(f"DELETE FROM tandem.{table} WHERE name = %s", self.name)
            self._run(
                "INSERT INTO tandem.reverse (name, run, state, token, token_at, writer)"
                " VALUES (%s, %s, 'on', %s, now(), %s)",
                self.name,
                run,
                token,
                0 if known is None else known.writer,
            )
        return True

    def turn_off(self) -> None:
        """No writer goes on; what is kept stays. Safe to repeat."""
        with translated():
            if self.there:
                self._run(
                    "UPDATE tandem.reverse SET state = 'off', writer = writer + 1 WHERE name = %s", self.name
                )

    # -- one writer ----------------------------------------------------------------------------------------------
    def alone(self) -> None:
        """Be the only writer as long as this session lasts. Raises ReverseBusy."""
        with translated():
            if not self._one(
                "SELECT pg_try_advisory_lock(hashtext('tandem.reverse'), hashtext(%s))", self.name
            )[0]:
                raise ReverseBusy(
                    "another `tandem reverse run` of this pipeline is at work",
                    remedy="let it, or end it first; `tandem reverse status` says how far it is",
                )

    def someone(self) -> bool:
        """Whether a writer lives."""
        with translated():
            return bool(
                self._one(
                    "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2"
                    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                    " AND classid = (hashtext('tandem.reverse')::bigint & 4294967295)::oid"
                    " AND objid = (hashtext(%s)::bigint & 4294967295)::oid)",
                    self.name,
                )[0]
            )

    def take(self, state: str = "on") -> Standing:
        """Become the writer, in place of whoever was. Raises ReverseState where it is in another state."""
        with translated(), self.session.transaction():
            self._state = state
            found = self._run(
                "UPDATE tandem.reverse SET writer = writer + 1 WHERE name = %s AND state = %s RETURNING writer",
                self.name,
                state,
            ).fetchone()
            if found is None:
                raise self._refused()
            self.writer = int(found[0])
            secret = secrets.token_hex(16)
            self._run(
                "INSERT INTO tandem.passes VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET secret = EXCLUDED.secret",
                self.name,
                secret,
            )
            self._run("SELECT set_config(%s, %s, false)", PASS, secret)
        self._mark()
        known = self.standing()
        assert known is not None
        return known

    @property
    def origin(self) -> str:
        """The replication origin of what is written here: Debezium's events have it as `source.origin`."""
        return f"tandem_{self.name}"

    def _mark(self) -> None:
        """Mark this session's writes by their origin, where the role may. Raises Contended while the session of the
        writer before is not gone yet."""
        try:
            if not self._one(
                "SELECT EXISTS (SELECT FROM pg_replication_origin WHERE roname = %s)", self.origin
            )[0]:
                self._run("SELECT pg_replication_origin_create(%s)", self.origin)
            self._run("SELECT pg_replication_origin_session_setup(%s)", self.origin)
        except psycopg.errors.InsufficientPrivilege:
            return
        except psycopg.errors.ObjectInUse:
            raise Contended(
                "the session of the writer before is still open", remedy="it is tried again"
            ) from None

    def let_pass(self) -> None:
        """Let this session's writes through the fence, as the writer's: for one who undoes them all."""
        with translated():
            if self.there:
                self._run(
                    "SELECT set_config(%s, (SELECT secret FROM tandem.passes WHERE name = %s), false)",
                    PASS,
                    self.name,
                )

    def _refused(self) -> ReverseState:
        known = self.standing()
        if known is not None and known.state == "resync":
            return ReverseState(
                "documents are being compared with their rows, and that has not come to its end",
                remedy="`tandem reverse resync` goes on with it",
            )
        return ReverseState("the way back is off", remedy="the cutover turns it on; `tandem reverse status`")

    def begin_again(self, token: str) -> None:
        """From this token, once all documents were compared: until then nobody follows the stream. Raises ReverseState
        where it is off."""
        with translated():
            done = self._run(
                "UPDATE tandem.reverse SET state = 'resync', token = %s, token_at = now(), writer = writer + 1"
                " WHERE name = %s AND state IN ('on', 'resync')",
                token,
                self.name,
            ).rowcount
        if done != 1:
            raise self._refused()

    def compared(self) -> None:
        """All documents were compared: the stream is followed. Raises TakenOver."""
        with translated():
            done = self._run(
                "UPDATE tandem.reverse SET state = 'on' WHERE name = %s AND writer = %s AND state = 'resync'",
                self.name,
                self.writer,
            ).rowcount
        if done != 1:
            raise TakenOver("another writer has taken over", remedy="see `tandem reverse status`")

    def move(self, before: str, token: str, events: int, mark: int, at: datetime | None) -> None:
        """First in the transaction of the rows: from one token to the next. Raises TakenOver."""
        found = self._run(
            "UPDATE tandem.reverse SET token = %s, token_at = now(), events = events + %s, mark = greatest(mark, %s),"
            " applied_at = coalesce(%s, applied_at), trouble = NULL"
            " WHERE name = %s AND writer = %s AND state = %s AND token = %s",
            token,
            events,
            mark,
            at,
            self.name,
            self.writer,
            self._state,
            before,
        ).rowcount
        if found != 1:
            raise TakenOver(
                "another writer has taken over, or the way back was turned off",
                remedy="see `tandem reverse status`; nothing was written here since",
            )

    def tell(self, trouble: str) -> None:
        """What stands in the way, for `status`."""
        with translated(), suppress(psycopg.Error):
            self._run("UPDATE tandem.reverse SET trouble = %s WHERE name = %s", trouble, self.name)

    # -- ids -----------------------------------------------------------------------------------------------------
    def key(self, collection: str, id_: str) -> tuple[str, ...] | None:
        """The key of the row that a new document became."""
        found = self._run(
            "SELECT key FROM tandem.reverse_ids WHERE name = %s AND collection = %s AND id = %s",
            self.name,
            collection,
            id_,
        ).fetchone()
        return None if found is None else tuple(found[0])

    def keys(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """All of them, by collection and `_id`."""
        with translated():
            if not self.there:
                return {}
            rows = self._run(
                "SELECT collection, id, key FROM tandem.reverse_ids WHERE name = %s", self.name
            ).fetchall()
        return {(collection, id_): tuple(key) for collection, id_, key in rows}

    def remember(self, collection: str, id_: str, key: Sequence[str]) -> None:
        """Which row a new document became."""
        self._run(
            "INSERT INTO tandem.reverse_ids (name, collection, id, key) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT (name, collection, id) DO UPDATE SET key = EXCLUDED.key",
            self.name,
            collection,
            id_,
            list(key),
        )

    def forget(self, collection: str, id_: str) -> None:
        """The document is gone."""
        self._run(
            "DELETE FROM tandem.reverse_ids WHERE name = %s AND collection = %s AND id = %s",
            self.name,
            collection,
            id_,
        )

    # -- what is kept --------------------------------------------------------------------------------------------
    def put_aside(self, collection: str, id_: str, fields_: str | None) -> None:
        """What goes to no column, as JSON; None: nothing does."""
        if fields_ is None:
            self._run(
                "DELETE FROM tandem.reverse_aside WHERE name = %s AND collection = %s AND id = %s",
                self.name,
                collection,
                id_,
            )
            return
        self._run(
            "INSERT INTO tandem.reverse_aside (name, collection, id, fields) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT (name, collection, id) DO UPDATE SET fields = EXCLUDED.fields, at = now()",
            self.name,
            collection,
            id_,
            fields_,
        )

    def bury(self, collection: str, id_: str, table: str, row: str) -> None:
        """A row that was deleted."""
        self._run(
            "INSERT INTO tandem.reverse_gone (name, collection, id, source, held) VALUES (%s, %s, %s, %s, %s)",
            self.name,
            collection,
            id_,
            table,
            row,
        )

    def known(self, table: str, ids: Sequence[str]) -> set[tuple[str, str]]:
        """Those of these documents, by collection and `_id`, of which something is kept in a table."""
        rows = self._run(
            f"SELECT collection, id FROM tandem.{table} WHERE name = %s AND id = ANY(%s)",
            self.name,
            list(ids),
        )
        return {(collection, id_) for collection, id_ in rows.fetchall()}

    def see(self, documents: Sequence[tuple[str, str]]) -> None:
        """Documents, by collection and `_id`, that were changed since the beginning."""
        self._run(
            "INSERT INTO tandem.reverse_seen (name, collection, id) SELECT %s, * FROM unnest(%s::text[], %s::text[])"
            " ON CONFLICT DO NOTHING",
            self.name,
            [collection for collection, _ in documents],
            [id_ for _, id_ in documents],
        )

    def seen(self) -> list[tuple[str, str]]:
        """All of them."""
        with translated():
            if not self.there:
                return []
            rows = self._run(
                "SELECT collection, id FROM tandem.reverse_seen WHERE name = %s ORDER BY 1, 2", self.name
            )
            return [(collection, id_) for collection, id_ in rows.fetchall()]

    # -- what is parked ------------------------------------------------------------------------------------------
    def park(
        self, collection: str, id_: str, class_: str, reason: str, remedy: str, gone: str | None
    ) -> None:
        """A document that could not be written; it is due again later and later."""
        self._run(
            "INSERT INTO tandem.reverse_parked AS p (name, collection, id, class, reason, remedy, due, gone)"
            " VALUES (%s, %s, %s, %s, %s, %s, now() + interval '1 s', %s)"
            " ON CONFLICT (name, collection, id) DO UPDATE SET class = EXCLUDED.class, reason = EXCLUDED.reason,"
            " remedy = EXCLUDED.remedy, tries = p.tries + 1, gone = coalesce(EXCLUDED.gone, p.gone),"
            " due = now() + least(power(2, least(p.tries, 10)), %s) * interval '1 s'",
            self.name,
            collection,
            id_,
            class_,
            reason,
            remedy,
            gone,
            _SLOWEST_S,
        )

    def settle(self, collection: str, id_: str) -> None:
        """It was written."""
        self._run(
            "DELETE FROM tandem.reverse_parked WHERE name = %s AND collection = %s AND id = %s",
            self.name,
            collection,
            id_,
        )

    def due(self, most: int) -> list[Parked]:
        """Those to be tried again now."""
        return self._parked("AND due <= now() ORDER BY due LIMIT %s", most)

    def parked(self, most: int = 1_000) -> list[Parked]:
        """What is parked, the oldest first."""
        with translated():
            return self._parked("ORDER BY since LIMIT %s", most) if self.there else []

    def hurry(self) -> int:
        """Let all that is parked be tried again at once. Returns how many."""
        with translated():
            return self._run(
                "UPDATE tandem.reverse_parked SET due = now() WHERE name = %s", self.name
            ).rowcount

    def _parked(self, tail: str, most: int) -> list[Parked]:
        rows = self._run(
            "SELECT collection, id, class, reason, remedy, since, tries, gone FROM tandem.reverse_parked"
            f" WHERE name = %s {tail}",
            self.name,
            most,
        ).fetchall()
        return [Parked(*row) for row in rows]

    def counts(self) -> dict[str, int]:
        """How much is kept of each kind."""
        with translated():
            if not self.there:
                return {}
            found = self._one(
                "SELECT (SELECT count(*) FROM tandem.reverse_parked WHERE name = %s),"
                " (SELECT count(*) FROM tandem.reverse_aside WHERE name = %s),"
                " (SELECT count(*) FROM tandem.reverse_ids WHERE name = %s),"
                " (SELECT count(*) FROM tandem.reverse_gone WHERE name = %s)",
                *[self.name] * 4,
            )
        return dict(zip(("parked", "aside", "new_documents", "deleted_rows"), map(int, found), strict=True))

    # -- parts ---------------------------------------------------------------------------------------------------
    def _run(self, query: str, *values: Any) -> psycopg.Cursor[Any]:
        return self.session.execute(query.encode(), values or None)

    def _one(self, query: str, *values: Any) -> Any:
        found = self._run(query, *values).fetchone()
        assert found is not None
        return found


def drop(session: Session, name: str) -> list[str]:
    """Take away what is kept for a pipeline; the tables too, and the schema, where nobody has anything there any more.
    Rows that were deleted, and what goes to no column, stay: they are nowhere else. Returns what was dropped."""
    kept = Reverse(session, name)
    dropped: list[str] = []
    with translated(), session.transaction():
        if kept.there:
            for table in ("reverse", "reverse_ids", "reverse_seen", "reverse_parked", "passes"):
                kept._run(f"DELETE FROM tandem.{table} WHERE name = %s", name)
            if kept._one("SELECT EXISTS (SELECT FROM pg_replication_origin WHERE roname = %s)", kept.origin)[
                0
            ]:
                kept._run("SELECT pg_replication_origin_drop(%s)", kept.origin)
                dropped.append(f"replication origin {kept.origin}")
            tables = (*TABLES, "passes")
            if not any(kept._one(f"SELECT EXISTS (SELECT FROM tandem.{table})")[0] for table in tables):
                for table in tables:
                    kept._run(f"DROP TABLE tandem.{table}")
                    dropped.append(f"{SCHEMA}.{table}")
        empty = kept._one(
            "SELECT to_regnamespace('tandem') IS NOT NULL AND NOT EXISTS (SELECT FROM pg_class"
            " WHERE relnamespace = to_regnamespace('tandem')) AND NOT EXISTS (SELECT FROM pg_proc"
            " WHERE pronamespace = to_regnamespace('tandem'))"
        )[0]
        if empty:
            kept._run("DROP SCHEMA tandem")
            dropped.append(f"schema {SCHEMA}")
    return dropped


__all__ = ["PASS", "SCHEMA", "Parked", "Reverse", "Standing", "drop"]
