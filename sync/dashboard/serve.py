"""Listens and serves until told to end, with open pages or without."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import Scope

from connectors.errors import AddressRefused
from sync.dashboard.access import Access
from sync.dashboard.feed import Feed
from sync.dashboard.quiet import Forwarded, Quiet
from sync.dashboard.server import Actions, application
from sync.dashboard.stream import TAKEN_WITHIN_S

#: after the feed has ended, how long answers that are under way may take
_GRACE_S = 1


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. port 0: any that is free. Raises AddressRefused."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise AddressRefused(
            f"there is no address {host}: {error.strerror}",
            remedy="give an address of this machine with --host",
        ) from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(128)
    except OSError as error:
        bound.close()
        remedy = "give an address of this machine with --host, and a port above 1023 with --port"
        if error.errno == errno.EADDRINUSE:
            remedy = f"end what listens there (`ss -ltnp 'sport = :{port}'` names it), or give another port:"
            remedy += " --port 0 takes any that is free"
        raise AddressRefused(f"cannot listen on {host}:{port}: {error.strerror}", remedy=remedy) from None
    return bound


def url_of(bound: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if bound.family is socket.AF_INET6 else f"http://{host}:{port}"


def serve(
    bound: socket.socket,
    feed: Feed,
    actions: Actions,
    access: Access,
    quiet: Quiet,
    began: Callable[[Callable[[], None]], None] = lambda _: None,
    taken_within_s: float = TAKEN_WITHIN_S,
    metrics: Callable[[], bytes] = lambda: b"",
) -> None:
    """Serve until SIGTERM or Ctrl-C. began: told how to end it otherwise, from any thread."""
    _quieten(quiet)
    asyncio.run(_serve(bound, feed, actions, access, quiet, began, taken_within_s, metrics))


async def _serve(
    bound: socket.socket,
    feed: Feed,
    actions: Actions,
    access: Access,
    quiet: Quiet,
    began: Callable[[Callable[[], None]], None],
    taken_within_s: float,
    metrics: Callable[[], bytes],
) -> None:
    loop = asyncio.get_running_loop()
    app = application(
        feed,
        actions,
        access,
        quiet,
        drop=lambda scope: server.drop(scope),
        taken_within_s=taken_within_s,
        metrics=metrics,
    )
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        http="h11",
        ws="none",
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_S,
        limit_concurrency=256,
    )
    server = _Server(config, lambda: loop.call_soon_threadsafe(feed.close))
    await feed.start()
    began(server.end)
    try:
        await server.serve([bound])
    finally:
        if not feed.closed:
            feed.close()
        await asyncio.to_thread(feed.join)


class _Server(uvicorn.Server):
    """uvicorn's, which would wait for pages that never end by themselves, and end by its signal in the end."""

    def __init__(self, config: uvicorn.Config, ending: Callable[[], object]) -> None:
        super().__init__(config)
        self._ending = ending

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Asked twice, it ends at once."""
        self.force_exit = self.should_exit
        self.end()

    def end(self) -> None:
        """Tell the pages, and stop."""
        self.should_exit = True
        self._ending()

    def drop(self, scope: Scope) -> None:
        """Cut the connection of a page: closing it in order would wait for what the page does not take."""
        for connection in list(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None and getattr(connection, "client", None) == scope.get("client"):
                transport.abort()


def _quieten(quiet: Quiet) -> None:
    """uvicorn's own words go the way of all others, once a minute and without tracebacks."""
    for name in ("uvicorn", "uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.setLevel(logging.WARNING)
        logger.handlers = [Forwarded(quiet)] if name != "uvicorn" else []
