"""Questions to a server that may hang. Their threads are daemons: what hangs does not keep a process from ending."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError
from contextlib import suppress
from typing import Generic, TypeVar

from connectors.errors import SyncError

#: so long one server is waited for at one look
PATIENCE_S = 2.5
Answer = TypeVar("Answer")


class Asked(Generic[Answer]):
    """One server, asked from threads of its own, one after the other. close: what to do after an error, and at the
    end."""

    def __init__(
        self, name: str, question: Callable[[], Answer], close: Callable[[], None] = lambda: None
    ) -> None:
        self.name, self._question, self._close = name, question, close
        self._pending: Future[Answer] | None = None
        self._since = 0.0

    def ask(self, patience_s: float = PATIENCE_S) -> tuple[Answer | None, str]:
        """The answer, or None and the reason. One that has not answered is not asked again before it does."""
        try:
            return self.demand(patience_s)
        except SyncError as error:
            return None, error.what
        except Exception as error:  # of a driver, or of ours: this part is unknown, the others are not
            return None, f"{self.name} cannot be asked: {type(error).__name__}: {error}"

    def begin(self) -> None:
        """Ask, and do not wait. Nothing where an earlier question hangs."""
        if self._pending is None or self._pending.done():
            self._since = time.monotonic()
            self._pending = Future()
            threading.Thread(
                target=self._answer, args=(self._pending,), daemon=True, name=f"ask {self.name}"
            ).start()

    def demand(self, patience_s: float = PATIENCE_S) -> tuple[Answer | None, str]:
        """The same as `ask`. Raises what the server raises."""
        if self._pending is not None and not self._pending.done():
            return None, self._late()
        self._pending = None  # too late to be true now
        self.begin()
        return self.wait(patience_s)

    def wait(self, patience_s: float) -> tuple[Answer | None, str]:
        """The answer to what has begun. Raises what the server raises."""
        assert self._pending is not None
        try:
            return self._pending.result(patience_s), ""
        except TimeoutError:
            return None, self._late()

    def _late(self) -> str:
        return f"{self.name} has not answered for {max(1.0, time.monotonic() - self._since):.0f} s"

    def _answer(self, pending: Future[Answer]) -> None:
        try:
            pending.set_result(self._question())
        except BaseException as error:
            with suppress(Exception):
                self._close()  # by a new connection the next time
            pending.set_exception(error)

    def close(self) -> None:
        """Close, unless it hangs: then the end of the process does."""
        if self._pending is None or self._pending.done():
            with suppress(Exception):
                self._close()
