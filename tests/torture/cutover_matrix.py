"""`make cutover-matrix`: the controller killed at every point of its journal, and every server standing still in every
state, on real servers, under an application that writes. Prints the table of docs/cutover-matrix.md.

    python -m tests.torture.cutover_matrix [--kill] [--halt] [--only TEXT] [--from POINT] [--write FILE]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from sync.cutover.states import ORDER
from sync.dev.stack import Stack
from tests.integration.test_cutover import Moving, moving
from tests.support import stack as servers
from tests.support.controller import POINTS
from tests.support.until import until

_HALT_S = 6.0
_LAPSED_S = 4.5


def killed(here: Moving, point: str, then: str, *, lapsed: bool) -> str:
    """Kill it there, then resume or abort. Returns how it ended."""
    with here.application() as application:
        until(lambda: application.counts["postgres"] > 5, within=30)
        here.cutover("run", "--execute", dies=point)
        if lapsed:
            time.sleep(_LAPSED_S)
        turned = application.on_mongo
        done = here.cutover(then, check=False)
        if then == "abort" and turned:
            assert done.returncode == 1, done.stdout
            here.cutover("resume", check=False)
        if application.on_mongo:
            here.serves_from_mongo(application)
        else:
            here.serves_from_postgres(application)
        application.stop()
        assert not application.strange, application.strange
        assert not application.lost(), application.lost()
        ended = here.status()["cutover"]["state"]
        assert ended in ("done", "aborted"), ended
        return ended + (" (abort refused)" if then == "abort" and turned else "")


def halted(here: Moving, state: str, pids: Sequence[int]) -> str:
    """These servers stand still for some seconds when this step is begun; if it ends, it is resumed."""
    with here.application() as application:
        until(lambda: application.counts["postgres"] > 5, within=30)
        here.on.tandem.environ.update(
            HALT_AT=f"after begins {state}", HALT_PIDS=" ".join(map(str, pids)), HALT_S=str(_HALT_S)
        )
        first = here.cutover("run", "--execute", check=False)
        for name in ("HALT_AT", "HALT_PIDS", "HALT_S"):
            del here.on.tandem.environ[name]
        told = "done"
        if first.returncode:
            assert "Traceback" not in first.stderr, first.stderr
            told = "refused, then resumed: done"
            time.sleep(_HALT_S)
            for _ in range(6):
                if here.cutover("resume", check=False).returncode == 0:
                    break
                time.sleep(2)
        here.serves_from_mongo(application)
        application.stop()
        assert not application.strange, application.strange
        assert not application.lost(), application.lost()
        return told


def pids_of(home: Path) -> dict[str, list[int]]:
    """The processes of each component, children included."""
    found: dict[str, list[int]] = {}
    for part in Stack(home).status():
        if part.pid is not None:
            process = psutil.Process(part.pid)
            found[str(part.component)] = [p.pid for p in (process, *process.children(recursive=True))]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table as it grows."""
    parser = argparse.ArgumentParser(prog="make cutover-matrix")
    parser.add_argument("--kill", action="store_true", help="only the kills")
    parser.add_argument("--halt", action="store_true", help="only the servers that stand still")
    parser.add_argument("--only", default="", help="points whose name contains this")
    parser.add_argument(
        "--from", dest="first", default="", help="kills from this point on: 'before reached fenced'"
    )
    parser.add_argument("--write", type=Path, help="the table, as Markdown")
    chosen = parser.parse_args(arguments)
    both = not (chosen.kill or chosen.halt)
    lines, bad = list[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "home")
        stack = Stack(home)
        addresses = stack.up()
        try:
            with servers.own_names(addresses) as own, moving(own, Path(folder)) as here:
                rows = _kills(here, chosen.only, chosen.first) if chosen.kill or both else []
                for line in rows:
                    print(line, flush=True)
                    lines.append(line)
                if chosen.halt or both:
                    for line in _halts(here, home, chosen.only):
                        print(line, flush=True)
                        lines.append(line)
        finally:
            stack.down(purge=True)
    bad = sum("FAILED" in line for line in lines)
    if chosen.write:
        chosen.write.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} cases, {bad} failed")
    return 1 if bad else 0


def _kills(here: Moving, only: str, first: str):  # type: ignore[no-untyped-def]
    begin = POINTS.index(first) if first else 0
    for number, point in enumerate(POINTS):
        if only not in point or number < begin:
            continue
        ends = []
        for then in ("resume", "abort"):
            if point == POINTS[-1]:
                continue  # it has ended: there is nothing to go on with
            ends.append(_told(lambda p=point, t=then, n=number: killed(here, p, t, lapsed=n % 2 == 1)))
            here.starts_over()
        yield f"| killed {point} | {' | '.join(ends)} |"


def _halts(here: Moving, home: Path, only: str):  # type: ignore[no-untyped-def]
    for state in ORDER[1:]:
        if only not in state:
            continue
        ends = []
        for name, pids in pids_of(home).items():
            ends.append(f"{name}: " + _told(lambda s=state, p=pids: halted(here, str(s), p)))
            here.starts_over()
        yield f"| {', '.join(ends)} in {state} |"


def _told(case) -> str:  # type: ignore[no-untyped-def]
    try:
        return str(case())
    except Exception as failed:
        return f"FAILED: {str(failed)[:300]}"


if __name__ == "__main__":
    sys.exit(main())
