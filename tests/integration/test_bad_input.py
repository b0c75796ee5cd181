"""What an operator gets for bad input: the exit code, the thing by its name, what to do; never a traceback, never a
password, and with `--json` one document. Then servers that go away and come back, and commands that are killed."""

from __future__ import annotations

import http.server
import json
import random
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import conninfo, sql
from pymongo import MongoClient

from connectors.debezium.connect import PLUGIN
from tests.support.closed_postgres import closed_postgres
from tests.support.operator import SECRET, TABLES, Operator
from tests.support.stack import Own
from tests.support.topics import topics
from tests.support.until import until

NOBODY = "127.0.0.1:1"
#: ten are waited; the rest is for a busy machine
IN_TIME_S = 30


@pytest.fixture
def operator(own: Own, tmp_path: Path) -> Operator:
    return Operator(own, tmp_path)


# -- PostgreSQL ------------------------------------------------------------------------------------------------------
def test_a_server_that_refuses_connections_is_named(operator: Operator) -> None:
    dsn = f"host=127.0.0.1 port=1 user=u password={SECRET} dbname=d"
    for told in operator.all_refused(
        ["setup", "snapshot", "run", "verify", "wait-for now"], POSTGRES_DSN=dsn
    ):
        assert (told["error"], told["exit"], told["retry_helps"]) == ("ServerGone", 1, True)
        assert "Connection refused" in told["what"]
        assert told["facts"]["server"] == "127.0.0.1:1/d"
        assert "POSTGRES_DSN" in told["remedy"]


def test_an_unknown_host_an_unknown_database_and_an_unknown_role_are_told_apart(operator: Operator) -> None:
    away = operator.refused("setup", POSTGRES_DSN=f"postgresql://u:{SECRET}@no.such.host.invalid/d")
    assert (away["error"], away["retry_helps"]) == ("ServerGone", True)
    assert "no.such.host.invalid" in away["what"]
    database = operator.refused("setup", POSTGRES_DSN=operator.dsn(dbname="no_such", password=SECRET))
    assert (database["error"], database["retry_helps"]) == ("SourceNotReady", False)
    assert 'database "no_such" does not exist' in database["what"]
    assert "dbname" in database["remedy"]
    role = operator.refused("setup", POSTGRES_DSN=operator.dsn(user="no_such", password=SECRET))
    assert (role["error"], role["retry_helps"]) == ("SourceNotReady", False)
    assert 'role "no_such" does not exist' in role["what"]
    part = operator.status(POSTGRES_DSN=operator.dsn(user="no_such", password=SECRET))["PostgreSQL"]
    assert part["ok"] is False
    garbled = operator.refused("setup", POSTGRES_DSN=f"nonsense {SECRET}")
    assert (garbled["error"], garbled["exit"]) == ("SettingsInvalid", 2)


def test_a_wrong_password_and_a_server_that_is_not_set_up_are_told(operator: Operator) -> None:
    with closed_postgres(SECRET) as dsn:
        wrong = operator.refused("setup", POSTGRES_DSN=conninfo.make_conninfo(dsn, password=f"{SECRET}-not"))
        assert (wrong["error"], wrong["exit"], wrong["retry_helps"]) == ("SourceNotReady", 1, False)
        assert 'password authentication failed for user "postgres"' in wrong["what"]
        without = operator.refused("setup", POSTGRES_DSN=re.sub(r"password=\S+", "", dsn), PGPASSWORD=None)
        assert without["error"] == "SourceNotReady"
        with psycopg.connect(dsn, autocommit=True) as session:
            session.execute(TABLES.encode())
            session.execute(
                sql.SQL("CREATE ROLE plain LOGIN PASSWORD {}; GRANT SELECT ON people, notes TO plain").format(
                    SECRET
                )
            )
        plain = operator.refused("setup", POSTGRES_DSN=conninfo.make_conninfo(dsn, user="plain"))
        assert plain["error"] == "SourceNotReady"
        for wanted in ("wal_level is 'replica'", "plain has no REPLICATION", "may not create a publication"):
            assert wanted in plain["what"]
        assert "ALTER SYSTEM SET wal_level = 'logical'" in plain["remedy"]
        assert 'ALTER ROLE "plain" REPLICATION' in plain["remedy"]
        assert 'GRANT CREATE ON DATABASE "postgres" TO "plain"' in plain["remedy"]


