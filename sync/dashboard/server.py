"""The routes: the page, its document, its events, and the few things that it may change."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from connectors.errors import SyncError
from sync.dashboard.access import Access, Right
from sync.dashboard.answers import Refusal, json_answer, refusal, refused
from sync.dashboard.feed import Feed
from sync.dashboard.guard import Guard
from sync.dashboard.quiet import Quiet
from sync.dashboard.stream import TAKEN_WITHIN_S, Events

#: of a request that changes something
BODY_BYTES = 64_000
_BODY_WITHIN_S = 5.0
_KEYS = 500
_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
#: Prometheus documentation, "Exposition formats"
_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"
CONTROLS = ("pause", "resume", "throttle")


@dataclass(frozen=True, slots=True)
class Actions:
    """What a page with the token may do. retry: these keys, or all. control: None: there is nothing to steer."""

    retry: Callable[[Sequence[str] | None], Mapping[str, Any]]
    control: Callable[[str, Mapping[str, Any]], Mapping[str, Any]] | None = None


def page_files() -> dict[str, tuple[bytes, str]]:
    """The page's own files by path, with their types; read once."""
    found = {}
    for file in sorted(resources.files("sync.dashboard").joinpath("page").iterdir(), key=lambda f: f.name):
        kind = _TYPES.get(file.name.rpartition(".")[2])
        if kind and file.is_file():
            path = "/" if file.name == "index.html" else f"/{file.name}"
            found[path] = (file.read_bytes(), kind)
    return found


def build_of(files: Mapping[str, tuple[bytes, str]]) -> str:
    """Names what the page is made of, so that an open one notices that it was replaced."""
    whole = hashlib.sha256()
    for path, (content, _) in files.items():
        whole.update(path.encode() + b"\0" + content)
    return whole.hexdigest()[:12]


def application(
    feed: Feed,
    actions: Actions,
    access: Access,
    quiet: Quiet,
    *,
    drop: Callable[[Scope], None] = lambda _: None,
    taken_within_s: float = TAKEN_WITHIN_S,
    metrics: Callable[[], bytes] = lambda: b"",
) -> ASGIApp:
    """All of it. The feed is started and closed by whoever serves this. metrics: as Prometheus reads them."""
    desk = _Desk(feed, actions, access)
    files = page_files()
    routes = [Route(path, _file(content, kind), methods=["GET"]) for path, (content, kind) in files.items()]
    routes += [
        Route("/api/state", lambda _: json_answer(feed.state()), methods=["GET"]),
        Route("/events", Events(feed, quiet, drop, taken_within_s), methods=["GET"]),
        Route("/metrics", lambda _: Response(metrics(), media_type=_EXPOSITION), methods=["GET"]),
        Route("/api/token", desk.token, methods=["POST"]),
        Route("/api/retry", desk.retry, methods=["POST"]),
        Route("/api/control", desk.control, methods=["POST"]),
    ]
    handlers: Any = {HTTPException: _no_such, Refusal: lambda _, error: error.answer, Exception: _broken}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Guard(app, access, quiet, [route.path for route in routes])


def _file(content: bytes, kind: str) -> Callable[[Request], Response]:
    etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"etag": etag, "cache-control": "no-cache"}

    def serve(request: Request) -> Response:
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=kind)

    return serve


