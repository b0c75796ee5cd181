"""What a rebuild tells: where it stands, what was verified, what differs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sync.rebuild.compare import Difference
from sync.rebuild.states import Phase
from sync.verify.report import VerifyReport


@dataclass(slots=True)
class RebuildReport:
    """What became of a rebuild. phase: where it stands now. rows: loaded. events: applied to the shadow by this run.
    differences: by collection. verified: None: it was not asked."""

    id: str = ""
    phase: str = Phase.NONE
    source: str = ""
    collections: list[str] = field(default_factory=list)
    rows: int = 0
    events: int = 0
    seconds: float = 0.0
    #: until the live side was reached for the first time, and events applied by then
    followed_s: float = 0.0
    followed: int = 0
    verified: VerifyReport | None = None
    differences: dict[str, Difference] = field(default_factory=dict)
    parked: list[str] = field(default_factory=list)
    swapped: bool = False
    undone: bool = False
    discarded: bool = False
    kept: str = ""
    held_s: float = 0.0
    until: str = ""
    prefix: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is parked, and the shadow agrees with PostgreSQL as far as that was asked."""
        return not self.parked and (self.verified is None or self.verified.ok)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        names = (
            "ok", "id", "phase", "source", "collections", "rows", "events", "swapped", "undone", "discarded",
            "kept", "until", "prefix", "parked",
        )  # fmt: skip
        return {
            **{name: getattr(self, name) for name in names},
            "seconds": round(self.seconds, 2),
            "held_s": round(self.held_s, 3),
            "followed_s": round(self.followed_s, 2),
            "followed": self.followed,
            "verified": None if self.verified is None else self.verified.as_dict(),
            "differences": {name: of.as_dict() for name, of in self.differences.items()},
        }
