"""Sessions without servers: what a message becomes, what a notice says, what is shown of an address."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from bson import Binary, DatetimeMS, Decimal128, Int64, ObjectId

from connectors.acp.agent import Agent, where
from connectors.errors import ServerGone, SessionsUnfit, SettingsInvalid, Stopped
from connectors.mongo.sessions import Session, plain
from connectors.webhook import Webhook
from sync import settings as reader
from sync.sessions.migrate import unfit
from sync.sessions.notify import Notice, notify
from sync.sessions.wait import wait
from tests.unit.test_settings import ENVIRON


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC), "2026-01-02T03:04:05.678Z"),
        (DatetimeMS(0), "1970-01-01T00:00:00.000Z"),
        (DatetimeMS(10**16), 10**16),  # beyond what a date can be
        (ObjectId("65" * 12), "65" * 12),
        (Decimal128("1.10"), "1.10"),
        (Int64(2**60), 2**60),
        (float("nan"), None),
        (float("-inf"), None),
        (1.5, 1.5),
        (True, True),
        (None, None),
        (Binary(b"\x00\xff"), "AP8="),
        ({"a": [{"b": ObjectId("65" * 12)}]}, {"a": [{"b": "65" * 12}]}),
    ],
)
def test_a_message_is_as_javascript_would_send_it(value: object, expected: object) -> None:
    found = plain(value)
    assert found == expected
    assert type(found) is type(expected) or isinstance(found, int)


@pytest.mark.parametrize(
    ("workspace", "why"),
    [("/nfs/a b", ""), (None, "no workspace"), ("", "no workspace"), ("nfs", "not absolute")],
)
def test_an_agent_can_work_in_an_absolute_path_only(workspace: str | None, why: str) -> None:
    found = unfit(Session(1, "u", workspace, "active", "s"))
    assert why in found if why else found == ""


def test_what_may_be_secret_is_not_shown() -> None:
    assert where("wss://me:hunter2@agent:9/acp?key=hunter2") == "wss://agent:9/acp"
    assert "hunter2" not in Webhook("https://me:hunter2@hooks/T/hunter2?k=hunter2").address
    assert "hunter2" not in repr(Session(1, "u", "/", "active", "hunter2"))
    for wrong in ("http://me:hunter2@a", "ws://", "hunter2", "ws://[hunter2"):
        with pytest.raises(SettingsInvalid) as caught:
            Agent(wrong)
        assert "hunter2" not in caught.value.what


def test_the_agent_of_other_scripts_is_taken_only_where_nothing_else_is_said(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    theirs = {**ENVIRON, "ACP_AGENT_URL": "ws://theirs"}
    assert reader.read(environ=theirs).sessions.agent_url == "ws://theirs"
    with open("tandem.yaml", "w", encoding="utf-8") as file:
        file.write("sessions: {agent_url: ws://of_file}")
    assert reader.read(environ=theirs).sessions.agent_url == "ws://of_file"
    ours = {**theirs, "TANDEM_SESSIONS__AGENT_URL": "ws://ours"}
    assert reader.read(environ=ours).sessions.agent_url == "ws://ours"


class _Roster:
    place = "here"

    def __init__(self, *answers: Mapping[str, int] | None) -> None:
        self.answers = list(answers)

    def users(self) -> Mapping[str, int]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            raise ServerGone("away", remedy="wait")
        return answer


class _Receipts:
    def taken(self) -> set[str]:
        return set()

    def keep(self, to: str) -> None:
        pass


def test_unknown_is_not_none() -> None:
    assert wait(_Roster({"a": 2}, None, {}), timeout_s=5, poll_s=0.01).ended
    with pytest.raises(ServerGone):
        wait(_Roster({"a": 2}, None), timeout_s=0.05, poll_s=0.01, goes_on=True)
    with pytest.raises(ServerGone):
        wait(_Roster(None), timeout_s=5, poll_s=0.01, rehearse=True)


def test_waiting_ends_as_it_was_told_to() -> None:
    aborts = wait(_Roster({"a": 2, "b": 1}), timeout_s=0.02, poll_s=0.01)
    assert (aborts.ok, aborts.left, aborts.users) == (False, 3, 2)
    assert wait(_Roster({"a": 2}), timeout_s=0, poll_s=0.01, goes_on=True).ok
    stop = threading.Event()
    with pytest.raises(Stopped):
        wait(_Roster({"a": 1}), timeout_s=60, poll_s=30, stop=stop, watch=lambda _: stop.set())


def test_nobody_can_be_told_without_a_channel() -> None:
    with pytest.raises(SessionsUnfit, match="no channel"):
        notify(_Roster({}), [], _Receipts(), Notice("n", "m", "d", datetime.now(UTC)))
