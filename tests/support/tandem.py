"""The command `tandem` as a process of its own, under the names of one test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support import warm
from tests.support.stack import Own

ACP_MAPPING = Path(__file__).parents[2] / "examples" / "acp" / "mapping.yaml"


class Tandem:
    """Runs the command for one test. limits: `TANDEM_LIMITS__...` and other settings beside the test's names."""

    def __init__(self, own: Own, folder: Path, mapping: Path = ACP_MAPPING, **settings: str) -> None:
        self.own, self.folder, self.mapping = own, folder, mapping
        self.environ = {**os.environ, **own.environ(), **settings}
        self._started = 0

    def run(
        self, *arguments: str, timeout_s: float = 120, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end. With check, anything but exit 0 fails, with what it printed."""
        done = warm.run(
            "sync.cli", self._arguments(arguments), env=self.environ, cwd=self.folder, timeout=timeout_s
        )
        if check and done.returncode:
            raise AssertionError(
                f"tandem {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
            )
        return done

    def json(self, *arguments: str, timeout_s: float = 120, check: bool = True) -> Any:
        """Run with --json; what it printed on stdout."""
        return json.loads(self.run(*arguments, "--json", timeout_s=timeout_s, check=check).stdout)

    @contextmanager
    def started(self, *arguments: str, environ: Mapping[str, str] | None = None) -> Iterator[Process]:
        """Run beside the test; ended afterwards, by SIGKILL if it has to be."""
        self._started += 1
        log = self.folder / f"{arguments[0]}-{self._started}.log"
        with log.open("wb") as out:
            child = warm.started(
                "sync.cli",
                self._arguments(arguments),
                env={**self.environ, **(environ or {})},
                cwd=self.folder,
                stdout=out,
                stderr=out,
            )
        process = Process(child, log)
        try:
            yield process
        finally:
            process.end()

    def _arguments(self, arguments: tuple[str, ...]) -> list[str]:
        return [*arguments, "--mapping", str(self.mapping)]


class Process:
    """A started command and its log."""

    def __init__(self, child: subprocess.Popen[bytes] | warm.Child, log: Path) -> None:
        self.child, self.log = child, log

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.child.poll() is None

    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def kill(self) -> None:
        """SIGKILL: nothing is put in order."""
        self.child.kill()
        self.child.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.child.send_signal(number)

    def terminate(self, within_s: float = 30) -> int:
        """SIGTERM, and its exit code."""
        self.child.terminate()
        return self.child.wait(within_s)

    def end(self) -> None:
        """Whatever state it is in."""
        if self.alive:
            self.child.send_signal(signal.SIGCONT)
            self.child.terminate()
            try:
                self.child.wait(15)
            except subprocess.TimeoutExpired:
                self.child.kill()
        self.child.wait()
