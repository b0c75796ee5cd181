"""A real agent on a WebSocket: the published agent-client-protocol library behind uvicorn, with faults at wish."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import uvicorn
from acp import PROTOCOL_VERSION, RequestError
from acp.http.asgi import create_asgi_app
from acp.schema import Implementation, InitializeResponse, NewSessionResponse

from tests.support.until import until

TOKEN = "xyzzy-secret-agent-token"
RESTORE = "_tandem/restore_conversation"
_LINE: ContextVar[Line] = ContextVar("line")


class Line:
    """One WebSocket: cut when the agent says so."""

    def __init__(self) -> None:
        self.cut = asyncio.Event()


class TestAgent:
    """Takes sessions; knows an idempotency key again. faults: by user, what goes wrong with the next calls, in turn:
    drop (the line is cut before anything is done), lost (it is done, and the line cut before the answer), late
    (answered after late_s), error (an error of its own), refuse (for good), ask (it first asks the client something).
    """

    __test__ = False

    def __init__(self, token: str | None = None, *, late_s: float = 3) -> None:
        self.token, self.late_s, self.version = token, late_s, PROTOCOL_VERSION
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.by_key: dict[str, str] = {}
        self.cwd: dict[str, str] = {}
        self.user: dict[str, str] = {}
        self.restored: dict[str, list[Any]] = {}
        self.calls: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self.url = ""

    def on_connect(self, _: Any) -> None:
        self.calls["connections"] += 1

    async def initialize(self, protocol_version: int, **_: Any) -> InitializeResponse:
        return InitializeResponse(
            protocol_version=self.version, agent_info=Implementation(name="test agent", version="7")
        )

    async def new_session(self, cwd: str, tandem: dict[str, str], **_: Any) -> NewSessionResponse:
        self.calls["session/new"] += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            key, user = tandem["idempotencyKey"], tandem["userId"]
            fault = await self._before(user)
            made = self.by_key.setdefault(key, f"acp-{len(self.by_key) + 1}")
            self.cwd[made], self.user[made] = cwd, user
            await self._after(fault)
            await asyncio.sleep(0.02)
            return NewSessionResponse(session_id=made)
        finally:
            self.at_once -= 1

    async def ext_method(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self.calls[f"_{method}"] += 1
        if f"_{method}" != RESTORE:
            raise RequestError.method_not_found(f"_{method}")
        made = params["sessionId"]
        fault = await self._before(self.user[made])
        self.restored[made] = params["messages"]
        await self._after(fault)
        return {}

    async def _before(self, user: str) -> str:
        fault = self.faults[user].pop(0) if self.faults[user] else ""
        if fault == "drop":
            await self._cut()
        elif fault == "error":
            raise RequestError.internal_error()
        elif fault == "refuse":
            raise RequestError.invalid_params({"why": "a quota"})
        return fault

    async def _after(self, fault: str) -> None:
        if fault == "lost":
            await self._cut()
        elif fault == "late":
            await asyncio.sleep(self.late_s)

    @staticmethod
    async def _cut() -> None:
        _LINE.get().cut.set()
        await asyncio.sleep(3600)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The library's ASGI application, with a line that can be cut and a door that wants the token."""
        if scope["type"] != "websocket":
            return
        given = dict(scope["headers"]).get(b"authorization", b"").decode()
        if self.token is not None and given != f"Bearer {self.token}":
            await receive()
            await send({"type": "websocket.close"})  # before it is accepted: HTTP 403
            return
        line = Line()
        _LINE.set(line)

        async def hear() -> Any:
            heard, cut = asyncio.ensure_future(receive()), asyncio.ensure_future(line.cut.wait())
            await asyncio.wait({heard, cut}, return_when=asyncio.FIRST_COMPLETED)
            if line.cut.is_set():
                heard.cancel()
                await send({"type": "websocket.close", "code": 1011})
                return {"type": "websocket.disconnect"}
            cut.cancel()
            return heard.result()

        async def say(message: Any) -> None:
            if not line.cut.is_set():
                await send(message)

        await create_asgi_app(lambda _: self)(scope, hear, say)  # type: ignore[arg-type,return-value]


@contextmanager
def serving(agent: TestAgent, port: int = 0) -> Iterator[uvicorn.Server]:
    """The agent on a port of its own, in a thread; `kill` on the server ends it as a crash does."""
    listening = socket.create_server(("127.0.0.1", port))
    agent.url = f"ws://127.0.0.1:{listening.getsockname()[1]}/acp"
    config = uvicorn.Config(agent, log_level="critical", lifespan="off", timeout_graceful_shutdown=0)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        yield server
    finally:
        kill(server)
        thread.join(10)
        listening.close()
        assert not thread.is_alive()


def kill(server: uvicorn.Server) -> None:
    """End it without a word."""
    server.should_exit = server.force_exit = True
