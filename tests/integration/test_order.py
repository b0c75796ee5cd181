"""Random histories of a real PostgreSQL, as Debezium sends them, delivered in any order that Kafka and we allow.

The end is always what SQL says of the rows. A failing one is made shorter and told; `--seed` has it again (the first
history's seed; the sets follow). docs/write-rule.md; `make torture` does the same for long.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from random import SystemRandom

import pytest

from sync.dev.state import Addresses
from tests.support import stack as servers
from tests.support.real_history import insert_before_delete, random_history
from tests.support.real_order import check, live, recorder
from tests.support.real_target import delivered
from tests.support.recording import Recorder

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