async def _no_such(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {
        404: ("NotFound", "there is no such page"),
        405: ("WrongMethod", "this page takes another method"),
    }
    code, what = codes.get(error.status_code, ("Refused", str(error.detail)))
    return refusal(error.status_code, code, what, headers=error.headers)


async def _broken(_: Request, error: Exception) -> Response:
    # Starlette raises it once more after this; the guard tells it
    return refusal(500, "Broken", f"tandem met an error that it does not know: {type(error).__name__}")


class _Desk:
    """Requests that change something: the right first, then the body, then one at a time."""

    def __init__(self, feed: Feed, actions: Actions, access: Access) -> None:
        self._feed, self._actions, self._access = feed, actions, access
        self._busy = False

    async def token(self, request: Request) -> Response:
        """Whether this token is the right one."""
        self._demand(request)
        return Response(status_code=204)

    async def retry(self, request: Request) -> Response:
        """Try parked rows again: {"keys": [...]}, or {"all": true}."""
        self._demand(request)
        body = await _body(request)
        keys = body.get("keys")
        everything = body.get("all") is True
        named = isinstance(keys, list) and 0 < len(keys) <= _KEYS and all(isinstance(k, str) for k in keys)
        if everything == named or (everything and keys is not None):
            raise Refusal(refusal(400, "BadRequest", 'give {"keys": [...]}, or {"all": true}'))
        return await self._do(lambda: self._actions.retry(None if everything else keys))

    async def control(self, request: Request) -> Response:
        """{"action": "pause" | "resume" | "throttle", ...}"""
        self._demand(request)
        body = await _body(request)
        act, action = self._actions.control, body.get("action")
        if act is None:
            raise Refusal(refusal(404, "NotFound", "there is nothing to steer here"))
        if action not in CONTROLS:
            raise Refusal(refusal(400, "BadRequest", f"action has to be one of: {', '.join(CONTROLS)}"))
        limits = {name: value for name, value in body.items() if name != "action"}
        for name in ("max_ops", "max_lag_s"):
            value = limits.get(name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int | float) or value <= 0
            ):
                raise Refusal(refusal(400, "BadRequest", f"{name} has to be a number above zero, or null"))
        return await self._do(lambda: act(str(action), limits))

    def _demand(self, request: Request) -> None:
        right = self._access.right(request.headers.get("authorization", ""))
        if right is Right.READ_ONLY:
            remedy = "start `tandem dashboard` with --token-file FILE"
            raise Refusal(refusal(403, "ReadOnly", "this dashboard is read-only: it has no token", remedy))
        if right is Right.UNKNOWN:
            remedy = "give the token that the dashboard was started with"
            challenge = {"www-authenticate": "Bearer"}
            raise Refusal(refusal(401, "WrongToken", "the token is missing or wrong", remedy, challenge))

    async def _do(self, act: Callable[[], Mapping[str, Any]]) -> Response:
        if self._busy:
            raise Refusal(
                refusal(409, "Busy", "another change is under way", "repeat it when that has ended")
            )
        self._busy = True
        try:
            return json_answer(await in_thread(act))
        except SyncError as error:
            return refused(error)
        finally:
            self._busy = False
            self._feed.look_early()


async def in_thread(act: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Do it beside the loop, in a thread that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Mapping[str, Any]] = loop.create_future()

    def finish(result: Mapping[str, Any] | None, error: Exception | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result or {})

    def work() -> None:
        result, met = None, None
        try:
            result = act()
        except Exception as error:  # handed over to who waits
            met = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(finish, result, met)

    threading.Thread(target=work, name="dashboard action", daemon=True).start()
    return await done


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object of a request. Raises Refusal: 413, 408, 400."""
    said = request.headers.get("content-length", "0")
    content = b""
    try:
        async with asyncio.timeout(_BODY_WITHIN_S):
            if said.isdigit() and int(said) > BODY_BYTES:
                raise Refusal(_too_large())
            async for part in request.stream():
                content += part
                if len(content) > BODY_BYTES:
                    raise Refusal(_too_large())
    except TimeoutError:
        raise Refusal(refusal(408, "TooSlow", "the request did not come to its end")) from None
    except ClientDisconnect:
        raise Refusal(refusal(400, "BadRequest", "the request was cut off")) from None
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise Refusal(refusal(400, "BadRequest", "this is not JSON")) from None
    if not isinstance(found, dict):
        raise Refusal(refusal(400, "BadRequest", "this is not a JSON object"))
    return found


def _too_large() -> Response:
    return refusal(413, "TooLarge", f"more than {BODY_BYTES:,} bytes", headers={"connection": "close"})
