"""The cutover on real servers: under an application that writes, killed, refused, and gone back from."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connectors.mongo.journal import COLLECTION
from connectors.postgres.fence import Fence, Standing
from sync import app
from tests.support import warm
from tests.support.application import Application
from tests.support.controller import POINTS
from tests.support.pipeline import Pipeline, consuming, pipeline
from tests.support.stack import Own
from tests.support.until import until

DDL = """
CREATE TABLE users (id bigint PRIMARY KEY, full_name text NOT NULL, is_active boolean NOT NULL DEFAULT true);
CREATE TABLE teams (id bigint PRIMARY KEY, name text NOT NULL, created_by bigint REFERENCES users);
INSERT INTO users SELECT n, 'user ' || n FROM generate_series(1, 200) AS n;
INSERT INTO teams SELECT n, 'team ' || n, n FROM generate_series(1, 50) AS n;
"""
MAPPING = """
version: 1
collections:
  users: {from: public.users, where: is_active}
  teams: {from: public.teams, references: {createdBy: {column: created_by, to: users}}}
"""
#: sessions and workspaces too
MORE_DDL = """
CREATE TABLE user_sessions (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, workspace_path text,
  session_token text NOT NULL UNIQUE, expires_at timestamptz NOT NULL);
INSERT INTO user_sessions SELECT n, n, '/nfs/private/' || n, 'token ' || n, now() + interval '1 day'
  FROM generate_series(1, 5) AS n;
"""
MORE_MAPPING = """
  activesessions:
    from: public.user_sessions
    rename: {session_token: sessionId}
    references: {userId: {column: user_id, to: users}}
    constants: {status: active}
