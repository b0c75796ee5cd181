"""Random histories of a real PostgreSQL, as Debezium sends them, delivered in any order that Kafka and we allow.

The end is always what SQL says of the rows. A failing one is made shorter and told; `--seed` has it again (the first
history's seed; the sets follow). docs/write-rule.md; `make torture` does the same for long.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from random import SystemRandom
from typing import Any

import psycopg
import pytest

from connectors.mongo import ledger
from sync.dev.state import Addresses
from tests.support import stack as servers
from tests.support.real_history import insert_before_delete, random_history
from tests.support.real_order import check, live, recorder
from tests.support.real_target import delivered, target
from tests.support.recording import Camera, Recorder
from tests.support.until import until

SETS = 6
#: so long histories are played and delivered to the twin of MongoDB
_FOR_S = 12.0


@pytest.fixture(scope="module")
def recording(stack: Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    with servers.own_names(stack) as own, recorder(own, tmp_path_factory.mktemp("order"), SETS) as made:
        yield made


@pytest.fixture(scope="module")
def seed(pytestconfig: pytest.Config) -> int:
    given: int | None = pytestconfig.getoption("--seed")
    chosen = SystemRandom().randrange(10**9) if given is None else given
    print("seed", chosen)
    return chosen


def test_every_delivery_of_every_history_ends_as_sql_says(recording: Recorder, seed: int) -> None:
    """And some of them on the real MongoDB, read from the real PostgreSQL."""
    met: Counter[str] = Counter()
    over, first = time.monotonic() + _FOR_S, seed
    while time.monotonic() < over:
        wanted = [(n, first + n, random_history(first + n, n), n % 2 == 0) for n in range(SETS)]
        made = recording.record(wanted)
        for one in made:
            met["sent"] += len(one.sent)
            met["waited"] += sum("waits" in line for line in one.told)
            met["unsent"] += sum(
                one.placeholder.encode() in (r.value or b"") for s in one.sent for r in s.records
            )
            for world in check(recording, one, first, 6):
                met["delivered"] += 1
                met["loaded"] += "load" in world.features
                met["read again"] += sum(a.worker.tally.reread for a in world.actors if a.worker)
        if first == seed:
            for one in made[:3]:
                delivered(recording.settings, one, seed + one.number)
        first += SETS
    print(dict(met))
    assert min(met.values()) > 0, met
    assert met["sent"] > met["delivered"] / 6


def test_a_history_is_applied_while_it_happens(recording: Recorder, seed: int) -> None:
    for number in range(2):
        live(recording, number, seed + number)


def test_an_insert_that_waited_for_a_delete_is_not_lost(recording: Recorder, seed: int) -> None:
    """It comes later in the order of commits, and carries the lower LSN."""
    [one] = recording.record([(0, seed, insert_before_delete(), True)])
    assert any("waits" in line for line in one.told)
    *_, deleted, inserted = (lsn for sent in one.sent for lsn in sent.lsns)
    assert inserted < deleted, one.told
    assert one.truth is not None
    [document] = one.truth.documents["h0_teams"].values()
    assert document["name"] == "b"
    check(recording, one, seed, 20)
    delivered(recording.settings, one, seed)


def test_what_postgresql_does_not_show_yet_is_not_applied(recording: Recorder, seed: int) -> None:
    """A commit that waits for a synchronous standby is decoded and sent; no SELECT shows it. The server waits for a
    standby that is not there: for a moment so does everybody else on it."""
    sql, settings = recording.monitor, recording.settings
    sql.execute("TRUNCATE h0.teams, h0.members")
    sql.execute("INSERT INTO h0.teams VALUES (1, 'old', true)")
    recording.tap.until_marked(recording.mark())
    one = recording.blank(0, seed, ())
    waiting = threading.Thread(target=lambda: _renamed(recording.dsn), daemon=True)
    with target(settings, one, seed) as to, Camera(settings.source, one) as camera:
        to.prepare(loaded=False)
        try:
            _standby(sql, "nobody")
            waiting.start()
            until(lambda: to.topics.extend(recording.tap.poll()) or any(to.topics.logs.values()), within=10)
            shown = sql.execute("SELECT name FROM h0.teams").fetchall()
            to.start(2)
            time.sleep(1)
            assert shown == sql.execute("SELECT name FROM h0.teams").fetchall() == [("old",)]
            assert {p.at for p in ledger.positions(to.db).values()} == {0}
        finally:
            _standby(sql, "")
        waiting.join(20)
        to.finish()
        assert [d["name"] for d in to.db["h0_teams"].find({})] == ["new"]
        to.judge(camera.truth())


def _renamed(dsn: str) -> None:
    with psycopg.connect(dsn) as session:
        session.execute("UPDATE h0.teams SET name = 'new' WHERE id = 1")


def _standby(sql: psycopg.Connection[Any], name: str) -> None:
    """What commits wait for."""
    sql.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'".encode())
    sql.execute("SELECT pg_reload_conf()")
    until(lambda: sql.execute("SHOW synchronous_standby_names").fetchone() == (name,), within=10)
