"""Somebody with a small source, a mapping of it, and the command."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import psycopg
from psycopg import conninfo
from pymongo import MongoClient

from tests.support.secrets import SECRET
from tests.support.stack import Own
from tests.support.tandem import Process, Tandem
from tests.support.until import until

MAPPING = """\
version: 1
collections:
  people:
    from: public.people
    embed:
      notes: {from: public.notes, foreign_key: person}
"""
TABLES = """
CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL, boss int);
CREATE TABLE notes (id int PRIMARY KEY, person int, body text);
INSERT INTO people SELECT n, 'name ' || n, n - 1 FROM generate_series(1, 100) n;
INSERT INTO notes SELECT n, n, 'note ' || n FROM generate_series(1, 100) n;
"""


class Operator:
    """Somebody with a small source, a mapping of it, and the command."""

    def __init__(self, own: Own, folder: Path) -> None:
        self.own, self.folder = own, folder
        self.execute(TABLES)
        (folder / "mapping.yaml").write_text(MAPPING, encoding="utf-8")
        self.tandem = Tandem(own, folder, Path("mapping.yaml"))

    def execute(self, script: str) -> None:
        with psycopg.connect(self.own.addresses.postgres_dsn, autocommit=True) as session:
            session.execute(script.encode())

    def dsn(self, **parameters: object) -> str:
        return conninfo.make_conninfo(self.own.addresses.postgres_dsn, **parameters)

    def map(self, text: str) -> None:
        (self.folder / "mapping.yaml").write_text(text, encoding="utf-8")

    def under(self, **environ: str | None) -> Tandem:
        """The command with other settings; None: without that one."""
        tandem = copy(self.tandem)
        tandem.environ = {k: v for k, v in {**self.tandem.environ, **environ}.items() if v is not None}
        return tandem

    def refused(self, *arguments: str, within_s: float = 60, **environ: str | None) -> dict[str, Any]:
        """The one JSON document of a command that fails as it should, with `exit` and `seconds`."""
        began = time.monotonic()
        done = self.under(**environ).run(*arguments, "--json", timeout_s=within_s, check=False)
        seconds = time.monotonic() - began
        assert done.returncode in (1, 2), (arguments, done.stdout, done.stderr)
        for text in (done.stdout, done.stderr):
            assert "Traceback" not in text, text
            assert SECRET not in text, text
        document: dict[str, Any] = json.loads(done.stdout)
        assert set(document) == {"error", "what", "facts", "remedy", "retry_helps"}
        assert document["remedy"]
        assert re.sub(r"\s", "", document["what"]) in re.sub(r"\s", "", done.stderr)
        assert f"what to do: {document['remedy']}" in done.stderr
        return {**document, "exit": done.returncode, "seconds": seconds}

    def all_refused(self, commands: Sequence[str], **environ: str | None) -> list[dict[str, Any]]:
        """Those of several commands, beside each other: they only wait for a server that is away."""
        with ThreadPoolExecutor(len(commands)) as pool:
            return list(pool.map(lambda command: self.refused(*command.split(), **environ), commands))

    def status(self, **environ: str | None) -> dict[str, Any]:
        """The components by name, of a status that is not in order."""
        done = self.under(**environ).run("status", "--json", timeout_s=60, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        assert SECRET not in done.stdout + done.stderr
        return {part["name"]: part for part in json.loads(done.stdout)["components"]}

    def ready(self) -> None:
        """Set up, loaded, applied."""
        self.tandem.run("snapshot")
        self.tandem.run("run", "--until-caught-up")

    def agrees(self) -> None:
        self.tandem.run("wait-for", "now", "--timeout", "100", timeout_s=120)
        report = self.tandem.json("verify", check=False)
        assert report["ok"], report
        assert report["collections"]["people"]["rows"] == report["collections"]["people"]["documents"] >= 100

    @contextmanager
    def running(self, *arguments: str) -> Iterator[Process]:
        with self.tandem.started("run", *arguments) as process:
            until(lambda: "consuming" in process.text() or not process.alive, within=60)
            assert process.alive, process.text()
            yield process

    def drop_slot(self) -> None:
        with psycopg.connect(self.own.addresses.postgres_dsn, autocommit=True) as session:

            def dropped() -> bool:
                mine = "FROM pg_replication_slots WHERE slot_name = %s"
                session.execute(f"SELECT pg_terminate_backend(active_pid) {mine} AND active", [self.own.name])
                session.execute(
                    f"SELECT pg_drop_replication_slot(slot_name) {mine} AND NOT active", [self.own.name]
                )
                return session.execute(f"SELECT 1 {mine}", [self.own.name]).fetchone() is None

            until(dropped, within=20)

    def documents(self, collection: str) -> list[dict[str, Any]]:
        with MongoClient[dict[str, Any]](self.own.addresses.mongodb_uri) as client:
            return list(client[self.own.addresses.mongodb_database][collection].find())
