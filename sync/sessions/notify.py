"""Telling everybody who has a session that the application will be away for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from connectors.errors import SessionsUnfit, Stopped, SyncError
from sync.sessions.contracts import Channel, Receipts, Roster

_TRIES, _PAUSE_S, _AT_ONCE = 3, 0.5, 8


@dataclass(frozen=True, slots=True)
class Notice:
    """id: of this announcement; the same again tells only those who were not reached. downtime: for people, such as
    `30 minutes`. at: when it begins."""

    id: str
    message: str
    downtime: str
    at: datetime

    def payload(self, user: str, sessions: int) -> dict[str, object]:
        """What one user is told."""
        return {
            "type": "maintenance",
            "message": self.message,
            "estimatedDowntime": self.downtime,
            "scheduledTime": self.at.astimezone(UTC).isoformat(timespec="seconds"),
            "userId": user,
            "sessions": sessions,
        }


def begins(now: datetime, in_minutes: float) -> datetime:
    """The time that a notice names, to the second."""
    return (now + timedelta(minutes=in_minutes)).replace(microsecond=0)


@dataclass(frozen=True, slots=True)
class Unreached:
    """One user whom one channel could not tell."""

    user: str
    channel: str
    reason: str


@dataclass(slots=True)
class Sent:
    """What came of an announcement. sent: by channel, taken now. before: by channel, taken by an earlier run."""

    notice: str
    users: int
    sessions: int
    place: str
    rehearsed: bool = False
    sent: dict[str, int] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)
    failures: list[Unreached] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Every channel has taken it for every user."""
        return not self.failures

    @property
    def done(self) -> int:
        """Of users times channels, those that are settled."""
        return sum(self.sent.values()) + sum(self.before.values()) + len(self.failures)

    @property
    def total(self) -> int:
        """Users times channels."""
        return self.users * len(self.sent)

    def as_dict(self) -> dict[str, object]:
        """The report for `--json`."""
        return {
            "ok": self.ok,
            "rehearsed": self.rehearsed,
            "notice": self.notice,
            "read_from": self.place,
            "users": self.users,
            "sessions": self.sessions,
            "sent": self.sent,
            "sent_before": self.before,
            "failures": [{"user": f.user, "channel": f.channel, "reason": f.reason} for f in self.failures],
        }


def notify(
    roster: Roster,
    channels: Sequence[Channel],
    receipts: Receipts,
    notice: Notice,
    *,
    rehearse: bool = False,
    stop: threading.Event | None = None,
    watch: Callable[[Sent], None] = lambda _: None,
) -> Sent:
    """Tell every user with a session, once, over every channel. Each receipt is kept, so the same notice again tells
    only those who were not reached. rehearse: everything but the telling; a channel that would not work is a failure.

    Raises SessionsUnfit without any channel, and Stopped when it was told to stop.
    """
    if not channels:
        raise SessionsUnfit(
            "there is no channel by which users could be told",
            remedy="set sessions.webhook_url, sessions.notify_channel or sessions.notice_collection",
        )
    users = roster.users()
    report = Sent(notice.id, len(users), sum(users.values()), roster.place, rehearse)
    taken = set() if rehearse else receipts.taken()
    for channel in channels:
        report.sent[channel.name] = 0
        report.before[channel.name] = sum(_to(channel, user) in taken for user in users)
    if rehearse:
        _rehearse(channels, report)
        return report
    run = _Run(receipts, notice, report, stop or threading.Event(), watch)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for channel in channels:
            for user, sessions in users.items():
                if _to(channel, user) not in taken:
                    run.tasks.append(pool.submit(run.tell, channel, user, sessions))
        for task in run.tasks:
            task.result()
    if run.stop.is_set() and report.done < report.total:
        raise Stopped(
            f"stopped after {report.done:,} of {report.total:,} notices",
            remedy=f"run it again with --id {notice.id}: it goes on where it was",
        )
    return report


def _to(channel: Channel, user: str) -> str:
    return f"{channel.name}/{user}"


def _rehearse(channels: Sequence[Channel], report: Sent) -> None:
    for channel in channels:
        try:
            channel.check()
        except SyncError as error:
            report.failures.append(Unreached("", channel.name, error.what))


class _Run:
    """What the threads of one announcement share."""

    def __init__(
        self,
        receipts: Receipts,
        notice: Notice,
        report: Sent,
        stop: threading.Event,
        watch: Callable[[Sent], None],
    ) -> None:
        self.receipts, self.notice, self.report, self.stop, self.watch = (
            receipts,
            notice,
            report,
            stop,
            watch,
        )
        self.lock = threading.Lock()
        self.tasks: list[Future[None]] = []

    def tell(self, channel: Channel, user: str, sessions: int) -> None:
        """One user over one channel, tried again where that may help."""
        if self.stop.is_set():
            return
        payload = self.notice.payload(user, sessions)
        failed = self._send(channel, f"{self.notice.id}/{user}", payload)
        if failed is None:
            self.receipts.keep(_to(channel, user))
        with self.lock:
            if failed is None:
                self.report.sent[channel.name] += 1
            else:
                self.report.failures.append(Unreached(user, channel.name, failed))
            self.watch(self.report)

    def _send(self, channel: Channel, id_: str, payload: Mapping[str, object]) -> str | None:
        for tried in range(1, _TRIES + 1):
            try:
                channel.send(id_, payload)
                return None
            except SyncError as error:
                if not error.retry_helps or tried == _TRIES or self.stop.wait(_PAUSE_S * 2**tried):
                    return error.what
        return None