"""
FLAG, READS = "use_mongodb", "read_mongodb"


@dataclass
class Moving:
    """A pipeline that streams, and what its application is told by."""

    on: Pipeline
    flags: Path
    own: Own
    tables: tuple[str, ...] = ("public.users", "public.teams")
    #: of workspaces; None: none are moved
    roots: tuple[Path, Path] | None = None

    def application(self, rate: float = 60) -> Application:
        addresses = self.own.addresses
        return Application(
            addresses.postgres_dsn,
            addresses.mongodb_uri,
            addresses.mongodb_database,
            self.flags,
            FLAG,
            range(1, 101),
            rate=rate,
        )

    def cutover(
        self, *arguments: str, dies: str = "", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        return self.controller("cutover", *arguments, dies=dies, check=check)

    def controller(
        self, *arguments: str, dies: str = "", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = warm.run(
            "tests.support.controller",
            [*arguments, "--mapping", str(self.on.tandem.mapping)],
            env={**self.on.tandem.environ, "DIE_AT": dies, "PYTHONPATH": os.getcwd()},
            cwd=self.on.tandem.folder,
            timeout=180,
        )
        wanted = -signal.SIGKILL if dies else 0
        if check and done.returncode != wanted:
            raise AssertionError(f"{arguments} {dies}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def status(self) -> Any:
        done = self.cutover("status", "--json", check=False)
        return json.loads(done.stdout)

    @property
    def fence(self) -> Standing:
        return Fence(self.own.name, self.tables).facts(self.on.sql).standing

    def serves_from_postgres(self, application: Application) -> None:
        """Nothing stands in the way of a write, and it arrives."""
        before = application.counts["postgres"]
        until(lambda: application.counts["postgres"] > before + 5, within=20)
        assert not application.on_mongo
        assert self.fence is Standing.NONE

    def serves_from_mongo(self, application: Application) -> None:
        before = application.counts["mongo"]
        until(lambda: application.counts["mongo"] > before + 5, within=20)
        assert application.on_mongo
        assert self.fence is Standing.SEALED
        assert self.on.db["_tandem_positions"].count_documents({"holder": {"$regex": "^cutover:"}}) > 0

    def starts_over(self) -> None:
        """As before any cutover: for the next one of the same test."""
        self.on.db[COLLECTION].delete_many({})
        _write_flags(self.flags)
        self.on.db["_tandem_positions"].update_many({}, {"$set": {"holder": None}})
        Fence(self.own.name, self.tables).lift(self.on.sql)
        if self.roots is not None:
            plant(self.roots)
        self.on.tandem.run("reload", "users", "teams", *(["activesessions"] if self.roots else []))


def plant(roots: tuple[Path, Path]) -> None:
    """Workspaces of the first users in the old layout, and an empty new root."""
    for root in roots:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
    for user in range(1, 6):
        folder = roots[0] / "private" / str(user)
        folder.mkdir(parents=True)
        (folder / "notes.md").write_text(f"of {user}\n", encoding="utf-8")


def _write_flags(file: Path) -> None:
    flag = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"}
    file.write_text(json.dumps({"flags": {FLAG: flag, READS: flag}}), encoding="utf-8")


@contextmanager
def moving(own: Own, folder: Path, agent: str = "", tables: str = DDL, **more: str) -> Iterator[Moving]:
    """agent: the address of one; then sessions and workspaces are moved too. tables: in place of the usual ones. more:
    settings."""
    flags, roots = folder / "flags.json", (folder / "old", folder / "new")
    _write_flags(flags)
    (folder / "beta.txt").write_text("1\n2\n", encoding="utf-8")
    (folder / "tandem.yaml").write_text("flags: {cohorts: {beta: beta.txt}}\n", encoding="utf-8")
    options = {
        "TANDEM_FLAGS__FILE": str(flags),
        "TANDEM_FLAGS__NAMES": FLAG,
        "TANDEM_FLAGS__READS": READS,
        "TANDEM_CUTOVER__BACKUP": "false",
        "TANDEM_CUTOVER__WAY_BACK": "none",
        "TANDEM_CUTOVER__OBSERVE_S": "0.5",
        "TANDEM_CUTOVER__LEASE_S": "4",
        "TANDEM_CUTOVER__MEMORY_FACTOR": "10",  # other tests start whole stacks meanwhile
        "TANDEM_CUTOVER__DISK_FACTOR": "10",
        "TANDEM_DASHBOARD__READY_BELOW_S": "30",
        **more,
    }
    if agent:
        plant(roots)
        options |= {
            "TANDEM_FILES__OLD": str(roots[0]),
            "TANDEM_FILES__NEW": str(roots[1]),
            "TANDEM_SESSIONS__AGENT_URL": agent,
            "TANDEM_SESSIONS__NOTICE_COLLECTION": "notices",
            "TANDEM_SESSIONS__ON_TIMEOUT": "go_on",
            "TANDEM_SESSIONS__WAIT_TIMEOUT_S": "1",
        }
    ddl, mapping = (tables + MORE_DDL, MAPPING + MORE_MAPPING) if agent else (tables, MAPPING)
    with pipeline(own, folder, ddl, mapping, **options) as on:
        on.tandem.run("snapshot")
        with consuming(on):
            on.wait()
            app.verify(on.settings)
            if agent:
                yield Moving(on, flags, own, (*Moving.tables, "public.user_sessions"), roots)
            else:
                yield Moving(on, flags, own)


def test_it_is_rehearsed_and_then_done_under_an_application_that_writes(own: Own, tmp_path: Path) -> None:
    with moving(own, tmp_path) as here, here.application() as application:
        until(lambda: application.counts["postgres"] > 20)
        rehearsed = json.loads(here.cutover("run", "--json").stdout)
        assert rehearsed["rehearsed"]
        assert rehearsed["refusals"] == []
        assert rehearsed["predicted"]["seconds"] > 0
        assert not application.refused
        assert here.on.db[COLLECTION].count_documents({}) == 0
        done = json.loads(here.cutover("run", "--execute", "--json").stdout)
        print({name: done[name] for name in ("state", "predicted", "blocked_s")})
        here.serves_from_mongo(application)
        print("blocked as the application saw it", application.blocked_s, "said", done["blocked_s"])
        assert application.refused
        assert application.blocked_s <= done["blocked_s"] + 1
        application.stop()
        assert application.strange == []
        assert application.lost() == []
        for refusing in (("reload", "users"), ("setup",), ("teardown", "--drop-collections", "--yes")):
            refused = here.on.tandem.run(*refusing, check=False)
            assert refused.returncode != 0
            if refusing[0] != "teardown":
                assert "cut over" in refused.stderr
        again = here.cutover("abort", check=False)
        assert again.returncode == 1
        assert "nothing to abort" in again.stderr


def test_a_cohort_reads_first_and_is_held_until_told_to_go_on(own: Own, tmp_path: Path) -> None:
    with moving(own, tmp_path) as here, here.application() as application:
        until(lambda: application.counts["postgres"] > 10)
        before = here.flags.read_text()
        rehearsed = json.loads(here.cutover("run", "--cohort", "beta", "--json").stdout)
        assert (rehearsed["executed"], rehearsed["refusals"], rehearsed["keys"]) == (False, [], 2)
        assert here.flags.read_text() == before
        for _ in range(2):  # it is safe to repeat
            assert "read from MongoDB" in here.cutover("run", "--cohort", "beta", "--execute").stdout
        flags = json.loads(here.flags.read_text())["flags"]
        assert "targeting" in flags[READS]
        assert flags[FLAG] == json.loads(before)["flags"][FLAG]
        here.serves_from_postgres(application)
        assert not application.refused
        assert here.status()["cohort"]["cohort"] == "beta"
        assert "reads from PostgreSQL again" in here.cutover("abort").stdout
        assert here.status()["cohort"] is None
        assert json.loads(here.flags.read_text())["flags"][READS]["defaultVariant"] == "off"
        assert "targeting" not in json.loads(here.flags.read_text())["flags"][READS]
        here.cutover("run", "--cohort", "beta", "--execute")
        here.cutover("run", "--execute")
        here.serves_from_mongo(application)
        assert here.status()["cohort"] is None
        assert json.loads(here.flags.read_text())["flags"][READS] == {
            "state": "ENABLED",
            "variants": {"on": True, "off": False},
            "defaultVariant": "on",
        }
        late = here.cutover("run", "--cohort", "beta", "--execute", check=False)
        assert late.returncode == 1
        assert "cut over already" in late.stderr
        for arguments, told in (
            (("run", "--cohort", "nobody"), "there is no cohort 'nobody'"),
            (("run", "--cohort", "beta", "--until", "fenced"), "goes no further than its flags"),
        ):
            refused = here.cutover(*arguments, check=False)
            assert (refused.returncode, told in refused.stderr) == (2, True), refused.stderr
        here.on.tandem.environ["TANDEM_FLAGS__READS"] = FLAG
        refused = here.cutover("run", "--cohort", "beta", check=False)
        assert (refused.returncode, "in flags.reads and in flags.names" in refused.stderr) == (2, True)
        application.stop()
        assert application.lost() == []


#: killed here, on every run of the tests; all of them: `make cutover-matrix`
SOME = ("before reached fenced", "before reached sealed")
assert set(SOME) <= set(POINTS)


def test_killed_it_is_resumed_or_aborted(own: Own, tmp_path: Path) -> None:
    with moving(own, tmp_path) as here:
        for number, point in enumerate(SOME):
            with here.application() as application:
                until(lambda a=application: a.counts["postgres"] > 10)  # type: ignore[misc]
                here.cutover("run", "--execute", dies=point)
                assert here.status()["cutover"]["state"] != "done"
                if number % 2:
                    time.sleep(4.5)  # the lease is over
                turned = application.on_mongo
                aborted = here.cutover("abort", check=False)
                assert (aborted.returncode == 0) is (not turned), aborted.stdout + aborted.stderr
                if turned:
                    here.cutover("resume")
                    here.serves_from_mongo(application)
                else:
                    here.serves_from_postgres(application)
                    here.cutover("run", "--execute", dies=point)
                    here.cutover("resume")
                    here.serves_from_mongo(application)
                application.stop()
                assert application.strange == []
                assert application.lost() == []
            here.starts_over()


def test_what_is_not_in_order_is_named_and_nothing_is_refused(own: Own, tmp_path: Path) -> None:
    with moving(own, tmp_path) as here, here.application() as application:
        until(lambda: application.counts["postgres"] > 10)
        here.on.db["users"].update_one({}, {"$set": {"strange": 1}})
        refused = json.loads(here.cutover("run", "--execute", "--json", check=False).stdout)
        assert refused["state"] == "sessions_waited"
        assert "differs from PostgreSQL" in refused["refusals"][0]
        here.serves_from_postgres(application)
        here.on.db["users"].update_many({}, {"$unset": {"strange": 1}})
        found = here.cutover("resume", "--json", check=False)  # the last verification has found a difference
        assert "verified within" in json.loads(found.stdout)["refusals"][0]
        app.verify(here.on.settings)
        slow = here.cutover("resume", "--max-blocked", "0.01", "--json", check=False)
        assert "are allowed" in json.loads(slow.stdout)["refusals"][0]
        before = len(application.refused)
        here.serves_from_postgres(application)
        assert len(application.refused) == before
        here.cutover("abort")
        here.serves_from_postgres(application)
        for arguments, code, told in (
            (("resume",), 1, "there is nothing to go on with"),
            (("run", "--until", "nowhere"), 2, "there is no state nowhere"),
            (("run", "--phase", "x"), 2, "there is no phase x"),
            (("run", "--max-blocked", "-1"), 2, "has to be above 0"),
        ):
            done = here.cutover(*arguments, check=False)
            assert done.returncode == code, done.stderr
            assert told in done.stderr
            assert "Traceback" not in done.stderr
        application.stop()
        assert application.lost() == []
