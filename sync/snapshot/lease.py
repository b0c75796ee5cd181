"""A direct writer says that it lives, so that a second one of its kind waits for it, or goes on where it died."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from connectors.errors import Refused, SyncError
from connectors.mongo import ledger
from connectors.mongo.client import Database

LEASE_S = 6.0


@contextmanager
def lease(db: Database, kind: str, run: str, command: str) -> Iterator[bool]:
    """Hold the lease of a kind of direct writer; True: the one before has died with it.

    Waits for a run that has just died, and raises Refused beside one that lives. Two at once do no harm, only waste.
    """
    died = _wait(db, kind, command)
    ledger.begin_load(db, run, kind)
    stop = threading.Event()

    def _beat() -> None:
        while not stop.wait(1.0):
            with suppress(SyncError):  # the workers meet the same trouble, and tell
                ledger.load_beats(db, run, kind)

    beat = threading.Thread(target=_beat, daemon=True)
    beat.start()
    try:
        yield died
    finally:
        stop.set()
        beat.join()
        ledger.load_ended(db, run, kind)


def _wait(db: Database, kind: str, command: str) -> bool:
    beats: set[object] = set()
    until = time.monotonic() + LEASE_S
    while (known := ledger.state(db, kind)) and known.get("beat") and time.monotonic() < until:
        beats.add(known["beat"])
        if len(beats) > 2:
            raise Refused(
                f"another `{command}` is running",
                remedy="wait until it has ended, or stop it",
                run=known.get("run"),
            )
        time.sleep(0.5)
    return bool(beats)
