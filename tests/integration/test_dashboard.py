"""The dashboard on a real pipeline, seen by a real browser."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from selenium.webdriver.common.keys import Keys

from sync.dashboard.serve import listen
from sync.dev.state import Addresses
from tests.support import stack as servers
from tests.support.browser import Browser, browser
from tests.support.pipeline import Pipeline, consuming, pipeline
from tests.support.tandem import Process
from tests.support.until import until

TABLES = "CREATE TABLE people (id bigint PRIMARY KEY, name text, age integer);"
MAPPING = """
version: 1
collections:
  people:
    from: public.people
    validator: {properties: {age: {bsonType: [int, "null"], maximum: 150}}}
"""
TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def on(stack: Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    folder = tmp_path_factory.mktemp("dashboard")
    with servers.own_names(stack) as own, pipeline(own, folder, TABLES, MAPPING) as running:
        running.sql.execute("INSERT INTO people SELECT n, 'p' || n, n % 90 FROM generate_series(1, 500) n")
        running.tandem.run("snapshot")
        with consuming(running):
            running.wait()
            yield running


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as one:
        yield one


def free_port() -> int:
    with listen("127.0.0.1", 0) as bound:
        return int(bound.getsockname()[1])


@contextmanager
def dashboard(on: Pipeline, port: int, *options: str) -> Iterator[tuple[str, Process]]:
    """The command itself."""
    url = f"http://127.0.0.1:{port}"
    with on.tandem.started("dashboard", "--port", str(port), *options) as process:
        until(lambda: _answers(url) or not process.alive, within=60)
        assert process.alive, process.text()
        yield url, process


def _answers(url: str) -> bool:
    try:
        return bool(httpx.get(f"{url}/api/state", timeout=5).json()["status"])
    except httpx.HTTPError:
        return False


def state(url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{url}/api/state", timeout=10).json()
    return found


def token_file(folder: Path) -> str:
    file = folder / "token"
    file.write_text(TOKEN, encoding="utf-8")
    file.chmod(0o600)
    return str(file)


def opened(window: Browser, url: str) -> None:
    window.driver.get(url)
    until(lambda: window.js("return document.body.dataset.link") == "live", within=30)
    until(lambda: window.js("return document.body.dataset.at"), within=10)
    until(lambda: "unknown" not in window.text("#collections .c-documents"), within=20)


def test_a_page_tells_what_the_servers_say(on: Pipeline, window: Browser, tmp_path: Path) -> None:
    with dashboard(on, free_port(), "--token-file", token_file(tmp_path)) as (url, process):
        window.complaints()
        opened(window, url)
        _numbers_are_the_documents_own(window, url)
        _reads_the_same_at_every_size(window)
        _every_control_is_reached_by_tab(window)
        assert {r.split("/")[2] for r in window.requested() if r.startswith("http")} == {url.split("/")[2]}
        assert not window.complaints()
        _a_parked_row_is_retried(on, window, url)
        _paused_and_resumed(window, url)
        assert not window.complaints()
        began = time.monotonic()
        assert process.terminate() == 0
        assert time.monotonic() - began < 4, "it did not end in time with an open page"
        assert "Traceback" not in process.text()
        assert TOKEN not in process.text()


def _numbers_are_the_documents_own(window: Browser, url: str) -> None:
    script = """
      const done = arguments[0], source = new EventSource("events");
      source.addEventListener("state", (event) => { source.close(); requestAnimationFrame(() => done(event.data)); });
    """

    def same() -> bool:
        """Compared while nothing changes between: page, event and API of one moment."""
        event = json.loads(window.driver.execute_async_script(script))
        shown = {
            key: window.js("return document.querySelector(arguments[0]).dataset.value", f"#n-{key}")
            for key in ("seconds", "records", "wal_bytes", "parked")
        }
        api = state(url)
        lags = [event["lag"], api["lag"]]
        return all(str(lag[key]) == shown[key] for lag in lags for key in ("records", "parked")) and any(
            float(lag[key]) == float(shown[key]) for lag in lags for key in ("seconds", "wal_bytes")
        )

    until(same, within=30)
    lag = state(url)
    assert window.text("#n-records .value") == f"{lag['lag']['records']:,}"
    assert window.text("#collections .name") == "people"
    assert window.text("#collections .c-documents") == "500"
    assert window.text("#pipeline") == lag["server"]["pipeline"]
    conditions = [c["name"] for c in lag["gate"]["conditions"]]
    assert (
        window.js("return [...document.querySelectorAll('#conditions .name')].map(e => e.textContent)")
        == conditions
    )
    assert window.js("return document.querySelectorAll('.station').length") == 5
    drawn = until(
        lambda: window.js("return document.querySelector('#chart-records path.line').getAttribute('d')")
    )
    assert re.match(r"M[\d.]+ [\d.]+", drawn)


def _reads_the_same_at_every_size(window: Browser) -> None:
    for width in (390, 768, 1280, 2560):
        for dark in (False, True):
            window.width(width, 844, dark=dark)
            wide = window.js("return [document.documentElement.scrollWidth, innerWidth]")
            assert wide[0] <= width, f"{wide} at {width}"
            colors = window.js(
                "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
            )
            ink, paper = (sum(int(n) for n in re.findall(r"\d+", color)[:3]) for color in colors)
            assert (ink > paper) == dark
    window.width(1280, 900)


def _every_control_is_reached_by_tab(window: Browser) -> None:
    shown = "return [...document.querySelectorAll('a[href],button,input')].filter(e => e.checkVisibility()).length"
    wanted = window.js(shown)
    window.js("document.activeElement.blur(); window.scrollTo(0, 0); window.reached = new Set()")
    for _ in range(wanted + 5):
        window.driver.switch_to.active_element.send_keys(Keys.TAB)
        ring = window.js("""
          const at = document.activeElement;
          if (at === document.body) return "";
          window.reached.add(at);
          return getComputedStyle(at).outlineStyle;
        """)
        assert ring in ("", "solid"), "the focus cannot be seen"
    assert window.js("return window.reached.size") >= wanted


def _a_parked_row_is_retried(on: Pipeline, window: Browser, url: str) -> None:
    on.sql.execute("UPDATE people SET age = 200 WHERE id = 7")
    until(lambda: "public.people [7]" in window.text("#parked"), within=60)
    assert "validator" in window.text("#parked .class")
    assert state(url)["gate"]["ready"] is False
    refused = httpx.post(f"{url}/api/retry", json={"all": True}, headers={"Authorization": "Bearer wrong"})
    assert refused.status_code == 401
    # the other mapping makes nothing of a change in the row itself: only a retry heals it
    on.db.command("collMod", "people", validator={})
    window.js("document.querySelector('#parked .retry').click()")
    dialog = window.driver.find_element("id", "token")
    until(lambda: window.js("return document.activeElement.id") == "token")
    dialog.send_keys("not the token at all", Keys.ENTER)
    until(lambda: window.text("#ask-wrong") == "This is not the token.")
    assert on.parked()
    dialog.clear()
    dialog.send_keys(TOKEN, Keys.ENTER)
    until(lambda: "healed" in window.text("#parked-told"), within=30)
    until(lambda: window.text("#parked-empty") == "Nothing is parked.", within=30)
    assert not on.parked()
    document = on.one("people", "public.people", 7)
    assert document is not None
    assert document["age"] == 200
    assert window.js("return sessionStorage.getItem('tandem-token')") == TOKEN
    assert window.js("return localStorage.getItem('tandem-token')") is None
    told = window.complaints()  # the browser itself tells of the refused token
    assert all("401" in line for line in told), told


def _paused_and_resumed(window: Browser, url: str) -> None:
    window.js("document.querySelector('#pause').click()")
    until(lambda: "Paused: consumers" in window.text("#control-state"), within=30)
    assert state(url)["gate"]["ready"] is False
    window.js("document.querySelector('#resume').click()")
    until(lambda: "full speed" in window.text("#control-state"), within=30)


def test_a_page_outlives_the_server(on: Pipeline, window: Browser, tmp_path: Path) -> None:
    port = free_port()
    with dashboard(on, port) as (url, process):
        opened(window, url)
        until(lambda: window.text("#link") == "live, read-only")
        assert window.js("return document.querySelector('#unlock').hidden")
        assert httpx.post(f"{url}/api/retry", json={"all": True}).status_code == 403
        busy = on.tandem.run("dashboard", "--port", str(port), check=False)
        assert busy.returncode == 1
        assert "--port 0" in busy.stderr
        process.signal(signal.SIGINT)
        assert process.child.wait(10) == 0
        until(lambda: "These numbers are" in window.text("#lost"), within=20)
        until(lambda: re.search(r"are [2-9] s old", window.text("#lost")), within=20)
        until(lambda: window.text("#say") == "Connection lost, the numbers are old")
    with dashboard(on, port):
        until(lambda: window.js("return document.body.dataset.link") == "live", within=20)
        assert window.js("return document.querySelector('#lost').hidden")
        assert window.text("#say") == "Connected again"
    told = window.complaints()
    assert all("ERR_" in line for line in told), told  # the connection that was refused, and nothing else


def test_what_cannot_be_asked_is_unknown_on_the_page(on: Pipeline, window: Browser) -> None:
    closed = free_port()
    on.tandem.environ["KAFKA_BOOTSTRAP_SERVERS"], before = (
        f"127.0.0.1:{closed}",
        on.tandem.environ["KAFKA_BOOTSTRAP_SERVERS"],
    )
    try:
        with dashboard(on, free_port()) as (url, _):
            window.driver.get(url)
            until(lambda: window.text("#n-records .value") == "unknown", within=30)
            assert window.text("#n-seconds .value") == "unknown"
            assert window.text("#n-parked .value") == "0"  # MongoDB was asked and says so
            assert state(url)["lag"]["records"] is None
            metrics = httpx.get(f"{url}/metrics", timeout=10).text
            assert 'tandem_lag_unknown{number="records"} 1.0' in metrics
            assert "tandem_lag_seconds NaN" in metrics
            assert 'tandem_component_up{component="Kafka"} NaN' in metrics
            ready = window.js("return document.querySelector('#ready').dataset.ok")
            assert ready != "true"
    finally:
        on.tandem.environ["KAFKA_BOOTSTRAP_SERVERS"] = before
