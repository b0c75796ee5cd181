"""The pace of one process: work asks before each piece, a `Pulse` says what an operator and the servers want."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from connectors.mongo.control import Control
from sync.control.judge import Bucket

#: while a server is slow, or what streams too far behind, a piece goes through that often: no load stands still
_TRICKLE_S = 2.0
_SLICE_S = 0.1


class Pace:
    """Used by several threads. role: of `connectors.mongo.control.ROLES`."""

    def __init__(self, role: str) -> None:
        self.role = role
        self._lock = threading.Lock()
        self._asked = Control()
        self._bucket: Bucket | None = None
        self._reasons: tuple[str, ...] = ()

    def follow(self, asked: Control, processes: int = 1) -> None:
        """Go by this from now on. processes: how many share the rate."""
        with self._lock:
            rate = None if asked.max_ops is None else asked.max_ops / max(1, processes)
            if rate is None:
                self._bucket = None
            elif self._bucket is None or self._bucket.rate != rate:
                self._bucket = Bucket(rate)
            self._asked = asked

    def give_way(self, reasons: Sequence[str]) -> None:
        """Go slowly while there are reasons to."""
        self._reasons = tuple(reasons)

    @property
    def paused(self) -> bool:
        """Nothing is to be done."""
        return self.role in self._asked.paused

    @property
    def why(self) -> str:
        """Why it does not go at full speed; empty when it does."""
        if self.paused:
            return f"paused by {self._asked.by}" if self._asked.by else "paused"
        limit = [f"at most {self._asked.max_ops:,} rows/s"] if self._asked.max_ops is not None else []
        return "; ".join([*limit, *self._reasons])

    def most(self, limit: int) -> int:
        """So much is a piece of about half a second."""
        bucket = self._bucket
        return limit if bucket is None else max(1, min(limit, int(bucket.rate / 2)))

    def wait(self, ops: int, stop: Callable[[], bool]) -> None:
        """Return when so many operations may be done, or stop() says so."""
        began, paid_for = time.monotonic(), None
        while not stop():
            late = time.monotonic() - began > _TRICKLE_S
            if self.paused or (self._reasons and not late):
                time.sleep(_SLICE_S)
                continue
            with self._lock:
                bucket = self._bucket
                if bucket is None or bucket is paid_for:
                    return
                seconds = bucket.take(ops, time.monotonic())
            paid_for, until = bucket, time.monotonic() + seconds
            while time.monotonic() < until and self._bucket is bucket and not stop():
                time.sleep(min(_SLICE_S, max(0.0, until - time.monotonic())))
