"""Sessions that are in use, as the source has them; and telling its clients by NOTIFY."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import orjson
from psycopg import sql

from connectors.errors import NoticeTooLong
from connectors.postgres.client import Session, connect, translated
from connectors.settings import SourceEndpoint

#: PostgreSQL documentation, NOTIFY: a payload has to be shorter than 8000 bytes
_LONGEST = 7_999


@dataclass(frozen=True, slots=True)
class SessionTable:
    """The table that sessions are read from. user: the column with whose they are. expires: NULL there is for ever.
    where: the mapping's condition, as SQL."""

    schema: str
    relation: str
    user: str
    expires: str | None
    where: str | None

    def query(self) -> sql.Composed:
        """Users and how many sessions each has, as of now."""
        conditions: list[sql.Composable] = []
        if self.where:
            conditions.append(sql.SQL("({})").format(sql.SQL(self.where)))
        if self.expires:
            column = sql.Identifier(self.expires)
            conditions.append(sql.SQL("({0} IS NULL OR {0} > now())").format(column))
        return sql.SQL("SELECT {}::text, count(*) FROM {} WHERE {} GROUP BY 1 ORDER BY 1").format(
            sql.Identifier(self.user),
            sql.Identifier(self.schema, self.relation),
            sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("true"),
        )


class SourceRoster:
    """Who has sessions now, by PostgreSQL. Connects when needed, again after a failure."""

    place = "PostgreSQL"

    def __init__(self, source: SourceEndpoint, table: SessionTable) -> None:
        self._source, self._query = source, table.query()
        self._open: Session | None = None

    def users(self) -> Mapping[str, int]:
        """User -> sessions in use. A session of nobody is under the empty name."""
        try:
            with translated(self._source):
                if self._open is None or self._open.closed or self._open.broken:
                    self._open = connect(self._source, name="tandem sessions")
                return {user or "": count for user, count in self._open.execute(self._query)}
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        """End the session."""
        if self._open is not None:
            self._open.close()
            self._open = None


class Notify:
    """A channel that clients of the source LISTEN on. That somebody listens is not known: a receipt is that PostgreSQL
    has taken it."""

    name = "notify"

    def __init__(self, source: SourceEndpoint, channel: str) -> None:
        self._source, self._channel = source, channel
        self._session = connect(source, name="tandem sessions")

    def close(self) -> None:
        """End the session."""
        self._session.close()

    def check(self) -> None:
        """Raise ServerGone where PostgreSQL does not answer."""
        with translated(self._source):
            self._session.execute("SELECT 1")

    def send(self, id_: str, notice: Mapping[str, object]) -> None:
        """Send a notice as JSON, its id in it."""
        payload = orjson.dumps({"id": id_, **notice})
        if len(payload) > _LONGEST:
            raise NoticeTooLong(
                f"the notice has {len(payload):,} bytes, NOTIFY takes {_LONGEST:,}",
                remedy="give a shorter --message",
            )
        with translated(self._source):
            self._session.execute("SELECT pg_notify(%s, %s)", [self._channel, payload.decode()])
