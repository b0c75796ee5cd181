"""`make demo-cutover`: the ACP case moved to MongoDB while its application writes, on a stack of its own.

    python -m tests.acceptance.cutover_demo [--users 500] [--rate 100]

An application writes to PostgreSQL until its flag says MongoDB; live sessions move to an agent on a WebSocket, and
workspaces to a new root. At the end: what the application was told, and what is there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import psycopg
from pymongo import MongoClient

from sync.dev.stack import Stack
from tests.support import stack as servers
from tests.support.acp import load_acp
from tests.support.agent import TestAgent, serving
from tests.support.application import Application
from tests.support.tandem import Tandem
from tests.support.until import until

_FLAG = "use_mongodb"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 1 when a write was lost, or the cutover did not come to its end."""
    parser = argparse.ArgumentParser(prog="make demo-cutover")
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--rate", type=float, default=100, help="writes a second of the application")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as on:
        return _demo(Path(folder), chosen, on)


def _demo(folder: Path, chosen: argparse.Namespace, on: ExitStack) -> int:
    _say("the stack starts")
    stack = Stack(folder / "stack")
    on.callback(lambda: stack.down(purge=True))
    addresses = stack.up()
    own = on.enter_context(servers.own_names(addresses))
    load_acp(own.addresses.postgres_dsn, users=chosen.users)
    with psycopg.connect(own.addresses.postgres_dsn) as session:
        users = [u for (u,) in session.execute("SELECT id FROM users WHERE is_active ORDER BY id LIMIT 100")]
    _plant(folder / "old", chosen.users)
    (folder / "new").mkdir()
    (folder / "backups").mkdir()
    flags = folder / "flags.json"
    flag = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"}
    flags.write_text(json.dumps({"flags": {_FLAG: flag}}), encoding="utf-8")
    agent = TestAgent()
    on.enter_context(serving(agent))
    tandem = Tandem(
        own,
        folder,
        TANDEM_FLAGS__FILE=str(flags),
        TANDEM_FLAGS__NAMES=_FLAG,
        TANDEM_FILES__OLD=str(folder / "old"),
        TANDEM_FILES__NEW=str(folder / "new"),
        TANDEM_SESSIONS__AGENT_URL=agent.url,
        TANDEM_SESSIONS__NOTICE_COLLECTION="notices",
        TANDEM_SESSIONS__ON_TIMEOUT="go_on",
        TANDEM_SESSIONS__WAIT_TIMEOUT_S="1",
        TANDEM_BACKUP__PATH=str(folder / "backups"),
        TANDEM_BACKUP__MIN_FREE_BYTES="0",
        TANDEM_CUTOVER__WAY_BACK="none",
        TANDEM_CUTOVER__OBSERVE_S="3",
        TANDEM_DASHBOARD__READY_BELOW_S="30",
    )
    application = on.enter_context(
        Application(
            own.addresses.postgres_dsn,
            own.addresses.mongodb_uri,
            own.addresses.mongodb_database,
            flags,
            _FLAG,
            users,
            rate=chosen.rate,
        )
    )
    _say(f"the application writes to PostgreSQL, {chosen.rate:g} times a second")
    _run(tandem, "snapshot")
    on.enter_context(tandem.started("run"))
    _run(tandem, "wait-for", "now", "--timeout", "120")
    _run(tandem, "verify")
    _run(tandem, "cutover", "plan")
    code = _run(tandem, "cutover", "run", "--execute", "--max-blocked", "60")
    before = application.counts["mongo"]
    if code == 0:
        until(lambda: application.counts["mongo"] > before + 50, within=30)
    application.stop()
    _run(tandem, "cutover", "status")
    lost = application.lost()
    with MongoClient[dict[str, object]](own.addresses.mongodb_uri) as client:
        moved = client[own.addresses.mongodb_database]["activesessions"].count_documents(
            {"status": "migrated"}
        )
    print(
        f"the application: {application.counts['postgres']:,} writes to PostgreSQL,"
        f" {len(application.refused):,} refused over {application.blocked_s:.1f} s,"
        f" {application.counts['mongo']:,} writes to MongoDB, {len(lost)} lost"
    )
    print(
        f"sessions moved: {moved}; read back by the application as they were written: "
        f"{'yes' if not application.strange else application.strange[:3]}"
    )
    return 1 if code or lost or application.strange else 0


def _plant(root: Path, users: int) -> None:
    """Workspaces in the old layout."""
    for area, names in (
        ("private", range(1, users + 1)),
        ("shared", range(1, users // 10 + 1)),
        ("temp", range(1, 4)),
    ):
        for name in names:
            place = root / area / str(name) / "src"
            place.mkdir(parents=True)
            (place / "notes.md").write_text(f"{area} {name}\n", encoding="utf-8")


def _run(tandem: Tandem, *arguments: str) -> int:
    """Run it before everybody's eyes."""
    _say(f"tandem {' '.join(arguments)}")
    return subprocess.run(
        [sys.executable, "-m", "sync.cli", *arguments, "--mapping", str(tandem.mapping)],
        env=tandem.environ,
        cwd=tandem.folder,
        stdin=subprocess.DEVNULL,
        check=False,
    ).returncode


def _say(what: str) -> None:
    print(f"\n$ {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
