"""The embedded stack: PostgreSQL, Kafka, Kafka Connect with Debezium, a MongoDB server: local processes."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import sys
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from connectors.errors import StackFailed
from sync.dev import components, install, postgres, processes
from sync.dev.components import STOP_ORDER, Component, Layout
from sync.dev.places import (
    Remembered,
    default_cache,
    default_home,
    fit,
    home_at,
    pick_ports,
    port_is_free,
    repick,
)
from sync.dev.processes import Record
from sync.dev.progress import Progress, Silent
from sync.dev.starting import Start
from sync.dev.state import Addresses, ComponentStatus, Condition, StackStatus, addresses_of
from sync.dev.trouble import demand_room, explained

#: What may lie in a home before the note does.
_BEFORE_NOTE = {".lock", "stack.json.partial"}
#: Variables of psql itself, not of where it connects to.
_PSQL_OWN = {"PGCLIENTENCODING", "PGOPTIONS", "PGTZ", "PGDATESTYLE"}


class Stack:
    """One embedded stack.

    Every method that changes it may be called again, and waits while another process does. What is started
    outlives this process: `down` ends it.
    """

    def __init__(self, home: Path | str | None = None, cache: Path | str | None = None) -> None:
        self.home = home_at(home if home is not None else default_home())
        self.cache = fit(
            Path(cache) if cache is not None else default_cache(), "the cache of the embedded stack"
        )

    def up(self, progress: Progress | None = None, *, repick_ports: bool = False) -> Addresses:
        """Have everything running and answering. Starts what does not run, leaves alone what does.

        repick_ports: give another port to each component whose port somebody else has taken meanwhile.
        Raises StackFailed, with what is to be done.
        """
        progress = progress or Silent()
        with self._explained(), self.home.locked():
            layout = self._layout(progress, repick_ports=repick_ports)
            Start(layout, postgres.account(), progress).all()
            return addresses_of(layout.ports)

    def down(self, *, purge: bool = False, progress: Progress | None = None) -> list[str]:
        """End what this home has started. Returns the components that had to be killed.

        purge: remove the data, the logs and what is remembered as well.
        """
        progress = progress or Silent()
        if not self.home.root.is_dir():
            return []
        with self._explained(), self.home.locked():
            killed = [c.value for c in STOP_ORDER if not self._end(c, progress)]
            if purge:
                self._purge()
                if [path.name for path in self.home.root.iterdir()] == [".lock"]:
                    shutil.rmtree(self.home.root)
        return killed

    def start(self, component: Component | str) -> None:
        """Have this one component running and answering."""
        with self._explained(), self.home.locked():
            Start(self._layout(Silent()), postgres.account(), Silent()).one(Component(component))

    def stop(self, component: Component | str) -> None:
        """End this one component in its clean way."""
        with self._explained(), self.home.locked():
            self._end(Component(component), Silent())

    def kill(self, component: Component | str) -> None:
        """SIGKILL it and wait until it is gone. Status then says `killed`, as it was not told to end."""
        if record := self._record(Component(component)):
            processes.kill(record)

    def addresses(self) -> Addresses:
        """Raises StackFailed, naming what does not run, unless all of it does."""
        status = self.status()
        remembered = self.home.remembered()
        if remembered is None or not status.up:
            raise StackFailed(
                "the embedded stack is not up" + (": " + ", ".join(status.not_running) if remembered else ""),
                remedy=f"run `tandem dev up{self._home_option()}`",
                home=self.home.root,
            )
        return addresses_of(remembered.ports)

    def status(self) -> StackStatus:
        """How each component is, from the records and the process table; no server is asked."""
        remembered = self.home.remembered()
        return StackStatus(self.home.root, tuple(self._status(c, remembered) for c in Component))

    def psql(self) -> tuple[Path, dict[str, str]]:
        """The psql that belongs to the embedded PostgreSQL, and the environment that points it there."""
        remembered = self.home.remembered()
        if remembered is None or self._condition(Component.POSTGRES) is not Condition.RUNNING:
            raise StackFailed(
                "PostgreSQL of the embedded stack is not up",
                remedy=f"run `tandem dev up{self._home_option()}`",
                home=self.home.root,
            )
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PG") or k in _PSQL_OWN}
        at = {"PGHOST": "127.0.0.1", "PGPORT": str(remembered.ports.postgres)}
        to = {"PGUSER": components.SUPERUSER, "PGDATABASE": components.DATABASE}
        return install.postgres_package() / "pginstall" / "bin" / "psql", kept | at | to

    # ------------------------------------------------------------ starting

    def _layout(self, progress: Progress, *, repick_ports: bool = False) -> Layout:
        """What is installed and chosen; on the first start, install and choose."""
        demand_room(self._places)
        remembered = self._remembered_or_chosen()
        if repick_ports:
            remembered = self._with_free_ports(remembered)
        install.packages(self.cache, progress)
        return Layout(
            home=self.home,
            ports=remembered.ports,
            pgdata=remembered.pgdata,
            pg_bin=postgres.programs(install.postgres_package(), postgres.account(), progress),
            java=install.java(self.cache, progress),
            kafka_home=install.kafka_home(self.cache, progress),
            python=sys.executable,
        )

    def _remembered_or_chosen(self) -> Remembered:
        if remembered := self.home.remembered():
            return remembered
        if strange := sorted(p.name for p in self.home.root.iterdir() if p.name not in _BEFORE_NOTE):
            raise StackFailed(
                f"{self.home.root} is not an embedded stack, and not empty: {', '.join(strange[:5])}",
                remedy="name another folder with --home DIR",
            )
        pgdata = postgres.place_for_data(self.home, postgres.account())
        postgres.end_leftovers(pgdata)  # of a home that was removed by hand
        shutil.rmtree(pgdata, ignore_errors=True)
        remembered = Remembered(pick_ports(port_is_free, random.SystemRandom()), pgdata)
        self.home.remember(remembered)
        return remembered

    def _with_free_ports(self, remembered: Remembered) -> Remembered:
        idle = [c for c in Component if self._condition(c) in (Condition.STOPPED, Condition.KILLED)]
        names = [name for c in idle for name in components.port_names(c)]
        taken = [name for name in names if not port_is_free(getattr(remembered.ports, name))]
        if taken:
            ports = repick(remembered.ports, taken, port_is_free, random.SystemRandom())
            remembered = replace(remembered, ports=ports)
            self.home.remember(remembered)
            connect = self._record(Component.CONNECT)
            if "kafka" in taken and connect:  # it knows the broker by its old port
                processes.kill(connect)
        return remembered

    # ------------------------------------------------------------ ending

    def _end(self, component: Component, progress: Progress) -> bool:
        """End it when it is ours, and forget it. False when it had to be killed."""
        record = self._record(component)
        gently = True
        if record is not None and record.alive:
            progress.doing(component, "ending")
            number = postgres.STOP_SIGNAL if component is Component.POSTGRES else signal.SIGTERM
            # Connect cannot leave its group while there is no broker; all that it has to keep is in Kafka.
            broker = (
                component is not Component.CONNECT or self._condition(Component.KAFKA) is Condition.RUNNING
            )
            gently = processes.end(record, gently=number, within_s=40 if broker else 5)
            progress.done(component, "ended" if gently else "killed: it did not end in time")
        self.home.record(component).unlink(missing_ok=True)
        return gently

    def _purge(self) -> None:
        """Remove what `up` made, the note last: a purge that was cut off can be repeated."""
        remembered = self.home.remembered()
        if remembered is None:
            return
        pgdata = remembered.pgdata
        if pgdata.is_relative_to(postgres.SHARED) and pgdata != postgres.SHARED:
            shutil.rmtree(pgdata.parent)
        for folder in (
            self.home.conf,
            self.home.log,
            self.home.run,
            self.home.kafka,
            self.home.mongo,
            self.home.pgdata,
        ):
            for path in (folder, folder.with_name(folder.name + ".partial")):
                if path.exists():
                    shutil.rmtree(path)
        self.home.note.unlink()

    # ------------------------------------------------------------ knowing

    def _status(self, component: Component, remembered: Remembered | None) -> ComponentStatus:
        port = getattr(remembered.ports, component) if remembered else None
        condition = self._condition(component)
        record = self._record(component)
        if record is None or condition in (Condition.STOPPED, Condition.KILLED):
            return ComponentStatus(component, condition, port)
        memory, uptime = processes.memory_bytes(record.pid), processes.uptime_s(record.pid)
        return ComponentStatus(component, condition, port, record.pid, memory, uptime)

    def _condition(self, component: Component) -> Condition:
        record = self._record(component)
        if record is None:
            return Condition.STOPPED
        if not record.alive:
            return Condition.KILLED
        return Condition.RUNNING if record.ready else Condition.STARTING

    def _record(self, component: Component) -> Record | None:
        return Record.load(self.home.record(component))

    def _home_option(self) -> str:
        default = default_home().expanduser().resolve()
        return "" if self.home.root == default else f" --home {shlex.quote(str(self.home.root))}"

    @property
    def _places(self) -> list[Path]:
        return [self.home.root, self.cache, *([postgres.SHARED] if postgres.account() else [])]

    def _explained(self) -> AbstractContextManager[None]:
        return explained(self._places)
