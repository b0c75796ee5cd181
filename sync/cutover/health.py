"""How the machines are, before and after each step, against how they were at first. Pure: who measures is elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class Pulse:
    """memory_bytes, disk_bytes: in use here and on the disk of the target's files; None: not known.
    connections: of PostgreSQL, and how many it takes. services: name, whether it answers."""

    memory_bytes: int | None = None
    disk_bytes: int | None = None
    connections: int | None = None
    most_connections: int | None = None
    services: Mapping[str, bool] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """For the journal."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much more than at first."""

    memory: float = 1.5
    disk: float = 1.2
    #: of what PostgreSQL takes
    connections: float = 0.9


def worse(baseline: Pulse, now: Pulse, tolerance: Tolerance) -> list[str]:
    """What is not well, in words; empty: all is."""
    found: list[str] = []
    for name, first, then, most in (
        ("memory in use", baseline.memory_bytes, now.memory_bytes, tolerance.memory),
        ("disk in use", baseline.disk_bytes, now.disk_bytes, tolerance.disk),
    ):
        if first and then and then > first * most:
            found.append(f"{name} is {then / first:.2f} times what it was ({most:g} is allowed)")
    if (
        now.connections
        and now.most_connections
        and now.connections > now.most_connections * tolerance.connections
    ):
        found.append(f"PostgreSQL has {now.connections} of {now.most_connections} connections")
    found += [
        f"{name} does not answer any more"
        for name, answers in now.services.items()
        if not answers and baseline.services.get(name, True)
    ]
    return found
