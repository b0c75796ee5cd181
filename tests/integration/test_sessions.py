"""Sessions on real servers and against a real agent: told, waited for, moved once each, whatever goes wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.database import Database

from connectors.errors import AgentRefused, ServerGone, Stopped
from sync import app, steps
from sync import settings as reader
from sync.sessions.migrate import Moved
from sync.sessions.wait import Waited
from sync.settings import Settings
from tests.support.acp import load_acp
from tests.support.agent import TOKEN, TestAgent, kill, serving
from tests.support.stack import Own
from tests.support.tandem import ACP_MAPPING, Tandem

SOON = datetime.now(UTC) + timedelta(hours=1)


def settings_of(own: Own, **more: str) -> Settings:
    names = {f"TANDEM_SESSIONS__{name.upper()}": value for name, value in more.items()}
    return reader.read(mapping=ACP_MAPPING, environ={**own.environ(), **names})


@pytest.fixture
def db(own: Own) -> Iterator[Database[Any]]:
    with MongoClient[Any](own.addresses.mongodb_uri, tz_aware=True) as client:
        yield client[own.addresses.mongodb_database]


def quiet(*_: object, **__: object) -> None:
    pass


def session(user: str, **more: Any) -> dict[str, Any]:
    fields = {
        "sessionId": f"xyzzy-secret-jwt-{user}",
        "userId": user,
        "workspacePath": f"/nfs/private/{user}",
        "status": "active",
        "expiresAt": SOON,
    }
    return {"_id": ObjectId(), **fields, **more}


def by_user(db: Database[Any]) -> dict[str, dict[str, Any]]:
    return {d["userId"]: d for d in db["activesessions"].find({})}


def test_each_session_is_moved_once_whatever_goes_wrong(own: Own, db: Database[Any]) -> None:
    users = [
        *("plain", "silent", "dropped", "lost", "lost-twice", "late", "stumbling", "refused", "hopeless"),
        *("nowhere", "relative", "expired", "closed", "unending", *(f"more{n}" for n in range(40))),
    ]
    documents = {user: session(user) for user in users}
    documents["nowhere"]["workspacePath"] = None
    documents["relative"]["workspacePath"] = "work"
    documents["expired"]["expiresAt"] = datetime.now(UTC) - timedelta(seconds=1)
    documents["closed"]["status"] = "closed"
    del documents["unending"]["expiresAt"]
    db["activesessions"].insert_many(documents.values())
    said = datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC)
    messages = [
        {"role": "user", "content": "Grüße 😀", "at": said, "of": ObjectId("65" * 12), "n": 2**40},
        {"x": None},
    ]
    told = [u for u in users if u != "silent"]
    db["conversationhistories"].insert_many(
        {"sessionId": documents[u]["sessionId"], "messages": messages} for u in told
    )
    agent = TestAgent(TOKEN)
    agent.faults.update(
        {
            "dropped": ["drop"],
            "lost": ["lost"],  # session/new is done, its answer does not come
            "lost-twice": ["", "lost", "", "lost"],  # restored twice without an answer
            "late": ["late"],
            "stumbling": ["error", "error"],
            "refused": ["refuse"],
            "hopeless": ["drop"] * 3,
        }
    )
    more = {"agent_token": TOKEN, "answer_s": "1", "backoff_s": "0.05", "parallel": "8", "deadline_s": "20"}
    with serving(agent):
        wished = settings_of(own, agent_url=agent.url, **more)
        with pytest.raises(AgentRefused, match="wants a login"):
            steps.sessions_migrate(settings_of(own, agent_url=agent.url))

        rehearsed = steps.sessions_migrate(wished, rehearse=True)
        assert (rehearsed.pending, len(rehearsed.failures), rehearsed.agent) == (50, 2, "test agent 7")
        assert agent.calls["session/new"] == 0
        assert {d["status"] for d in db["activesessions"].find()} == {"active", "closed"}
        assert "_tandem_sessions" not in db.list_collection_names()

        seen: list[int] = []
        report = steps.sessions_migrate(wished, watch=lambda r: seen.append(r.done))
        assert (report.total, report.moved, report.pending, report.published) == (52, 48, 0, 52)
        assert {f.user for f in report.failures} == {"refused", "hopeless", "nowhere", "relative"}
        assert seen == list(range(1, 53))
        assert 1 < agent.most_at_once <= 8
        assert TOKEN not in str(report.as_dict())
        assert "jwt" not in str(report.as_dict())

        found = by_user(db)
        assert {u for u, d in found.items() if d["status"] == "active"} == {"expired"}
        assert found["closed"] == documents["closed"] | {"expiresAt": found["closed"]["expiresAt"]}
        for user, document in found.items():
            if document["status"] == "migrated":
                made = document["acpSessionId"]
                assert agent.user[made] == user
                assert agent.cwd[made] == f"/nfs/private/{user}"
                assert abs(document["migratedAt"] - datetime.now(UTC)) < timedelta(minutes=5)
                expected = [
                    {
                        "role": "user",
                        "content": "Grüße 😀",
                        "at": "2026-01-02T03:04:05.678Z",
                        "of": "65" * 12,
                        "n": 2**40,
                    },
                    {"x": None},
                ]
                assert agent.restored.get(made) == (None if user == "silent" else expected)
        reasons = {u: d["migrationReason"] for u, d in found.items() if d["status"] == "migration_failed"}
        assert "Invalid params (code -32602)" in reasons["refused"]
        assert "a quota" not in reasons["refused"]
        assert "the connection was lost in session/new" in reasons["hopeless"]
        assert reasons["nowhere"] == "it has no workspace path"
        # one session of the agent for each of ours, however often it was asked for
        assert len(agent.by_key) == 48

        calls = agent.calls["session/new"]
        again = steps.sessions_migrate(wished)
        assert (again.moved, again.already, len(again.failures)) == (0, 48, 4)
        assert agent.calls["session/new"] == calls

        db["activesessions"].update_one({"userId": "nowhere"}, {"$set": {"workspacePath": "/nfs/new"}})
        retried = steps.sessions_migrate(wished, retry_failed=True)
        assert (retried.moved, [f.user for f in retried.failures]) == (3, ["relative"])
        now = by_user(db)
        assert now["nowhere"]["status"] == "migrated"
        assert "migrationReason" not in now["nowhere"]

        assert steps.sessions_withdraw(wished) == 52
        back = by_user(db)
        assert all("migratedAt" not in d and "acpSessionId" not in d for d in back.values())
        assert {d["status"] for d in back.values()} == {"active", "closed"}

    unknown = settings_of(own, agent_url=agent.url, restore_method="_other", **more)
    with serving(TestAgent(TOKEN)) as server, serving(agent):
        unknown = settings_of(own, agent_url=agent.url, restore_method="_other", **more)
        refused = steps.sessions_migrate(unknown)
        assert "code -32601" in refused.failures[-1].reason
        assert server.started


def test_an_agent_that_dies_leaves_nothing_lost_and_nothing_twice(own: Own, db: Database[Any]) -> None:
    db["activesessions"].insert_many([session(f"u{n}") for n in range(60)])
    agent = TestAgent()
    wished = {"parallel": "4", "backoff_s": "0.05", "answer_s": "1"}
    with serving(agent) as server:
        killed = threading.Event()

        def watch(report: Moved) -> None:
            if report.done >= 10 and not killed.is_set():
                killed.set()
                kill(server)

        report = steps.sessions_migrate(settings_of(own, agent_url=agent.url, **wished), watch=watch)
        assert "in a row" in report.gave_up
        assert not report.ok
        assert report.moved >= 10
        assert report.pending > 20
        url = agent.url
    with pytest.raises(ServerGone, match="cannot be reached"):
        steps.sessions_migrate(settings_of(own, agent_url=url, **wished))
    # the controller is stopped in the middle; then one goes on
    with serving(agent):
        stop = threading.Event()
        with pytest.raises(Stopped):
            steps.sessions_migrate(
                settings_of(own, agent_url=agent.url, **wished),
                stop=stop,
                watch=lambda r: stop.set() if r.moved >= 5 else None,
            )
        assert db["_tandem_sessions"].count_documents({"status": "migrated"}) >= report.moved + 5
        done = steps.sessions_migrate(settings_of(own, agent_url=agent.url, **wished), retry_failed=True)
    assert done.ok
    assert done.already + done.moved == 60
    assert len(agent.by_key) == 60
    assert {d["status"] for d in db["activesessions"].find()} == {"migrated"}


class _Hook(BaseHTTPRequestHandler):
    """Takes notices: a user named `busy` twice with 503, one named `gone` never."""

    heard: list[tuple[str, Mapping[str, Any], str]]
    tries: dict[str, int]

    def do_HEAD(self) -> None:
        self.send_response(405)
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        user = body["userId"]
        self.tries[user] = self.tries.get(user, 0) + 1
        status = {"gone": 410, "busy": 503 if self.tries[user] < 3 else 204}.get(user, 202)
        if status < 300:
            self.heard.append((user, body, self.headers["Idempotency-Key"]))
            assert self.headers["Authorization"] == f"Bearer {TOKEN}"
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_users_are_told_over_every_channel_and_waited_for(
    own: Own, db: Database[Any], tmp_path: Path
) -> None:
    load_acp(own.addresses.postgres_dsn, users=100)
    hook = type("Hook", (_Hook,), {"heard": [], "tries": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    more = {
        "webhook_url": f"http://127.0.0.1:{server.server_port}/told",
        "webhook_token_file": str(token),
        "notify_channel": "acp_sessions",
        "notice_collection": "notices",
    }
    wished = settings_of(own, **more)
    with psycopg.connect(own.addresses.postgres_dsn, autocommit=True) as sql:
        sql.execute("LISTEN acp_sessions")
        # PostgreSQL says who is in, as the mapping has it: 25 sessions, 5 of them expired; one user has two
        sql.execute(
            "INSERT INTO user_sessions (user_id, session_token, expires_at)"
            " VALUES (4, 'second', now() + interval '1 h')"
        )
        begins = datetime.fromisoformat("2026-12-01T22:00+01:00")
        notice = steps.announcement(wished.sessions, id_="n1", at=begins, downtime="5 minutes")
        rehearsed = steps.sessions_notify(wished, notice=notice, rehearse=True)
        assert (rehearsed.users, rehearsed.sessions, rehearsed.place) == (20, 21, "PostgreSQL")
        assert rehearsed.ok
        assert not hook.heard

        sent = steps.sessions_notify(wished, notice=notice)
        assert sent.sent == {"webhook": 20, "notify": 20, "collection": 20}
        heard = {user: body for user, body, _ in hook.heard}
        assert heard["4"] == {
            "type": "maintenance",
            "message": "System maintenance scheduled. Please save your work.",
            "estimatedDowntime": "5 minutes",
            "scheduledTime": "2026-12-01T21:00:00+00:00",
            "userId": "4",
            "sessions": 2,
        }
        assert {key for *_, key in hook.heard} == {f"n1/{user}" for user in heard}
        notified = [json.loads(n.payload) for n in sql.notifies(timeout=2, stop_after=20)]
        assert {n["userId"] for n in notified} == set(heard)
        stored = db["notices"].find_one({"_id": "n1/4"})
        assert stored is not None
        assert stored["scheduledTime"] == datetime(2026, 12, 1, 21, tzinfo=UTC)

        repeated = steps.sessions_notify(wished, notice=notice)
        assert repeated.sent == {"webhook": 0, "notify": 0, "collection": 0}
        assert repeated.before["webhook"] == 20
        assert len(hook.heard) == 20

        # -- waiting -----------------------------------------------------------------------------------------------
        refused = Tandem(own, tmp_path).run(
            "sessions", "wait", "--timeout", "0.3", "--poll", "0.1", check=False
        )
        assert refused.returncode == 1
        assert "21 sessions of 20 users are in use, by PostgreSQL" in refused.stdout
        assert steps.sessions_wait(wished, timeout_s=0, goes_on=True).ok
        looks: list[int] = []

        def watch(waited: Waited) -> None:
            looks.append(waited.left)
            if len(looks) == 2:
                sql.execute("DELETE FROM user_sessions")

        waited = steps.sessions_wait(wished, timeout_s=20, poll_s=0.1, watch=watch)
        assert waited.ended
        assert looks[:3] == [21, 21, 0]
    # -- once the target has the sessions, it says who is in; some users can't be told -----------------------------
    db["activesessions"].insert_many([session("busy"), session("gone"), session("moved", status="migrated")])
    second = steps.announcement(wished.sessions, id_="n2")
    report = steps.sessions_notify(wished, notice=second)
    assert (report.ok, report.place, report.users) == (False, "MongoDB", 2)
    assert report.sent == {"webhook": 1, "notify": 2, "collection": 2}
    assert [(f.user, f.channel) for f in report.failures] == [("gone", "webhook")]
    assert "status 410" in report.failures[0].reason
    assert (hook.tries["busy"], hook.tries["gone"]) == (3, 1)
    server.shutdown()
    server.server_close()
    down = steps.sessions_notify(wished, notice=second, rehearse=True)
    assert [f.channel for f in down.failures] == ["webhook"]
    assert "cannot be reached" in down.failures[0].reason


def test_what_consumers_write_is_left_to_them_until_they_have_ended(own: Own, db: Database[Any]) -> None:
    load_acp(own.addresses.postgres_dsn, users=40)
    agent = TestAgent()
    with serving(agent), psycopg.connect(own.addresses.postgres_dsn, autocommit=True) as sql:
        wished = reader.read(mapping=ACP_MAPPING, environ={**own.environ(), "ACP_AGENT_URL": agent.url})
        app.snapshot(wished, quiet)
        before = list(db["activesessions"].find().sort("_id"))
        assert len(before) == 8
        moved = steps.sessions_migrate(wished)
        assert (moved.moved, moved.published) == (8, None)
        assert len(agent.by_key) == 8
        assert list(db["activesessions"].find().sort("_id")) == before
        # one that was used since it was moved is moved anew, the others are not
        used = db["activesessions"].find_one()
        db["conversationhistories"].insert_one({"sessionId": used["sessionId"], "messages": [{"n": 1}]})
        assert steps.sessions_migrate(wished, rehearse=True).pending == 1
        again = steps.sessions_migrate(wished)
        assert (again.moved, again.already, again.messages) == (1, 7, 1)
        assert list(agent.restored.values()) == [[{"n": 1}]]
        assert steps.sessions_migrate(wished).already == 8
        # the stream goes on, and all still agrees
        sql.execute("UPDATE user_sessions SET last_activity = now()")
        app.Consumers(wished, quiet, until_caught_up=True).run(lambda: False)
        assert app.verify(wished).ok
        assert steps.sessions_publish(wished) == 8
        assert steps.sessions_publish(wished) == 0
        assert {d["status"] for d in db["activesessions"].find()} == {"migrated"}
        assert not app.verify(wished, timeout_s=1).ok
        assert steps.sessions_withdraw(wished) == 8
        assert app.verify(wished).ok
