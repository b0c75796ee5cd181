"""The composition root: the only file that names concrete classes and puts them together."""

from __future__ import annotations

import getpass
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TypeVar

from connectors.debezium import config
from connectors.errors import (
    MappingChanged,
    MappingInvalid,
    Misused,
    NotComplete,
    NotSetUp,
    Refused,
    SchemaChanged,
    SyncError,
)
from connectors.kafka.admin import Admin
from connectors.kafka.consumer import GroupConsumer
from connectors.mongo import client as mongo
from connectors.mongo import control as asked
from connectors.mongo import ledger, texts
from connectors.mongo.client import Database
from connectors.mongo.control import Control
from connectors.mongo.rebuilds import LEASE
from connectors.mongo.transaction import Transactions
from connectors.positions import Lsn
from connectors.postgres import catalog, slots
from connectors.postgres.active import SourceRoster
from connectors.postgres.client import connect, translated
from connectors.postgres.rows import CurrentRows
from connectors.settings import SourceEndpoint
from consumers.dead_letters import Outcome, Settler
from consumers.mapping import spec
from consumers.mapping.plan import Plan, digest_of
from consumers.records import Decoder
from consumers.worker import Tally, Worker
from sync import proof
from sync.control import roles
from sync.control.judge import changed
from sync.control.pace import Pace
from sync.control.pulse import Every, Pulse
from sync.dead_letters import desk
from sync.files.copy import Progress
from sync.files.run import Files
from sync.files.verify import FilesReport, PathField
from sync.init import run as init_run
from sync.init.run import InitReport
from sync.lag.judge import LagReport
from sync.lag.status import StatusReport, look
from sync.lag.token import Completeness, Patience, Standing, Token, parse_target
from sync.lag.watch import LagWatch
from sync.observe.metrics import (
    ConsumerMetrics,
    LoaderMetrics,
    PipelineMetrics,
    Role,
    Served,
    VerifyMetrics,
)
from sync.preflight.run import Asked, Preflight, PreflightReport
from sync.preflight.scan import ScanReport
from sync.sessions.source import session_table
from sync.settings import Files as FilesSettings
from sync.settings import Known, Local, Settings
from sync.setup import schema, target
from sync.setup.make import Setup, SetupReport, Teardown, load_plan
from sync.setup.renew import Renewal, healed
from sync.setup.same import check_mapping, check_pipeline
from sync.snapshot.lease import LEASE_S
from sync.snapshot.load import Loader, LoadReport
from sync.snapshot.reload import Outlook, Reload, ReloadReport, due, outlook
from sync.story import explain as explain
from sync.story import now_us as now_us
from sync.story import repair as repair
from sync.verify.report import VerifyReport

Log = Callable[..., None]
Report = TypeVar("Report")
Watch = Callable[[LoadReport | ReloadReport], None]
#: so many builds in a row that meet duplicates are no swap in passing
_REFUSED_OFTEN = 10
#: slot and topics, while consumers run
_CHECK_EVERY_S = 10.0
#: the mapping that the pipeline follows
_LOOK_EVERY_S = 2.0
#: of metrics: each costs the servers a look
_MEASURE_EVERY_S, _LOOK_AT_PARTS_EVERY_S = 2.0, 10.0
#: how long a set-up with another mapping may take, once consumers have met it
_SWITCH_WITHIN_S = 30.0


def init(
    source: SourceEndpoint, schemas: Sequence[str], path: Path | None, *, force: bool = False
) -> InitReport:
    """Propose a mapping of the source's schemas and write it to path, or (None) only return it."""
    if path is not None and not force:
        init_run.check_free(path)
    report = init_run.infer(source, schemas)
    return report if path is None else init_run.write(report, path, force=force)


def setup(
    settings: Settings, log: Log, *, keep_snapshot: bool = False, drop_removed: bool = False
) -> SetupReport:
    """Make what the pipeline needs. The slot's snapshot is let go, or handed to the caller, who closes it."""
    report = Setup(settings, log, drop_removed=drop_removed).run()
    if report.slot_snapshot is not None and not keep_snapshot:
        report.slot_snapshot.session.close()
    return report


