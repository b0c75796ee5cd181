"""A log that says the same thing once a minute, however often it happens."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

Log = Callable[..., None]
_EVERY_S = 60.0
_KINDS = 200


class Quiet:
    """Tells each kind of message at most once a minute, with how many were left out since."""

    def __init__(self, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock = log, clock
        self._lock = threading.Lock()
        self._told: dict[str, tuple[float, int]] = {}

    def tell(self, kind: str, message: str, **facts: object) -> None:
        """Say it, unless this kind was told within the last minute."""
        now = self._clock()
        with self._lock:
            at, left_out = self._told.get(kind, (-_EVERY_S, 0))
            if now - at < _EVERY_S:
                self._told[kind] = (at, left_out + 1)
                return
            if len(self._told) >= _KINDS:  # whoever makes up kinds may not make this grow
                self._told.clear()
            self._told[kind] = (now, 0)
        if left_out:
            facts["left_out"] = f"{left_out} like it"
        self._log(message, **facts)


class Forwarded(logging.Handler):
    """Another library's log, told quietly and without tracebacks."""

    def __init__(self, quiet: Quiet) -> None:
        super().__init__(logging.WARNING)
        self._quiet = quiet

    def emit(self, record: logging.LogRecord) -> None:
        """Its first line, and the name of the error that it is about."""
        lines = record.getMessage().strip().splitlines()
        kind = record.exc_info[0] if record.exc_info else None
        facts = {"error": kind.__name__} if kind else {}
        self._quiet.tell(str(record.msg), lines[0] if lines else record.name, **facts)