def test_a_role_without_create_is_refused_before_anything_is_made(operator: Operator) -> None:
    role = f"{operator.own.name}_r"
    operator.execute(f"CREATE ROLE {role} LOGIN REPLICATION; GRANT SELECT ON people, notes TO {role}")
    try:
        told = operator.refused("setup", POSTGRES_DSN=operator.dsn(user=role))
        assert told["error"] == "SourceNotReady"
        assert f"the role {role} may not create a publication" in told["what"]
        with topics(operator.own) as admin:
            assert not admin.topics([f"{operator.own.name}.public.people"])
        assert not operator.documents("_tandem_state")
    finally:
        operator.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_tables_that_cannot_be_replicated_are_all_told_at_once(operator: Operator) -> None:
    operator.execute(
        "CREATE TABLE keyless (a int); CREATE UNLOGGED TABLE unlogged (a int PRIMARY KEY);"
        " CREATE TABLE nothing (a int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;"
        " CREATE VIEW seen AS SELECT * FROM people"
    )
    names = ("keyless", "unlogged", "nothing", "seen")
    operator.map("version: 1\ncollections:\n" + "".join(f"  {n}: {{from: public.{n}}}\n" for n in names))
    for command in ("setup", "snapshot"):
        told = operator.refused(command)
        assert (told["error"], told["exit"]) == ("TableUnfit", 1)
        for wanted in (
            "public.keyless (mapped by keyless) has no primary key",
            "public.unlogged (mapped by unlogged) is not logged",
            "public.nothing (mapped by nothing) has REPLICA IDENTITY NOTHING",
            "public.seen (mapped by seen) is no table but a view",
        ):
            assert wanted in told["what"]
        assert "ALTER TABLE public.nothing REPLICA IDENTITY DEFAULT" in told["remedy"]


# -- the mapping -----------------------------------------------------------------------------------------------------
_ONE = "version: 1\ncollections:\n  a:\n    from: public.people\n"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "version: 1\ncollections:\n  a: {from: public.peopel}\n",
            "mapping.yaml:3: there is no table public.peopel",
        ),
        (_ONE.replace("people", "peopel"), "did you mean public.people"),
        (_ONE + "    where: nam = 'x'\n", "mapping.yaml:5: there is no column 'nam'"),
        (
            _ONE + "    rename: {nam: x}\n",
            "mapping.yaml:5: public.people has no column 'nam' (it has: id, name, boss)",
        ),
        (_ONE + "    wher: id = 1\n", "mapping.yaml:5: unknown option 'wher'"),
        (_ONE + "  a:\n    from: public.notes\n", "mapping.yaml:5: 'a' stands here twice"),
        (_ONE + "    where: [id = 1\n  b:\n", "mapping.yaml:6: expected ',' or ']'"),
        (_ONE + "    where: 5\n", "mapping.yaml:5: Input should be a valid string"),
        (_ONE + "    where: name ~ 'x'\n", "mapping.yaml:5: 'name ~ 'x'' is not in the SQL subset"),
        (_ONE + "    where: id = = 1\n", "mapping.yaml:5: this cannot be read as one SQL expression"),
        (
            _ONE + "    references: {r: {column: boss, to: nowhere}}\n",
            "mapping.yaml:5: 'nowhere' is no collection",
        ),
        (_ONE + "    rename: {name: x, boss: x}\n", "two things would be written to the field 'x'"),
        (
            "version: 1\ncollections:\n  a: {from: public.odd}\n",
            "mapping.yaml:3: public.odd.k: Debezium's records cannot be told apart by a interval",
        ),
        ("", "mapping.yaml:1: the file is not a mapping"),
    ],
    ids=lambda text: re.sub(r"[^\w']+", " ", text)[-40:],
)
def test_a_mistake_in_the_mapping_is_told_with_its_place(operator: Operator, text: str, wanted: str) -> None:
    operator.execute("CREATE TABLE odd (k interval PRIMARY KEY)")
    operator.map(text)
    told = operator.refused("setup")
    assert (told["error"], told["exit"], told["retry_helps"]) == ("MappingInvalid", 2, False)
    assert wanted in told["what"]
    assert re.match(r"mapping\.yaml:\d+: ", told["what"])


