"""`tandem demo`: the ACP case from nothing to verified, while rows are being written, on the embedded stack."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from connectors.errors import StackFailed, SyncError
from connectors.postgres.client import connect, parameters, translated
from connectors.settings import SourceEndpoint
from sync import app
from sync import settings as settings_reader
from sync.dev.progress import Progress
from sync.dev.stack import Stack
from sync.dev.writer import Counts, Writer
from sync.lag.token import Token
from sync.settings import Settings
from sync.snapshot.load import LoadReport
from sync.verify.report import VerifyReport

#: of everything that the demo makes, so that it meets nothing else on the stack
NAME = "tandem_demo"
Tell = Callable[[str], None]


@dataclass(slots=True)
class DemoReport:
    """What a demo did. seconds: by phase, in order."""

    seed: int
    users: int
    consumers: int
    written: Counts | None = None
    loaded: LoadReport | None = None
    token: Token | None = None
    most_behind: int = 0
    verified: VerifyReport | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Every document agrees."""
        return self.verified is not None and self.verified.ok


def acp_folder() -> Path:
    """The example's schema, rows and mapping: beside this file in an installed package, else in the source tree."""
    here = Path(__file__).parent / "acp"
    return here if here.exists() else Path(__file__).parents[2] / "examples" / "acp"


class Demo:
    """One demo. It removes what an earlier one left, and leaves its own result to be looked at."""

    def __init__(
        self,
        stack: Stack,
        *,
        users: int,
        changes: int,
        rate: float | None,
        seed: int | None,
        consumers: int,
        tell: Tell,
    ) -> None:
        self.stack, self.users, self.changes, self.rate = stack, users, changes, rate
        self.seed = random.randrange(1 << 31) if seed is None else seed  # noqa: S311 - not a secret
        self.consumers, self.tell = consumers, tell
        self.report = DemoReport(self.seed, users, consumers)

    def run(self, progress: Progress) -> DemoReport:
        """Everything, in order. Raises named errors."""
        with self._phase("stack"):
            addresses = self.stack.up(progress)
        environ = {**addresses.environ(), "MONGODB_DATABASE": NAME, **_own_names()}
        with self._phase("source"):
            self._source(SourceEndpoint(dsn=SecretStr(addresses.postgres_dsn)), environ)
        settings = settings_reader.read(mapping=acp_folder() / "mapping.yaml", environ=environ)
        with Writer(settings.source, seed=self.seed, rate=self.rate) as writer:
            self.tell(f"writing to PostgreSQL from now on, seed {self.seed}")
            started = time.monotonic()
            with self._phase("setup"):
                prepared = app.setup(settings, self._log, keep_snapshot=True)
            with self._consumers(environ):
                with self._phase("snapshot"):
                    self.report.loaded = app.snapshot(settings, self._log, prepared=prepared)
                with self._phase("stream"):
                    self._until_written(writer, settings)
                self.report.written = writer.stop()
                self.report.seconds["writing"] = time.monotonic() - started
                self.tell(
                    f"stopped writing after {self.report.written.total:,} row changes; waiting until all is applied"
                )
                with self._phase("catch up"):
                    self.report.token = app.wait_for(settings, "now", 120)
                self.tell("comparing every field of every document with PostgreSQL")
                with self._phase("verify"):
                    self.report.verified = app.verify(settings)
        return self.report

    # -- the parts -----------------------------------------------------------------------------------------------
    def _source(self, admin: SourceEndpoint, environ: dict[str, str]) -> None:
        """A database of its own, filled anew."""
        settings = settings_reader.read(
            mapping=acp_folder() / "mapping.yaml",
            environ={**environ, "POSTGRES_DSN": _with_database(admin, NAME)},
        )
        with connect(admin, name="tandem demo") as session, translated(admin):
            exists = session.execute("SELECT 1 FROM pg_database WHERE datname = %s", [NAME]).fetchone()
        if exists:
            self.tell("removing what an earlier demo left")
            app.teardown(settings, lambda *_, **__: None, drop_collections=True)
        with connect(admin, name="tandem demo") as session, translated(admin):
            session.execute(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")
            session.execute(f"CREATE DATABASE {NAME}")
        environ["POSTGRES_DSN"] = settings.source.dsn.get_secret_value()
        self.tell(f"loading the ACP example: {self.users:,} users and what follows from them")
        program, psql_environ = self.stack.psql()
        for arguments in (["-f", "schema.sql"], ["-v", f"users={self.users}", "-f", "load.sql"]):
            done = subprocess.run(
                [program, "-q", "-v", "ON_ERROR_STOP=1", "-d", NAME, *arguments],
                env=psql_environ,
                cwd=acp_folder(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise StackFailed(
                    f"psql: {done.stderr.strip()}", remedy="see the message; `tandem dev status`"
                )

    @contextmanager
    def _consumers(self, environ: dict[str, str]) -> Iterator[None]:
        """`tandem run`, as often as wanted, each a process of its own; ended in order."""
        logs = self.stack.home.log
        running = []
        for number in range(1, self.consumers + 1):
            with (logs / f"demo-consumer-{number}.log").open("wb") as log:
                running.append(
                    subprocess.Popen(
                        [
                            sys.executable,
                            "-m",
                            "sync.cli",
                            "run",
                            "--mapping",
                            str(acp_folder() / "mapping.yaml"),
                        ],
                        env={**os.environ, **environ},
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                    )
                )
        self.tell(f"started {self.consumers} consumers; their logs are in {logs}")
        try:
            yield
        finally:
            for process in running:
                process.send_signal(signal.SIGTERM)
            for process in running:
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _until_written(self, writer: Writer, settings: Settings) -> None:
        """Show how it goes until enough is written."""
        looked = 0.0
        while writer.alive and writer.counts.total < self.changes:
            time.sleep(0.2)
            if time.monotonic() - looked > 2:
                looked = time.monotonic()
                try:
                    behind = app.status(settings).records
                except SyncError:
                    behind = None
                self.report.most_behind = max(self.report.most_behind, behind or 0)
                shown = "unknown" if behind is None else f"{behind:,}"
                self.tell(f"{writer.counts.total:,} row changes written, {shown} records not yet applied")

    def _log(self, message: str, **_: object) -> None:
        self.tell(message)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.report.seconds[name] = time.monotonic() - started


def _own_names() -> dict[str, str]:
    return {
        "TANDEM_SOURCE__SLOT": NAME,
        "TANDEM_SOURCE__PUBLICATION": NAME,
        "TANDEM_KAFKA__TOPIC_PREFIX": NAME,
        "TANDEM_KAFKA__GROUP_ID": NAME,
        "TANDEM_KAFKA__SESSION_TIMEOUT_MS": "6000",
        "TANDEM_CONNECT__CONNECTOR": NAME,
    }


def _with_database(source: SourceEndpoint, database: str) -> str:
    """The DSN of another database of the embedded stack; it has no password."""
    return " ".join(
        f"{key}={database if key == 'dbname' else value}" for key, value in parameters(source).items()
    )
