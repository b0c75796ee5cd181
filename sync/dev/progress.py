"""What a start shows while it lasts: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text


class Progress(Protocol):
    """Told about parts (a component, or something to install). Called from several threads."""

    def doing(self, part: str, what: str) -> None:
        """This part is now being worked on."""

    def done(self, part: str, what: str) -> None:
        """This part is finished."""


class Silent:
    """Shows nothing."""

    def doing(self, part: str, what: str) -> None: ...

    def done(self, part: str, what: str) -> None: ...


class _Clock:
    def __init__(self) -> None:
        self._began = time.monotonic()
        self._parts: dict[str, float] = {}

    def total_s(self) -> float:
        return time.monotonic() - self._began

    def begin(self, part: str) -> None:
        self._parts.setdefault(part, time.monotonic())

    def took(self, part: str) -> str:
        """The part's seconds; nothing for one that had nothing to do."""
        return f"{time.monotonic() - self._parts[part]:.1f} s" if part in self._parts else ""


class Lines:
    """One line for each thing that is told, with the seconds since the beginning."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._clock = _Clock()
        self._lock = threading.Lock()

    def doing(self, part: str, what: str) -> None:
        self._clock.begin(part)
        self._line(part, what)

    def done(self, part: str, what: str) -> None:
        took = self._clock.took(part)
        self._line(part, f"{what} ({took})" if took else what)

    def _line(self, part: str, what: str) -> None:
        with self._lock:
            print(f"{self._clock.total_s():6.1f} s  {part:<9} {what}", file=self._out, flush=True)


class OnTerminal:
    """A row for each part: turning while it is worked on, ticked with its seconds when it is finished."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._clock = _Clock()
        self._lock = threading.Lock()
        self._rows: dict[str, Spinner | Text] = {}

    def doing(self, part: str, what: str) -> None:
        self._clock.begin(part)
        self._show(part, Spinner("dots", Text.assemble((f"{part:<9} ", "bold"), (what, "dim"))))

    def done(self, part: str, what: str) -> None:
        seconds = f"  {self._clock.took(part)}"
        self._show(part, Text.assemble(("✓ ", "green"), (f"{part:<9} ", "bold"), what, (seconds, "dim")))

    def _show(self, part: str, row: Spinner | Text) -> None:
        with self._lock:
            self._rows[part] = row
            self._live.update(Group(*self._rows.values()))


@contextmanager
def shown(out: TextIO | None = None) -> Iterator[Progress]:
    """The progress display that fits standard error (or `out`)."""
    console = Console(file=out or sys.stderr)
    if not console.is_terminal:
        yield Lines(out or sys.stderr)
        return
    with Live(console=console, refresh_per_second=10) as live:
        yield OnTerminal(live)
