"""What a long-running process does beside its work, from threads of its own: it hears what an operator asks, notes how
far the WAL is, measures how quickly the servers answer, and restarts a connector that has failed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from connectors.errors import SyncError

Log = Callable[..., None]


class Every:
    """Does something again and again until it is closed. An error is told once, until it goes through again."""

    def __init__(self, name: str, seconds: float, act: Callable[[], object], log: Log) -> None:
        self.name, self.seconds, self.act, self.log = name, seconds, act, log
        self._end = threading.Event()
        self._told = ""
        self._thread = threading.Thread(target=self._run, daemon=True, name=name)

    def start(self) -> Every:
        """Begin."""
        self._thread.start()
        return self

    def close(self, within_s: float = 2.0) -> None:
        """End; one that hangs on a server is left to the end of the process."""
        self._end.set()
        self._thread.join(within_s)

    def _run(self) -> None:
        while True:
            try:
                self.act()
                self._told = ""
            except SyncError as error:  # the work itself meets it too, and waits or ends
                if error.code != self._told:
                    self._told = error.code
                    self.log(f"{self.name}: {error.what}", remedy=error.remedy)
            if self._end.wait(self.seconds):
                return


class Pulse:
    """Several of them, as one context."""

    def __init__(self, beats: Sequence[Every], closing: Callable[[], None] = lambda: None) -> None:
        self.beats, self.closing = beats, closing

    def __enter__(self) -> Pulse:
        for beat in self.beats:
            beat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for beat in self.beats:
            beat.close()
        self.closing()


def timed_ms(act: Callable[[], object]) -> float:
    """How long it takes, milliseconds."""
    began = time.monotonic()
    act()
    return (time.monotonic() - began) * 1_000
