"""Equal digests among any number of rows, in memory that does not grow with them: on disk, in parts that fit."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from threading import Lock
from types import TracebackType
from typing import IO

#: bytes that stay in memory
_IN_MEMORY = 1 << 20
#: bytes of a part that is looked at in memory
_PART = 32 << 20
_BLOCK = 1 << 20
_LENGTH = struct.Struct(">H")
_DIGEST = 12


class Spill:
    """Digests of 12 bytes, each with the key of its row as text. Added by several threads, read by one."""

    def __init__(self, part_bytes: int = _PART) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - closed by close()
        self._lock, self._part_bytes = Lock(), part_bytes

    def __enter__(self) -> Spill:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def add(self, entries: Iterable[tuple[bytes, str]]) -> None:
        """Remember digests with their rows' keys."""
        packed = []
        for digest, key in entries:
            text = key.encode()[:0xFFFF]
            packed.append(digest + _LENGTH.pack(len(text)) + text)
        with self._lock:
            self._file.write(b"".join(packed))

    def repeated(self) -> Iterator[list[str]]:
        """The keys of rows whose digest is the same, group by group. Order: of adding, within a group."""
        size = self._file.tell()
        parts = 1 + size // self._part_bytes
        if parts == 1:
            yield from _groups(list(self._all()))
            return
        parts = min(parts, 256)  # by the digest's first byte, and as many open files
        with ExitStack() as stack:
            files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(parts)]
            for digest, text in self._all():
                files[digest[0] * parts >> 8].write(digest + _LENGTH.pack(len(text)) + text)
            for file in files:
                file.seek(0)
                yield from _groups(list(_entries(file)))

    def _all(self) -> Iterator[tuple[bytes, bytes]]:
        self._file.seek(0)
        return _entries(self._file)


def _groups(entries: list[tuple[bytes, bytes]]) -> Iterator[list[str]]:
    seen: set[bytes] = set()
    again: set[bytes] = set()
    for digest, _ in entries:
        (again if digest in seen else seen).add(digest)
    groups: dict[bytes, list[str]] = {}
    for digest, key in entries if again else ():
        if digest in again:
            groups.setdefault(digest, []).append(key.decode(errors="replace"))
    yield from groups.values()


def _entries(file: IO[bytes] | tempfile.SpooledTemporaryFile[bytes]) -> Iterator[tuple[bytes, bytes]]:
    left = b""
    while block := file.read(_BLOCK):
        content, at = left + block, 0
        while at + _DIGEST + _LENGTH.size <= len(content):
            (length,) = _LENGTH.unpack_from(content, at + _DIGEST)
            start = at + _DIGEST + _LENGTH.size
            if start + length > len(content):
                break
            yield content[at : at + _DIGEST], content[start : start + length]
            at = start + length
        left = content[at:]
