"""Looks once a second, for all pages together, and hands each the same bytes.

Two threads ask the servers: one the lag each second, one what costs more every three. Neither waits for the other, so a
server that does not answer makes its own numbers old and nothing else. The event loop puts together what there is.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import orjson

from connectors.errors import SyncError
from sync.dashboard.gate import Seen, judge
from sync.dashboard.history import History, point_of
from sync.dashboard.quiet import Quiet

LOOK_EVERY_S = 1.0
STATUS_EVERY_S = 3.0
#: a status that takes long is asked less often, so that it costs its servers a quarter of their time at most; but never
#: so seldom that its numbers count as old
_REST, _REST_S = 3.0, 8.0
#: parked rows that a page lists
SHOWN = 50
#: how long the end waits for a look that is under way
_JOIN_S = 0.5

Part = Mapping[str, Any]
Looked = TypeVar("Looked")
NUMBERS = ("wal_bytes", "records", "seconds", "parked")


@dataclass(frozen=True, slots=True)
class Sources:
    """What is asked, each by one thread only. lag and status answer in the form of their `--json`; status has what was
    asked of running roles in it, as `control`."""

    lag: Callable[[], Part]
    status: Callable[[], Part]
    #: at most so many, the oldest first, in the form of `dead-letters list --json`
    parked: Callable[[int], Sequence[Part]]
    cutover: Callable[[], Part | None] = lambda: None
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class About:
    """What a page has to know of its server. pipeline: its name, writes: a token is configured."""

    pipeline: str
    writes: bool
    control: bool
    lag_below_s: float = 10.0
    verified_within_s: float = 86_400.0
    build: str = ""

    def as_dict(self) -> dict[str, object]:
        """For the document."""
        return {
            "pipeline": self.pipeline,
            "writes": self.writes,
            "control": self.control,
            "lag_below_s": self.lag_below_s,
            "build": self.build,
        }


@dataclass(frozen=True, slots=True)
class _Answer:
    """What was found out, and when."""

    lag: Part | None = None
    lag_at: float | None = None
    status: Part | None = None
    status_at: float | None = None
    parked_rows: tuple[Part, ...] | None = None
    cutover: Part | None = None


@dataclass(slots=True)
class Frame:
    """One event for all pages."""

    number: int = 0
    content: bytes = b""


@dataclass(slots=True)
class Feed:
    """Begun and ended with `start` and `close`, both on the event loop."""

    sources: Sources
    about: About
    quiet: Quiet
    clock: Callable[[], float] = time.time
    look_every_s: float = LOOK_EVERY_S
    status_every_s: float = STATUS_EVERY_S
    closed: bool = False
    watched: int = 0
    history: History = field(default_factory=History)
    _answer: _Answer = field(default_factory=_Answer)
    _frame: Frame = field(default_factory=Frame)
    _next: asyncio.Future[None] | None = None
    _ticker: asyncio.Task[None] | None = None
    _threads: list[threading.Thread] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _early: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    async def start(self) -> None:
        """Begin to look."""
        self._next = asyncio.get_running_loop().create_future()
        for name, work in (("lag", self._watch_lag), ("status", self._watch_status)):
            # a look that hangs in a driver may not keep the process from ending
            thread = threading.Thread(target=work, name=f"dashboard {name}", daemon=True)
            thread.start()
            self._threads.append(thread)
        self._ticker = asyncio.create_task(self._tick())

    def close(self) -> None:
        """Tell every page that this is the end, and stop looking."""
        self.closed = True
        self._stop.set()
        self._early.set()
        if self._ticker is not None:
            self._ticker.cancel()
        self._wake()

    def join(self) -> None:
        """Wait a moment for looks under way."""
        until = time.monotonic() + _JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def look_early(self) -> None:
        """Something was changed from here: ask for the status now."""
        self._early.set()

    def state(self) -> dict[str, object]:
        """The whole document, history included."""
        return {**self._document(), "history": self.history.points()}

    @property
    def number(self) -> int:
        """Of the newest frame."""
        return self._frame.number

    async def after(self, number: int, gone: asyncio.Future[Any]) -> Frame | None:
        """The newest frame after this number. None: there will be none, or the page has gone."""
        while not self.closed and not gone.done():
            if self._frame.number > number:
                return self._frame
            assert self._next is not None
            await asyncio.wait({self._next, gone}, return_when=asyncio.FIRST_COMPLETED)
        return None

    # -- on the event loop -------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            try:
                if self.watched:  # nobody looks: nothing is put together
                    self._frame = Frame(self._frame.number + 1, event(self._document()))
                    self._wake()
            except Exception as error:  # the next document may be one that can be told
                kind = type(error).__name__
                self.quiet.tell(f"document {kind}", "a document could not be put together", error=kind)
            await asyncio.sleep(self.look_every_s)

    def _wake(self) -> None:
        loop = asyncio.get_running_loop()
        woken, self._next = self._next, loop.create_future()
        if woken is not None and not woken.done():
            woken.set_result(None)

    def _document(self) -> dict[str, object]:
        found, now = self._answer, self.clock()
        control = (found.status or {}).get("control")
        seen = Seen(found.lag, found.status, control, _age(now, found.lag_at), _age(now, found.status_at))
        return {
            "at": _iso(now),
            "lag": found.lag,
            "status": found.status,
            "ages": {"lag": seen.lag_age_s, "status": seen.status_age_s},
            "parked_rows": found.parked_rows,
            "control": control,
            "gate": judge(seen, self.about.lag_below_s, self.about.verified_within_s).as_dict(),
            "cutover": found.cutover,
            "point": self.history.last(),
            "server": self.about.as_dict(),
        }

    # -- in threads of their own ---------------------------------------------------------------------------------------

    def _watch_lag(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            lag, why = self._asked("lag", self.sources.lag)
            at = self.clock()
            if lag is None:
                lag = unknown_lag(_iso(at), why)
            self.history.add(point_of(at, lag))
            self._put(lag=lag, lag_at=at)
            self._stop.wait(max(0.05, self.look_every_s - (time.monotonic() - began)))
        self._asked("lag", lambda: self.sources.close())

    def _watch_status(self) -> None:
        while not self._stop.is_set():
            self._early.clear()
            began = time.monotonic()
            cutover, _ = self._asked("cutover", self.sources.cutover)
            self._put(cutover=cutover)
            status, why = self._asked("status", self.sources.status)
            self._put(status=status or _unknown_status(why), status_at=self.clock())
            if status is not None:
                self._put(parked_rows=self._parked(status))
            took = time.monotonic() - began
            self._early.wait(max(0.05, self.status_every_s - took, min(_REST * took, _REST_S)))

    def _parked(self, status: Part) -> tuple[Part, ...] | None:
        """The rows, asked for only when there are any. None: unknown."""
        rows = (status.get("parked") or {}).get("rows")
        if rows == 0:
            return ()
        found, _ = self._asked("parked rows", lambda: self.sources.parked(SHOWN)) if rows else (None, "")
        return None if found is None else tuple(found[:SHOWN])

    def _asked(self, what: str, question: Callable[[], Looked]) -> tuple[Looked | None, str]:
        """The answer, or None and why there is none. A page goes on whatever a look meets."""
        try:
            return question(), ""
        except SyncError as error:
            why, kind = error.what, error.code
        except Exception as error:
            kind = type(error).__name__
            why = f"tandem met an error that it does not know: {kind}"
        if not self._stop.is_set():
            self.quiet.tell(f"{what} {kind}", f"the {what} cannot be asked", why=why)
        return None, why

    def _put(self, **found: Any) -> None:
        with self._lock:
            kept = {name: getattr(self._answer, name) for name in _Answer.__dataclass_fields__}
            self._answer = _Answer(**{**kept, **found})


def event(document: Mapping[str, object]) -> bytes:
    """One server-sent event."""
    return b"event: state\ndata: " + encoded(document) + b"\n\n"


def encoded(document: object) -> bytes:
    """JSON; what has no form of its own as its text."""
    try:
        return orjson.dumps(document, default=str)
    except orjson.JSONEncodeError:  # half a surrogate pair, in a key of somebody's
        return json.dumps(document, default=str).encode()


def unknown_lag(at: str, why: str) -> Part:
    """A look that found nothing out."""
    return {
        "at": at,
        **dict.fromkeys(NUMBERS),
        "unknown": dict.fromkeys(NUMBERS, why),
        "rates": {"wal_bytes_in": None, "records_in": None, "records_out": None},
        "catch_up": {"state": "unknown", "seconds": None},
        "slot": None,
        "collections": [],
    }


def _unknown_status(why: str) -> Part:
    return {
        "ok": False,
        "components": [{"name": "status", "ok": None, "what": why}],
        "parked": {"rows": None, "classes": {}, "oldest": None},
        "collections": [],
    }


def _age(now: float, at: float | None) -> float | None:
    return None if at is None else round(max(0.0, now - at), 1)


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
