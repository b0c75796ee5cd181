"""Kafka Connect's REST interface (Apache Kafka documentation, Kafka Connect, "REST API")."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx

from connectors.errors import ConnectRefused, ServerGone, SettingsInvalid
from connectors.settings import ConnectEndpoint

PLUGIN = "io.debezium.connector.postgresql.PostgresConnector"


@dataclass(frozen=True, slots=True)
class ConnectorState:
    """What Connect says of a connector. connector: RUNNING, FAILED, ..., or ABSENT. failure: its first line."""

    connector: str
    tasks: tuple[str, ...]
    failure: str

    @property
    def running(self) -> bool:
        """The connector and its one task run, as far as Connect knows."""
        return self.connector == "RUNNING" and self.tasks == ("RUNNING",)

    @property
    def told(self) -> str:
        """For people: a connector is RUNNING for Connect while its task has failed."""
        return "FAILED" if self.failed else self.connector

    @property
    def failed(self) -> bool:
        """The connector or a task of it has failed."""
        return self.connector == "FAILED" or "FAILED" in self.tasks


class Connect:
    """One Connect cluster."""

    def __init__(self, endpoint: ConnectEndpoint, *, timeout_s: float = 30) -> None:
        self.endpoint, self.timeout_s = endpoint, timeout_s
        try:
            base = httpx.URL(endpoint.url.strip().rstrip("/"))
        except httpx.InvalidURL as error:
            raise _no_address(str(error)) from None
        if base.scheme not in ("http", "https") or not base.host:
            raise _no_address("it has to begin with http:// or https:// and a host")
        #: as it may be shown: it can hold a password
        self.address = str(base.copy_with(username=None, password=None)) if base.userinfo else str(base)
        self._http = httpx.Client(base_url=base)

    def __enter__(self) -> Connect:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def call(self, method: str, path: str, body: object = None) -> httpx.Response:
        """One request, repeated for a while as long as the cluster rebalances (409). Raises ServerGone."""
        until = time.monotonic() + 90
        # asking is quick; a change makes Connect ask PostgreSQL
        timeout = httpx.Timeout(
            min(10, self.timeout_s) if method == "GET" else self.timeout_s, connect=min(5, self.timeout_s)
        )
        while True:
            try:
                answer = (
                    self._http.request(method, path, json=body, timeout=timeout)
                    if body is not None
                    else self._http.request(method, path, timeout=timeout)
                )
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                why = f"{type(error).__name__}: {error}".removesuffix(": ")
                raise ServerGone(
                    f"Kafka Connect cannot be reached: {why}",
                    remedy="start Kafka Connect, or correct CONNECT_URL",
                    url=self.address,
                ) from error
            if answer.status_code != 409 or time.monotonic() > until:
                return answer
            time.sleep(0.3)

    def plugins(self) -> dict[str, str]:
        """Installed connectors and converters: class -> version."""
        found = self._json(self.call("GET", "/connector-plugins?connectorsOnly=false"))
        return {plugin["class"]: str(plugin.get("version", "")) for plugin in found}

    def complaints(self, config: Mapping[str, str]) -> list[str]:
        """What Connect finds wrong with a configuration, without creating anything; no values in it."""
        answer = self.call(
            "PUT", f"/connector-plugins/{PLUGIN}/config/validate", {"name": "validated", **config}
        )
        if answer.status_code != 200:
            return [self._message(answer)]
        found = []
        for entry in answer.json().get("configs", []):
            value = entry["value"]
            found += [f"{value['name']}: {error}" for error in value["errors"]]
        return found

    def state(self) -> ConnectorState:
        """How the connector is. RUNNING proves little: it says so while PostgreSQL or Kafka is down."""
        answer = self.call("GET", f"/connectors/{self.endpoint.connector}/status")
        if self._absent(answer):
            return ConnectorState("ABSENT", (), "")
        body = self._json(answer)
        try:
            parts = [body["connector"], *body["tasks"]]
            failure = next((first_cause(p["trace"]) for p in parts if p.get("trace")), "")
            return ConnectorState(
                body["connector"]["state"], tuple(t["state"] for t in body["tasks"]), failure
            )
        except (KeyError, TypeError):
            raise self._strange(answer) from None

    def config(self) -> dict[str, str] | None:
        """The configuration that the connector has, None where there is no connector."""
        answer = self.call("GET", f"/connectors/{self.endpoint.connector}/config")
        return None if self._absent(answer) else self._json(answer)

    def put(self, config: Mapping[str, str]) -> None:
        """Create or reconfigure the connector. Raises ConnectRefused."""
        answer = self.call("PUT", f"/connectors/{self.endpoint.connector}/config", dict(config))
        if answer.status_code not in (200, 201):
            raise ConnectRefused(
                f"Kafka Connect does not take the connector: {self._message(answer)}",
                remedy="see the message; `tandem setup` can be run again",
            )

    def restart(self) -> None:
        """Restart the connector and its failed tasks."""
        answer = self.call(
            "POST", f"/connectors/{self.endpoint.connector}/restart?includeTasks=true&onlyFailed=true"
        )
        if answer.status_code >= 400:
            raise self._strange(answer)

    def wait_running(self, within_s: float = 60) -> None:
        """Return when the connector and its task run. Raises ConnectRefused with the failure's first cause."""
        until = time.monotonic() + within_s
        while not (state := self.state()).running:
            if state.failed or time.monotonic() > until:
                raise ConnectRefused(
                    f"the connector does not run: {state.failure or state.told}",
                    remedy="mend the cause, then run `tandem setup` again",
                    connector=self.endpoint.connector,
                    tasks=",".join(state.tasks) or "none",
                )
            time.sleep(0.1)

    def drop(self, config: Mapping[str, str] | None = None) -> None:
        """Remove the connector and its offsets, which outlive it otherwise. Safe to repeat.

        config: with it, the offsets of a connector that was removed without them go too; Connect removes
        offsets only of a connector that is there, and stopped.
        """
        name, path = self.endpoint.connector, f"/connectors/{self.endpoint.connector}"
        if self.config() is None:
            if config is None:
                return
            stopped = {"name": name, "config": dict(config), "initial_state": "STOPPED"}
            self._json(self.call("POST", "/connectors", stopped))
        self._stop()
        until = time.monotonic() + 30
        while (answer := self.call("DELETE", f"{path}/offsets")).status_code not in (200, 404):
            if time.monotonic() > until:
                raise ConnectRefused(
                    f"the connector's offsets cannot be removed: {self._message(answer)}",
                    remedy="see the message; where it stays, give the connector another name with "
                    "TANDEM_CONNECT__CONNECTOR",
                )
            time.sleep(0.2)
        self.call("DELETE", path)
        while self.state().connector != "ABSENT" and time.monotonic() < until:
            time.sleep(0.05)

    def _stop(self, within_s: float = 30) -> None:
        """Stop the connector, unless it is stopped: a second stop without a task in between makes Connect refuse to
        remove its offsets, for good (Kafka 4.3.1: it looks for a generation of task configurations that is not there).
        For the same reason one that has just begun gets the time to have a task.
        """
        until = time.monotonic() + within_s
        settled = time.monotonic() + min(10, within_s)
        while not ((state := self.state()).connector == "STOPPED" or state.tasks or state.failed):
            if time.monotonic() > settled:
                break
            time.sleep(0.05)
        if state.connector != "STOPPED":
            self.call("PUT", f"/connectors/{self.endpoint.connector}/stop")
        while (state := self.state()).connector not in ("STOPPED", "ABSENT") or state.tasks:
            if time.monotonic() > until:
                return
            time.sleep(0.1)

    def _json(self, answer: httpx.Response) -> Any:
        if answer.status_code >= 400:
            raise self._strange(answer)
        try:
            return answer.json()
        except ValueError:
            raise self._strange(answer) from None

    def _absent(self, answer: httpx.Response) -> bool:
        """Connect says that there is none: in JSON, unlike another server that does not know the path."""
        return answer.status_code == 404 and self._message(answer) != "HTTP 404"

    def _strange(self, answer: httpx.Response) -> ConnectRefused:
        message = self._message(answer)
        if message != f"HTTP {answer.status_code}" and answer.status_code != 404:
            return ConnectRefused(
                f"Kafka Connect refuses: {message}",
                remedy="mend what the message names, then try again",
                url=self.address,
            )
        return ConnectRefused(
            f"what CONNECT_URL leads to does not answer as Kafka Connect does ({message})",
            remedy="correct CONNECT_URL: it has to be the root of Kafka Connect's REST interface",
            url=self.address,
        )

    @staticmethod
    def _message(answer: httpx.Response) -> str:
        """What Connect says, without the frame that it puts around complaints about a configuration."""
        try:
            body = answer.json()
            if "error_code" not in body:
                return f"HTTP {answer.status_code}"
            said = str(body.get("message", answer.status_code)).splitlines()
        except (ValueError, TypeError, AttributeError):
            return f"HTTP {answer.status_code}"
        frame = ("Connector configuration is invalid and contains", "You can also find the above list")
        return " ".join(line for line in said if not line.startswith(frame)) or said[0]


def _no_address(why: str) -> SettingsInvalid:
    return SettingsInvalid(
        f"connect.url is no address of Kafka Connect: {why}",
        remedy="give http://host:port in CONNECT_URL",
    )


def first_cause(trace: str) -> str:
    """The innermost `Caused by` of a Java stack trace, or its first line; the middle of a long one left out."""
    lines = [line for line in trace.splitlines() if line.startswith("Caused by: ")]
    cause = lines[-1].removeprefix("Caused by: ") if lines else (trace.splitlines() or [""])[0]
    return cause if len(cause) <= 400 else f"{cause[:180]} ... {cause[-180:]}"
