"""Who may do what: the token, and the names under which this server may be spoken to."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pydantic import SecretStr

from connectors.errors import SettingsInvalid

#: shorter ones can be guessed
SHORTEST = 16
_MAKE_ONE = "make one: (umask 077; openssl rand -hex 24 > FILE)"
_PRINTABLE = re.compile(r"[\x21-\x7e]+")


class Right(StrEnum):
    """What came of a request to change something."""

    GRANTED = "granted"
    #: no token is configured: nobody may
    READ_ONLY = "read-only"
    #: no token, or another one
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, repr=False)
class Access:
    """token: None: read-only. loopback: listening there only, so a browser may come by no other name."""

    token: str | None
    loopback: bool

    def right(self, authorization: str) -> Right:
        """What this Authorization header gives. Takes as long for a wrong token as for the right one."""
        if self.token is None:
            return Right.READ_ONLY
        scheme, _, given = authorization.partition(" ")
        same = hmac.compare_digest(_digest(given.strip()), _digest(self.token))
        return Right.GRANTED if same and scheme.lower() == "bearer" else Right.UNKNOWN

    def knows_host(self, host: str) -> bool:
        """Whether a request to this name is meant for us.

        A page of another site can give its own name our address (DNS rebinding) and would then be let in as if it were
        this page; its name betrays it. The port may be another one, as at the near end of `ssh -L`.
        """
        return not self.loopback or is_loopback(_without_port(host))


def is_loopback(name: str) -> bool:
    """Whether this host is this machine and nothing else."""
    if name.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _without_port(host: str) -> str:
    return re.sub(r":\d*$", "", host) if host.count(":") == 1 or host.startswith("[") else host


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def token_of(
    option: Path | None, token: SecretStr | None, file: Path | None, note: Callable[[str], None]
) -> str | None:
    """The token: of the option's file, else the one given, else of the setting's file. None: read-only."""
    if option is not None:
        return read_token(option, note)
    if token is not None:
        return checked(token.get_secret_value(), "dashboard.token")
    return None if file is None else read_token(file, note)


def read_token(path: Path, note: Callable[[str], None]) -> str:
    """The token in a file. Raises SettingsInvalid. note: told when others can read the file."""
    try:
        text = path.read_text(encoding="utf-8").strip()
        others = path.stat().st_mode & 0o077
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SettingsInvalid(f"the token file {path} cannot be read: {what}", remedy=_MAKE_ONE) from None
    if others:
        note(f"others can read the token file {path}: chmod 600 {path}")
    return checked(text, f"the token file {path}")


def checked(token: str, where: str) -> str:
    """The token, if it is one. Raises SettingsInvalid, without it."""
    if not _PRINTABLE.fullmatch(token):
        raise SettingsInvalid(f"{where} has to hold one word of printable ASCII characters", remedy=_MAKE_ONE)
    if len(token) < SHORTEST:
        raise SettingsInvalid(f"the token is shorter than {SHORTEST} characters ({where})", remedy=_MAKE_ONE)
    return token
