"""Progress of one long step: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from sync.cli.output import Barred, err

_EVERY_S = 5.0


class StepProgress(Barred):
    """unit: what is counted, such as `sessions`. Called with how much is done; total None: not known."""

    def __init__(self, what: str, unit: str) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._what, self._unit, self._said = what, unit, time.monotonic()
        super().__init__(
            Progress(
                TextColumn("{task.description:>16}"),
                BarColumn(),
                TextColumn("{task.fields[said]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=err,
            )
        )
        self._tasks: dict[str, int] = {}

    def __call__(self, done: float, total: float | None, more: str = "", part: str = "") -> None:
        """Show how far it is. part: which of several, each with a bar of its own. more: what else is to be told."""
        part = part or self._what
        of = f"/{total:,.0f}" if total else ""
        said = f"{done:,.0f}{of} {self._unit}" + (f", {more}" if more else "")
        if err.is_terminal:
            if part not in self._tasks:
                self._tasks[part] = self._bars.add_task(part, total=total, said="")
            self._bars.update(self._tasks[part], completed=done, total=total, said=said)  # type: ignore[arg-type]
        elif time.monotonic() - self._said > _EVERY_S:
            self._said = time.monotonic()
            err.print(f"{part}: {said}")


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set: the step ends where it can be taken up again. A second one ends it at
    once."""
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            signal.default_int_handler(number, frame)
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
