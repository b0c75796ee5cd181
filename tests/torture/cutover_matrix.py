"""`make cutover-matrix`: the controller killed at every point of its journal, every server standing still in every
state, the agent, the flag file and the folders away in every state; on real servers, under an application that writes.
Prints the table of docs/cutover-matrix.md.

    python -m tests.torture.cutover_matrix [--kill] [--halt] [--break] [--only TEXT] [--from POINT] [--write FILE]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from sync.cutover.states import ORDER
from sync.dev.stack import Stack
from sync.dev.state import Addresses
from tests.integration.test_cutover import Moving, moving
from tests.support import stack as servers
from tests.support.agent import TestAgent, kill, serving
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
    more = {"HALT_AT": f"after begins {state}", "HALT_PIDS": " ".join(map(str, pids)), "HALT_S": str(_HALT_S)}
    return _through(here, more)


def _through(here: Moving, more: Mapping[str, str]) -> str:
    with here.application() as application:
        until(lambda: application.counts["postgres"] > 5, within=30)
        here.on.tandem.environ.update(more)
        first = here.cutover("run", "--execute", check=False)
        for name in more:
            del here.on.tandem.environ[name]
        told = "done"
        if first.returncode:
            assert "Traceback" not in first.stderr, first.stderr
            told = "refused, then resumed: done"
            time.sleep(_HALT_S)
            for _ in range(6):
                again = here.cutover("resume", check=False)
                if again.returncode == 0:
                    break
                time.sleep(2)
            else:
                raise AssertionError(f"never resumed: {(again.stdout + again.stderr)[-600:]}")
        here.serves_from_mongo(application)
        application.stop()
        assert not application.strange, application.strange
        assert not application.lost(), application.lost()
        return told


def broken(here: Moving, state: str, away: Path | None, mark: Path | None) -> str:
    """This is not there for some seconds when this step is begun; if it ends, it is resumed."""
    more = {"BREAK_AT": f"after begins {state}", "HALT_S": str(_HALT_S)}
    more |= {"BREAK_PATH": str(away)} if away else {"BREAK_MARK": str(mark)}
    return _through(here, more)


@contextmanager
def failing(agent: TestAgent, mark: Path) -> Iterator[None]:
    """The agent ends without a word when that file is made, and is there again after some seconds."""
    done = threading.Event()

    def run() -> None:
        port = 0
        while not done.is_set():
            with serving(agent, port) as server:
                port = int(agent.url.rpartition(":")[2].partition("/")[0])
                while not done.wait(0.05) and not mark.exists():
                    pass
                kill(server)
            if not done.is_set():
                done.wait(_HALT_S)
                mark.unlink()

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: bool(agent.url), within=20)
    try:
        yield
    finally:
        done.set()
        thread.join()


def pids_of(home: Path) -> dict[str, list[int]]:
    """The processes of each component, children included."""
    found: dict[str, list[int]] = {}
    for part in Stack(home).status().components:
        if part.pid is not None:
            process = psutil.Process(part.pid)
            found[str(part.component)] = [p.pid for p in (process, *process.children(recursive=True))]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table as it grows."""
    parser = argparse.ArgumentParser(prog="make cutover-matrix")
    parser.add_argument("--kill", action="store_true", help="only the kills")
    parser.add_argument("--halt", action="store_true", help="only the servers that stand still")
    parser.add_argument(
        "--break", dest="breaks", action="store_true", help="only the agent, the flags and folders"
    )
    parser.add_argument("--only", default="", help="points whose name contains this")
    parser.add_argument(
        "--from", dest="first", default="", help="kills from this point on: 'before reached fenced'"
    )
    parser.add_argument("--write", type=Path, help="the table, as Markdown")
    chosen = parser.parse_args(arguments)
    both = not (chosen.kill or chosen.halt or chosen.breaks)
    lines, bad = list[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "home")
        stack = Stack(home)
        addresses = stack.up()
        try:
            with servers.own_names(addresses) as own, moving(own, Path(folder)) as here:
                if chosen.kill or both:
                    lines += _shown(_kills(here, chosen.only, chosen.first))
                if chosen.halt or both:
                    lines += _shown(_halts(here, home, chosen.only))
            if chosen.breaks or both:
                lines += _shown(_breaks(addresses, Path(folder), chosen.only))
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


def _breaks(addresses: Addresses, folder: Path, only: str):  # type: ignore[no-untyped-def]
    agent, mark, place = TestAgent(), folder / "agent-away", folder / "whole"
    place.mkdir()
    with failing(agent, mark), servers.own_names(addresses) as own, moving(own, place, agent.url) as here:
        assert here.roots is not None
        for state in ORDER[1:]:
            if only not in state:
                continue
            ends = []
            for name, away in (("the agent", None), ("the flag file", here.flags), ("NFS", here.roots[1])):
                told = _told(lambda s=state, a=away: broken(here, str(s), a, None if a else mark))
                ends.append(f"{name}: {told}")
                here.starts_over()
            yield f"| {', '.join(ends)} in {state} |"


def _shown(lines: Iterable[str]) -> list[str]:
    """All of them, each printed when it is there."""
    kept = []
    for line in lines:
        print(line, flush=True)
        kept.append(line)
    return kept


def _told(case) -> str:  # type: ignore[no-untyped-def]
    try:
        return str(case())
    except Exception as failed:
        return f"FAILED: {str(failed)[:300]}"


if __name__ == "__main__":
    sys.exit(main())
