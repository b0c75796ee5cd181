"""The main job on the real stack: snapshot and stream while rows are being written, with processes killed, and a
field-by-field proof at the end. The seed is printed, and `--seed N` gives it again."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from sync.dev.writer import Writer
from tests.support.acp import load_acp
from tests.support.stack import Own
from tests.support.tandem import Process, Tandem
from tests.support.until import until


@pytest.fixture
def seed(pytestconfig: pytest.Config) -> int:
    given = pytestconfig.getoption("--seed")
    chosen = random.SystemRandom().randrange(1 << 31) if given is None else int(given)
    print(f"\nseed {chosen}: repeat with --seed {chosen}")
    return chosen


def assert_agreement(tandem: Tandem, tmp_path: Path) -> dict[str, object]:
    """Everything is applied, and every field agrees."""
    token = tandem.json("wait-for", "now", "--timeout", "240", timeout_s=280)
    report = tandem.json("verify", timeout_s=280, check=False)
    assert report["ok"], report["differences"]
    assert sum(c["rows"] for c in report["collections"].values()) > 0
    return {"token": token, "report": report}


def documents(own: Own, collection: str) -> list[dict[str, object]]:
    with MongoClient(own.addresses.mongodb_uri) as client:
        return list(client[own.addresses.mongodb_database][collection].find({}))


def test_it_agrees_after_20000_changes_with_the_loader_killed_once_and_consumers_five_times(
    own: Own, tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    source = load_acp(own.addresses.postgres_dsn, users=600)
    tandem = Tandem(
        own,
        tmp_path,
        TANDEM_LIMITS__CHUNK_ROWS="40",
        TANDEM_LIMITS__LOAD_ROWS="15",
        TANDEM_KAFKA__SESSION_TIMEOUT_MS="6000",
    )
    writer = Writer(source, seed=seed, sessions=3, rate=500)
    with writer:
        with tandem.started("snapshot") as loader:
            until(
                lambda: (
                    sum(1 for c in documents(own, "_tandem_chunks") if c["done"]) >= 3 or not loader.alive
                ),
                within=60,
            )
            assert loader.alive, loader.text()
            loader.kill()
        assert any(not c["done"] for c in documents(own, "_tandem_chunks")), (
            "the loader had ended before it was killed"
        )
        with tandem.started("run") as steady:
            again = tandem.json("snapshot", timeout_s=180)
            assert again["resumed"]
            for _ in range(5):
                with tandem.started("run") as doomed:
                    until(lambda doomed=doomed: "consuming" in doomed.text(), within=30)
                    time.sleep(dice.uniform(0.5, 4.0))  # anywhere in its work, or in a rebalance
                    assert doomed.alive, doomed.text()
                    doomed.kill()
            until(lambda: writer.counts.total >= 20_000, within=240, every=0.5)
            counts = writer.stop()
            assert counts.total >= 20_000
            assert_agreement(tandem, tmp_path)
            assert steady.alive, steady.text()
            assert steady.terminate() == 0, steady.text()
        assert tandem.json("status", check=False)["lag"]["parked"] == 0


def test_consumers_join_and_leave_and_one_that_was_stalled_past_its_session_cannot_write(
    own: Own, tmp_path: Path, seed: int
) -> None:
    source = load_acp(own.addresses.postgres_dsn, users=200)
    tandem = Tandem(own, tmp_path, TANDEM_KAFKA__SESSION_TIMEOUT_MS="6000", TANDEM_LIMITS__BATCH_EVENTS="40")
    tandem.run("snapshot")
    with Writer(source, seed=seed, sessions=2, rate=250) as writer, tandem.started("run") as first:
        until(lambda: writer.counts.total > 600, within=60)
        with tandem.started("run") as guest:  # joins mid-way
            until(lambda: len(documents(own, "_tandem_workers")) == 2, within=60)
            until(lambda: writer.counts.total > 1_500, within=60)
            assert guest.terminate() == 0, guest.text()  # leaves in order
        assert _owners(own) == 1
        stalled = _stalled_while_writing(own, first)
        with tandem.started("run") as heir:
            until(lambda: _moved_since(own, stalled), within=90)
            assert heir.alive, heir.text()
            first.signal(signal.SIGCONT)
            until(lambda: "positions were moved by others" in first.text(), within=60)
            until(lambda: writer.counts.total > 6_000, within=90)
            writer.stop()
            assert_agreement(tandem, tmp_path)
            assert first.alive, first.text()


def _owners(own: Own) -> int:
    return len(documents(own, "_tandem_workers"))


def _stalled_while_writing(own: Own, process: Process) -> dict[str, int]:
    """Stop a consumer in the middle of a transaction. Returns the positions that it has written in it."""

    def stopped() -> dict[str, int]:
        process.signal(signal.SIGSTOP)
        if written := _written_and_not_committed(own):
            return {p: at for p, at in _positions(own).items() if p in written}
        process.signal(signal.SIGCONT)
        return {}

    return until(stopped, within=60, every=0.07)


def _written_and_not_committed(own: Own) -> set[str]:
    """Positions that an open transaction has written: writing them too conflicts at once."""
    written = set()
    with MongoClient(own.addresses.mongodb_uri) as client, client.start_session() as session:
        positions = client[own.addresses.mongodb_database]["_tandem_positions"]
        for name in _positions(own):
            session.start_transaction()
            try:
                positions.update_one({"_id": name}, {"$inc": {"touched": 1}}, session=session)
            except OperationFailure as error:
                if error.code != 112:
                    raise
                written.add(name)
            finally:
                if session.in_transaction:
                    session.abort_transaction()
    return written


def _positions(own: Own) -> dict[str, int]:
    return {str(d["_id"]): int(d["at"]) for d in documents(own, "_tandem_positions")}  # type: ignore[call-overload]


def _moved_since(own: Own, before: dict[str, int]) -> bool:
    """Another consumer has moved what the stalled one was about to move."""
    now = _positions(own)
    return all(now[p] > at for p, at in before.items())
