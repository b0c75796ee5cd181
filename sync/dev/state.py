"""What is told about an embedded stack: its addresses, and how each component is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from sync.dev.components import DATABASE, SUPERUSER, Component
from sync.dev.places import Ports


@dataclass(frozen=True)
class Addresses:
    """Where the servers of a stack are: all that the other commands need."""

    postgres_dsn: str
    kafka_bootstrap_servers: str
    connect_url: str
    mongodb_uri: str
    mongodb_database: str

    def environ(self) -> dict[str, str]:
        """As the environment variables that the settings are read from."""
        return {name.upper(): value for name, value in asdict(self).items()}


def addresses_of(ports: Ports) -> Addresses:
    """The addresses of an embedded stack. Its MongoDB server calls itself a replica set of one."""
    return Addresses(
        postgres_dsn=f"host=127.0.0.1 port={ports.postgres} user={SUPERUSER} dbname={DATABASE}",
        kafka_bootstrap_servers=f"127.0.0.1:{ports.kafka}",
        connect_url=f"http://127.0.0.1:{ports.connect}",
        mongodb_uri=f"mongodb://127.0.0.1:{ports.mongo}/?directConnection=true",
        mongodb_database=DATABASE,
    )


class Condition(StrEnum):
    """How a component is."""

    RUNNING = "running"
    STARTING = "starting"  # runs and has not answered yet, or its start was cut off
    STOPPED = "stopped"  # never started, or ended by `down`
    KILLED = "killed"  # was started, and ended without being told to


@dataclass(frozen=True)
class ComponentStatus:
    """One line of `tandem dev status`."""

    component: Component
    condition: Condition
    port: int | None
    pid: int | None = None
    memory_bytes: int = 0
    uptime_s: float = 0.0


@dataclass(frozen=True)
class StackStatus:
    """How the stack is."""

    home: Path
    components: tuple[ComponentStatus, ...]

    @property
    def up(self) -> bool:
        """All of it runs and has answered."""
        return all(c.condition is Condition.RUNNING for c in self.components)

    @property
    def ok(self) -> bool:
        """All of it runs, or none of it is meant to."""
        return self.up or all(c.condition is Condition.STOPPED for c in self.components)

    @property
    def not_running(self) -> list[str]:
        """The components that do not, each with how it is."""
        return [
            f"{c.component} is {c.condition}" for c in self.components if c.condition is not Condition.RUNNING
        ]