def test_a_mapping_file_that_is_not_there_is_named(operator: Operator) -> None:
    (operator.folder / "mapping.yaml").unlink()
    for command in ("setup", "status", "verify"):
        told = operator.refused(command)
        assert (told["error"], told["exit"]) == ("MappingInvalid", 2)
        assert "there is no mapping file mapping.yaml" in told["what"]
        assert "--mapping FILE" in told["remedy"]


# -- settings --------------------------------------------------------------------------------------------------------
_SHORT = ("POSTGRES_DSN", "KAFKA_BOOTSTRAP_SERVERS", "CONNECT_URL", "MONGODB_URI", "MONGODB_DATABASE")


def test_settings_that_are_missing_wrong_or_unknown_are_all_told_at_once(operator: Operator) -> None:
    missing = operator.refused("status", **dict.fromkeys(_SHORT))
    assert (missing["error"], missing["exit"]) == ("SettingsInvalid", 2)
    for name in (*_SHORT, "TANDEM_SOURCE__DSN", "TANDEM_TARGET__URI"):
        assert name in missing["what"]
    assert "tandem dev env" in missing["remedy"]
    wrong = operator.refused(
        "setup",
        TANDEM_KAFKA__PARTITIONS="many",
        TANDEM_LIMITS__BATCH_EVENTS="0",
        TANDEM_SOURCE__SLOTT=SECRET,
        TANDEM_SORCE__SLOT=SECRET,
        TANDEM_SOURCE_SLOT=SECRET,
    )
    for wanted in (
        "kafka.partitions: ",
        "limits.batch_events: ",
        "source.slott: there is no such setting (TANDEM_SOURCE__SLOTT; did you mean slot?)",
        "TANDEM_SORCE__SLOT: there is no section 'sorce'",
        "TANDEM_SOURCE_SLOT: write it TANDEM_SOURCE__SLOT",
    ):
        assert wanted in wrong["what"]


def test_a_configuration_file_that_is_not_yaml_is_told_with_its_line_and_not_quoted(
    operator: Operator,
) -> None:
    (operator.folder / "tandem.yaml").write_text(f'source:\n  dsn: "password={SECRET}\n', encoding="utf-8")
    told = operator.refused("setup")
    assert (told["error"], told["exit"]) == ("SettingsInvalid", 2)
    assert re.search(r"tandem\.yaml:\d+: this is not YAML", told["what"])


def test_a_command_line_that_cannot_be_read_is_one_document_too(operator: Operator) -> None:
    for arguments, wanted in ((("setup", "--bogus"), "--bogus"), (("wait-for", "xyz"), "'xyz' is no LSN")):
        told = operator.refused(*arguments)
        assert told["exit"] == 2
        assert wanted in told["what"]


# -- MongoDB, Kafka, Connect -----------------------------------------------------------------------------------------
_ALL = ("setup", "run", "wait-for now", "verify", "teardown --yes")


def test_a_mongodb_that_is_away_is_told_in_time(operator: Operator) -> None:
    uri = f"mongodb://u:{SECRET}@{NOBODY}/?directConnection=true"
    for told in operator.all_refused([*_ALL, "snapshot"], MONGODB_URI=uri):
        assert told["seconds"] < IN_TIME_S
        assert (told["error"], told["retry_helps"]) == ("ServerGone", True)
        assert f"MongoDB cannot be reached: {NOBODY}" in told["what"]
    parts = operator.status(MONGODB_URI=uri)
    assert parts["MongoDB"]["ok"] is parts["consumers"]["ok"] is None
    assert parts["Kafka"]["ok"]


