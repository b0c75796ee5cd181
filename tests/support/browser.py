"""A real browser for tests: headless Chromium from Debian's packages, driven through its own driver."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

_PACKAGES = ("chromium", "chromium-driver")
_LINE = f"apt-get update && apt-get install -y {' '.join(_PACKAGES)}"
_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # as root there is none to be had
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)


def programs() -> tuple[str, str]:
    """Browser and driver; installed when they are missing and we may. Fails with what to type otherwise."""
    found = _found()
    if found is None and shutil.which("apt-get") and os.geteuid() == 0:
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(["sh", "-c", _LINE], env=environ, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{_LINE}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        found = _found()
    assert found is not None, f"this test needs Chromium and its driver; type: sudo sh -c '{_LINE}'"
    return found


def _found() -> tuple[str, str] | None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


class Browser:
    """One window."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self._requested: list[str] = []

    def js(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        """The text of the first element that fits, as it is shown; empty where none is."""
        found = self.js("return document.querySelector(arguments[0])?.innerText ?? ''", selector)
        return str(found).strip()

    def width(self, width: int, height: int, *, dark: bool = False) -> None:
        """As on a screen of this size."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def complaints(self) -> list[str]:
        """What the console has told since this was last asked: warnings and errors."""
        return [f"{e['level']}: {e['message']}" for e in self._log("browser") if e["level"] != "INFO"]

    def requested(self) -> list[str]:
        """Every address that was asked for so far."""
        for entry in self._log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self._requested.append(str(message["params"]["request"]["url"]))
        return self._requested

    def _log(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.driver.get_log(kind)  # type: ignore[no-untyped-call]
        return found


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser of its own profile, ended afterwards."""
    program, driver = programs()
    profile = Path(tempfile.mkdtemp(prefix="tandem-browser-"))
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (*_ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = webdriver.Chrome(options=options, service=Service(driver))
    try:
        window.set_script_timeout(20)
        yield Browser(window)
    finally:
        with suppress(Exception):  # one that has died already
            window.quit()
        shutil.rmtree(profile, ignore_errors=True)
