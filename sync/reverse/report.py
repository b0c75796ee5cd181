"""What `tandem reverse status` says. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from connectors.postgres.reverse import Parked, Standing


@dataclass(frozen=True)
class ReverseStatus:
    """How the way back is.

    standing: None where it never was on. alive: a `tandem reverse run` is there. behind: events that are not applied
    yet, at least so many where `more` is said; None: not known. oldest: when the first of them happened, by MongoDB's
    clock. now: the same clock. counts: how much is kept of each kind.
    """

    standing: Standing | None
    alive: bool
    behind: int | None
    more: bool
    oldest: datetime | None
    now: datetime
    counts: dict[str, int]
    parked: Sequence[Parked] = field(default_factory=tuple)
    trouble: str | None = None

    @property
    def lag_s(self) -> float | None:
        """How old the oldest change is that PostgreSQL lacks; 0 where it lacks none."""
        if self.behind is None:
            return None
        return 0.0 if self.oldest is None else max(0.0, (self.now - self.oldest).total_seconds())

    @property
    def ok(self) -> bool:
        """Whether it is in order: on, at work, and nothing is parked."""
        on = self.standing is not None and self.standing.state == "on"
        return on and self.alive and not self.counts.get("parked") and self.trouble is None

    def why(self) -> list[str]:
        """What is not in order."""
        found = []
        if self.standing is None or self.standing.state == "off":
            found.append("it is off: the cutover turns it on, behind the fence")
        elif self.standing.state == "resync":
            found.append(
                "documents are being compared with their rows: `tandem reverse resync` goes on with it"
            )
        if not self.alive:
            found.append("no `tandem reverse run` is at work")
        if self.counts.get("parked"):
            found.append(f"{self.counts['parked']} documents could not be written to PostgreSQL")
        if self.trouble:
            found.append(self.trouble)
        return found

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        at = self.standing
        age = None if at is None or at.token_at is None else (self.now - at.token_at).total_seconds()
        return {
            "ok": self.ok,
            "state": "off" if at is None else at.state,
            "run": None if at is None else at.run,
            "alive": self.alive,
            "events_behind": self.behind,
            "events_behind_more": self.more,
            "lag_s": None if self.lag_s is None else round(self.lag_s, 1),
            "events": 0 if at is None else at.events,
            "applied_at": None if at is None or at.applied_at is None else at.applied_at.isoformat(),
            "token_age_s": None if age is None else round(max(age, 0.0), 1),
            "kept": dict(self.counts),
            "parked": [p.as_dict() for p in self.parked],
            "why": self.why(),
        }
