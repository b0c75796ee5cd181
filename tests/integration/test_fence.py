"""The fence on a real PostgreSQL: who writes, who does not, and for how long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from unittest.mock import patch

import psycopg
import pytest
from pydantic import SecretStr

from connectors.errors import Contended, FenceLapsed
from connectors.postgres.client import Session, connect
from connectors.postgres.fence import REFUSED_STATE, Fence, FenceFacts, Standing
from connectors.settings import SourceEndpoint
from tests.support.stack import Own
from tests.support.until import until

DDL = """
CREATE SCHEMA "Odd""name";
CREATE TABLE users (id int PRIMARY KEY, name text);
CREATE TABLE "Odd""name"."t.x" (id int PRIMARY KEY);
CREATE TABLE parted (id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE part_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE old_users (since int) INHERITS (users);
CREATE TABLE beside (id int);
CREATE TABLE members (id int PRIMARY KEY, user_id int REFERENCES users ON DELETE CASCADE);
INSERT INTO users VALUES (1, 'a'), (2, 'b');
INSERT INTO members VALUES (1, 1);
"""
TABLES = ("public.users", 'Odd"name.t.x', "public.parted", "public.members")
WRITES = (
    "INSERT INTO users VALUES (3, 'c')",
    "INSERT INTO users VALUES (1, 'c') ON CONFLICT (id) DO UPDATE SET name = 'c'",
    "UPDATE users SET name = 'x' WHERE id = 1",
    "DELETE FROM users WHERE id = 1",
    "MERGE INTO users u USING (VALUES (1)) v (id) ON u.id = v.id WHEN MATCHED THEN UPDATE SET name = 'm'",
    "TRUNCATE members",
    "TRUNCATE users CASCADE",
    "COPY members FROM PROGRAM 'echo 9'",
    "INSERT INTO parted VALUES (1, 1)",
    "INSERT INTO part_1 VALUES (1, 1)",
    "TRUNCATE part_1",
    "INSERT INTO old_users VALUES (7, 'old', 1)",
    'INSERT INTO "Odd""name"."t.x" VALUES (1)',
    "WITH gone AS (DELETE FROM members RETURNING *) SELECT * FROM gone",
)


class Two:
    """Who holds the fence, and an application."""

    def __init__(self, own: Own) -> None:
        self.dsn = own.addresses.postgres_dsn
        self.holder: Session = connect(SourceEndpoint(dsn=SecretStr(self.dsn)))
        self.holder.execute(DDL)
        self.fence = Fence(own.name, TABLES)
        self.open: list[Session] = [self.holder]

    def application(self) -> Session:
        session = psycopg.connect(self.dsn, autocommit=True)
        self.open.append(session)
        return session

    def facts(self) -> FenceFacts:
        return self.fence.facts(self.holder)

    def close(self) -> None:
        for session in self.open:
            session.close()


@pytest.fixture
def two(own: Own) -> Iterator[Two]:
    made = Two(own)
    yield made
    made.close()


def refused(application: Session, statement: str) -> bool:
    try:
        application.execute(statement.encode())
    except psycopg.Error as error:
        if error.sqlstate == REFUSED_STATE and "refused for now" in str(error):
            return True
        raise
    return False


def test_every_way_to_write_is_refused_until_it_is_lifted(two: Two) -> None:
    assert two.facts() == FenceFacts(Standing.NONE)
    two.fence.raise_(two.holder, 60, 5)
    assert two.facts().holds
    application = two.application()
    assert [s for s in WRITES if not refused(application, s)] == []
    application.execute("SET session_replication_role = replica")
    assert refused(application, WRITES[0])
    application.execute("RESET session_replication_role")
    application.execute("INSERT INTO beside VALUES (1)")
    assert application.execute("SELECT count(*) FROM users").fetchone() == (2,)
    assert two.fence.lift(two.holder)
    assert two.facts() == FenceFacts(Standing.NONE)
    assert not refused(application, WRITES[0])
    left = two.holder.execute("SELECT tgname FROM pg_trigger WHERE tgname LIKE 'a_tandem%'").fetchall()
    assert left == []
    assert two.fence.lift(two.holder)  # again: nothing to do


def test_writers_under_way_are_waited_for_and_older_snapshots_do_not_see_past_it(two: Two) -> None:
    writing, old, raised = two.application(), two.application(), threading.Event()
    old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    old.execute("SELECT 1")
    writing.execute("BEGIN")
    writing.execute("INSERT INTO users VALUES (3, 'under way')")
    at: list[int] = []

    def put_up() -> None:
        at.append(int(two.fence.raise_(two.holder, 60, 20)))
        raised.set()

    thread = threading.Thread(target=put_up)
    thread.start()
    assert not raised.wait(0.5)
    writing.execute("COMMIT")
    thread.join(20)
    assert raised.is_set()
    last = two.holder.execute("SELECT pg_current_wal_lsn() - '0/0'").fetchone()
    assert last is not None
    assert at[0] <= int(last[0])
    assert refused(old, WRITES[0])
    old.execute("ROLLBACK")
    # its snapshot is from a lease that has ended by now, and been renewed since
    old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    old.execute("SELECT count(*) FROM users")
    two.fence.renew(two.holder, 0.4)
    two.fence.renew(two.holder, 60)
    time.sleep(0.5)
    assert refused(old, WRITES[2])
    old.execute("ROLLBACK")


def test_it_lapses_when_nobody_renews_it(two: Two) -> None:
    application = two.application()
    two.fence.raise_(two.holder, 0.6, 5)
    assert refused(application, WRITES[0])
    two.fence.renew(two.holder, 0.6)
    until(lambda: two.facts().standing is Standing.LAPSED, within=5)
    assert not refused(application, WRITES[0])
    with pytest.raises(FenceLapsed, match="has lapsed"):
        two.fence.renew(two.holder, 60)
    with pytest.raises(FenceLapsed, match="has lapsed"):
        two.fence.seal(two.holder)
    assert not refused(application, WRITES[2])  # the refusal has changed nothing
    two.fence.raise_(two.holder, 60, 5)  # over what is left of the one before
    assert refused(application, WRITES[2])


def test_a_renewal_that_comes_too_late_says_so(two: Two) -> None:
    """The clock passes the old moment between the look and the renewal: somebody may have written in between."""
    two.fence.raise_(two.holder, 0.3, 5)
    move = Fence._set

    def late(self: Fence, session: Session, lease_s: float | None) -> None:
        time.sleep(0.4)
        move(self, session, lease_s)

    with patch.object(Fence, "_set", late), pytest.raises(FenceLapsed, match="lapsed while"):
        two.fence.renew(two.holder, 60)


def test_sealed_it_stands_without_anybody(two: Two) -> None:
    application = two.application()
    two.fence.raise_(two.holder, 0.5, 5)
    two.fence.seal(two.holder)
    two.fence.seal(two.holder)
    time.sleep(0.7)
    assert two.facts() == FenceFacts(Standing.SEALED)
    assert refused(application, WRITES[0])
    with pytest.raises(FenceLapsed, match="sealed"):
        two.fence.renew(two.holder, 60)
    two.fence.lift(two.holder)
    assert not refused(application, WRITES[0])


def test_who_does_not_end_stops_it_and_is_not_kept_waiting(two: Two) -> None:
    writing, application = two.application(), two.application()
    writing.execute("BEGIN")
    writing.execute("INSERT INTO members VALUES (5, 2)")
    with pytest.raises(Contended, match="lock timeout"):
        two.fence.raise_(two.holder, 60, 0.3)
    assert two.facts() == FenceFacts(Standing.NONE)
    assert not refused(application, WRITES[0])
    writing.execute("ROLLBACK")


def test_a_role_that_passes_writes(two: Two, own: Own) -> None:
    role = f"pass_{own.name}"
    two.holder.execute(f"CREATE ROLE {role} LOGIN".encode())
    try:
        two.holder.execute(f"GRANT ALL ON users TO {role}".encode())
        Fence(own.name, TABLES, (role,)).raise_(two.holder, 60, 5)
        with psycopg.connect(two.dsn, user=role, autocommit=True) as reverse:
            reverse.execute("UPDATE users SET name = 'back' WHERE id = 1")
        application = two.application()
        application.execute(f"SET ROLE {role}".encode())  # who has logged in counts
        assert refused(application, WRITES[2])
    finally:
        two.fence.lift(two.holder)
        two.holder.execute(f"REVOKE ALL ON users FROM {role}; DROP ROLE {role}".encode())


def test_a_gap_is_seen(two: Two) -> None:
    two.fence.raise_(two.holder, 60, 5)
    trigger = two.fence._triggers[0]
    two.holder.execute(f"ALTER TABLE part_1 DISABLE TRIGGER {trigger}".encode())
    assert two.facts().open == ("public.part_1",)
    with pytest.raises(FenceLapsed, match=r"gaps: public\.part_1"):
        two.fence.seal(two.holder)
    two.fence.lift(two.holder)
    assert two.facts() == FenceFacts(Standing.NONE)


def test_lifting_under_a_lock_lets_writes_in_and_is_repeated(two: Two) -> None:
    two.fence.raise_(two.holder, 60, 5)
    reading, application = two.application(), two.application()
    reading.execute("BEGIN")
    reading.execute("SELECT * FROM users")
    assert not two.fence.lift(two.holder, 0.2)
    assert not refused(application, "INSERT INTO members VALUES (7, 2)")
    assert two.facts().standing is Standing.LAPSED
    reading.execute("ROLLBACK")
    assert two.fence.lift(two.holder)
    assert two.facts() == FenceFacts(Standing.NONE)
