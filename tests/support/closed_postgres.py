"""A second, tiny PostgreSQL that asks for passwords and is not set up for logical replication."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import conninfo

from sync.dev import install, postgres
from sync.dev.processes import Account
from sync.dev.progress import Silent
from tests.support.until import until


@contextmanager
def closed_postgres(password: str) -> Iterator[str]:
    """Its superuser's DSN. PostgreSQL's defaults: wal_level is replica; scram-sha-256 on every connection."""
    account = postgres.account()
    folder = Path(tempfile.mkdtemp(prefix="tandem-closed-"))
    folder.chmod(0o755)
    try:
        with _server(folder, password, account) as dsn:
            yield dsn
    finally:
        shutil.rmtree(folder)


@contextmanager
def _server(folder: Path, password: str, account: Account | None) -> Iterator[str]:
    programs = postgres.programs(install.postgres_package(), account, Silent())
    data, secret = folder / "data", folder / "password"
    data.mkdir(mode=0o700)
    secret.write_text(password, encoding="utf-8")
    if account is not None:
        shutil.chown(data, account.uid, account.gid)
        secret.chmod(0o644)
    as_account = {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}
    initdb = ("-D", data, "-U", "postgres", f"--pwfile={secret}", "--auth=scram-sha-256")
    subprocess.run(
        [programs / "initdb", *initdb, "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"],
        check=True,
        cwd="/",
        stdout=subprocess.DEVNULL,
        **as_account,
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = ("unix_socket_directories=", "listen_addresses=127.0.0.1", "fsync=off", "shared_buffers=16MB")
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-p", str(port), *(f"--{setting}" for setting in settings)],
            cwd="/",
            stdout=log,
            stderr=subprocess.STDOUT,
            **as_account,
        )
    dsn = conninfo.make_conninfo(
        host="127.0.0.1", port=port, user="postgres", password=password, dbname="postgres"
    )
    try:
        until(lambda: _answers(dsn), within=30)
        yield dsn
    finally:
        server.send_signal(postgres.STOP_SIGNAL)
        server.wait(30)


def _answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError:
        return False
    return True
