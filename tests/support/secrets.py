"""The passwords that tests use, and a search for them in whatever was logged."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

#: of roles, users and addresses in tests; none may be in any log
SECRET = "xyzzy-secret"
_SECRETS = (SECRET.encode(),)


def told(folder: Path) -> list[str]:
    """Log files below a folder that hold one of them."""
    return sorted(str(path) for path in _logs(folder) if any(s in path.read_bytes() for s in _SECRETS))


def _logs(folder: Path) -> Iterable[Path]:
    return (p for p in folder.rglob("*") if p.is_file() and (p.suffix == ".log" or p.parent.name == "log"))
