"""Where the embedded stack lives: its home, what the home remembers, its ports, the shared cache."""

from __future__ import annotations

import fcntl
import json
import os
import random
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from connectors.errors import SettingsInvalid, StackFailed

#: Below the range from which Linux takes the ports of outgoing connections (32768 and up by default): a
#: remembered port is then not lost to one of those while the stack is down.
PORT_RANGE = range(15_000, 32_000)

#: Java splits class paths at ":", Kafka its folder settings at ","; "\" and line ends are property syntax.
_UNFIT = {",", ":", "\\", "\n", "\r", "*", "%"}


@dataclass(frozen=True)
class Ports:
    """One port on 127.0.0.1 each. controller: Kafka's own, which no client needs."""

    postgres: int
    kafka: int
    controller: int
    connect: int
    mongo: int


@dataclass(frozen=True)
class Remembered:
    """What the first start chose and every later one keeps. pgdata: not always below the home."""

    ports: Ports
    pgdata: Path

    def as_text(self) -> str:
        """The note, as it lies in the home."""
        return (
            json.dumps({"version": 1, "ports": asdict(self.ports), "pgdata": str(self.pgdata)}, indent=2)
            + "\n"
        )

    @classmethod
    def from_text(cls, text: str) -> Remembered:
        """The note read back. Raises ValueError for anything else."""
        try:
            content = json.loads(text)
            return cls(Ports(**{k: int(v) for k, v in content["ports"].items()}), Path(content["pgdata"]))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not a note of this stack: {error}") from None


@dataclass(frozen=True)
class Home:
    """The folder of one stack. Nothing else of ours is touched by `down --purge`."""

    root: Path

    @property
    def note(self) -> Path:
        return self.root / "stack.json"

    @property
    def conf(self) -> Path:
        return self.root / "conf"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def kafka(self) -> Path:
        return self.root / "kafka"

    @property
    def mongo(self) -> Path:
        return self.root / "mongo"

    @property
    def pgdata(self) -> Path:
        return self.root / "postgres"

    def record(self, component: str) -> Path:
        """Where the process of a component is recorded."""
        return self.run / f"{component}.json"

    def log_of(self, component: str) -> Path:
        return self.log / f"{component}.log"

    def remembered(self) -> Remembered | None:
        """What the first start chose; None before it. Raises StackFailed when the note is damaged."""
        try:
            return Remembered.from_text(self.note.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StackFailed(
                f"{self.note} cannot be read: {error}",
                remedy="move it away, together with the folder it is in, and run `tandem dev up` again",
            ) from None

    def remember(self, remembered: Remembered) -> None:
        """Keep the choice: whole or not at all."""
        write_whole(self.note, remembered.as_text())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One command at a time changes this stack; a second one waits."""
        self.root.mkdir(parents=True, exist_ok=True)
        with locked(self.root / ".lock"):
            yield


def home_at(path: Path | str) -> Home:
    """The home at that path, made absolute. Raises SettingsInvalid for a path the servers cannot take."""
    root = fit(Path(path), "the home of the embedded stack")
    if root == Path("/"):
        raise SettingsInvalid(
            "/ cannot be the home of the embedded stack", remedy="name a folder with --home DIR"
        )
    return Home(root)


def fit(path: Path, what: str) -> Path:
    """The absolute path. Raises SettingsInvalid when Java or Kafka would misread it."""
    try:
        absolute = path.expanduser().resolve()
    except RuntimeError as error:
        raise SettingsInvalid(f"{what}: {error}", remedy="name a folder by its full path") from None
    if bad := sorted(_UNFIT & set(str(absolute))):
        raise SettingsInvalid(
            f"{what} may not have any of {', '.join(map(repr, bad))} in its path: {absolute}",
            remedy="name another folder",
        )
    return absolute


def default_home(environ: Mapping[str, str] | None = None) -> Path:
    """TANDEM_HOME, else ~/.tandem."""
    environ = os.environ if environ is None else environ
    return Path(environ.get("TANDEM_HOME") or "~/.tandem")


def default_cache(environ: Mapping[str, str] | None = None) -> Path:
    """Where downloads are kept for all homes: TANDEM_CACHE, else ~/.cache/tandem."""
    environ = os.environ if environ is None else environ
    return Path(environ.get("TANDEM_CACHE") or "~/.cache/tandem")


def pick_ports(is_free: Callable[[int], bool], draw: random.Random, avoid: Collection[int] = ()) -> Ports:
    """Five different ports that nobody listens on. At random, so that two first starts do not meet."""
    chosen: list[int] = []
    for port in draw.sample(PORT_RANGE, len(PORT_RANGE)):
        if port not in avoid and is_free(port):
            chosen.append(port)
        if len(chosen) == 5:
            return Ports(*chosen)
    raise StackFailed(
        f"no five free ports between {PORT_RANGE.start} and {PORT_RANGE.stop - 1}", remedy="stop some servers"
    )


def repick(
    ports: Ports, taken: Collection[str], is_free: Callable[[int], bool], draw: random.Random
) -> Ports:
    """The same ports with new ones for the names in `taken`."""
    fresh = pick_ports(is_free, draw, avoid=set(asdict(ports).values()))
    return replace(ports, **{name: getattr(fresh, name) for name in taken})


def port_is_free(port: int) -> bool:
    """True when a server could listen there now. Connections that are still closing do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on that file; the kernel lets go of it when the holder dies."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file, path):  # removed by the holder that was waited for
                continue
            yield
            return


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def write_whole(path: Path, text: str) -> None:
    """Replace the file by this text: a reader or a crash finds the old one or the new one, never a half."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
