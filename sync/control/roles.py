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

_HEAR_EVERY_S, _NOTE_EVERY_S, _PROBE_EVERY_S, _GUARD_EVERY_S = 0.4, 1.0, 0.5, 5.0


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
    hearing = Every("live control", _HEAR_EVERY_S, hear, log)
    return Pulse(
        [
            hearing,
            Every("saying that it lives", _NOTE_EVERY_S, lambda: ledger.beats(links.db, name), log),
            Every("noting the WAL", _NOTE_EVERY_S, note, log),
            Every("the connector", _GUARD_EVERY_S, guardian.look, log),
        ],
        links.close,
        first=hearing,  # who starts while it is paused does nothing before it knows
    )


def loader(settings: Settings, pace: Pace, log: Log, streaming_behind: Callable[[], float | None]) -> Pulse:
    """Hears an operator, and gives way where a server answers slowly or the stream is too far behind.

    streaming_behind: seconds, of what streams already; asked only where an operator has set a limit.
    """
    links = _Links(settings, "tandem snapshot pulse")
    brakes = _Brakes(settings, links, pace, streaming_behind, log)
    hearing = Every("live control", _HEAR_EVERY_S, brakes.hear, log)
    return Pulse(
        [
            hearing,
            # each by itself: one that hangs, or may not be asked, takes nothing away from the others
            Every("probing PostgreSQL", _PROBE_EVERY_S, brakes.feel_source, log),
            Every("probing MongoDB", _PROBE_EVERY_S, brakes.feel_target, log),
            Every("probing the stream", _PROBE_EVERY_S, brakes.feel_stream, log),
            Every("the pace", _HEAR_EVERY_S, brakes.decide, log),
        ],
        links.close,
        first=Every("live control", _HEAR_EVERY_S, brakes.begin, log),
    )


class _Brakes:
    """What a load gives way to."""

    def __init__(
        self,
        settings: Settings,
        links: _Links,
        pace: Pace,
        streaming_behind: Callable[[], float | None],
        log: Log,
    ) -> None:
        self.settings, self.links, self.pace, self.log = settings, links, pace, log
        self.streaming_behind = streaming_behind
        limits = settings.limits
        self.source = Brake("PostgreSQL", limits.slow_source_ms)
        self.target = Brake("MongoDB", limits.slow_target_ms)
        self._asked, self._stream, self._said = control.Control(), "", ""
        #: since when a probe is under way
        self._began: dict[str, float] = {}

    def begin(self) -> None:
        """Before the first row: a limit holds from the beginning."""
        self.hear()
        self.feel_stream()
        self.decide()

    def hear(self) -> None:
        """What an operator asks."""
        self._asked = control.control(self.links.db)
        self.pace.follow(self._asked)

    def feel_source(self) -> None:
        """The smallest commit of PostgreSQL."""
        with translated(self.settings.source):
            self._feel(self.source, lambda: slots.probe(self.links.session))

    def feel_target(self) -> None:
        """The smallest acknowledged write of MongoDB, which tells others why this is slow."""
        self._feel(self.target, lambda: control.say_throttled(self.links.db, ledger.LOAD, self.pace.why))

    def _feel(self, brake: Brake, probe: Callable[[], None]) -> None:
        self._began[brake.name] = time.monotonic()
        try:
            brake.feel(timed_ms(probe))
        finally:
            del self._began[brake.name]

    def feel_stream(self) -> None:
        """What streams already, where an operator has set a limit."""
        limit = self._asked.max_lag_s
        behind = None if limit is None else self.streaming_behind()
        if limit is None or (behind is not None and behind <= limit):
            self._stream = ""
        else:
            known = "an unknown time" if behind is None else f"{behind:,.1f} s"
            self._stream = f"the stream is {known} behind (limit {limit:,.0f} s)"

    def decide(self) -> None:
        """Give way to what is slow, or does not answer at all."""
        reasons = []
        for brake in (self.source, self.target):
            under_way = (time.monotonic() - self._began.get(brake.name, time.monotonic())) * 1_000
            if brake.on:
                reasons.append(brake.why)
            elif brake.limit_ms and under_way > max(brake.limit_ms, 1_000):
                reasons.append(f"{brake.name} has not answered for {under_way:,.0f} ms")
        self.pace.give_way([*reasons, *([self._stream] if self._stream else [])])
        why = self.pace.why
        if (why == "") != (self._said == ""):
            self.log(f"the load goes slowly: {why}" if why else "the load goes at full speed again")
        self._said = why
