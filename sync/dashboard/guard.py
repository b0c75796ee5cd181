"""Stands before every route: the Host header, the headers that every answer has, and a line for what was refused."""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sync.dashboard.access import Access
from sync.dashboard.answers import refusal
from sync.dashboard.quiet import Quiet

#: everything from here, nothing inline, no frame around it, no text made into elements
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """known: the paths that may stand in a log; any other may hold whatever somebody typed."""

    def __init__(self, app: ASGIApp, access: Access, quiet: Quiet, known: Collection[str]) -> None:
        self._app, self._access, self._quiet, self._known = app, access, quiet, frozenset(known)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let it through, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def out(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message["headers"])
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        try:
            await self._answer(scope, receive, out)
        except Exception as error:  # a traceback holds values; what it is called is enough to report it
            kind = type(error).__name__
            self._quiet.tell(f"broken {kind}", "a request met an error that tandem does not know", error=kind)
            if not status:
                await refusal(500, "Broken", f"tandem met an error that it does not know: {kind}")(
                    scope, receive, out
                )
        if status >= 400:
            path = scope["path"] if scope["path"] in self._known else "an unknown path"
            method = scope["method"] if scope["method"] in _METHODS else "another method"
            peer = scope.get("client") or ("?",)
            self._quiet.tell(
                f"{status} {method} {path}",
                "request refused",
                status=status,
                what=f"{method} {path}",
                by=peer[0],
            )

    async def _answer(self, scope: Scope, receive: Receive, out: Send) -> None:
        host = Headers(scope=scope).get("host", "")
        if self._access.knows_host(host):
            await self._app(scope, receive, out)
            return
        answer: Response = refusal(
            421,
            "UnknownHost",
            "this name is not this server's",
            "open it as http://127.0.0.1 or http://localhost",
        )
        await answer(scope, receive, out)


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
