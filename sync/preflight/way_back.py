"""What the mapping cannot bring back, once the application writes to MongoDB."""

from __future__ import annotations

from collections.abc import Iterator

from connectors.postgres.client import Session
from connectors.postgres.writing import givens
from consumers.mapping import spec
from consumers.mapping.plan import Plan
from consumers.reverse.invert import invert, not_invertible
from sync.preflight.findings import Finding, Level
from sync.settings import Known

CHECK = "way back"


def of_mapping(settings: Known, session: Session, plan: Plan) -> Iterator[Finding]:
    """By line of the mapping file; nothing where no way back is wanted."""
    if settings.cutover.way_back == "none":
        return
    backs = invert(plan, givens(session, plan.declared.tables))
    for found in not_invertible(backs, plan.declared, spec.Lines.of(settings.mapping)):
        yield Finding(
            Level.WARNING if found.lost else Level.NOTE,
            CHECK,
            "parks" if found.lost else "kept-aside",
            f"{settings.mapping}:{found.line}",
            found.what,
            "a cutover with a way back is refused for it; change the mapping, or set cutover.way_back: none"
            if found.lost
            else "see docs/reverse.md",
        )
