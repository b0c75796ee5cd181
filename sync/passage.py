"""What a cutover and a rollback have in common: conditions, the predicted time, and how far one came. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

#: what a step has to say of itself: it goes into the journal as it is
Facts = Mapping[str, object]
#: True when it is to end soon
Stop = Callable[[], bool]
S = TypeVar("S", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that has to be so. ok: None where it could not be found out."""

    name: str
    ok: bool | None
    why: str

    def as_dict(self) -> dict[str, object]:
        """For the journal, and for `--json`."""
        return {"name": self.name, "ok": self.ok, "why": self.why}


@dataclass(frozen=True, slots=True)
class Predicted:
    """For how long writes will be refused: seconds of each part, and what could not be measured."""

    parts: Mapping[str, float]
    unknown: tuple[str, ...] = ()

    @property
    def total_s(self) -> float:
        """All parts one after the other."""
        return sum(self.parts.values())

    def over(self, most_s: float) -> str | None:
        """Why it does not begin; None: it fits."""
        if self.unknown:
            return (
                f"it cannot be said how long writes would be refused: {', '.join(self.unknown)} is not known"
            )
        if self.total_s > most_s:
            parts = ", ".join(
                f"{name} {seconds:.1f} s" for name, seconds in self.parts.items() if seconds >= 0.05
            )
            return (
                f"writes would be refused for about {self.total_s:.1f} s ({parts}); {most_s:g} s are allowed"
            )
        return None

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "seconds": round(self.total_s, 1),
            "parts": {name: round(seconds, 1) for name, seconds in self.parts.items()},
            "unknown": list(self.unknown),
        }


@dataclass
class Outcome(Generic[S]):
    """How far it came. meaning: of every state. refusals: why it does not go on. blocked_s: for how long writes were
    refused, as far as this controller saw it, None: not at all; predicted: what was said before."""

    state: S
    meaning: Mapping[S, str]
    refusals: list[str] = field(default_factory=list)
    predicted: Predicted | None = None
    blocked_s: float | None = None
    steps: list[dict[str, object]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether it came as far as it was to come."""
        return not self.refusals

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "state": str(self.state),
            "meaning": self.meaning[self.state],
            "refusals": list(self.refusals),
            "predicted": self.predicted.as_dict() if self.predicted else None,
            "blocked_s": None if self.blocked_s is None else round(self.blocked_s, 2),
            "steps": list(self.steps),
        }


class Journal(Protocol):
    """Where each step is written down. `connectors.mongo.journal`, or `Forgotten` for a rehearsal."""

    def write(self, entry: dict[str, Any], **fields: object) -> None:
        """Append, and set what holds now."""


class Forgotten:
    """A rehearsal is written down nowhere."""

    def write(self, entry: dict[str, Any], **fields: object) -> None:
        """Nothing."""


def told(
    known: Mapping[str, Any], state: S, intent: S | None, following: S | None, meaning: str, *, refused: bool
) -> dict[str, object]:
    """A journal for people and for JSON. following: what comes next; refused: whether writes are."""
    return {
        "run": known["run"],
        "state": str(state),
        "meaning": meaning,
        "intent": None if intent is None else str(intent),
        "next": None if following is None else str(following),
        "began": known["began"].isoformat(timespec="seconds"),
        "writes_refused": refused,
        "controller": known.get("owner"),
        "entries": [
            {**entry, "at": entry["at"].isoformat(timespec="milliseconds")} for entry in known["entries"]
        ],
    }