def test_a_mongodb_uri_that_is_wrong_is_told_and_not_shown(operator: Operator) -> None:
    for uri in (f"u:{SECRET}@h", f"mongodb://u:{SECRET}@h@x:y/"):
        told = operator.refused("setup", MONGODB_URI=uri)
        assert (told["error"], told["exit"]) == ("SettingsInvalid", 2)
    good = operator.own.addresses.mongodb_uri
    login = operator.refused("setup", MONGODB_URI=good.replace("://", f"://u:{SECRET}@"))
    assert login["error"] == "TargetNotReady"


def test_a_kafka_that_is_away_is_told_in_time(operator: Operator) -> None:
    operator.tandem.run("setup")
    for told in operator.all_refused(_ALL, KAFKA_BOOTSTRAP_SERVERS=NOBODY):
        assert told["seconds"] < IN_TIME_S
        assert (told["error"], told["retry_helps"]) == ("ServerGone", True)
        assert "Kafka cannot be reached" in told["what"]
        assert told["facts"]["bootstrap_servers"] == NOBODY
    assert operator.status(KAFKA_BOOTSTRAP_SERVERS=NOBODY)["Kafka"]["ok"] is None
    assert operator.status()["PostgreSQL"]["ok"] is True  # the teardown that could not end has not begun
    garbled = operator.refused("setup", KAFKA_BOOTSTRAP_SERVERS="http://x:y")
    assert (garbled["error"], garbled["exit"]) == ("SettingsInvalid", 2)


def test_a_connect_that_is_away_or_no_connect_is_told(operator: Operator) -> None:
    away = operator.refused("setup", CONNECT_URL=f"http://u:{SECRET}@{NOBODY}")
    assert (away["error"], away["retry_helps"]) == ("ServerGone", True)
    assert away["facts"]["url"] == f"http://{NOBODY}"
    for url in ("nonsense", "ftp://h", "http://", "http://[::1"):
        told = operator.refused("setup", CONNECT_URL=url)
        assert (told["error"], told["exit"]) == ("SettingsInvalid", 2)
        assert "CONNECT_URL" in told["remedy"]
    with _answering({}) as url:
        told = operator.refused("setup", CONNECT_URL=url)
        assert told["error"] == "ConnectRefused"
        assert "does not answer as Kafka Connect does" in told["what"]
        assert operator.status(CONNECT_URL=url)["Connect"]["ok"] is False
    with _answering({"/connector-plugins?connectorsOnly=false": b"<html>"}) as url:
        assert operator.refused("setup", CONNECT_URL=url)["error"] == "ConnectRefused"


def test_a_connect_without_exactly_once_is_refused_before_anything_is_made(operator: Operator) -> None:
    complaint = {"value": {"name": "exactly.once.support", "errors": ["not enabled on the worker"]}}
    answers = {
        "/connector-plugins?connectorsOnly=false": json.dumps([{"class": PLUGIN}]).encode(),
        f"/connector-plugins/{PLUGIN}/config/validate": json.dumps({"configs": [complaint]}).encode(),
    }
    with _answering(answers) as url:
        told = operator.refused("setup", CONNECT_URL=url)
    assert told["error"] == "ConnectRefused"
    assert "exactly.once.source.support=enabled" in told["remedy"]
    assert not operator.documents("_tandem_state")


