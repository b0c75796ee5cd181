"""A dashboard on made-up numbers: what its servers would say, and the page served on a real port."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sync.dashboard.access import Access
from sync.dashboard.feed import About, Feed, Sources
from sync.dashboard.quiet import Quiet
from sync.dashboard.serve import listen, serve, url_of
from sync.dashboard.server import Actions

Doc = dict[str, Any]
TOKEN = "correct-horse-battery-staple"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def lag(**changed: Any) -> Doc:
    """A look at a pipeline that keeps up."""
    collections = [
        {"name": name, "table": f"public.{name}", "phase": "streaming", "records": 1, "seconds": 0.3}
        | {"parked": 0, "records_in": 12.0, "records_out": 11.5}
        for name in ("users", "teams")
    ]
    return {
        "at": "2026-01-01T00:00:00.000+00:00",
        "wal_bytes": 1_234,
        "records": 7,
        "seconds": 0.4,
        "parked": 0,
        "unknown": {},
        "rates": {"wal_bytes_in": 5_000.0, "records_in": 24.0, "records_out": 23.0},
        "catch_up": {"state": "caught_up", "seconds": 0.0},
        "slot": {
            "active": True,
            "wal_status": "reserved",
            "retained_bytes": 20_000_000,
            "growth": 10.0,
            "limit": "disk",
            "left_bytes": 5_000_000_000,
            "full_in_seconds": 5e8,
        },
        "collections": collections,
        **changed,
    }


def verified(**changed: Any) -> Doc:
    """A verification that agreed five minutes ago."""
    return {
        "ok": True,
        "age_s": 300.0,
        "coverage": 1.0,
        "differences": 0,
        "lsn": "0/1000",
        "until": "0/2000",
        "mapping": True,
        **changed,
    }


def status(**changed: Any) -> Doc:
    """Every component in order."""
    names = ("PostgreSQL", "Connect", "MongoDB", "Kafka", "consumers")
    return {
        "ok": True,
        "components": [{"name": name, "ok": True, "what": f"{name} answers"} for name in names],
        "parked": {"rows": 0, "classes": {}, "oldest": None},
        "lag": {"wal_bytes": 1_234, "records": 7, "parked": 0},
        "verification": {"last": verified(), "whole": verified()},
        "collections": [
            {"name": name, "table": f"public.{name}", "phase": "streaming", "documents": 2_000}
            | {"behind": 1, "chunks": 4, "chunks_done": 4}
            for name in ("users", "teams")
        ],
        **changed,
    }


@dataclass
class Fake:
    """What is asked of it is counted; each answer may be changed, or raise."""

    lag: Doc | Exception = field(default_factory=lag)
    status: Doc | Exception = field(default_factory=status)
    parked: list[Doc] | Exception = field(default_factory=list)
    control: Doc | None = None
    retried: Doc | Exception = field(
        default_factory=lambda: {"ok": True, "counts": {"healed": 1}, "rows": []}
    )
    looks: int = 0
    asked: list[Any] = field(default_factory=list)
    told: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)
    closed: bool = False

    def sources(self) -> Sources:
        return Sources(self._lag, self._status, self._parked, close=self._close)

    def actions(self) -> Actions:
        def retry(keys: Sequence[str] | None) -> Doc:
            self.asked.append(("retry", keys))
            return _said(self.retried)

        def control(action: str, limits: Mapping[str, Any]) -> Doc:
            self.asked.append((action, dict(limits)))
            return {"ok": True}

        return Actions(retry, control)

    def log(self, message: str, **facts: object) -> None:
        self.told.append((message, facts))

    @property
    def logged(self) -> str:
        """All of it, as one text."""
        return "\n".join(f"{message} {dict(facts)}" for message, facts in self.told)

    def feed(self, quiet: Quiet | None = None, *, writes: bool = True, every_s: float = 0.05) -> Feed:
        about = About("tandem", writes=writes, control=self.control is not None)
        return Feed(
            self.sources(), about, quiet or Quiet(self.log), look_every_s=every_s, status_every_s=every_s
        )

    def _lag(self) -> Doc:
        self.looks += 1
        return _said(self.lag)

    def _status(self) -> Doc:
        return {**_said(self.status), "control": self.control}

    def _parked(self, most: int) -> list[Doc]:
        if isinstance(self.parked, Exception):
            raise self.parked
        return self.parked[:most]

    def _close(self) -> None:
        self.closed = True


def _said(answer: Doc | Exception) -> Doc:
    if isinstance(answer, Exception):
        raise answer
    return answer


@dataclass
class Served:
    """A page that is served by a thread of this process."""

    url: str
    port: int
    feed: Feed
    fake: Fake
    ended: threading.Event


@contextmanager
def served(
    fake: Fake, token: str | None = TOKEN, *, port: int = 0, every_s: float = 0.05, **kw: Any
) -> Iterator[Served]:
    """Serve it until the end of the block, and see that it ends."""
    quiet = Quiet(fake.log)
    feed = fake.feed(quiet, writes=token is not None, every_s=every_s)
    bound = listen("127.0.0.1", port)
    begun, ended = threading.Event(), threading.Event()
    end: list[Any] = []

    def began(ending: Any) -> None:
        end.append(ending)
        begun.set()

    def work() -> None:
        serve(bound, feed, fake.actions(), Access(token, True), quiet, began, **kw)
        ended.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert begun.wait(10)
    try:
        yield Served(url_of(bound), bound.getsockname()[1], feed, fake, ended)
    finally:
        end[0]()
        assert ended.wait(5), "the dashboard did not end"
        thread.join()
        bound.close()
