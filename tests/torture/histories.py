"""`make torture SEED=... CASES=...`: the property tests of the write rule, for long.

    python -m tests.torture.histories [--seed N] [--cases N] [--real N] [--stack embedded|containers|external]

cases: histories without servers (tests/support/simulation.py), on as many processes as there are cores. real: histories
of a real PostgreSQL, as Debezium sends them (tests/support/real_order.py), delivered several times each, some of
them to a real MongoDB, some while they happen. A failing one is made shorter and told. Exit 1 when there is one.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from random import SystemRandom

from tests.support import stack as servers
from tests.support.real_history import random_history
from tests.support.simulation import KINDS, check

#: sets of tables that real histories are played on
_SETS = 8
_DELIVERIES = 5
_TELL_EVERY_S = 20.0


def one(case: tuple[int, str]) -> tuple[int, str, int, str]:
    """One history without servers: seed, kind, its events, and how it failed."""
    seed, kind = case
    only, without = (frozenset(names) for names in KINDS[kind])
    try:
        return seed, kind, check(seed, without, only).events, ""
    except Exception as failed:
        return seed, kind, 0, f"kind {kind}: {failed}"


def pure(first: int, cases: int) -> tuple[Counter[str], list[str]]:
    """So many histories, of all kinds in turn."""
    kinds = list(KINDS)
    wanted = [(first + n, kinds[n % len(kinds)]) for n in range(cases)]
    met: Counter[str] = Counter()
    failures, told, began = [], time.monotonic(), time.monotonic()
    with get_context("spawn").Pool(os.cpu_count()) as pool:
        for _, _, events, failed in pool.imap_unordered(one, wanted, chunksize=10):
            met["histories"] += 1
            met["events"] += events
            if failed:
                failures.append(failed)
                print(failed, flush=True)
            if time.monotonic() - told > _TELL_EVERY_S:
                told = time.monotonic()
                print(f"  {met['histories']:,} of {cases:,}, {len(failures)} failed", flush=True)
    met["seconds"] = round(time.monotonic() - began)
    return met, failures


def real(first: int, cases: int, stack: str) -> tuple[Counter[str], list[str]]:
    """So many histories of a real PostgreSQL."""
    from tests.support.real_order import check as delivered_well
    from tests.support.real_order import live, recorder
    from tests.support.real_target import delivered

    met: Counter[str] = Counter()
    failures: list[str] = []

    def attempt(what: str, body: object) -> None:
        met[what] += 1
        try:
            body()  # type: ignore[operator]
        except Exception as failed:
            failures.append(f"{what}: {failed}")
            print(failures[-1], flush=True)

    told = began = time.monotonic()
    with (
        servers.started(stack) as addresses,
        servers.own_names(addresses) as own,
        tempfile.TemporaryDirectory() as folder,
        recorder(own, Path(folder), _SETS) as recording,
    ):
        began = time.monotonic()
        for start in range(first, first + cases, _SETS):
            sets = range(min(_SETS, first + cases - start))
            wanted = [
                (n, start + n, random_history(start + n, n), start % 3 == 0 or n % 2 == 0) for n in sets
            ]
            for made in recording.record(wanted):
                met["histories"] += 1
                met["records"] += sum(len(sent.records) for sent in made.sent)
                met["waited for locks"] += sum("waits" in line for line in made.told)
                attempt(
                    "deliveries", lambda made=made: delivered_well(recording, made, made.seed, _DELIVERIES)
                )
                met["deliveries"] += _DELIVERIES - 1
                if made.seed % 10 == 0:
                    attempt("on MongoDB", lambda made=made: delivered(recording.settings, made, made.seed))
            if (start // _SETS) % 2 == 0:
                number = (start // _SETS) % _SETS
                attempt("while it happens", lambda n=number, s=start: live(recording, n, s) and None)
            if time.monotonic() - told > _TELL_EVERY_S:
                told = time.monotonic()
                print(f"  {met['histories']:,} of {cases:,} real, {len(failures)} failed", flush=True)
        met["seconds"] = round(time.monotonic() - began)
    return met, failures


def main(arguments: Sequence[str] | None = None) -> int:
    """Both, and their figures."""
    parser = argparse.ArgumentParser(prog="make torture")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--cases", type=int, default=10_000, help="histories without servers")
    parser.add_argument("--real", type=int, default=None, help="of a real PostgreSQL; 3 for each 100 cases")
    parser.add_argument("--stack", choices=("embedded", "containers", "external"), default="embedded")
    chosen = parser.parse_args(arguments)
    seed = SystemRandom().randrange(10**9) if chosen.seed is None else chosen.seed
    wanted = chosen.cases * 3 // 100 if chosen.real is None else chosen.real
    print(
        f"seed {seed}: {chosen.cases:,} histories without servers, {wanted:,} of a real PostgreSQL",
        flush=True,
    )
    failures: list[str] = []
    for name, run in (
        ("without servers", lambda: pure(seed, chosen.cases)),
        ("real", lambda: real(seed, wanted, chosen.stack)),
    ):
        if (name == "real" and wanted) or (name != "real" and chosen.cases):
            met, failed = run()
            failures += failed
            figures = ", ".join(f"{number:,} {what}" for what, number in met.items())
            print(f"{name}: {figures}; {len(failed)} failed", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