@contextmanager
def _answering(answers: Mapping[str, bytes]) -> Iterator[str]:
    """A web server's address. What it does not know is 404 without JSON."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = answers.get(self.path)
            self.send_response(200 if body is not None else 404)
            self.end_headers()
            self.wfile.write(body or b"not here")

        do_PUT = do_POST = do_GET

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_connector_that_does_not_come_to_postgresql_is_told_with_its_cause(operator: Operator) -> None:
    told = operator.refused("setup", TANDEM_CONNECT__DATABASE_PORT="1")
    assert told["error"] == "ConnectRefused"
    assert "Connection to 127.0.0.1:1 refused" in told["what"]
    assert "CONNECT_URL" not in told["remedy"]
    assert operator.tandem.json("setup")["made"][-1] == f"connector {operator.own.name}"


# -- what is not in order --------------------------------------------------------------------------------------------
def test_the_order_of_things_is_told(operator: Operator) -> None:
    for command in ("run", "wait-for now"):
        told = operator.refused(*command.split())
        assert (told["error"], told["remedy"]) == ("NotSetUp", "run `tandem setup` first")
    operator.tandem.run("setup")
    assert operator.tandem.json("setup") == {"made": [], "warnings": []}
    for command in ("run --until-caught-up", "wait-for now --timeout 1"):
        told = operator.refused(*command.split())
        assert told["error"] == "NotComplete"
        assert "public.notes, public.people" in told["what"]
        assert "tandem snapshot" in told["remedy"]
    with MongoClient[dict[str, Any]](operator.own.addresses.mongodb_uri) as client:
        client[operator.own.addresses.mongodb_database].people.insert_one({"of": "somebody else"})
    foreign = operator.refused("snapshot")
    assert foreign["error"] == "TargetNotReady"
    assert "people has documents that tandem did not write" in foreign["what"]
    assert "--replace-existing" in foreign["remedy"]
    operator.tandem.run("snapshot", "--replace-existing")
    assert operator.tandem.json("snapshot")["collections"] == {}
    operator.tandem.run("run", "--until-caught-up")
    operator.agrees()
    operator.execute("UPDATE people SET name = name || '!'")
    late = operator.refused("wait-for", "now", "--timeout", "2")
    assert (late["error"], late["exit"]) == ("NotComplete", 1)
    assert "records are not yet applied" in late["what"]
    assert re.fullmatch(r"[0-9A-F]+/[0-9A-F]+", late["facts"]["lsn"])


def test_of_two_snapshots_at_once_one_is_refused_and_nothing_is_lost(operator: Operator) -> None:
    operator.tandem.run("setup")
    with psycopg.connect(operator.own.addresses.postgres_dsn) as session:
        session.execute("LOCK TABLE people")  # the load waits for it
        with operator.tandem.started("snapshot") as first:
            until(
                lambda: any(d["_id"] == "load" and "beat" in d for d in operator.documents("_tandem_state")),
                60,
            )
            told = operator.refused("snapshot")
            assert told["error"] == "Refused"
            assert "another `tandem snapshot` is running" in told["what"]
            session.rollback()
            assert first.child.wait(60) == 0, first.text()
    assert operator.tandem.json("snapshot")["collections"] == {}
    operator.tandem.run("run", "--until-caught-up")
    operator.agrees()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_ends_in_order_when_it_is_told_to(operator: Operator, number: signal.Signals) -> None:
    operator.tandem.run("snapshot")
    with operator.running("--json") as process:
        until(lambda: operator.status()["consumers"]["ok"], within=30)
        began = time.monotonic()
        process.signal(number)
        assert process.child.wait(20) == 0, process.text()
        assert time.monotonic() - began < 6
        assert "Traceback" not in process.text()
    assert "none runs" in operator.status()["consumers"]["what"]


def test_teardown_says_first_and_removes_then_and_setup_works_again(operator: Operator) -> None:
    operator.ready()
    said = operator.tandem.run("teardown").stdout
    assert operator.own.name in said
    assert "--yes" in said
    assert operator.tandem.json("setup") == {"made": [], "warnings": []}
    other = operator.refused("teardown", "--yes", TANDEM_SOURCE__SLOT=f"{operator.own.name}_other")
    assert other["error"] == "SourceReplaced"
    removed = operator.tandem.json("teardown", "--yes")["removed"]
    assert f"slot {operator.own.name}" in removed
    assert f"topic {operator.own.name}.public.people" in removed
    assert operator.tandem.json("teardown", "--yes") == {"removed": []}
    assert len(operator.documents("people")) == 100
    operator.execute(
        "DELETE FROM people WHERE id <= 10; INSERT INTO people VALUES (201, 'new'), (202, 'new')"
    )
    operator.execute("INSERT INTO people SELECT n, 'name', 0 FROM generate_series(301, 320) n")
    operator.ready()
    operator.agrees()


# -- behind its back -------------------------------------------------------------------------------------------------
def test_a_slot_that_was_dropped_is_told_by_every_command(operator: Operator) -> None:
    operator.ready()
    with operator.running() as process:
        operator.drop_slot()
        for command in ("wait-for now", "setup", "snapshot", "verify"):
            told = operator.refused(*command.split())
            assert (told["error"], told["retry_helps"]) == ("SlotLost", False)
            assert f"the slot {operator.own.name} is gone" in told["what"]
            assert "tandem heal" in told["remedy"]
        parts = until(lambda: "FAILED" in (s := operator.status())["Connect"]["what"] and s, within=60)
        assert "is gone: changes since then are in no event" in parts["PostgreSQL"]["what"]
        assert "tandem heal" in parts["PostgreSQL"]["remedy"]
        assert "no longer available on the server" in parts["Connect"]["what"]
        until(lambda: not process.alive, within=30)
        assert process.child.returncode == 1
        assert "(SlotLost)" in process.text()
        assert "Traceback" not in process.text()


def test_a_topic_that_was_removed_or_made_anew_is_told_by_every_command(operator: Operator) -> None:
    topic = f"{operator.own.name}.public.notes"
    operator.tandem.run("setup")
    _remove(operator, topic)
    assert operator.tandem.json("setup")["made"] == [f"topic {topic} with 4 partitions"]  # nothing was in it
    operator.ready()
    with operator.running() as process:
        _remove(operator, topic)
        for command in ("wait-for now --timeout 10", "run --until-caught-up", "verify"):
            told = operator.refused(*command.split())
            assert (told["error"], told["exit"]) == ("TopicMissing", 1)
            assert topic in told["what"]
            assert "tandem teardown" in told["remedy"]
        assert topic in operator.status()["Kafka"]["what"]
        assert topic in operator.refused("setup")["what"]
        until(lambda: not process.alive, within=40)
        assert process.child.returncode == 1
        assert topic in process.text()
        assert "Traceback" not in process.text()
    with topics(operator.own) as admin:
        admin.create(topic, 4, {})
    for command in ("wait-for now --timeout 10", "run", "setup"):
        told = operator.refused(*command.split())
        assert (told["error"], told["exit"]) == ("SourceReplaced", 1)
        assert topic in told["what"]
    assert operator.status()["Kafka"]["ok"] is False
    operator.tandem.run("teardown", "--yes")
    assert operator.tandem.json("setup")["made"]


def _remove(operator: Operator, topic: str) -> None:
    with topics(operator.own) as admin:
        admin.delete([topic])
        until(lambda: not admin.topics([topic]), within=20)


# -- killed and away -------------------------------------------------------------------------------------------------
def test_a_setup_that_was_killed_anywhere_is_finished_by_the_next(
    operator: Operator, pytestconfig: pytest.Config
) -> None:
    given = pytestconfig.getoption("--seed")
    seed = random.SystemRandom().randrange(1 << 31) if given is None else int(given)
    print(f"\nseed {seed}: repeat with --seed {seed}")
    dice = random.Random(seed)
    kills = 0
    while kills < 8:
        with operator.tandem.started("setup") as process:
            until(lambda: "made" in process.text() or not process.alive, within=60, every=0.01)
            time.sleep(dice.uniform(0, 0.6))  # anywhere in its work
            ended = not process.alive
            process.kill()
        kills += not ended
        if ended:  # all is there: from the beginning
            assert process.child.returncode == 0, process.text()
            operator.tandem.run("teardown", "--yes")
    operator.tandem.run("setup")
    operator.ready()
    operator.agrees()
