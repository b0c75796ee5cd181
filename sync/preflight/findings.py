"""What preflight has found, as data. An error that a check raises says only that it could not run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from connectors.errors import SyncError


class Level(StrEnum):
    """How much a finding weighs."""

    #: looked at, and in order
    OK = "ok"
    #: works; a person should know
    NOTE = "note"
    #: works today; may not tomorrow, or not as somebody expects
    WARNING = "warning"
    #: will be refused, parked, or go wrong
    ERROR = "error"
    #: not looked at, or could not be
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Example:
    """One row. key: its primary key's texts. reason: why, without values. value: of the column, when asked for."""

    key: tuple[str, ...]
    reason: str = ""
    value: str | None = None

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        more: dict[str, object] = {} if self.value is None else {"value": self.value}
        return {"key": list(self.key), "reason": self.reason, **more}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. check: what was looked at; kind: a name for scripts; subject: table, collection or setting.

    count: rows, 0 where it is about no rows. facts: numbers and names.
    """

    level: Level
    check: str
    kind: str
    subject: str
    what: str
    remedy: str = ""
    count: int = 0
    examples: tuple[Example, ...] = ()
    facts: dict[str, object] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "level": self.level.value,
            "check": self.check,
            "kind": self.kind,
            "subject": self.subject,
            "what": self.what,
            "remedy": self.remedy,
            "count": self.count,
            "examples": [e.as_dict() for e in self.examples],
            "facts": self.facts,
        }


Check = Callable[[], Iterable[Finding]]


def run(name: str, check: Check) -> list[Finding]:
    """What a check finds. One that could not run is an error-level finding: nobody knows what it would have found."""
    try:
        found = list(check())
    except SyncError as error:
        return [could_not_run(name, error)]
    return found or [Finding(Level.OK, name, "in-order", "", "in order")]


def could_not_run(name: str, error: SyncError) -> Finding:
    """A check that met an error instead of an answer."""
    return Finding(Level.ERROR, name, "could-not-run", error.code, error.what, error.remedy)


def not_asked(name: str, address: str) -> Finding:
    """A part whose address was not given."""
    return Finding(Level.UNKNOWN, name, "not-asked", "", "not asked", f"give {address} to have it looked at")
