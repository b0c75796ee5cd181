"""Restarts a connector that has failed, with growing pauses, and tells. One of the consumers does it for all."""

from __future__ import annotations

import time
from collections.abc import Callable

from connectors.debezium.connect import Connect
from connectors.mongo import control
from connectors.mongo.client import Database
from connectors.postgres import slots
from connectors.postgres.client import connect, translated
from sync.control.pulse import Log
from sync.settings import Settings

#: seconds before the next restart, after so many that did not last; the last for all that follow
PAUSES_S = (0, 5, 10, 20, 40, 80, 160, 300)


def pause_s(restarts: int) -> float:
    """How long to wait before the next restart. Pure."""
    return float(PAUSES_S[min(restarts, len(PAUSES_S) - 1)])


class Guardian:
    """Looks at the connector."""

    def __init__(self, settings: Settings, db: Callable[[], Database], log: Log) -> None:
        self.settings, self.db, self.log = settings, db, log
        self._told_lost = False

    def look(self) -> bool:
        """Restart it, if it has failed and its turn has come. True when it was. Raises what the servers raise."""
        with Connect(self.settings.connect, timeout_s=5) as rest:
            state = rest.state()
            if not state.failed:
                return False
            if not self._slot_is_there():
                return False
            now_ms = time.time_ns() // 1_000_000
            known = control.restarts(self.db(), now_ms)
            wait_ms = int(pause_s(known + 1) * 1_000)
            if not control.claim_restart(self.db(), state.failure, now_ms, now_ms + wait_ms, known + 1):
                return False
            self.log(
                "the connector has failed: restarting it",
                failure=state.failure,
                restart=known + 1,
                next_after_s=wait_ms // 1_000,
            )
            rest.restart()
            return True

    def _slot_is_there(self) -> bool:
        """Without its slot a connector must not run: it would make another one, and what lies between is lost."""
        with (
            connect(self.settings.source, name="tandem guardian") as session,
            translated(self.settings.source),
        ):
            slot = slots.slot_facts(session, self.settings.source.slot)
        there = slot is not None and slot.wal_status != "lost"
        if not there and not self._told_lost:
            self.log(
                "the connector has failed, and its slot is gone: it is not restarted",
                remedy="run `tandem heal`",
            )
        self._told_lost = not there
        return there
