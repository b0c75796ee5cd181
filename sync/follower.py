"""A rebuild's consumer: the consumers' own worker, on the shadow's positions, never ahead of the live ones."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack

from connectors.debezium import config
from connectors.errors import NotComplete, SyncError
from connectors.kafka.admin import Admin
from connectors.kafka.assigned import AssignedConsumer
from connectors.mongo import client as mongo
from connectors.mongo import ledger, rebuilds
from connectors.mongo.client import Database
from connectors.mongo.transaction import Transactions
from connectors.positions import Partition
from connectors.postgres import catalog
from connectors.postgres.client import connect, translated
from connectors.postgres.rows import CurrentRows
from consumers.capped import Capped
from consumers.contracts import Pace, Stream
from consumers.mapping.plan import Plan
from consumers.worker import Worker
from sync.control.pulse import Every, Pulse
from sync.past import PastRows
from sync.settings import Settings
from sync.setup import schema

Log = Callable[..., None]
Caps = Callable[[], Mapping[Partition, int]]
_LOOK_EVERY_S = 0.1


class LivePositions:
    """Where the live consumers are: asked for often, looked up ten times a second."""

    def __init__(self, db: Database, tables: Iterable[str]) -> None:
        self._db, self._tables = db, tuple(tables)
        self._known: dict[Partition, int] = {}
        self._looked = -_LOOK_EVERY_S

    def __call__(self) -> Mapping[Partition, int]:
        """Offsets, by partition."""
        if time.monotonic() - self._looked > _LOOK_EVERY_S:
            found = rebuilds.live_positions(self._db, self._tables)
            self._known = {p: position.at for p, position in found.items()}
            self._looked = time.monotonic()
        return self._known


class Follower:
    """Runs the worker in a thread of its own, as a context. plan: of the rebuilt collections only. settings: of the
    shadow. past: rows are not to be read as they are now. wrap: what is read before the topics. whole: that has every
    event, however old. now_us: the clock that filters are judged by."""

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        caps: Caps,
        log: Log,
        *,
        pace: Pace,
        past: bool = False,
        wrap: Callable[[Stream], Stream] = lambda stream: stream,
        whole: bool = False,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        self.settings, self.plan, self.log, self._caps = settings, plan, log, caps
        self.name = f"{socket.gethostname()}-rebuild-{uuid.uuid4().hex[:6]}"
        self._past, self._wrap, self._whole, self._now_us, self._pace = past, wrap, whole, now_us, pace
        self._stack, self._stop = ExitStack(), threading.Event()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self.db: Database
        self.worker: Worker

    def __enter__(self) -> Follower:
        try:
            self._make()
        except BaseException:
            self._stack.close()
            raise
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(raising=False)
        self._stack.close()

    def _make(self) -> None:
        settings, stack, plan = self.settings, self._stack, self.plan
        self.db = mongo.connect(settings.target, timeout_ms=5_000, name="tandem rebuild")
        stack.callback(self.db.client.close)
        admin = stack.enter_context(Admin(settings.kafka))
        partitions = list(ledger.positions(self.db))
        topics = sorted({p.topic for p in partitions})
        current = CurrentRows(settings.source)
        stack.callback(current.close)
        stream = AssignedConsumer(settings.kafka, partitions, self.name)
        stack.callback(stream.close)
        self.worker = Worker(
            name=self.name,
            stream=Capped(self._wrap(stream), self._caps),
            transactions=Transactions(self.db),
            rows=PastRows(current) if self._past else current,
            plan=plan,
            placeholder=config.placeholder(settings.source, settings.kafka),
            topic_ids=lambda: {name: topic.id for name, topic in admin.topics(topics).items()},
            now_us=self._now_us,
            log=self.log,
            batch_events=settings.limits.batch_events,
            batch_bytes=settings.limits.batch_bytes,
            compaction_lag_ms=0 if self._whole else settings.kafka.compaction_lag_hours * 3_600_000,
            has_columns=self._has_columns,
            same_tables=lambda: schema.demand_same(plan, current.versions(list(plan.tables))),
            pace=self._pace,
        )
        stack.callback(self.worker.close)
        beat = lambda: ledger.beats(self.db, self.name)  # noqa: E731
        stack.enter_context(Pulse([Every("saying that it lives", 1.0, beat, self.log)]))

    def _has_columns(self, table: str, columns: frozenset[str]) -> bool:
        source = self.settings.source
        with connect(source, name="tandem rebuild") as session, translated(source):
            found = catalog.tables(session, [table]).get(table)
        return found is not None and any(found.column(name) for name in columns)

    # -- running -------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Follow, in a thread."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, daemon=True, name="rebuild")
        self._thread.start()

    def _run(self) -> None:
        try:
            self.worker.run(self._stop.is_set)
        except BaseException as error:
            self._error = error

    def stop(self, *, raising: bool = True) -> None:
        """Nothing is written by it any more when this returns. Raises what has ended it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if raising:
            self.check()

    def check(self) -> None:
        """Raise what has ended the thread."""
        if self._error is not None:
            raise self._error

    @property
    def events(self) -> int:
        """Applied since this began."""
        return self.worker.tally.events

    def behind(self, wanted: Mapping[Partition, int]) -> int:
        """Offsets that are missing to these."""
        at = {p: position.at for p, position in ledger.positions(self.db).items()}
        return sum(max(0, end - at.get(p, 0)) for p, end in wanted.items())

    def reach(
        self,
        wanted: Mapping[Partition, int],
        within_s: float | None,
        stop: Callable[[], bool],
        tell: Callable[[int], None] = lambda _: None,
    ) -> bool:
        """Return True when these offsets are applied and no job is left; False when stop() says so.

        Raises NotComplete when within_s are over, and what has ended the thread.
        """
        until = None if within_s is None else time.monotonic() + within_s
        while not stop():
            self.check()
            try:
                missing = self.behind(wanted)
                tell(missing)
                if not missing and not self._jobs():
                    return True
            except SyncError as error:
                if not error.retry_helps:
                    raise
            if until is not None and time.monotonic() > until:
                raise NotComplete(
                    f"the shadow is still {self.behind(wanted):,} records behind",
                    remedy="run `tandem rebuild --swap` again when less is written, or raise --within",
                )
            time.sleep(0.05)
        return False

    def _jobs(self) -> int:
        with mongo.translated():
            return int(self.db[ledger.JOBS].count_documents({}, limit=1))


__all__ = ["Caps", "Follower", "LivePositions"]
