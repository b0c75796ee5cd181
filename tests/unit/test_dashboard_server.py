"""The dashboard's server on made-up numbers: what it answers, what it refuses, and what it never says."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.errors import AddressRefused, NotParked, ServerGone, SettingsInvalid
from sync.dashboard import stream
from sync.dashboard.access import Access, read_token
from sync.dashboard.feed import Feed
from sync.dashboard.history import KEPT_S, History, point_of
from sync.dashboard.quiet import Quiet
from sync.dashboard.serve import listen
from sync.dashboard.server import BODY_BYTES, application
from tests.support.dashboard import BEARER, TOKEN, Fake, lag, served, status
from tests.support.until import until

ROW = {"key": "public.users [7]", "class": "data", "since": "2026-01-01T00:00:00+00:00", "reason": "too long"}


class InProcess(httpx.BaseTransport):
    """Requests to an application of this process."""

    def __init__(self, app: Any) -> None:
        self._to = httpx.ASGITransport(app, client=("127.0.0.1", 5))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """One, to its end."""

        async def ask() -> httpx.Response:
            body = httpx.ByteStream(request.read())
            sent = httpx.Request(request.method, request.url, headers=request.headers, stream=body)
            answer = await self._to.handle_async_request(sent)
            content = await answer.aread()
            return httpx.Response(answer.status_code, headers=answer.headers, content=content)

        return asyncio.run(ask())


def client(
    fake: Fake, token: str | None = TOKEN, *, host: str = "localhost", loopback: bool = True
) -> httpx.Client:
    quiet = Quiet(fake.log)
    app = application(
        fake.feed(quiet, writes=token is not None), fake.actions(), Access(token, loopback), quiet
    )
    return httpx.Client(transport=InProcess(app), base_url=f"http://{host}")


@pytest.fixture
def fake() -> Fake:
    return Fake()


# -- the page and its document -------------------------------------------------------------------------------


def test_the_page_is_whole_and_fetches_nothing_from_elsewhere(fake: Fake) -> None:
    with client(fake) as http:
        page = http.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "'unsafe" not in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
        assert not any(name.startswith("access-control") for name in page.headers)
        assert "<script>" not in page.text
        assert "style=" not in page.text
        assert "://" not in page.text
        found = {"style.css", "main.js", "theme.js", "favicon.svg"}
        for name in found | {"charts.js", "flow.js", "tables.js"}:
            file = http.get(f"/{name}")
            assert file.status_code == 200
            again = http.get(f"/{name}", headers={"If-None-Match": file.headers["etag"]})
            assert again.status_code == 304
        assert http.head("/").status_code == 200


def test_the_document_says_unknown_before_it_has_asked(fake: Fake) -> None:
    with client(fake) as http:
        state = http.get("/api/state").json()
    assert state["lag"] is None
    assert state["gate"]["ready"] is False
    assert state["history"] == []
    assert state["cutover"] is None
    assert state["server"]["writes"] is True


def test_what_cannot_be_asked_is_unknown_with_its_reason(fake: Fake) -> None:
    fake.lag = ServerGone("PostgreSQL cannot be reached: refused", remedy="start it")
    fake.status = ValueError("a secret value")
    with served(fake) as page:
        state = until(lambda: (s := httpx.get(f"{page.url}/api/state").json())["status"] and s)
        assert state["lag"]["seconds"] is None
        assert state["lag"]["unknown"]["seconds"] == "PostgreSQL cannot be reached: refused"
        assert state["status"]["components"][0]["ok"] is None
        assert "ValueError" in state["status"]["components"][0]["what"]
        assert state["history"][0]["seconds"] is None
    assert "a secret value" not in fake.logged
    assert fake.logged.count("PostgreSQL cannot be reached") == 1
    assert fake.closed


def test_a_document_that_cannot_be_told_ends_nothing(fake: Fake) -> None:
    with served(fake) as page, httpx.stream("GET", f"{page.url}/events", timeout=10) as answer:
        found = events(answer)
        next(found)
        good, fake.status = fake.status, status(components=[{"name": "without the rest"}])
        until(lambda: "could not be put together" in fake.logged)
        fake.status = good
        assert next(found)["status"]
    odd = Fake(parked=[{**ROW, "key": "public.users [\ud800]"}], status=status(parked={"rows": 1}))
    with served(odd) as page:
        until(lambda: httpx.get(f"{page.url}/api/state").json()["parked_rows"])


def test_a_reason_that_changes_is_told_once_a_minute(fake: Fake) -> None:
    with served(fake):
        for n in range(5):
            fake.status = ServerGone(f"MongoDB has not answered for {n} s", remedy="wait")
            time.sleep(0.06)
    assert fake.logged.count("has not answered") == 1


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/nothing", "/../etc/passwd", "/api/", "/style.css/", f"/{TOKEN}"])
def test_an_unknown_path_is_404(fake: Fake, path: str) -> None:
    with client(fake) as http:
        answer = http.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"] == "NotFound"
    assert fake.told == [
        ("request refused", {"status": 404, "what": "GET an unknown path", "by": "127.0.0.1"})
    ]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/"),
        ("DELETE", "/api/state"),
        ("GET", "/api/retry"),
        ("PUT", "/api/control"),
        ("POST", "/events"),
    ],
)
def test_a_wrong_method_is_405(fake: Fake, method: str, path: str) -> None:
    with client(fake) as http:
        answer = http.request(method, path, headers=BEARER)
    assert answer.status_code == 405
    assert answer.json()["error"] == "WrongMethod"
    assert answer.headers["allow"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/retry", b"{"),
        ("/api/retry", b""),
        ("/api/retry", b"[]"),
        ("/api/retry", b"\xff\xfe"),
        ("/api/retry", b"{}"),
        ("/api/retry", b'{"keys": []}'),
        ("/api/retry", b'{"keys": [7]}'),
        ("/api/retry", b'{"keys": "public.users [7]"}'),
        ("/api/retry", b'{"keys": ["a"], "all": true}'),
        ("/api/retry", b"[" * 60_000),
        ("/api/retry", json.dumps({"keys": ["x"] * 501}).encode()),
        ("/api/control", b'{"action": "explode"}'),
        ("/api/control", b'{"action": "throttle", "max_ops": 0}'),
        ("/api/control", b'{"action": "throttle", "max_ops": true}'),
        ("/api/control", b'{"action": "throttle", "max_ops": "many"}'),
    ],
    ids=lambda value: str(value[:40]),
)
def test_what_is_not_a_request_is_400(fake: Fake, path: str, body: bytes) -> None:
    with client(fake) as http:
        answer = http.post(path, content=body, headers=BEARER)
    assert answer.status_code == 400
    assert answer.json()["error"] == "BadRequest"
    assert fake.asked == []


def test_a_large_body_is_413_whether_it_says_so_or_not(fake: Fake) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(10):
            yield b"x" * BODY_BYTES

    with client(fake) as http:
        said = http.post("/api/retry", content=b"x" * (BODY_BYTES + 1), headers=BEARER)
        silent = http.post("/api/retry", content=parts(), headers=BEARER)
    assert said.status_code == silent.status_code == 413
    assert len(fake.told) == 1


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer wrong-wrong-wrong-wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer é"],
)
def test_a_wrong_token_is_401_and_in_no_log(fake: Fake, header: str) -> None:
    with client(fake) as http:
        answer = http.post("/api/retry", json={"all": True}, headers=[(b"Authorization", header.encode())])
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert fake.asked == []
    assert "wrong-wrong" not in fake.logged
    assert TOKEN not in fake.logged + answer.text


def test_without_a_token_nothing_can_be_changed(fake: Fake) -> None:
    with client(fake, token=None) as http:
        for path in ("/api/retry", "/api/control", "/api/token"):
            answer = http.post(path, json={"all": True}, headers=BEARER)
            assert answer.status_code == 403
            assert "--token-file" in answer.json()["remedy"]
    assert fake.asked == []


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8787", "127.0.0.1.evil.example", "10.0.0.7", ""]
)
def test_another_name_is_refused_on_loopback(fake: Fake, host: str) -> None:
    with client(fake) as http:
        answer = http.get("/api/state", headers={"Host": host})
        assert answer.status_code == 421
        assert "history" not in answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"
    with client(fake, loopback=False) as http:
        assert http.get("/api/state", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8787", "localhost", "LOCALHOST:1", "[::1]:8787", "127.0.0.1", "localhost.:9"]
)
def test_every_name_of_this_machine_is_taken(fake: Fake, host: str) -> None:
    with client(fake) as http:
        assert http.get("/api/state", headers={"Host": host}).status_code == 200


def test_what_is_refused_is_told_once(fake: Fake) -> None:
    with client(fake) as http:
        for n in range(50):
            http.get(f"/nothing/{n}")
            http.post("/api/retry", json={"all": True})
    assert len(fake.told) == 2


def test_the_same_thing_is_told_again_after_a_minute(fake: Fake) -> None:
    now = [0.0]
    quiet = Quiet(fake.log, lambda: now[0])
    for _ in range(3):
        quiet.tell("kind", "message")
    now[0] = 61.0
    quiet.tell("kind", "message")
    assert fake.told == [("message", {}), ("message", {"left_out": "2 like it"})]


def test_an_error_of_our_own_is_500_and_no_traceback(fake: Fake, capfd: pytest.CaptureFixture[str]) -> None:
    fake.retried = RuntimeError("a secret value")
    with served(fake) as page:
        answer = httpx.post(f"{page.url}/api/retry", json={"all": True}, headers=BEARER)
    assert answer.status_code == 500
    assert answer.json()["error"] == "Broken"
    printed = "".join(capfd.readouterr()) + fake.logged + answer.text
    assert "a secret value" not in printed
    assert "Traceback" not in printed


def test_what_is_no_http_is_refused_and_told_once(fake: Fake, capfd: pytest.CaptureFixture[str]) -> None:
    with served(fake) as page:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", page.port), 5) as raw:
                raw.sendall(b"\x16\x03\x01 no http\r\n\r\n")
                assert b"400" in raw.recv(200)
    assert len([m for m, _ in fake.told if "Invalid HTTP" in m]) == 1
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_request_that_does_not_come_to_its_end_is_408(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync.dashboard.server._BODY_WITHIN_S", 0.2)
    head = f"POST /api/retry HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 9\r\n\r\n"
    with served(fake) as page, socket.create_connection(("127.0.0.1", page.port), 5) as raw:
        raw.sendall(head.encode())
        assert b" 408 " in raw.recv(400)


# -- what may be changed -------------------------------------------------------------------------------------


def test_the_right_token_retries_and_steers(fake: Fake) -> None:
    with client(fake) as http:
        assert http.post("/api/token", headers=BEARER).status_code == 204
        assert http.post("/api/retry", json={"keys": [ROW["key"]]}, headers=BEARER).json()["ok"] is True
        assert http.post("/api/retry", json={"all": True}, headers=BEARER).status_code == 200
        steer = {"action": "throttle", "max_ops": 100, "max_lag_s": None}
        assert http.post("/api/control", json=steer, headers=BEARER).status_code == 200
    assert fake.asked == [
        ("retry", [ROW["key"]]),
        ("retry", None),
        ("throttle", {"max_ops": 100, "max_lag_s": None}),
    ]


@pytest.mark.parametrize(
    ("error", "status_"),
    [
        (NotParked("nothing is parked under it", remedy="see the list"), 409),
        (ServerGone("MongoDB cannot be reached", remedy="start it"), 503),
    ],
    ids=["refused", "away"],
)
def test_a_refusal_of_the_action_is_told_in_its_own_words(fake: Fake, error: Exception, status_: int) -> None:
    fake.retried = error
    with client(fake) as http:
        answer = http.post("/api/retry", json={"keys": ["x"]}, headers=BEARER)
    assert answer.status_code == status_
    assert answer.json()["what"] == str(error)


# -- events --------------------------------------------------------------------------------------------------


def events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in answer.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def test_a_page_gets_the_history_first_and_then_a_look_at_a_time(fake: Fake) -> None:
    with served(fake) as page:
        until(lambda: fake.looks > 5)
        with httpx.stream("GET", f"{page.url}/events", timeout=10) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            found = events(answer)
            first = next(found)
            assert len(first["history"]) >= 4
            assert first["lag"]["seconds"] == 0.4
            second = next(found)
            assert "history" not in second
            assert second["point"]["seconds"] == 0.4
            fake.lag = lag(seconds=99.0)
            assert any(next(found)["lag"]["seconds"] == 99.0 for _ in range(20))


def test_a_page_that_comes_after_others_gets_nothing_old(fake: Fake) -> None:
    with served(fake) as page:
        for _ in range(3):
            with httpx.stream("GET", f"{page.url}/events", timeout=10) as answer:
                found = events(answer)
                first, second = next(found), next(found)
            assert first["at"] <= second["at"]
            assert first["history"][-1]["t"] <= second["point"]["t"]
            until(lambda: page.feed.watched == 0)
            time.sleep(0.2)  # looks that nobody sees


def test_many_pages_are_one_look_a_second(fake: Fake) -> None:
    with served(fake, every_s=0.2) as page:

        def read() -> None:
            with httpx.stream("GET", f"{page.url}/events", timeout=10) as answer:
                found = events(answer)
                for _ in range(5):
                    next(found)

        readers = [threading.Thread(target=read) for _ in range(20)]
        before, began = fake.looks, time.monotonic()
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        took = time.monotonic() - began
        assert fake.looks - before <= took / 0.2 + 2
        until(lambda: page.feed.watched == 0)


def test_more_pages_than_there_is_room_for_are_503(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PAGES", 1)
    with served(fake) as page, httpx.stream("GET", f"{page.url}/events", timeout=10) as first:
        found = events(first)
        next(found)
        assert httpx.get(f"{page.url}/events", timeout=5).status_code == 503


def cut_off(slow: socket.socket) -> bool:
    """Whether the other end has closed the connection in the middle of its answer."""
    slow.settimeout(5)
    last = b""
    with suppress(ConnectionResetError):
        while part := slow.recv(1_000_000):
            last = (last + part)[-5:]
    return last != b"0\r\n\r\n"


def test_a_page_that_takes_nothing_is_dropped(fake: Fake) -> None:
    fake.parked = [{**ROW, "reason": "x" * 400_000}]
    fake.status = status(parked={"rows": 1, "classes": {"data": 1}, "oldest": None})
    with (
        served(fake, every_s=0.02, taken_within_s=0.3) as page,
        socket.create_connection(("127.0.0.1", page.port), 5) as slow,
    ):
        slow.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: page.feed.watched == 1)
        with httpx.stream("GET", f"{page.url}/events", timeout=10) as answer:
            found = events(answer)
            next(found)
            until(lambda: page.feed.watched == 1 or not next(found), within=20)
        assert "did not take its events" in fake.logged
        assert "without completing" not in fake.logged
        assert cut_off(slow)


def test_it_ends_within_two_seconds_with_open_pages(fake: Fake) -> None:
    ends: list[bytes] = []
    with served(fake) as page:

        def read() -> None:
            with httpx.stream("GET", f"{page.url}/events", timeout=10) as answer:
                ends.append(list(answer.iter_bytes())[-1])

        readers = [threading.Thread(target=read) for _ in range(5)]
        for reader in readers:
            reader.start()
        until(lambda: page.feed.watched == 5)
        began = time.monotonic()
    assert time.monotonic() - began < 2
    for reader in readers:
        reader.join(5)
    assert len(ends) == 5  # each was ended in order, none cut off


def test_a_look_that_hangs_makes_its_numbers_old_and_nothing_else(fake: Fake) -> None:
    hang = threading.Event()
    feed = fake.feed()

    async def look() -> None:
        await feed.start()
        await asyncio.sleep(0.2)
        object.__setattr__(feed.sources, "lag", lambda: hang.wait(5) and {})
        await asyncio.sleep(0.4)
        began = time.monotonic()
        state = feed.state()
        assert state["ages"]["lag"] > 0.2  # type: ignore[index]
        assert state["ages"]["status"] < 0.3  # type: ignore[index]
        feed.close()
        assert time.monotonic() - began < 1

    asyncio.run(look())
    hang.set()
    feed.join()


def test_history_forgets_what_is_older_than_fifteen_minutes() -> None:
    history = History()
    for second in range(2_000):
        history.add(point_of(float(second), lag(seconds=None if second % 2 else 1.0)))
    points = history.points()
    assert points[0]["t"] == 1_999 - KEPT_S
    assert points[-1]["seconds"] is None
    assert points[-2]["seconds"] == 1.0


# -- the way to it -------------------------------------------------------------------------------------------


def test_a_taken_port_is_named_with_its_remedy() -> None:
    with listen("127.0.0.1", 0) as bound, pytest.raises(AddressRefused) as met:
        listen("127.0.0.1", bound.getsockname()[1])
    assert "--port 0" in met.value.remedy
    with pytest.raises(AddressRefused):
        listen("no.such.host.invalid", 0)


@pytest.mark.parametrize("content", ["", "brief", "two words but long enough", "x" * 20 + "é"])
def test_a_bad_token_is_refused_and_not_shown(tmp_path: Path, content: str) -> None:
    file = tmp_path / "token"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsInvalid) as met:
        read_token(file, lambda _: None)
    assert not content or content not in met.value.what
    assert "openssl" in met.value.remedy


def test_a_token_that_others_can_read_is_told(tmp_path: Path) -> None:
    file, told = tmp_path / "token", list[str]()
    file.write_text(TOKEN + "\n", encoding="utf-8")
    file.chmod(0o600)
    assert read_token(file, told.append) == TOKEN
    assert not told
    file.chmod(0o644)
    read_token(file, told.append)
    assert "chmod 600" in told[0]
    with pytest.raises(SettingsInvalid):
        read_token(tmp_path / "none", told.append)


def test_the_token_is_in_no_text_of_what_holds_it() -> None:
    assert TOKEN not in repr(Access(TOKEN, True))
    assert isinstance(Fake().feed(), Feed)
