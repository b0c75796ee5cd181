"""`/events`: the same bytes for every page, and no page may make the others wait or this process grow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sync.dashboard.answers import refusal
from sync.dashboard.feed import Feed, event
from sync.dashboard.quiet import Quiet

#: open pages at once; each is one connection and nothing else
PAGES = 64
#: a page that does not take an event for so long is dropped; it comes back by itself when it lives
TAKEN_WITHIN_S = 10.0
_RETRY = b"retry: 2000\n\n"
_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store"}


class Events:
    """The route. drop: ends a page's connection at once, without waiting until it has taken what was sent."""

    def __init__(
        self,
        feed: Feed,
        quiet: Quiet,
        drop: Callable[[Scope], None] = lambda _: None,
        taken_within_s: float = TAKEN_WITHIN_S,
    ) -> None:
        self._feed, self._quiet, self._drop, self._within = feed, quiet, drop, taken_within_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One page, until it goes."""
        if scope["method"] == "HEAD":
            await Response(headers=_HEADERS)(scope, receive, send)
            return
        if self._feed.watched >= PAGES:
            full = refusal(503, "TooManyPages", f"{PAGES} pages are open", "close some", {"retry-after": "5"})
            await full(scope, receive, send)
            return
        gone = asyncio.create_task(_gone(receive))
        self._feed.watched += 1
        try:
            await self._stream(gone, send)
        except TimeoutError:
            self._quiet.tell("slow page", "a page that did not take its events was dropped")
            self._drop(scope)
            await asyncio.sleep(0)  # the server hears of it before it is told that this answer ends here
        finally:
            self._feed.watched -= 1
            gone.cancel()

    async def _stream(self, gone: asyncio.Task[None], send: Send) -> None:
        headers = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def out(content: bytes, more: bool = True) -> None:
            # one event is under way at most: what comes meanwhile is not kept, the newest is sent next
            body = {"type": "http.response.body", "body": content, "more_body": more}
            await asyncio.wait_for(send(body), self._within)

        number = self._feed.number  # of a frame that is as old as the last page that was open
        await out(_RETRY + event(self._feed.state()))
        while (frame := await self._feed.after(number, gone)) is not None:
            number = frame.number
            await out(frame.content)
        await out(b"", more=False)


async def _gone(receive: Receive) -> None:
    """Returns when the page has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