def preflight(
    settings: Known, asked: Asked, watch: Callable[[ScanReport], None] | None = None
) -> PreflightReport:
    """What will not work, and what will not fit. watch: called twice a second while the data is read.

    Raises what is wrong with the mapping file itself, and ServerGone where PostgreSQL does not answer.
    """
    proof.with_collections(
        settings.mapping, asked.extent.collections
    )  # a file that cannot be read is no finding
    with connect(settings.source, name="tandem preflight") as session:
        try:
            plan: Plan | MappingInvalid = load_plan(settings, session)
        except MappingInvalid as error:
            plan = error
        run = Preflight(settings, session, asked, lambda plan: _users(settings, plan))

        def show() -> None:
            if watch is not None and run.scanning is not None:
                watch(run.scanning)

        with _meanwhile(show):
            return run.run(plan)


def _users(settings: Known, plan: Plan) -> Mapping[str, int] | None:
    """Who has sessions now, by PostgreSQL."""
    table = session_table(plan, settings.sessions)
    if table is None:
        return None
    with closing(SourceRoster(settings.source, table)) as roster:
        return roster.users()


@contextmanager
def _meanwhile(show: Callable[[], object]) -> Iterator[None]:
    """Show what grows, twice a second, from a thread of its own."""
    done = threading.Event()

    def again() -> None:
        while not done.wait(0.5):
            show()

    thread = threading.Thread(target=again, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def teardown(settings: Settings, log: Log, *, drop_collections: bool) -> list[str]:
    """Take away what setup made."""
    return Teardown(settings, log).run(drop_collections=drop_collections)


def snapshot(
    settings: Settings,
    log: Log,
    *,
    replace_existing: bool = False,
    watch: Watch | None = None,
    prepared: SetupReport | None = None,
    metrics: str | None = None,
) -> LoadReport:
    """Load what is not loaded. A pipeline that is not set up is set up first, and its slot's snapshot is read.

    watch: called twice a second with the report as it is. prepared: of a set-up just made in this process,
    with the slot's snapshot in it. metrics: where to serve them, `[HOST:]PORT`.
    """
    with ExitStack() as stack:
        count = stack.enter_context(_counted(metrics, log))
        if prepared is None and not _is_set_up(settings):
            prepared = setup(settings, log, keep_snapshot=True)
        slot_snapshot = prepared.slot_snapshot if prepared else None
        if slot_snapshot is not None:
            stack.enter_context(slot_snapshot)
        db = mongo.connect(settings.target, name="tandem snapshot")
        stack.callback(db.client.close)
        with connect(settings.source, name="tandem snapshot") as session:
            plan = load_plan(settings, session, schema.known(db))
            facts = slots.server_facts(session)
        check_pipeline(db, plan, facts)
        schema.demand_taken_over(db, plan)
        pace = Pace("snapshot")
        loader = Loader(
            settings.source,
            settings.target,
            plan,
            settings.limits,
            log=log,
            slot_snapshot=slot_snapshot,
            replace_existing=replace_existing,
            pace=pace,
        )
        stack.callback(loader.db.client.close)
        lag_watch = stack.enter_context(closing(LagWatch(settings)))
        with roles.loader(settings, pace, log, lambda: lag_watch.look().streaming_seconds):
            both = _both(count, watch, lambda: bool(pace.why))
            report = _watched(loader.load, loader.report, both)
        if tables := due(db, plan):
            with _reload(settings, plan, log) as again:
                report.again = _watched(lambda: again.reload(tables), again.report, watch)
        return report


@contextmanager
def _counted(metrics: str | None, log: Log) -> Iterator[Callable[..., None]]:
    """Who keeps a load's report for Prometheus, served where it is asked for."""
    counted = LoaderMetrics()
    with ExitStack() as stack:
        if metrics is not None:
            stack.enter_context(Served(counted.registry, metrics, lambda at: log("metrics", at=at)))
        yield counted.take


def _both(
    count: Callable[..., None], watch: Watch | None, throttled: Callable[[], bool] = lambda: False
) -> Watch:
    def show(report: LoadReport | ReloadReport) -> None:
        count(report, throttled=throttled())
        if watch is not None:
            watch(report)

    return show


@contextmanager
def _reload(settings: Settings, plan: Plan, log: Log) -> Iterator[Reload]:
    made = Reload(settings.source, settings.target, plan, settings.limits, log=log)
    try:
        yield made
    finally:
        made.db.client.close()


def _watched(work: Callable[[], Report], report: LoadReport | ReloadReport, watch: Watch | None) -> Report:
    """Do the work and show its report meanwhile, and once more when it has ended, however it did."""
    if watch is None:
        return work()
    try:
        with _meanwhile(lambda: watch(report)):
            return work()
    finally:
        watch(report)


def reload(
    settings: Settings,
    log: Log,
    collections: Sequence[str],
    *,
    dry_run: bool = False,
    watch: Watch | None = None,
    metrics: str | None = None,
) -> ReloadReport | Outlook:
    """Read the rows of these collections again while the stream goes on; with none, what is due. dry_run: only say
    what that would be."""
    with ExitStack() as stack:
        db = mongo.connect(settings.target, name="tandem reload")
        stack.callback(db.client.close)
        with connect(settings.source, name="tandem reload") as session:
            plan = load_plan(settings, session, schema.known(db))
            facts = slots.server_facts(session)
        positions = ledger.positions(db).values()
        if not positions:
            raise NotSetUp("the pipeline is not set up", remedy="run `tandem setup` first")
        check_pipeline(db, plan, facts)
        schema.demand_taken_over(db, plan)
        declared = plan.declared.collections
        if unknown := sorted(set(collections) - set(plan.documents)):
            raise MappingInvalid(
                f"{settings.mapping} has no collection with a table named {', '.join(unknown)}",
                remedy=f"name one of: {', '.join(plan.documents)}",
            )
        asked = [table for name in collections for table in declared[name].tables]
        loading = sorted(
            {p.table for p in positions if (p.holder or "").startswith(ledger.LOAD)} & set(asked)
        )
        if loading:
            raise Refused(
                f"not loaded yet: {', '.join(loading)}",
                remedy="run `tandem snapshot`, or wait until it has ended",
            )
        tables = tuple(dict.fromkeys((*asked, *due(db, plan))))
        if not tables:
            raise Misused(
                "nothing has to be read again",
                remedy=f"name the collections to read again all the same: {', '.join(plan.documents)}",
            )
        if dry_run:
            return outlook(db, settings.source, tables)
        again = stack.enter_context(_reload(settings, plan, log))
        count = stack.enter_context(_counted(metrics, log))
        return _watched(lambda: again.reload(tables), again.report, _both(count, watch))


def heal(
    settings: Settings,
    log: Log,
    *,
    force: bool = False,
    watch: Watch | None = None,
    metrics: str | None = None,
) -> ReloadReport:
    """Make a new slot in place of one that is lost, and read every row again."""
    with ExitStack() as stack:
        db = mongo.connect(settings.target, name="tandem heal")
        stack.callback(db.client.close)
        with connect(settings.source, name="tandem heal") as session:
            plan = load_plan(settings, session, schema.known(db))
        again = stack.enter_context(_reload(settings, plan, log))
        stack.enter_context(again.leased())
        renewal = Renewal(settings, log)
        renewal.renew(lambda ends: again.take(plan.tables, ends), again.move, force=force)
        count = stack.enter_context(_counted(metrics, log))
        report = _watched(again.walk, again.report, _both(count, watch))
        healed(again.db)
        return report


def _is_set_up(settings: Settings) -> bool:
    """Whether setup has made the slot, and it is still there."""
    db = mongo.connect(settings.target, name="tandem")
    try:
        known = ledger.state(db, "pipeline")
    finally:
        db.client.close()
    if not known or not known.get("slotMade"):
        return False
    with connect(settings.source, name="tandem snapshot") as session, translated(settings.source):
        slot = slots.slot_facts(session, settings.source.slot)
    return slot is not None and slot.wal_status != "lost"


class Consumers:
    """One consumer process: a worker, and what it does besides when it has caught up."""

    def __init__(
        self, settings: Settings, log: Log, *, until_caught_up: bool = False, metrics: str | None = None
    ) -> None:
        self.settings, self.log, self.until_caught_up = settings, log, until_caught_up
        self.metrics, self.counted, self.pace = metrics, ConsumerMetrics(), Pace("consumers")
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._unique: list[tuple[str, spec.Index]] = []
        self._until: Lsn | None = None
        self._refused = 0
        self._checked = self._looked = time.monotonic()
        self._digest, self._versions = "", dict[str, str]()
        self._walk: threading.Thread | None = None
        self.tally = Tally()
        self._patience = Patience()

    def run(self, stop: Callable[[], bool]) -> Tally:
        """Work until stopped, or caught up with what was committed when this began. Raises named errors."""
        with ExitStack() as stack:
            if self.metrics is not None:
                tell = lambda at: self.log("metrics", at=at)  # noqa: E731
                stack.enter_context(Served(self.counted.registry, self.metrics, tell))
                stack.enter_context(_pipeline_metrics(self.settings, self.counted, self.log))
            stack.enter_context(roles.consumer(self.settings, self.name, self.pace, self.log))
            while True:
                try:
                    self._follow(stop)
                    return self.tally
                except SchemaChanged as error:
                    self._take_over(error)
                except SyncError as error:
                    if not self._has_changed(error, stop):
                        raise
                    self.log("the mapping, or a table, has changed: going on by the new one")

    def _take_over(self, met: SchemaChanged) -> None:
        """Do about a table that has changed what the mapping says. Raises SchemaChanged where that is to stop."""
        settings = self.settings
        db = mongo.connect(settings.target, name="tandem consumer")
        try:
            with connect(settings.source, name="tandem consumer") as session, translated(settings.source):
                changes = schema.Changes.of(
                    db, session, lambda known: load_plan(settings, session, known), asked=False
                )
            if not changes.differ and schema.is_taken_over(db, changes.plan):
                raise met
        finally:
            db.client.close()
        self.log(
            "tables have changed: taking them over", tables="; ".join(changes.told) or "nothing to read again"
        )
        Setup(settings, self.log, by_itself=True).run()

    def _has_changed(self, met: SyncError, stop: Callable[[], bool]) -> bool:
        """Whether the pipeline follows another mapping since this began, and the mapping file is that one."""
        if not self._digest:
            return False
        until = time.monotonic() + _SWITCH_WITHIN_S
        db = mongo.connect(self.settings.target, timeout_ms=5_000, name="tandem consumer")
        try:
            while not stop():
                followed = (ledger.state(db, "pipeline") or {}).get("mapping")
                if followed == self._digest and ledger.versions(db) != self._versions:
                    return True  # a table was taken over by another consumer
                if followed != self._digest:
                    declared = spec.load(self.settings.mapping)
                    return digest_of(declared) == followed
                if not isinstance(met, MappingChanged) or time.monotonic() > until:
                    return False
                time.sleep(0.5)  # the set-up has not come to its end
        finally:
            db.client.close()
        return False

    def _follow(self, stop: Callable[[], bool]) -> None:
        settings = self.settings
        with ExitStack() as stack:
            # the worker waits and asks again by itself, and a signal should not have to wait for long
            db = mongo.connect(settings.target, timeout_ms=5_000, name="tandem consumer")
            stack.callback(db.client.close)
            with connect(settings.source, name="tandem consumer") as session:
                plan = load_plan(settings, session, schema.known(db))
                facts = slots.server_facts(session)
            admin = stack.enter_context(Admin(settings.kafka))
            topics = [config.topic_of(settings.kafka.topic_prefix, table) for table in plan.tables]
            if not ledger.positions(db):
                raise NotSetUp("the pipeline is not set up", remedy="run `tandem setup` first")
            check_pipeline(db, plan, facts)
            self._digest, self._versions = plan.digest, ledger.versions(db)
            schema.demand_taken_over(db, plan)
            rows = CurrentRows(settings.source)
            stack.callback(rows.close)
            complete = Completeness(settings.source, db, admin)
            stack.callback(complete.close)
            complete.check()
            stream = GroupConsumer(settings.kafka, topics, self.name)
            stack.callback(stream.close)
            worker = Worker(
                name=self.name,
                stream=stream,
                transactions=Transactions(db),
                rows=rows,
                plan=plan,
                placeholder=config.placeholder(settings.source, settings.kafka),
                topic_ids=lambda: {name: topic.id for name, topic in admin.topics(topics).items()},
                now_us=now_us,
                log=self.log,
                batch_events=settings.limits.batch_events,
                batch_bytes=settings.limits.batch_bytes,
                compaction_lag_ms=settings.kafka.compaction_lag_hours * 3_600_000,
                has_columns=lambda table, columns: self._has_columns(table, columns),
                same_tables=lambda: schema.demand_same(plan, rows.versions(list(plan.tables))),
                pace=self.pace,
                observer=self.counted,
            )
            stack.callback(worker.close)
            worker.tally = self.tally
            self._unique = target.missing_unique(db, plan.declared)
            if self._until is None and self.until_caught_up:
                self._until = complete.now()
            self.log("consuming", topics=len(topics), group=settings.kafka.group_id, name=self.name)

            def enough() -> bool:
                self.counted.take(self.tally, len(worker.at), paused=self.pace.paused)
                return self._enough(db, admin, plan, complete)

            worker.run(stop, enough)

    def _read_again(self, db: Database, plan: Plan) -> None:
        """Read tables again that have changed, beside the stream; the one who does is any of the consumers."""
        wanted = [job.table for job in ledger.rereads(db) if job.by_itself]
        busy = self._walk is not None and self._walk.is_alive()
        if not wanted or busy or ledger.load_lives(db, LEASE_S, ledger.WALK):
            return

        def walk() -> None:
            try:
                with _reload(self.settings, plan, self.log) as again:
                    again.reload(wanted)
            except SyncError as error:  # recorded as it is, it is tried again
                self.log(f"reading again: {error.what}", remedy=error.remedy)

        self._walk = threading.Thread(target=walk, daemon=True, name="walk")
        self._walk.start()

    def _has_columns(self, table: str, columns: frozenset[str]) -> bool:
        """Whether a table has any of these columns now."""
        with (
            connect(self.settings.source, name="tandem consumer") as session,
            translated(self.settings.source),
        ):
            found = catalog.tables(session, [table]).get(table)
        return found is not None and any(found.column(name) for name in columns)

    def _enough(self, db: Database, admin: Admin, plan: Plan, complete: Completeness) -> bool:
        """Build unique indexes of what has caught up; say whether all is done that was asked for.

        Raises SlotLost, TopicMissing or SourceReplaced when no more can come.
        """
        if time.monotonic() - self._checked > _CHECK_EVERY_S:
            complete.check()
            self._checked = time.monotonic()
        if time.monotonic() - self._looked > _LOOK_EVERY_S:
            check_mapping(db, plan)
            with translated(self.settings.source):
                schema.demand_same(plan, catalog.versions(complete.session, list(plan.tables)))
            if not self.pace.paused:
                self._read_again(db, plan)
            self._looked = time.monotonic()
        if self.pace.paused:  # neither a walk nor an index begins, and nothing is given up
            return False
        if self._unique:
            ready = _caught_up(db, admin, plan)
            left = target.build_unique(db, [w for w in self._unique if w[0] in ready], self.log)
            self._refused = self._refused + 1 if left else 0
            if self._refused == _REFUSED_OFTEN:
                self.log(f"unique indexes meet duplicates again and again: {_named(left)}")
            self._unique = [w for w in self._unique if w[0] not in ready] + left
        if self._until is None:
            return False
        standing = complete.look(self._until)
        mine = {job.table for job in ledger.rereads(db) if job.by_itself}
        waiting = [table for table in (*standing.held, *standing.rereads) if table not in mine]
        lives = any(ledger.load_lives(db, LEASE_S, kind) for kind in (ledger.LOAD, ledger.WALK, LEASE))
        if waiting and not lives:
            raise NotComplete(
                f"not loaded yet: {', '.join(dict.fromkeys(waiting))}",
                remedy="run `tandem snapshot` first, or beside this",
            )
        if self._patience.at_an_end(standing):
            raise NotComplete(
                f"caught up, but {standing.parked} rows are parked",
                remedy="see `tandem dead-letters list`; mend the rows, or the mapping, then retry them",
            )
        if standing.token is not None and self._unique and self._refused >= _REFUSED_OFTEN:
            raise NotComplete(
                f"caught up, but unique indexes cannot be built: {_named(self._unique)} meet duplicates",
                remedy="PostgreSQL takes several NULLs in a unique column, MongoDB one: give the index a `partial`"
                " filter; or mend the duplicates",
            )
        return standing.token is not None and not self._unique


def _named(indexes: Sequence[tuple[str, spec.Index]]) -> str:
    return ", ".join(f"{name}.{index.wire_name}" for name, index in indexes)


def _caught_up(db: Database, admin: Admin, plan: Plan) -> set[str]:
    """Collections whose tables are not held and have been applied to their ends as of now."""
    positions = ledger.positions(db)
    ends = admin.ends(list(positions))
    behind = {p.table for partition, p in positions.items() if p.holder or p.at < ends[partition]}
    return {name for name in plan.documents if not set(plan.declared.collections[name].tables) & behind}


def wait_for(
    settings: Settings,
    wanted: str,
    timeout_s: float | None,
    tell: Callable[[Standing], None] = lambda _: None,
) -> Token:
    """The completeness token of an LSN, or of now. Raises NotComplete."""
    with ExitStack() as stack:
        complete = proof.completeness(settings, stack)
        return complete.wait(parse_target(wanted, complete.now), timeout_s, tell)


def dead_letters(
    settings: Settings, *, collection: str | None = None, parked_class: str | None = None
) -> list[desk.Listed]:
    """What is parked, the oldest first."""
    declared = spec.load(settings.mapping)
    with ExitStack() as stack:
        return desk.chosen(
            _target(settings, stack), declared, collection=collection, parked_class=parked_class
        )


def show_dead_letter(settings: Settings, key: str) -> desk.Shown:
    """All of one parked row, values included. Raises NotParked."""
    with _desk(settings) as (db, plan, here):
        (one,) = desk.named(desk.chosen(db, plan.declared), [key])
        return here.show(one)


def retry_dead_letters(
    settings: Settings,
    keys: Sequence[str] | None,
    *,
    parked_class: str | None = None,
    tell: Callable[[Outcome], None] = lambda _: None,
) -> desk.RetryReport:
    """Try parked rows again: these, or all, or all of a class. tell: called with each as it is done."""
    with _desk(settings) as (db, plan, here):
        found = desk.chosen(db, plan.declared, parked_class=parked_class)
        return here.retry(found if keys is None else desk.named(found, keys), tell)


def discard_dead_letters(settings: Settings, keys: Sequence[str], *, yes: bool) -> list[desk.Listed]:
    """Drop what is parked of these rows; without yes only say what it is. Raises NotParked."""
    declared = spec.load(settings.mapping)
    with ExitStack() as stack:
        db = _target(settings, stack)
        found = desk.named(desk.chosen(db, declared), keys)
        if yes:
            transactions = Transactions(db)
            stack.callback(transactions.close)
            desk.discard(transactions, [one.parked.id for one in found])
        return found


def files(
    settings: FilesSettings,
    tell: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Files:
    """Workspaces: plan, copy, verify, undo."""
    return Files(settings, tell, stop)


def verify_files(settings: Local, room: Files, *, documents: bool = True, fully: bool = False) -> FilesReport:
    """Compare both roots; and where documents is set, look for every path that MongoDB's documents hold."""
    if not documents:
        return room.verify(fully=fully)
    if settings.target is None:
        raise Misused(
            "the paths in documents cannot be looked at: MongoDB has no address",
            remedy="set MONGODB_URI and MONGODB_DATABASE, or give --no-documents",
        )
    db = mongo.connect(settings.target, name="tandem files")
    try:
        found = texts.fields(db, settings.files.path_fields)
        return room.verify([PathField(c, f, texts.values(db, c, f)) for c, f in found], fully=fully)
    finally:
        db.client.close()


def _target(settings: Settings, stack: ExitStack) -> Database:
    db = mongo.connect(settings.target, name="tandem dead-letters")
    stack.callback(db.client.close)
    return db


@contextmanager
def _desk(settings: Settings) -> Iterator[tuple[Database, Plan, desk.Desk]]:
    """Where parked rows are looked at and tried again, for the mapping that the pipeline is set up with."""
    with ExitStack() as stack:
        with connect(settings.source, name="tandem dead-letters") as session:
            plan = load_plan(settings, session)
            facts = slots.server_facts(session)
        db = _target(settings, stack)
        check_pipeline(db, plan, facts)
        rows = CurrentRows(settings.source)
        stack.callback(rows.close)
        transactions = Transactions(db)
        stack.callback(transactions.close)
        tables = {p.topic: position.table for p, position in ledger.positions(db).items()}
        decoder = Decoder(plan, config.placeholder(settings.source, settings.kafka), tables)
        settler = Settler(transactions, rows, plan, decoder, now_us, lambda: ledger.positions(db).values())
        yield db, plan, desk.Desk(db, plan, decoder, settler, rows)


@contextmanager
def _pipeline_metrics(settings: Settings, role: Role, log: Log) -> Iterator[None]:
    """The whole pipeline's numbers beside a role's own, looked at every few seconds."""
    numbers = PipelineMetrics(role)
    with closing(LagWatch(settings)) as watch:

        def measure() -> None:
            numbers.take(watch.look())

        beats = [
            Every("measuring the lag", _MEASURE_EVERY_S, measure, log, numbers.fail),
            Every(
                "looking at components",
                _LOOK_AT_PARTS_EVERY_S,
                lambda: numbers.take_status(look(settings)),
                log,
            ),
        ]
        with Pulse(beats):
            yield


def control(
    settings: Settings,
    *,
    pause: Sequence[str] = (),
    resume: Sequence[str] = (),
    max_ops: int | None = None,
    max_lag_s: float | None = None,
    unlimited: bool = False,
) -> Control:
    """Ask running processes to stand still, to go on, or to go slowly. Returns what is asked now."""
    with ExitStack() as stack:
        db = _target(settings, stack)
        if not ledger.state(db, "pipeline"):
            raise NotSetUp("the pipeline is not set up", remedy="run `tandem setup` first")
        before = asked.control(db)
        wanted = changed(
            before,
            pause=pause,
            resume=resume,
            max_ops=max_ops,
            max_lag_s=max_lag_s,
            unlimited=unlimited,
            by=_who(),
            at_ms=now_us() // 1_000,
        )
        return asked.ask(db, before, wanted)


def _who() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):  # a user without a name
        return f"{os.getuid()}@{socket.gethostname()}"


def lag(settings: Settings) -> LagReport:
    """How far behind, with rates: of looks over two seconds."""
    with closing(LagWatch(settings)) as watch:
        return watch.settled()


def watch_lag(settings: Settings, every_s: float = 1.0) -> Iterator[LagReport]:
    """The same without end, once a second."""
    with closing(LagWatch(settings, notes=True)) as watch:
        while True:
            began = time.monotonic()
            yield watch.look()
            time.sleep(max(0.0, began + every_s - time.monotonic()))


def status(settings: Settings) -> StatusReport:
    """Every component, and how far each collection is."""
    return look(settings)


def verify(
    settings: Settings,
    *,
    collections: Sequence[str] | None = None,
    timeout_s: float = 60,
    progress: Callable[[str, int], None] | None = None,
    asked: proof.Asked | None = None,
    log: Log = lambda *_, **__: None,
    watch: Callable[[VerifyReport], None] | None = None,
) -> VerifyReport:
    """Compare every document with its row. What differs is looked at again when the consumers have applied it.

    asked: instead of collections and timeout_s. watch: called twice a second with the report as it is.
    """
    asked = asked or proof.Asked(collections=collections, timeout_s=timeout_s)
    report = VerifyReport.begun()
    show = (lambda: watch(report)) if watch is not None else (lambda: None)
    with _meanwhile(show):
        return proof.verify(settings, asked, log=log, progress=progress, report=report)


def last_verification(settings: Settings) -> tuple[VerifyReport, float]:
    """The report that is kept of the last one, and its age in seconds. Raises NotComplete where there is none."""
    found = proof.last(settings)
    return VerifyReport.of(found.report), found.age_s


def verify_schedule(settings: Settings, asked: proof.Asked, log: Log, *, metrics: str | None = None) -> None:
    """Walk everything once per period, without end. metrics: where to serve the pipeline's numbers."""
    with ExitStack() as stack:
        if metrics is not None:
            counted = VerifyMetrics()
            stack.enter_context(Served(counted.registry, metrics, lambda at: log("metrics", at=at)))
            stack.enter_context(_pipeline_metrics(settings, counted, log))
        proof.schedule(settings, asked, lambda: False, log)
