"""flagd's flag file. A write changes the one flag and leaves every other byte as it is; the file is replaced whole."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

from connectors.errors import FlagMoved, FlagRefused
from connectors.flags import Kept

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()
_LOCKED_WITHIN_S = 10.0


class FlagFile:
    """A JSON file with `flags` in it."""

    def __init__(self, path: Path) -> None:
        self._given = path

    @property
    def where(self) -> str:
        """For people."""
        return f"the file {self._given}"

    def all(self) -> list[Kept]:
        """All flags."""
        return [_kept(name, flag) for name, flag in sorted(self._flags(self._text()).items())]

    def read(self, name: str) -> Kept | None:
        """One of them."""
        flag = self._flags(self._text()).get(name)
        return None if flag is None else _kept(name, flag)

    def write(self, name: str, definition: Mapping[str, Any], based_on: str | None) -> None:
        """Replace the file by one with this flag in it. Another tandem waits; anybody else who comes in between is
        noticed."""
        with self._locked() as real:
            text, seen = self._text(), _seen(real)
            flag = self._flags(text).get(name)
            if (None if flag is None else _kept(name, flag).version) != based_on:
                raise FlagMoved(
                    f"the flag {name} was changed in between", remedy="read it anew", file=self._given
                )
            self._replace(real, with_flag(text, name, definition), seen)

    def _text(self) -> str:
        try:
            return self._given.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._unfit(f"is not UTF-8 (at byte {error.start})") from None
        except OSError as error:
            raise self._refused("cannot be read", error) from error

    def _flags(self, text: str) -> dict[str, dict[str, Any]]:
        try:
            content = json.loads(text, object_pairs_hook=_without_repeats)
        except json.JSONDecodeError as error:
            hint = ": YAML is not taken, give JSON" if self._given.suffix in (".yaml", ".yml") else ""
            raise self._unfit(f"is not JSON at line {error.lineno}, column {error.colno}{hint}") from None
        except _Repeated as error:
            raise self._unfit(f"has the name {error} twice in one object") from None
        except RecursionError:
            raise self._unfit("is nested too deeply") from None
        flags = content.get("flags") if isinstance(content, dict) else None
        if not isinstance(flags, dict) or not all(isinstance(flag, dict) for flag in flags.values()):
            raise self._unfit("has no object `flags` with an object for each flag")
        return flags

    def _unfit(self, why: str) -> FlagRefused:
        return FlagRefused(
            f"the flag file {self._given} {why}", remedy='mend it by hand; an empty one is {"flags": {}}'
        )

    def _refused(self, what: str, error: OSError) -> FlagRefused:
        return FlagRefused(
            f"the flag file {self._given} {what}: {os.strerror(error.errno or 0)}",
            remedy="correct flags.file, or give this user the right to read the file and write in its folder",
        )

    @contextmanager
    def _locked(self) -> Iterator[Path]:
        """The real file, behind links, for one writer at a time."""
        try:
            real = self._given.resolve(strict=True)
            held = os.open(real.with_name(f".{real.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._refused("cannot be written", error) from error
        try:
            until = time.monotonic() + _LOCKED_WITHIN_S
            while True:
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if error.errno not in (errno.EWOULDBLOCK, errno.EACCES) or time.monotonic() > until:
                        raise FlagMoved(
                            f"somebody else is writing the flag file {self._given}", remedy="try again"
                        ) from error
                    time.sleep(0.02)
            yield real
        finally:
            os.close(held)

    def _replace(self, real: Path, text: str, seen: tuple[int, ...]) -> None:
        beside = real.with_name(f".{real.name}.new")
        try:
            of = real.stat()
            with beside.open("wb") as file:
                os.fchmod(file.fileno(), stat.S_IMODE(of.st_mode))
                if os.geteuid() == 0:
                    os.fchown(file.fileno(), of.st_uid, of.st_gid)
                file.write(text.encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
                # flagd and its providers look whether the time has grown
                time_ns = max(time.time_ns(), of.st_mtime_ns + 1_000_000)
                os.utime(file.fileno(), ns=(time_ns, time_ns))
            if _seen(real) != seen:
                raise FlagMoved(f"the flag file {self._given} was changed in between", remedy="read it anew")
            beside.replace(real)
            at = os.open(real.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(at)
            finally:
                os.close(at)
        except OSError as error:
            raise self._refused("cannot be written", error) from error
        finally:
            beside.unlink(missing_ok=True)


def with_flag(text: str, name: str, definition: Mapping[str, Any]) -> str:
    """The file's text with this flag in it, every other character as it was. Pure. text: JSON with `flags` in it."""
    start, end = _span(text, _SPACE.match(text, 0).end(), "flags")  # type: ignore[union-attr]
    at = _member(text, start, name)
    step = _indent(text)
    if at is not None:
        value = json.dumps(definition, indent=step, ensure_ascii=False)
        return text[: at[0]] + _shifted(value, _column(text, at[0])) + text[at[1] :]
    inner = "" if step is None else _column(text, start) + step
    entry = f"{json.dumps(name, ensure_ascii=False)}: " + _shifted(
        json.dumps(definition, indent=step, ensure_ascii=False), inner
    )
    last = _last_member_end(text, start)
    line, close = ("", "") if step is None else (f"\n{inner}", f"\n{_column(text, start)}")
    if last is None:
        return text[: start + 1] + line + entry + close + text[end - 1 :]
    return text[:last] + "," + (line or " ") + entry + text[last:]


def _members(text: str, at: int) -> Iterator[tuple[str, int, int]]:
    """(name, start, end) of the values of the object that begins at a brace."""
    at = _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]
    while text[at] != "}":
        name, at = _DECODER.raw_decode(text, at)
        at = _SPACE.match(text, _SPACE.match(text, at).end() + 1).end()  # type: ignore[union-attr]
        _, end = _DECODER.raw_decode(text, at)
        yield name, at, end
        at = _SPACE.match(text, end).end()  # type: ignore[union-attr]
        if text[at] == ",":
            at = _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]


def _member(text: str, at: int, name: str) -> tuple[int, int] | None:
    return next(((start, end) for found, start, end in _members(text, at) if found == name), None)


def _span(text: str, at: int, name: str) -> tuple[int, int]:
    found = _member(text, at, name)
    assert found is not None
    return found


def _last_member_end(text: str, at: int) -> int | None:
    ends = [end for _, _, end in _members(text, at)]
    return ends[-1] if ends else None


def _indent(text: str) -> str | None:
    """What the file is indented by; None: it is on one line."""
    if "\n" not in text.strip():
        return None
    found = re.search(r"\n([ \t]+)\S", text)
    return found[1] if found else "  "


def _column(text: str, at: int) -> str:
    """The white space that the line of this place begins with."""
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _shifted(text: str, by: str) -> str:
    return text.replace("\n", f"\n{by}")


class _Repeated(Exception):
    """A name stands twice in one object: JSON's readers do not agree which counts."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise _Repeated(next(name for name in names if names.count(name) > 1))
    return found


def _kept(name: str, flag: Mapping[str, Any]) -> Kept:
    written = json.dumps(flag, sort_keys=True).encode()
    return Kept(name, flag, blake2b(written, digest_size=16).hexdigest())


def _seen(path: Path) -> tuple[int, ...]:
    of = path.stat()
    return of.st_dev, of.st_ino, of.st_size, of.st_mtime_ns, of.st_ctime_ns
