"""A TCP proxy that misbehaves on demand: it cuts, refuses, delays, swallows."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Literal

Mode = Literal["forward", "refuse", "deaf", "mute"]


class Proxy:
    """Forwards 127.0.0.1:`port`, a free port, to host:port. A context manager.

    The modes, each in force until the next call:
    resume: forward. refuse: what is open is cut and nothing listens any more, so connecting is refused at
    once. deaf: connections are taken and all that is sent is swallowed, also on those that are open. mute:
    what clients send arrives, the answers are swallowed. Bytes that were swallowed are lost: `resume` cuts
    the connections that lost some, since what would follow on them makes no sense.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._lock = threading.Lock()
        self._mode: Mode = "forward"
        self._delay_s = 0.0
        self._links: set[_Link] = set()
        self._listener = _listen(0)
        self.host = "127.0.0.1"
        self.port: int = self._listener.getsockname()[1]
        #: connections that were taken so far
        self.taken = 0
        self._accept()

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def open(self) -> int:
        """Connections that are open now."""
        with self._lock:
            return len(self._links)

    def cut(self) -> None:
        """Reset every open connection; new ones are treated as before."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.reset()

    def refuse(self) -> None:
        with self._lock:
            self._mode = "refuse"
        _end(self._listener)
        self._acceptor.join()
        self.cut()

    def resume(self) -> None:
        with self._lock:
            refused, self._mode = self._mode == "refuse", "forward"
            spoiled = [link for link in self._links if link.lost]
        for link in spoiled:
            link.reset()
        if refused:
            self._listener = _listen(self.port)
            self._accept()

    def deaf(self) -> None:
        self._swallow("deaf")

    def mute(self) -> None:
        self._swallow("mute")

    def delay(self, seconds: float) -> None:
        """Hold back each piece of data for that long, in both directions; 0 ends it."""
        self._delay_s = seconds

    def close(self) -> None:
        self.refuse()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _swallow(self, mode: Mode) -> None:
        self.resume()
        with self._lock:
            self._mode = mode

    def _accept(self) -> None:
        self._acceptor = threading.Thread(
            target=self._take, args=(self._listener,), name="proxy", daemon=True
        )
        self._acceptor.start()

    def _take(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=10)
            except OSError:
                client.close()
                continue
            link = _Link(self, client, server)
            with self._lock:
                refused = self._mode == "refuse"
                if not refused:
                    self._links.add(link)
                    self.taken += 1
            if refused:
                link.reset()
            else:
                link.start()

    def passes(self, towards_server: bool) -> bool:
        """Wait as long as a piece of data has to; whether it may go on then."""
        if self._delay_s:
            time.sleep(self._delay_s)
        return self._mode == "forward" or (self._mode == "mute" and towards_server)

    def forget(self, link: _Link) -> None:
        with self._lock:
            self._links.discard(link)


class _Link:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._ended = threading.Semaphore(0)
        self._over = False
        self.lost = False
        for end in (client, server):
            end.settimeout(None)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self) -> None:
        for source, sink in ((self._client, self._server), (self._server, self._client)):
            threading.Thread(target=self._pump, args=(source, sink), name="proxy-link", daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        """One direction, until its end, which is passed on like data: the other one may still be in use."""
        try:
            while True:
                piece = source.recv(65_536)
                if self._over:
                    return
                if not self._proxy.passes(towards_server=source is self._client):
                    self.lost = True
                elif piece:
                    sink.sendall(piece)
                else:
                    sink.shutdown(socket.SHUT_WR)
                if not piece:
                    break
        except OSError:
            self.reset()
            return
        if self._ended.acquire(blocking=False):  # the other direction was first
            self.close() if not self.lost else self.reset()
        else:
            self._ended.release()

    def reset(self) -> None:
        """Close with RST rather than FIN, as a connection whose peer is gone; reads under way return."""
        self._over = True
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RD)
        self.close()

    def close(self) -> None:
        self._client.close()
        self._server.close()
        self._proxy.forget(self)


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(64)
    return listener


def _end(listener: socket.socket) -> None:
    """Close it; an accept under way returns with an error."""
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()
