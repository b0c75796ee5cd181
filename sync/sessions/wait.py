"""Waiting until nobody has a session any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from connectors.errors import Stopped, SyncError
from sync.sessions.contracts import Roster


@dataclass(slots=True)
class Waited:
    """left: sessions that are still in use. goes_on: what is to be when there are some at the end. trouble: why they
    could not be counted the last time."""

    place: str
    timeout_s: float
    goes_on: bool
    left: int = 0
    users: int = 0
    most: int = 0
    seconds: float = 0.0
    rehearsed: bool = False
    trouble: str = ""

    @property
    def ended(self) -> bool:
        """Nobody has a session."""
        return self.left == 0

    @property
    def ok(self) -> bool:
        """The next step may come."""
        return self.ended or self.goes_on

    def as_dict(self) -> dict[str, object]:
        """The report for `--json`."""
        return {
            "ok": self.ok,
            "rehearsed": self.rehearsed,
            "ended": self.ended,
            "read_from": self.place,
            "sessions_left": self.left,
            "users_left": self.users,
            "sessions_at_most": self.most,
            "seconds": round(self.seconds, 1),
            "timeout_s": self.timeout_s,
            "on_timeout": "go_on" if self.goes_on else "abort",
        }


def wait(
    roster: Roster,
    *,
    timeout_s: float,
    poll_s: float,
    goes_on: bool = False,
    rehearse: bool = False,
    stop: threading.Event | None = None,
    watch: Callable[[Waited], None] = lambda _: None,
) -> Waited:
    """Count sessions every poll_s until there are none or the time is over. rehearse: count once.

    A server that cannot be asked is waited for; when the time is over in that, its error is raised: unknown is not
    none. Raises Stopped when it was told to stop.
    """
    stop = stop or threading.Event()
    began = time.monotonic()
    report = Waited(roster.place, timeout_s, goes_on, rehearsed=rehearse)
    while True:
        failed: SyncError | None = None
        try:
            users = roster.users()
            report.left, report.users = sum(users.values()), len(users)
            report.most, report.trouble = max(report.most, report.left), ""
        except SyncError as error:
            if not error.retry_helps or rehearse:
                raise
            failed, report.trouble = error, error.what
        report.seconds = time.monotonic() - began
        watch(report)
        if failed is None and (report.ended or rehearse):
            return report
        left_s = timeout_s - report.seconds
        if left_s <= 0:
            if failed is not None:
                raise failed
            return report
        if stop.wait(min(poll_s, left_s)):
            raise Stopped(
                f"stopped while {report.left:,} sessions were in use", remedy="run it again: it counts anew"
            )
