"""Starting the components, side by side: data folder, process, record, first answer."""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

from connectors.errors import StackFailed
from sync.dev import components, postgres, probes, processes
from sync.dev.components import READY_WITHIN_S, Component, Layout
from sync.dev.places import port_is_free, write_whole
from sync.dev.processes import Account, Record
from sync.dev.progress import Progress
from sync.dev.trouble import CutOff, would_not_start

#: In MongoDB's folder once the server has come up on it.
_COMPLETE = "tandem-complete"


class Start:
    """One start: what does not run is started, what runs is left alone."""

    def __init__(self, layout: Layout, account: Account | None, progress: Progress) -> None:
        self._at = layout
        self._account = account
        self._progress = progress
        self._cut_off = threading.Event()
        # Not the user's whole environment: PGDATA or JAVA_TOOL_OPTIONS in it would change the servers.
        self._environ = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(Path.home()),
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
        }
        for folder in (layout.home.conf, layout.home.log, layout.home.run):
            folder.mkdir(exist_ok=True)
        for name, text in components.configuration(layout).items():
            write_whole(layout.home.conf / name, text)

    def all(self) -> None:
        """Start everything, Connect after the broker. The first failure ends the wait for the others."""

        def chain(*chained: Component) -> None:
            for component in chained:
                self.one(component)

        with ThreadPoolExecutor(3) as pool:
            chains = ((Component.KAFKA, Component.CONNECT), (Component.POSTGRES,), (Component.MONGO,))
            running = [pool.submit(chain, *chained) for chained in chains]
            try:
                wait(running, return_when=FIRST_EXCEPTION)
            finally:  # a failure or Ctrl-C; else all are done and nobody looks
                self._cut_off.set()
        errors = [error for future in running if (error := future.exception())]
        for error in sorted(errors, key=lambda e: isinstance(e, CutOff)):
            raise error

    def one(self, component: Component) -> None:
        """Have this component running and answering."""
        home, port = self._at.home, getattr(self._at.ports, component)
        record = Record.load(home.record(component))
        if record is not None and record.alive and record.ready:
            self._progress.done(component, "runs already")
            return
        if record is None or not record.alive:
            self._progress.doing(component, "starting")
            # Without a record, but running: `up` was killed in between, or the record was lost.
            record = processes.find(components.command(component, self._at)) or self._launch(component)
        self._await(component, record, port)
        if component is Component.MONGO:
            (home.mongo / _COMPLETE).touch()
        replace(record, ready=True).save(home.record(component))
        self._progress.done(component, f"ready on port {port}")

    def _launch(self, component: Component) -> Record:
        if component is Component.POSTGRES:
            before = Record.load(self._at.home.record(component))
            postgres.end_leftovers(self._at.pgdata, ended=before.pid if before else None)
        self._check_ports(component)
        self._make_data(component)
        record = processes.spawn(
            components.command(component, self._at),
            log=self._at.home.log_of(component),
            environ=self._environ,
            account=self._account if component is Component.POSTGRES else None,
        )
        try:
            record.save(self._at.home.record(component))
        except OSError:
            processes.kill(record)
            raise
        return record

    def _check_ports(self, component: Component) -> None:
        for name in components.port_names(component):
            port: int = getattr(self._at.ports, name)
            if port_is_free(port) or processes.wait_until(lambda p=port: port_is_free(p), 3):  # type: ignore[misc]
                continue
            raise StackFailed(
                f"port {port}, which {component} of this stack has had since its first start, is taken",
                remedy="end the other process, or run `tandem dev up --repick-ports` to choose another port: "
                "the addresses change then, so repeat `tandem dev env` and `tandem setup`",
                component=component,
                port=port,
                taken_by=processes.listener(port) or "a process that this user may not see",
                home=self._at.home.root,
            )

    def _make_data(self, component: Component) -> None:
        """Have the folder that the component starts on, whole."""
        match component:
            case Component.POSTGRES:
                log = self._at.home.log / "initdb.log"
                postgres.make_data(self._at.pg_bin, self._at.pgdata, self._account, self._environ, log)
            case Component.KAFKA:
                self._format_kafka()
            case Component.MONGO:
                folder = self._at.home.mongo
                if folder.is_dir() and not (folder / _COMPLETE).exists():  # it never came up on this one
                    shutil.rmtree(folder)
                folder.mkdir(exist_ok=True)
            case Component.CONNECT:  # keeps everything in Kafka
                pass

    def _format_kafka(self) -> None:
        home = self._at.home
        if home.kafka.is_dir():
            return
        partial = home.kafka.with_name(home.kafka.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        properties = home.conf / "kafka-format.properties"
        write_whole(properties, components.kafka_properties(self._at, partial))
        log = home.log / "kafka-format.log"
        if processes.run(components.format_command(self._at, properties), log=log, environ=self._environ):
            raise would_not_start("Kafka's folder could not be made", log, processes.last_lines(log))
        partial.replace(home.kafka)

    def _await(self, component: Component, record: Record, port: int) -> None:
        """Wait until it answers. Raises StackFailed when it ends, or does not in time."""
        within_s = READY_WITHIN_S[component]

        def settled() -> bool:
            return self._cut_off.is_set() or not record.alive or probes.answers(component, port)

        in_time = processes.wait_until(settled, within_s, every_s=0.1)
        if self._cut_off.is_set():
            raise CutOff(f"the start of {component} was cut off", remedy="run `tandem dev up` again")
        if in_time and record.alive:
            return
        how = f"did not answer within {within_s} s" if record.alive else "ended while it was starting"
        log = self._at.home.log_of(component)
        raise would_not_start(f"{component} {how}", log, processes.last_lines(log))
