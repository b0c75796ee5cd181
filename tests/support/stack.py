"""Stacks for tests: started, found or refused; and names on a shared one that belong to one test."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import conninfo, sql
from pymongo import MongoClient

from sync.dev.stack import Stack
from sync.dev.state import Addresses
from tests.support import secrets
from tests.support.until import until


@dataclass(frozen=True)
class Own:
    """What one test has for itself on a shared stack. name: of the slot, connector, topics and all else."""

    name: str
    addresses: Addresses

    def environ(self) -> dict[str, str]:
        """The environment under which commands use these names and no others."""
        return {
            **self.addresses.environ(),
            "TANDEM_SOURCE__SLOT": self.name,
            "TANDEM_SOURCE__PUBLICATION": self.name,
            "TANDEM_KAFKA__TOPIC_PREFIX": self.name,
            "TANDEM_KAFKA__GROUP_ID": self.name,
            "TANDEM_CONNECT__CONNECTOR": self.name,
        }


@contextmanager
def started(kind: str) -> Iterator[Addresses]:
    """A stack of that kind, ended afterwards when it was started here."""
    if kind == "external":
        yield external(os.environ)
    elif kind == "containers":
        from tests.support import containers

        addresses, stop = containers.start()
        try:
            yield addresses
        finally:
            stop()
    else:
        with embedded() as stack:
            yield stack.up()


@contextmanager
def embedded() -> Iterator[Stack]:
    """A new embedded stack, not yet up, in a folder that any account may enter; purged afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="tandem-test-"))
    folder.chmod(0o755)
    stack = Stack(folder / "home")
    try:
        yield stack
    finally:
        told = secrets.told(folder)
        stack.down(purge=True)
        shutil.rmtree(folder)
        assert not told, f"a password is in these logs: {told}"


def external(environ: Mapping[str, str]) -> Addresses:
    """The stack that the environment names. A missing name is a failure, not a reason to skip."""
    names = list(Addresses.__dataclass_fields__)
    if missing := [name.upper() for name in names if not environ.get(name.upper())]:
        raise LookupError(f"--stack=external wants these in the environment: {', '.join(missing)}")
    return Addresses(**{name: environ[name.upper()] for name in names})


@contextmanager
def own_names(stack: Addresses) -> Iterator[Own]:
    """Fresh databases on a shared stack, and the removal of all that a test makes under its name."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(stack.postgres_dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
    dsn = conninfo.make_conninfo(stack.postgres_dsn, dbname=name)
    own = Own(name, replace(stack, postgres_dsn=dsn, mongodb_database=name))
    try:
        yield own
    finally:
        _drop_connectors(own)
        _drop_database(stack, name)
        with MongoClient[dict[str, Any]](stack.mongodb_uri) as client:
            client.drop_database(name)


def _drop_connectors(own: Own) -> None:
    """Stop and remove the connectors of this test: they hold its slot, and so its database."""
    for connector in _rest(own, "GET", "/connectors") or []:
        config = _rest(own, "GET", f"/connectors/{connector}/config") or {}
        if connector.startswith(own.name) or config.get("database.dbname") == own.name:
            _rest(own, "PUT", f"/connectors/{connector}/stop")
            _rest(own, "DELETE", f"/connectors/{connector}")


def _rest(own: Own, method: str, path: str) -> Any:
    where = urlsplit(own.addresses.connect_url)
    link = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
    try:
        link.request(method, path)
        body = link.getresponse().read()
        return json.loads(body) if body else None
    finally:
        link.close()


def _drop_database(stack: Addresses, name: str) -> None:
    with psycopg.connect(stack.postgres_dsn, autocommit=True) as admin:

        def no_slot_left() -> bool:
            slots = "FROM pg_replication_slots WHERE database = %s"
            admin.execute(f"SELECT pg_terminate_backend(active_pid) {slots} AND active", [name])
            admin.execute(f"SELECT pg_drop_replication_slot(slot_name) {slots} AND NOT active", [name])
            return admin.execute(f"SELECT 1 {slots}", [name]).fetchone() is None

        until(no_slot_left, within=20)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
