"""`make mutants`: breaks each clause of the write rule in turn, and tells which test notices.

    python -m tests.torture.mutants [--only TEXT] [--thorough]

A mutant that nobody notices is a missing test, unless it says why it cannot be noticed. Exit 1 when there is one.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Sequence

from tests.support.mutants import MUTANTS, PURE, Mutant, broken
from tests.support.simulation import play


def killer(mutant: Mutant, thorough: bool) -> str:
    """Who notices: a unit test, or the seed of a history. Empty: nobody."""
    return (_test(mutant) if mutant.tests else "") or _history(mutant, thorough)


def _test(mutant: Mutant) -> str:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--mutant", mutant.name]
    done = subprocess.run([*command, *mutant.tests], capture_output=True, text=True, check=False, timeout=300)
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    if done.returncode and not found:
        raise RuntimeError(f"{mutant.name}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return found[1].removeprefix("tests/unit/") if found else ""


def _history(mutant: Mutant, thorough: bool) -> str:
    if mutant.survives:
        return ""
    seeds = 100 if mutant in PURE else mutant.seeds
    if mutant.rare:
        seeds = 20_000 if thorough else 20 if mutant.first else 0
    with broken(mutant):
        for seed in range(mutant.first, mutant.first + seeds):
            try:
                play(seed, mutant.without, mutant.needs, mutant.mood)
            except Exception as noticed:
                return f"history {seed}: {re.sub(r'^seed [0-9]+: ', '', str(noticed))[:70]}"
    return "" if thorough or not mutant.rare else "rare: --thorough"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each mutant, then the sum."""
    parser = argparse.ArgumentParser(prog="make mutants")
    parser.add_argument("--only", default="", help="those whose name contains this")
    parser.add_argument("--thorough", action="store_true", help="those that few histories show too: slow")
    chosen = parser.parse_args(arguments)
    killed, missed, excused, began = 0, [], [], time.monotonic()
    for mutant in sorted((*MUTANTS, *PURE), key=lambda m: m.clause):
        if chosen.only not in mutant.name:
            continue
        by = killer(mutant, chosen.thorough)
        if by:
            killed += 1
        elif mutant.survives:
            excused.append(mutant)
        else:
            missed.append(mutant)
        told = by or (f"survives: {mutant.survives}" if mutant.survives else "NOBODY NOTICES")
        print(f"rule {mutant.clause:2d}  {mutant.name:50s} {told}", flush=True)
    rules = {m.clause for m in (*MUTANTS, *PURE)}
    print(
        f"{killed} noticed, {len(excused)} survive and say why, {len(missed)} not noticed;"
        f" rules {', '.join(map(str, sorted(rules)))}; {time.monotonic() - began:.0f} s"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
