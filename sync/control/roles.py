"""The pulses of the two roles that write: a consumer's and a loader's."""

from __future__ import annotations

import time
from collections.abc import Callable

from connectors.mongo import client as mongo
from connectors.mongo import clock, control, ledger
from connectors.mongo.client import Database
from connectors.postgres import slots
from connectors.postgres.client import Session, connect, translated
from sync.control.guardian import Guardian
from sync.control.judge import Brake
from sync.control.pace import Pace
from sync.control.pulse import Every, Log, Pulse, timed_ms
from sync.settings import Settings

_HEAR_EVERY_S, _NOTE_EVERY_S, _PROBE_EVERY_S, _GUARD_EVERY_S = 0.4, 1.0, 1.0, 5.0


class _Links:
    """Connections of a pulse: opened when they are needed, and anew after an error."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.settings, self.name = settings, name
        self._db: Database | None = None
        self._session: Session | None = None

    @property
    def db(self) -> Database:
        """The target."""
        if self._db is None:
            self._db = mongo.connect(self.settings.target, timeout_ms=3_000, name=self.name)
        return self._db

    @property
    def session(self) -> Session:
        """The source."""
        if self._session is None or self._session.closed or self._session.broken:
            self._session = connect(self.settings.source, name=self.name)
        return self._session

    def wal(self) -> slots.WalFacts:
        """The WAL and the slot now."""
        with translated(self.settings.source):
            return slots.wal_facts(self.session, self.settings.source.slot)

    def close(self) -> None:
        """Close both."""
        if self._db is not None:
            self._db.client.close()
        if self._session is not None:
            self._session.close()


def consumer(settings: Settings, name: str, pace: Pace, log: Log) -> Pulse:
    """Says that it lives, hears an operator, notes the WAL, and sees to the connector."""
    links = _Links(settings, "tandem consumer pulse")
    counted, processes = 0.0, 1

    def hear() -> None:
        nonlocal counted, processes
        asked = control.control(links.db)
        if asked.max_ops is not None and time.monotonic() - counted > 2:
            counted = time.monotonic()
            known = ledger.workers(links.db)
            processes = sum(w.alive_s < ledger.SILENT_AFTER_S for w in known)
        pace.follow(asked, processes)

    def note() -> None:
        now = links.wal()
        if now.slot is not None:
            clock.tick(links.db, now.at_ms, now.position, now.slot.confirmed)

    guardian = Guardian(settings, lambda: links.db, log)
    return Pulse(
        [
            Every("live control", _HEAR_EVERY_S, hear, log),
            Every("saying that it lives", _NOTE_EVERY_S, lambda: ledger.beats(links.db, name), log),
            Every("noting the WAL", _NOTE_EVERY_S, note, log),
            Every("the connector", _GUARD_EVERY_S, guardian.look, log),
        ],
        links.close,
    )


def loader(settings: Settings, pace: Pace, log: Log, streaming_behind: Callable[[], float | None]) -> Pulse:
    """Hears an operator, and gives way where a server answers slowly or the stream is too far behind.

    streaming_behind: seconds, of what streams already; asked only where an operator has set a limit.
    """
    links = _Links(settings, "tandem snapshot pulse")
    limits = settings.limits
    source, target = (
        Brake("PostgreSQL", limits.slow_source_ms),
        Brake("MongoDB", limits.slow_target_ms),
    )
    said = ""
    asked = control.Control()

    def hear() -> None:
        nonlocal asked
        asked = control.control(links.db)
        pace.follow(asked)

    def probe() -> None:
        nonlocal said
        with translated(settings.source):
            source.feel(timed_ms(lambda: slots.probe(links.session)))
        target.feel(timed_ms(lambda: control.say_throttled(links.db, ledger.LOAD, said)))
        reasons = [brake.why for brake in (source, target) if brake.on]
        if asked.max_lag_s is not None:
            behind = streaming_behind()
            if behind is None or behind > asked.max_lag_s:
                known = "an unknown time" if behind is None else f"{behind:,.1f} s"
                reasons.append(f"the stream is {known} behind (limit {asked.max_lag_s:,.0f} s)")
        pace.give_way(reasons)
        if (pace.why == "") != (said == ""):
            log(f"the load goes slowly: {pace.why}" if pace.why else "the load goes at full speed again")
        said = pace.why

    return Pulse(
        [Every("live control", _HEAR_EVERY_S, hear, log), Every("probing", _PROBE_EVERY_S, probe, log)],
        links.close,
    )
