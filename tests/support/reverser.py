"""`tandem reverse …` in a process that is killed by SIGKILL at one point of a transaction:

DIE_AT='moved' python -m tests.support.reverser reverse run
"""

from __future__ import annotations

import os
import signal
from typing import Any

from connectors.postgres.reverse import Reverse
from consumers.reverse.worker import Applier
from consumers.reverse.write import Writer
from sync.cli import main

#: the place in the stream is written; a document is; the transaction is committed, and nobody knows
POINTS = ("moved", "written", "committed")


def dying(at: str) -> None:
    """From now on, this process is killed when it first comes to that point with documents in hand."""
    move, put, apply = Reverse.move, Writer.put, Applier.apply
    busy: list[bool] = []

    def die(here: str) -> None:
        if here == at and busy:
            os.kill(os.getpid(), signal.SIGKILL)

    def moved(self: Reverse, *arguments: Any) -> None:
        move(self, *arguments)
        die("moved")

    def written(self: Writer, *arguments: Any) -> Any:
        done = put(self, *arguments)
        die("written")
        return done

    def committed(self: Applier, wanted: Any, *arguments: Any, **more: Any) -> Any:
        some = list(wanted)
        busy[:] = [True] * len(some)
        done = apply(self, some, *arguments, **more)
        die("committed")
        return done

    Reverse.move, Writer.put, Applier.apply = moved, written, committed  # type: ignore[method-assign]


if __name__ == "__main__":
    dying(os.environ.get("DIE_AT", ""))
    main()
