"""The write rule in our own code, on histories without servers (tests/support/simulation.py says how).

`pytest tests/unit/test_write_rule_simulated.py --seed N` begins with the history that failed; `--thorough` plays
many more, and the mutants that few histories show.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from itertools import permutations
from random import SystemRandom

import pytest

from connectors.mongo import ledger
from tests.support.mutants import MUTANTS, PURE, Mutant, broken
from tests.support.simulation import FEATURES, LATER_FEATURES, TEAMS, Failed, World, check, play

#: what histories have to have, and must not: so that each kind is met often
KINDS: dict[str, tuple[set[str], set[str]]] = {
    "anything": (set(), set()),
    "loads that die": ({"load", "crash", "gone"}, set()),
    "unique values": ({"unique", "swap", "crash", "lost answer"}, {"load"}),
    "truncates": ({"truncate", "reinsert", "rekey"}, {"bad"}),
    "zombies": ({"zombie", "rebalance", "crash", "flip"}, {"load"}),
    "rows read again": ({"reload", "crash", "gone"}, {"load"}),
    "slots that are lost": ({"lost slot", "crash", "delete"}, set()),
    "arrays in arrays, copies": ({"deep", "flip", "rekey", "delete", "crash"}, set()),
    "arrays in arrays, copies, loads that die": ({"deep", "load", "crash", "gone", "truncate"}, set()),
    "rows that cannot be mapped": ({"bad", "unique", "swap", "delete"}, {"load"}),
    "rows tried again": ({"bad", "retry", "crash", "flip"}, set()),
}


@pytest.fixture(scope="module")
def first_seed(pytestconfig: pytest.Config) -> int:
    given: int | None = pytestconfig.getoption("--seed")
    return SystemRandom().randrange(10**9) if given is None else given


@pytest.mark.parametrize("kind", KINDS)
def test_every_history_ends_as_the_source_is(kind: str, first_seed: int, pytestconfig: pytest.Config) -> None:
    """At rest: each document as its row, arrays in order, nothing else there; parked what cannot be mapped, and
    only that; positions at the ends, no holds, no jobs, no transactions."""
    print("first seed", first_seed)
    only, without = (frozenset(names) for names in KINDS[kind])
    over = time.process_time() + (300 if thorough(pytestconfig) else 4)
    for seed in range(first_seed, first_seed + (3_000 if thorough(pytestconfig) else 60)):
        check(seed, without, only)
        if time.process_time() > over:
            break


def test_the_histories_are_worth_playing() -> None:
    """What the rule is there for does happen in them."""
    met: Counter[str] = Counter()
    for seed in range(60):
        often = frozenset({"bad", "retry"}) if seed % 3 == 0 else frozenset[str]()
        world = World(seed, only=often, trace=[])
        world.run()
        assert world.trace is not None
        met["events"] += world.events
        met["conflicts"] += world.store.conflicts
        told = "\n".join(world.trace)
        met["crashes"] += told.count(" dies")
        met["moved"] += told.count("positions were moved by others")
        met["sessions ended"] += told.count("ended the sessions of former owners")
        met["lost answers"] += told.count("answer is lost")
        met["rebalances"] += told.count("rebalance:")
        met["parked"] += told.count(" parked: ")
        met["healed"] += told.count(": no longer parked: ")
        met["retried"] += len(re.findall(r"retry\d+ .*retry: ", told))
        met["unsent"] += told.count(" unsent ")
        met["loads"] += told.count(": loaded ")
        met["a second load"] += len(set(re.findall(r"load\d+(?=>)?.* commit$", told, re.MULTILINE))) > 1
        for actor in world.actors:
            assert actor.worker is not None
            met["untangled"] += actor.worker.tally.untangled
            met["reread"] += actor.worker.tally.reread
        met["lsn out of order"] += any(
            one.table == two.table and one.key == two.key and one.lsn > two.lsn
            for at, one in enumerate(world.pg.wal)
            for two in world.pg.wal[at + 1 : at + 9]
        )
    print(dict(met))
    assert min(met.values()) >= 3, met
    assert met["events"] >= 1_000


@pytest.mark.parametrize("seed", range(5))
def test_a_seed_is_a_history(seed: int) -> None:
    told = []
    for _ in range(2):
        world = World(seed, trace=[])
        world.run()
        told.append(re.sub(r"(load|heal):[0-9a-f]{12}", "run", "\n".join(world.trace or [])))
    assert told[0] == told[1]


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if not m.survives], ids=lambda mutant: mutant.name)
def test_a_broken_clause_is_noticed(mutant: Mutant, pytestconfig: pytest.Config) -> None:
    """Seeds are fixed here, so that it is the same on every run."""
    if mutant.rare:
        if not thorough(pytestconfig):
            pytest.skip("fewer than one history of a hundred shows it: --thorough")
        mutant = replace(mutant, seeds=20_000)
    with broken(mutant):
        for seed in range(mutant.first, mutant.first + mutant.seeds):
            try:
                play(seed, mutant.without, mutant.needs, mutant.mood)
            except (Failed, LookupError) as noticed:
                print(f"history {seed}: {noticed}")
                return
    pytest.fail(f"nobody noticed in {mutant.seeds} histories")


def test_mutants_are_not_out_of_date() -> None:
    """The text that each replaces is still there. Those of pure modules are killed by `make mutants`."""
    names = [mutant.name for mutant in (*MUTANTS, *PURE)]
    assert len(names) == len(set(names))
    for mutant in (*MUTANTS, *PURE):
        with broken(mutant):
            if mutant.survives and not mutant.tests:
                play(0, mutant.without, mutant.needs, mutant.mood)


def thorough(config: pytest.Config) -> bool:
    return bool(config.getoption("--thorough", default=False))


def test_a_race_that_is_told_as_a_duplicate_parks_nothing() -> None:
    """A unique value taken since the snapshot is told as a conflict or as a duplicate: servers may do either
    (tests/contract/test_mongo_transactions.py). In careful mode a duplicate is as well worth another look."""
    world = World(
        0,
        without=frozenset((*FEATURES, *LATER_FEATURES)),
        mood={"tables": (TEAMS,), "width": 4, "partitions": 2},
    )
    one, two = next(
        (a, b)
        for a, b in permutations(range(1, 5), 2)
        if world.topics.home(TEAMS, (a,)) != world.topics.home(TEAMS, (b,))
    )
    world.sessions.clear()
    world.store.races_as_duplicates = True
    with world._patched():
        world._begin()
        world.quiet = True
        for key, name in ((one, "a"), (one, "b"), (two, "a")):
            tx = world.pg.begin()
            row = {"id": key, "team_name": name, "description": "d", "is_active": True, "score": Decimal(1)}
            if (key,) in tx.rows(TEAMS):
                tx.update(TEAMS, (key,), team_name=name)
            else:
                tx.insert(TEAMS, row)
            tx.commit()
            tx.show()
        while world.sent < len(world.pg.wal):
            world._send()
        world.store.build_unique("teams", ("teamName",))
        worker, other = (actor.worker for actor in world.actors)
        assert worker is not None
        assert other is not None
        shares = {worker: world.topics.home(TEAMS, (two,)), other: world.topics.home(TEAMS, (one,))}
        world.group.assign({w.name: frozenset({home}) for w, home in shares.items()})
        other.batch_events, worker._careful = 1, 5
        meanwhile = [lambda: world._work(world.actors[1], 2)]  # it is placed, and applies its first event

        def before(what: str) -> None:
            world.moment(what)
            if what == "bulk teams" and world.stack[-1] is world.actors[0] and meanwhile:
                meanwhile.pop()()

        world.store.before = before
        world._work(world.actors[0], 12)
        assert not meanwhile
        assert world.store.collection(ledger.PARKED) == {}
        world._come_to_rest()
        world._judge()
