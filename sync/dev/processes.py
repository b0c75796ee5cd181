"""Processes that outlive the command that started them, known again by pid and time of birth."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from sync.dev.places import write_whole

#: A log longer than this is set aside when its component is started again.
_LOG_BYTES = 20_000_000
#: Children of this very process: their end has to be collected here, by whoever looks.
_children: dict[int, subprocess.Popen[bytes]] = {}
_children_lock = threading.Lock()


@dataclass(frozen=True)
class Account:
    """The user a server runs as when this process is root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Record:
    """One started process. born tells it from a later one with the same pid. ready: it has answered once."""

    pid: int
    born: str
    ready: bool = False

    def save(self, path: Path) -> None:
        write_whole(path, json.dumps(asdict(self)) + "\n")

    @classmethod
    def load(cls, path: Path) -> Record | None:
        """The record in that file; None where there is none, or none that can be read."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(int(content["pid"]), str(content["born"]), bool(content["ready"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    @property
    def alive(self) -> bool:
        """True while it is still this very process and it has not ended."""
        return born(self.pid) == self.born


def born(pid: int) -> str | None:
    """When the process began, in the kernel's own count, whatever the clock does; None once it ended.

    Linux: the boot's id and field 22 of /proc/PID/stat (proc(5)). A process that has ended and was not yet
    collected by its parent is no more. Elsewhere: the time that psutil gives.
    """
    with _children_lock:
        child = _children.get(pid)
        if child is not None and child.poll() is not None:
            del _children[pid]
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        state, *fields = stat.rpartition(")")[2].split()
        return None if state in "ZX" else f"{_boot()}:{fields[18]}"
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.3f}"
    except psutil.NoSuchProcess:
        return None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return "-"


def spawn(
    command: list[str], *, log: Path, environ: Mapping[str, str], account: Account | None = None
) -> Record:
    """Start it in a session of its own, so that it survives this one and the terminal; output to `log`."""
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(log.with_name(log.name + ".1"))
    with log.open("ab") as out:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=dict(environ),
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    began = born(child.pid) or "ended"
    with _children_lock:
        _children[child.pid] = child
    return Record(child.pid, began)


def run(command: list[str], *, log: Path, environ: Mapping[str, str]) -> int:
    """Run it to its end, its output into `log`. Returns its exit code."""
    with log.open("wb") as out:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=dict(environ),
        ).returncode


def end(record: Record, *, gently: signal.Signals, within_s: float = 40) -> bool:
    """End the process and wait until it is gone. False when it had to be killed."""
    if not _signal(record, gently) or gone(record, within_s):
        return True
    kill(record)
    return False


def kill(record: Record) -> None:
    """SIGKILL, and wait until it is gone."""
    if _signal(record, signal.SIGKILL):
        gone(record, 20)


def gone(record: Record, within_s: float) -> bool:
    """Wait for its end. False when it still runs after that time."""
    return wait_until(lambda: not record.alive, within_s)


def wait_until(true: Callable[[], bool], within_s: float, every_s: float = 0.05) -> bool:
    """Wait for a condition, bounded. False when it did not come true."""
    end_at = time.monotonic() + within_s
    while not true():
        if time.monotonic() > end_at:
            return False
        time.sleep(every_s)
    return True


def _signal(record: Record, number: signal.Signals) -> bool:
    """Send it, if the process is still the recorded one. False when there is nobody to send it to."""
    if not record.alive:
        return False
    try:
        os.kill(record.pid, number)
    except ProcessLookupError:
        return False
    return True


def find(command: list[str]) -> Record | None:
    """The running process that has exactly this command line."""
    return next(_running(lambda process: process.cmdline() == command), None)


def working_in(folder: Path, name: str) -> list[Record]:
    """Running processes of that name whose working folder this is."""
    return list(_running(lambda process: process.name() == name and process.cwd() == str(folder)))


def _running(wanted: Callable[[psutil.Process], bool]) -> Iterator[Record]:
    for process in psutil.process_iter():
        try:
            if wanted(process) and (began := born(process.pid)):
                yield Record(process.pid, began)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def listener(port: int) -> str | None:
    """Who listens on that port, as "pid name", where this user may know it."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                return f"{connection.pid} {psutil.Process(connection.pid).name()}" if connection.pid else None
    except (psutil.Error, OSError):
        pass
    return None


def memory_bytes(pid: int) -> int:
    """What the process and its children hold; shared pages are counted once where the kernel tells."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(map(_proportional, family))


def _proportional(process: psutil.Process) -> int:
    try:
        with Path(f"/proc/{process.pid}/smaps_rollup").open(encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):
        pass
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def uptime_s(pid: int) -> float:
    """Seconds since it began; 0 when it is no more."""
    try:
        return max(0.0, time.time() - psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return 0.0


def last_lines(log: Path, count: int = 15) -> str:
    """The end of a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8_000))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-count:])
    except OSError:
        return ""
