"""`tandem cutover …` in a process that is killed by SIGKILL at one point of its journal:

DIE_AT='before reached fenced' python -m tests.support.controller cutover run --execute
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from connectors.mongo.journal import Journal
from sync.cli import main
from sync.cutover.states import ORDER

#: of each step: the intent is written; it is done and nobody knows; it is known
POINTS = tuple(
    f"{when} {goal}" for goal in ORDER[1:] for when in ("after begins", "before reached", "after reached")
)


def dying(at: str) -> None:
    """From now on, this process is killed when it comes to that point."""
    write = Journal.write

    def mortal(self: Journal, entry: Mapping[str, Any], **fields: object) -> None:
        name = f"{entry['what']} {entry['goal']}"
        if at == f"before {name}":
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, entry, **fields)
        if at == f"after {name}":
            os.kill(os.getpid(), signal.SIGKILL)

    Journal.write = mortal  # type: ignore[method-assign]


def halting(at: str, pids: Sequence[int], seconds: float) -> None:
    """From now on, when it comes to that point, these processes stand still for so long."""
    write = Journal.write

    def go_on() -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def halted(self: Journal, entry: Mapping[str, Any], **fields: object) -> None:
        write(self, entry, **fields)
        if at == f"after {entry['what']} {entry['goal']}":
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            timer = threading.Timer(seconds, go_on)
            timer.daemon = False
            timer.start()

    Journal.write = halted  # type: ignore[method-assign]


def breaking(at: str, away: Path | None, mark: Path | None, seconds: float) -> None:
    """From now on, when it comes to that point, a file or folder is not there for so long. mark: made then, for whoever
    breaks something else, and who takes it away."""
    write = Journal.write

    def broken(self: Journal, entry: Mapping[str, Any], **fields: object) -> None:
        write(self, entry, **fields)
        if at == f"after {entry['what']} {entry['goal']}":
            if mark is not None:
                mark.touch()
                time.sleep(0.3)
            if away is not None:
                hidden = away.with_name(away.name + ".away")
                away.rename(hidden)
                timer = threading.Timer(seconds, lambda: hidden.rename(away))
                timer.daemon = False
                timer.start()

    Journal.write = broken  # type: ignore[method-assign]


if __name__ == "__main__":
    dying(os.environ.get("DIE_AT", ""))
    if halt_at := os.environ.get("HALT_AT"):
        halting(halt_at, [int(p) for p in os.environ["HALT_PIDS"].split()], float(os.environ["HALT_S"]))
    if break_at := os.environ.get("BREAK_AT"):
        paths = [Path(p) if (p := os.environ.get(name)) else None for name in ("BREAK_PATH", "BREAK_MARK")]
        breaking(break_at, *paths, float(os.environ["HALT_S"]))
    main()
