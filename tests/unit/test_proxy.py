"""The proxy that tests put between the tool and a server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.support.proxy import Proxy
from tests.support.until import until


class Echo:
    """A server that sends back what it gets, and keeps it; told `bye` it answers once more and closes."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.received = bytearray()
        self.ended = 0
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            while piece := connection.recv(65_536):
                self.received += piece
                connection.sendall(piece)
                if piece.endswith(b"bye"):
                    break
        self.ended += 1


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    with suppress(OSError):
        server.listener.shutdown(socket.SHUT_RDWR)
    server.listener.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", echo.port) as between:
        yield between


def connected(proxy: Proxy) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), timeout=5)


def ask(client: socket.socket, text: bytes = b"hello") -> bytes:
    client.sendall(text)
    answer = b""
    while len(answer) < len(text):
        piece = client.recv(65_536)
        if not piece:
            raise ConnectionResetError("closed")
        answer += piece
    return answer


def test_forwards_both_ways(proxy: Proxy) -> None:
    large = bytes(range(256)) * 8_000
    with connected(proxy) as one, connected(proxy) as two:
        assert ask(one) == b"hello"
        sender = threading.Thread(target=two.sendall, args=(large,))
        sender.start()
        received = b""
        while len(received) < len(large):
            received += two.recv(65_536)
        sender.join()
        assert received == large
        assert proxy.open == 2
    assert until(lambda: proxy.open == 0)
    assert proxy.taken == 2


def test_an_answer_before_a_close_arrives(proxy: Proxy, echo: Echo) -> None:
    """The server ends the connection behind its last answer, or the client behind its last question."""
    with connected(proxy) as client:
        assert ask(client, b"x" * 200_000 + b"bye").endswith(b"bye")
        assert client.recv(1) == b""
    with connected(proxy) as client:
        client.sendall(b"last")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(10) == b"last"
        assert client.recv(10) == b""
    until(lambda: proxy.open == 0 and echo.ended == 2)


def test_cut(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy) as client:
        ask(client)
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    until(lambda: echo.ended == 1)
    with connected(proxy) as client:
        assert ask(client) == b"hello"


def test_refuse_and_resume(proxy: Proxy) -> None:
    with connected(proxy) as client:
        ask(client)
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            connected(proxy)
    proxy.refuse()
    proxy.resume()
    with connected(proxy) as client:
        assert ask(client) == b"hello"


def test_deaf(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy) as before:
        ask(before)
        proxy.deaf()
        with connected(proxy) as client:
            for each in (before, client):
                each.sendall(b"lost")
                each.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    each.recv(1)
            assert bytes(echo.received) == b"hello"
            proxy.resume()
            for each in (before, client):
                each.settimeout(5)
                with pytest.raises(ConnectionResetError):
                    each.recv(1)
    with connected(proxy) as client:
        assert ask(client) == b"hello"


def test_mute(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy) as client, connected(proxy) as idle:
        ask(client)
        ask(idle)
        proxy.mute()
        client.sendall(b"done, but nobody hears")
        until(lambda: bytes(echo.received).endswith(b"hears"))
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        until(lambda: any(link.lost for link in proxy._links))
        proxy.resume()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert ask(idle) == b"hello", "it has lost nothing and goes on"


def test_delay(proxy: Proxy) -> None:
    with connected(proxy) as client:
        proxy.delay(0.1)
        started = time.monotonic()
        ask(client)
        assert time.monotonic() - started >= 0.2
        proxy.delay(0)
        started = time.monotonic()
        ask(client)
        assert time.monotonic() - started < 0.2


def test_a_server_that_is_not_there(proxy: Proxy, echo: Echo) -> None:
    echo.listener.shutdown(socket.SHUT_RDWR)
    echo.listener.close()
    with connected(proxy) as client, suppress(ConnectionResetError):
        assert client.recv(1) == b""


def test_closing_ends_everything(echo: Echo) -> None:
    with Proxy("127.0.0.1", echo.port) as between, connected(between) as client:
        ask(client)
        between.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connected(between)
