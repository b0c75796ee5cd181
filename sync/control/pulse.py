"""What a long-running process does beside its work, from threads of its own: it hears what an operator asks, notes how
far the WAL is, measures how quickly the servers answer, and restarts a connector that has failed."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from connectors.errors import SyncError

Log = Callable[..., None]


#: the same trouble is told again after so long
_AGAIN_S = 120.0
_END_WITHIN_S = 2.0


class Every:
    """Does something again and again until it is closed, whatever happens; each trouble is told now and then.

    failed: called when it did not go through.
    """

    def __init__(
        self,
        name: str,
        seconds: float,
        act: Callable[[], object],
        log: Log,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        self.name, self.seconds, self.act, self.log, self.failed = name, seconds, act, log, failed
        self._end = threading.Event()
        self._told: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, daemon=True, name=name)

    def start(self) -> Every:
        """Begin."""
        self._thread.start()
        return self

    def end(self) -> None:
        """Do it no more."""
        self._end.set()

    def join(self, within_s: float) -> None:
        """Wait for its end; one that hangs on a server is left to the end of the process."""
        self._thread.join(within_s)

    def once(self) -> None:
        """Do it; trouble is told, and goes no further: the work itself meets it too, and waits or ends."""
        try:
            self.act()
        except SyncError as error:
            self._tell(error.what, remedy=error.remedy)
        except Exception as error:  # a fault here must not silence what an operator asks for
            self._tell(f"{type(error).__name__}: {error}")

    def _tell(self, what: str, **facts: object) -> None:
        like, now = re.sub(r"\d+", "#", what), time.monotonic()
        if now - self._told.get(like, -_AGAIN_S) >= _AGAIN_S:
            self._told = {k: at for k, at in self._told.items() if now - at < _AGAIN_S} | {like: now}
            self.log(f"{self.name}: {what}", **facts)
        self.failed()

    def _run(self) -> None:
        while True:
            self.once()
            if self._end.wait(self.seconds):
                return


class Pulse:
    """Several of them, as one context. first: done once before anything else begins."""

    def __init__(
        self, beats: Sequence[Every], closing: Callable[[], None] = lambda: None, first: Every | None = None
    ) -> None:
        self.beats, self.closing, self.first = beats, closing, first

    def __enter__(self) -> Pulse:
        if self.first is not None:
            self.first.once()
        for beat in self.beats:
            beat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for beat in self.beats:
            beat.end()
        until = time.monotonic() + _END_WITHIN_S
        for beat in self.beats:
            beat.join(max(0.0, until - time.monotonic()))
        self.closing()


def timed_ms(act: Callable[[], object]) -> float:
    """How long it takes, milliseconds."""
    began = time.monotonic()
    act()
    return (time.monotonic() - began) * 1_000
