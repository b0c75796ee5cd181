"""Does a server answer? Each probe says the least that its protocol allows, once, and is bounded."""

from __future__ import annotations

import http.client
import socket
import struct

#: A starting server may accept a connection long before it answers on it.
ANSWER_WITHIN_S = 2.0


def postgres(port: int) -> bool:
    """A session can be opened: neither starting nor recovering (PostgreSQL documentation, 54.2.1)."""
    parameters = b"user\0postgres\0database\0postgres\0application_name\0tandem dev\0\0"
    startup = struct.pack("!ii", 8 + len(parameters), 196_608) + parameters
    with socket.create_connection(("127.0.0.1", port), ANSWER_WITHIN_S) as link:
        link.sendall(startup)
        ready = _exactly(link, 1) == b"R"
        if ready:
            _until_idle(link)
            link.sendall(b"X" + struct.pack("!i", 4))
        return ready


def _until_idle(link: socket.socket) -> None:
    """Read up to ReadyForQuery: a client that leaves before it is a line in the server's log."""
    length = struct.unpack("!i", _exactly(link, 4))[0]
    _exactly(link, length - 4)
    while True:
        kind, length = struct.unpack("!ci", _exactly(link, 5))
        _exactly(link, length - 4)
        if kind == b"Z":
            return


def kafka(port: int) -> bool:
    """The broker counts itself among the live ones (Kafka protocol guide: Metadata, version 1, no topics)."""
    client = b"tandem-dev"
    request = struct.pack("!hhih", 3, 1, 1, len(client)) + client + struct.pack("!i", 0)
    with socket.create_connection(("127.0.0.1", port), ANSWER_WITHIN_S) as link:
        link.sendall(struct.pack("!i", len(request)) + request)
        answer = _exactly(link, struct.unpack("!i", _exactly(link, 4))[0])
        return bool(struct.unpack("!ii", answer[:8])[1] >= 1)


def mongo(port: int) -> bool:
    """`hello` is answered (MongoDB wire protocol: OP_MSG with one document)."""
    body = b"\x10hello\0" + struct.pack("<i", 1) + b"\x02$db\0" + struct.pack("<i", 6) + b"admin\0"
    document = struct.pack("<i", 4 + len(body) + 1) + body + b"\0"
    message = struct.pack("<i", 0) + b"\0" + document
    with socket.create_connection(("127.0.0.1", port), ANSWER_WITHIN_S) as link:
        link.sendall(struct.pack("<iiii", 16 + len(message), 1, 0, 2013) + message)
        return bool(struct.unpack("<iiii", _exactly(link, 16))[3] == 2013)


def connect(port: int) -> bool:
    """The worker has joined its group and lists connectors."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_WITHIN_S)
    try:
        link.request("GET", "/connectors")
        return link.getresponse().status == 200
    finally:
        link.close()


PROBES = {"postgres": postgres, "kafka": kafka, "mongo": mongo, "connect": connect}


def answers(component: str, port: int) -> bool:
    """True when it answers now. A refusal, a cut or silence is False."""
    try:
        return PROBES[component](port)
    except (OSError, http.client.HTTPException, struct.error):
        return False


def _exactly(link: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        part = link.recv(count - len(got))
        if not part:
            raise ConnectionError("cut")
        got += part
    return got
