"""Commands as processes of their own that don't load Python and the libraries anew: each is forked from one that has.

A second of processor time is spared for each command, of which the tests start hundreds. `python -m sync.cli` itself is
run by the acceptance tests. TANDEM_TESTS_COLD=1 runs every command so.
"""

from __future__ import annotations

import array
import atexit
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

_LOADED = ("sync.cli", "sync.app", "sync.controller", "tests.support.controller")


class Child:
    """A started command, in the ways of subprocess.Popen that are used here."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        stdout: IO[bytes],
        stderr: IO[bytes],
    ) -> None:
        self.args = [module, *arguments]
        self.returncode: int | None = None
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._line.connect(_Server.address())
        asked = {"module": module, "arguments": list(arguments), "env": dict(env), "cwd": str(cwd)}
        with open(os.devnull, "rb") as nothing:
            fds = array.array("i", [nothing.fileno(), stdout.fileno(), stderr.fileno()])
            self._line.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        self._line.sendall(json.dumps(asked).encode() + b"\n")
        with self._line.makefile("rb", buffering=0) as answers:  # what comes behind the line is for `wait`
            self.pid = int(answers.readline())

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code; -N when a signal has ended it. Raises TimeoutExpired."""
        if self.returncode is None:
            self._line.settimeout(timeout)
            try:
                told = self._line.recv(16)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0) from None
            self.returncode = int(told)
            self._line.close()
        return self.returncode

    def poll(self) -> int | None:
        """Its exit code, when it has ended."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def send_signal(self, number: int) -> None:
        """To a command that has ended: nothing."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)


def started(
    module: str,
    arguments: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    stdout: IO[bytes],
    stderr: IO[bytes],
) -> Child | subprocess.Popen[bytes]:
    """`python -m module arguments`, which reads nothing."""
    if os.environ.get("TANDEM_TESTS_COLD"):
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
        )  # fmt: skip
    return Child(module, arguments, env=env, cwd=cwd, stdout=stdout, stderr=stderr)


def run(
    module: str, arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path, timeout: float
) -> subprocess.CompletedProcess[str]:
    """To its end. Raises TimeoutExpired, having killed it."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = started(module, arguments, env=env, cwd=cwd, stdout=out, stderr=err)
        try:
            code = child.wait(timeout)
        except BaseException:
            child.kill()
            child.wait()
            raise
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess(child.args, code, *texts)


class _Server:
    """The process that has loaded all, one for each test process."""

    _started: tuple[int, str] | None = None

    @classmethod
    def address(cls) -> str:
        """Where it listens. Started when first asked for."""
        if cls._started is None or cls._started[0] != os.getpid():
            folder = tempfile.mkdtemp(prefix="tandem-warm-")
            path = os.path.join(folder, "s")
            read, write = os.pipe()  # the write end is ours: when this process ends, the server reads so
            server = subprocess.Popen(
                [sys.executable, "-m", "tests.support.warm", path, str(read)], pass_fds=[read],
                stdin=subprocess.DEVNULL, cwd=Path(__file__).parents[2],
            )  # fmt: skip
            os.close(read)
            end = time.monotonic() + 60
            while not os.path.exists(path):
                assert server.poll() is None, "the server of warm commands has ended"
                assert time.monotonic() < end, "the server of warm commands does not come up"
                time.sleep(0.02)
            cls._started = (os.getpid(), path)
            atexit.register(cls._end, server, write, folder)
        return cls._started[1]

    @staticmethod
    def _end(server: subprocess.Popen[bytes], write: int, folder: str) -> None:
        os.close(write)
        server.wait(10)
        for name in os.listdir(folder):
            os.unlink(os.path.join(folder, name))
        os.rmdir(folder)


def _serve(path: str, alive: int) -> dict[str, Any]:
    """Fork for each that asks. Returns in the command's process, with what it is to do."""
    import select

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are nobody's
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(path + ".new")
    listening.listen(64)
    os.rename(path + ".new", path)
    while True:
        if alive in select.select([listening, alive], [], [])[0]:
            os._exit(0)
        line, _ = listening.accept()
        if os.fork():
            line.close()
            continue
        listening.close()
        os.close(alive)
        asked = _kept(line)
        if asked is not None:
            return asked
        os._exit(0)


def _kept(line: socket.socket) -> dict[str, Any] | None:
    """Fork the command; tell its pid, and how it ended. None in the process that has waited for it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    fds = array.array("i")
    _, more, _, _ = line.recvmsg(1, socket.CMSG_SPACE(3 * fds.itemsize))
    for _, _, data in more:
        fds.frombytes(data)
    text = b""
    while not text.endswith(b"\n"):
        text += line.recv(1 << 16)
    pid = os.fork()
    if pid:
        for fd in fds:
            os.close(fd)
        line.sendall(b"%d\n" % pid)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with suppress(OSError):  # nobody waits any more
            line.sendall(b"%d" % code)
        return None
    line.close()
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
    for fd in fds:
        os.close(fd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return dict(json.loads(text))


def _main() -> None:
    import importlib

    for name in _LOADED:
        importlib.import_module(name)
    gc.freeze()  # what is loaded is never looked through, nor copied
    asked = _serve(sys.argv[1], int(sys.argv[2]))
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    sys.argv = [asked["module"], *asked["arguments"]]
    runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
