"""A client of the Agent Client Protocol: JSON-RPC 2.0, one message in each text frame of a WebSocket.

Sources: agentclientprotocol.com, "Initialization", "Session Setup", "Extensibility"; JSON-RPC 2.0 specification.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    InvalidURI,
    WebSocketException,
)
from websockets.sync.client import ClientConnection, connect

from connectors.errors import AgentFailed, AgentRefused, ServerGone, SessionRefused, SettingsInvalid, Stopped

PROTOCOL = 1
#: so often a wait for an answer looks whether it is to end
_LOOK_EVERY_S = 0.25
#: an agent's answers are small; what it tells meanwhile may not be
_MAX_BYTES = 64 * 2**20
#: of JSON-RPC: the agent does not know the method, or the parameters; the same request will not go through later
_FOR_GOOD = {-32600, -32601, -32602}
_LOGIN = -32000
_NO_METHOD = {"code": -32601, "message": "Method not found"}

Params = Mapping[str, Any]


def where(url: str) -> str:
    """The address as it may be shown: no user, no password, no query."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


class Agent:
    """One connection. Opened by the first call, and again after `close`.

    token: sent as `Authorization: Bearer`. answer_s: how long an answer is waited for. stopped: asked while it waits.

    Every call raises ServerGone where the connection is refused, lost, or silent for too long: whether the agent has
    done what it was asked for is then not known. An agent that wants a login that it does not get, or speaks another
    version, is AgentRefused; one that refuses this request is SessionRefused, one that stumbles over it AgentFailed.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        answer_s: float = 15,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        try:
            shown = where(url)
        except ValueError:
            shown = ""
        if not shown.startswith(("ws://", "wss://")) or not urlsplit(url).hostname:
            raise SettingsInvalid(
                "the agent's address cannot be read (it is not shown here: it may hold a password)",
                remedy="use the form ws://host:port or wss://host:port/path in ACP_AGENT_URL",
            )
        self.address = shown
        self._url, self._token, self._answer_s, self._stopped = url, token, answer_s, stopped
        self._socket: ClientConnection | None = None
        self._serial = 0
        #: the agent's name and version, as it gives them
        self.info: Mapping[str, Any] = {}

    def __enter__(self) -> Agent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, if there is one."""
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.close_timeout = 0.5  # nothing that the agent still says is of use
            socket.close()

    def initialize(self, within_s: float) -> None:
        """Connect and agree on the protocol, unless that is done."""
        if self._socket is not None:
            return
        until = time.monotonic() + min(within_s, self._answer_s)
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else None
        try:
            self._socket = connect(
                self._url,
                additional_headers=headers,
                open_timeout=max(until - time.monotonic(), 0.1),
                max_size=_MAX_BYTES,
                user_agent_header="tandem",
                proxy=None,
            )
        except InvalidURI:
            raise SettingsInvalid(
                "the agent's address cannot be read", remedy="use the form ws://host:port in ACP_AGENT_URL"
            ) from None
        except InvalidStatus as error:
            status = error.response.status_code
            if status in (401, 403):
                raise self._login(f"HTTP status {status}") from None
            raise self._gone(f"HTTP status {status}") from None
        except (OSError, InvalidHandshake, WebSocketException, TimeoutError) as error:
            raise self._gone(_said(error)) from None
        answer = self._ask(
            "initialize",
            {
                "protocolVersion": PROTOCOL,
                "clientCapabilities": {
                    "fs": {"readTextFile": False, "writeTextFile": False},
                    "terminal": False,
                },
                "clientInfo": {"name": "tandem", "title": "tandem", "version": "1"},
            },
            until,
        )
        if answer.get("protocolVersion") != PROTOCOL:
            self.close()
            raise AgentRefused(
                f"the agent at {self.address} speaks version {answer.get('protocolVersion')!r} of the Agent Client"
                f" Protocol, not {PROTOCOL}",
                remedy=f"give it a version that speaks {PROTOCOL}",
            )
        info = answer.get("agentInfo")
        self.info = info if isinstance(info, dict) else {}

    def new_session(self, cwd: str, meta: Params, within_s: float) -> str:
        """Make a session that works in a folder. Returns the agent's id of it.

        meta: goes along as `_meta`. An agent that finds an idempotency key there that it knows gives the same session.
        """
        answer = self._call("session/new", {"cwd": cwd, "mcpServers": [], "_meta": dict(meta)}, within_s)
        made = answer.get("sessionId")
        if not isinstance(made, str) or not made:
            raise SessionRefused(
                "the agent answered session/new without a sessionId", remedy="see the agent's log"
            )
        return made

    def extension(self, method: str, params: Params, within_s: float) -> Mapping[str, Any]:
        """Call one of the agent's own methods, whose name begins with `_`."""
        return self._call(method, params, within_s)

    # -- JSON-RPC -------------------------------------------------------------------------------------------------
    def _call(self, method: str, params: Params, within_s: float) -> Mapping[str, Any]:
        until = time.monotonic() + within_s
        self.initialize(within_s)
        return self._ask(method, params, min(until, time.monotonic() + self._answer_s))

    def _ask(self, method: str, params: Params, until: float) -> Mapping[str, Any]:
        """Send a request and wait for its answer. The connection is closed after anything but an answer."""
        assert self._socket is not None
        self._serial += 1
        request = {"jsonrpc": "2.0", "id": self._serial, "method": method, "params": params}
        try:
            self._socket.send(json.dumps(request, separators=(",", ":")))
            answer = self._answer(self._socket, method, until)
        except (OSError, ConnectionClosed, WebSocketException) as error:
            self.close()
            raise self._gone(f"the connection was lost in {method}: {_said(error)}") from None
        except (ServerGone, Stopped):
            self.close()
            raise
        if (refusal := answer.get("error")) is not None:
            raise self._refused(method, refusal)
        result = answer.get("result")
        return result if isinstance(result, dict) else {}

    def _answer(self, socket: ClientConnection, method: str, until: float) -> Mapping[str, Any]:
        """The answer to the last request. What the agent tells meanwhile is passed over, what it asks is refused."""
        while True:
            if self._stopped():
                raise Stopped("told to stop", remedy="run it again, it goes on where it was")
            if (left := until - time.monotonic()) <= 0:
                raise self._gone(f"no answer to {method} in time")
            try:
                frame = socket.recv(timeout=min(left, _LOOK_EVERY_S))
            except TimeoutError:
                continue
            try:
                message = json.loads(frame)
            except ValueError:
                raise self._gone(f"what it sent in {method} is not JSON") from None
            if not isinstance(message, dict):
                continue
            if "method" in message:
                if message.get("id") is not None:
                    socket.send(json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": _NO_METHOD}))
            elif message.get("id") == self._serial:
                return message

    def _refused(self, method: str, error: object) -> AgentRefused | SessionRefused | AgentFailed:
        """By the error's code. Its `data` is not shown: it may quote the conversation."""
        known = error if isinstance(error, dict) else {}
        code, said = known.get("code"), str(known.get("message", ""))[:200]
        if code == _LOGIN:
            return self._login(said)
        what = f"the agent refuses {method}: {said} (code {code})"
        if code in _FOR_GOOD:
            return SessionRefused(
                what, remedy="see the agent's log; sessions.restore_method names its method"
            )
        return AgentFailed(what, remedy="it is tried again; see the agent's log")

    def _login(self, said: str) -> AgentRefused:
        return AgentRefused(
            f"the agent at {self.address} wants a login: {said}",
            remedy="give its token by TANDEM_SESSIONS__AGENT_TOKEN or sessions.agent_token_file",
        )

    def _gone(self, said: str) -> ServerGone:
        return ServerGone(
            f"the agent at {self.address} cannot be reached: {said}",
            remedy="start the agent, or correct ACP_AGENT_URL",
        )


def _said(error: Exception) -> str:
    if isinstance(error, ConnectionClosed):
        close = error.rcvd or error.sent
        return f"closed with {close.code} {close.reason}".strip() if close else "closed without a word"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__
