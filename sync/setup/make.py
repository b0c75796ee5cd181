"""`tandem setup` and `tandem teardown`. Each step finds what is there and makes what is missing, so that a run that was
stopped anywhere is finished by the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from bson import Int64

from connectors.debezium import config
from connectors.debezium.connect import Connect
from connectors.errors import (
    ConnectRefused,
    Contended,
    MappingInvalid,
    SlotLost,
    SlotTaken,
    SourceReplaced,
    TableUnfit,
    TopicMissing,
    TopicUnfit,
)
from connectors.kafka.admin import Admin
from connectors.mongo import client as mongo
from connectors.mongo import ledger
from connectors.mongo import schema as collections
from connectors.mongo.client import Database
from connectors.positions import Partition
from connectors.postgres import catalog, reverse, slots
from connectors.postgres.client import Session, connect, effective, translated
from connectors.postgres.slots import ExportedSnapshot
from consumers.mapping import spec
from consumers.mapping.plan import Plan, compile_plan, not_carried
from sync import requirements
from sync.settings import Known, Settings
from sync.setup import change, judge, schema, target

Log = Callable[..., None]
_HOUR_MS = 3_600_000
#: the publication is about to change: who set up died before the barrier was known
_NOT_YET = Int64(-1)


@dataclass(slots=True)
class SetupReport:
    """What was made now, what was there, and what a person should know."""

    made: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    slot_snapshot: ExportedSnapshot | None = None

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {"made": self.made, "warnings": self.warnings}


def load_plan(
    settings: Settings | Known, session: Session, known: Mapping[str, schema.Known] | None = None
) -> Plan:
    """The mapping file, compiled against the source as it is now. Raises MappingInvalid.

    known: tables as they were taken over; what is to be left out of them is.
    """
    written = spec.load(settings.mapping)
    declared = schema.leaving_out(written, {table: of.ignored for table, of in (known or {}).items()})
    with translated(settings.source):
        found = catalog.tables(session, declared.tables)
        lines = spec.Lines.of(settings.mapping)
        missing = [name for name in declared.tables if name not in found]
        if missing:
            raise _missing_tables(declared, missing, lines, session)
    found = {name: schema.aged(table, (known or {}).get(name)) for name, table in found.items()}
    return replace(compile_plan(declared, found, lines), written=written)


def _missing_tables(
    declared: spec.Mapping_, missing: list[str], lines: spec.Lines, session: Session
) -> MappingInvalid:
    places: list[tuple[tuple[str | int, ...], str]] = []
    for path, shape in declared.shapes():
        if shape.table in missing:
            near = catalog.similar_names(session, shape.table)
            hint = f" (did you mean {' or '.join(near)}?)" if near else ""
            places.append(((*path, "from"), f"there is no table {shape.table} in the source database{hint}"))
    return lines.invalid(places)


class Setup:
    """One run of `tandem setup`."""

    def __init__(
        self, settings: Settings, log: Log, *, drop_removed: bool = False, by_itself: bool = False
    ) -> None:
        self.settings, self.log, self.report = settings, log, SetupReport()
        self.drop_removed, self.by_itself = drop_removed, by_itself

    def run(self) -> SetupReport:
        """Look at everything first, then make what is missing. Raises named errors; can be run again."""
        settings = self.settings
        with ExitStack() as stack:
            session = stack.enter_context(connect(settings.source, name="tandem setup"))
            stack.enter_context(translated(settings.source))
            plan = load_plan(settings, session)
            facts = slots.server_facts(session)
            slot = slots.slot_facts(session, settings.source.slot)
            published = slots.published_tables(session, settings.source.publication)
            judge.judge_server(facts, slot is not None, published is not None)
            mapped = {
                t: [n for n, c in plan.declared.collections.items() if t in c.tables]
                for t in plan.declared.tables
            }
            judge.judge_tables({name: t.table for name, t in plan.tables.items()}, mapped)
            self._tell_what_is_reread(plan)
            db = mongo.connect(settings.target, name="tandem setup")
            stack.callback(db.client.close)
            ledger.demand_not_retired(ledger.positions(db).values())
            self._changes = schema.Changes.of(
                db, session, lambda known: load_plan(settings, session, known), asked=not self.by_itself
            )
            plan = self._changes.plan
            rest = stack.enter_context(Connect(settings.connect))
            admin = stack.enter_context(Admin(settings.kafka))
            wanted = self.wanted_connector(plan, session)
            check_connect(rest, wanted)
            self._make(session, facts, slot, plan, db, rest, admin, wanted)
        return self.report

    def _make(
        self,
        session: Session,
        facts: slots.ServerFacts,
        slot: slots.SlotFacts | None,
        plan: Plan,
        db: Database,
        rest: Connect,
        admin: Admin,
        wanted: dict[str, str],
    ) -> None:
        source = self.settings.source
        self._not_others(facts, slot, db, rest, wanted)
        self._same_source(db, facts)
        self._same_slot(slot, db)
        self._same_topics(admin, plan, db)
        asked = change.look(db, plan)
        ledger.set_state(db, "pipeline", **self._identity(facts))
        if not (ledger.state(db, "pipeline") or {}).get("mapping"):
            ledger.set_state(db, "pipeline", mapping=plan.digest)
        self._target(db, plan)
        self._topics(admin, plan, db)
        tables = list(plan.declared.tables)
        published = slots.published_tables(session, source.publication)
        changed = published is None or sorted(published) != sorted(tables)
        if changed and slot is not None:
            ledger.set_state(db, "pipeline", barrier=_NOT_YET)
        slots.publish(session, source.publication, {t: plan.tables[t].table.alone for t in tables})
        if changed:
            self._made(f"publication {source.publication} of {len(tables)} tables")
        self._slot(slot, db, rest, admin, wanted)
        self._connector(session, rest, wanted)
        if (ledger.state(db, "pipeline") or {}).get(
            "barrier"
        ) == _NOT_YET:  # see the loader's await_older_than
            ledger.set_state(db, "pipeline", barrier=Int64(slots.current_transaction(session)))
        self._switch(db, plan, asked, admin)

    def _connector(self, session: Session, rest: Connect, wanted: dict[str, str]) -> None:
        as_wanted = rest.config() == {**wanted, "name": self.settings.connect.connector}
        if not (as_wanted and self.by_itself):  # each time it begins anew
            rest.put(wanted)
        if not as_wanted:
            self._made(f"connector {self.settings.connect.connector}")
        if rest.state().failed:
            rest.restart()
        rest.wait_running()
        self._wait_streaming(session, rest)

    def _switch(self, db: Database, plan: Plan, asked: change.Change, admin: Admin) -> None:
        """Follow this mapping, and take away what only the old one needed."""
        self._changes.take_over(db, by_itself=self.by_itself)
        self.report.warnings += self._changes.told
        change.switch(db, plan, asked)
        self.report.warnings += change.told(asked)
        gone = change.forget(db, plan, asked)
        admin.delete(gone)
        for name in change.drop_removed(db, plan) if self.drop_removed else ():
            self._made(f"room: dropped the collection {name}")

    def _made(self, what: str) -> None:
        self.report.made.append(what)
        self.log(f"made {what}")

    def _tell_what_is_reread(self, plan: Plan) -> None:
        for table in plan.tables.values():
            if table.reread:
                self.report.warnings.append(
                    f"{table.name}: Debezium cannot carry {', '.join(sorted(table.reread))} faithfully, so each changed"
                    " row is read from PostgreSQL again"
                )

    # -- the target ----------------------------------------------------------------------------------------------
    def _target(self, db: Database, plan: Plan) -> None:
        for name in target.make_collections(db, plan):
            self._made(f"collection {name}")
        self.report.warnings += target.make_vector_indexes(db, plan.declared, self.log)

    def _not_others(
        self,
        facts: slots.ServerFacts,
        slot: slots.SlotFacts | None,
        db: Database,
        rest: Connect,
        wanted: dict[str, str],
    ) -> None:
        """Refuse a slot or a connector of this name that is another pipeline's: slots are of the whole cluster."""
        known = ledger.state(db, "pipeline") or {}
        if slot is not None and (slot.database != facts.database or not known.get("slotWanted")):
            raise SlotTaken(
                f"the slot {self.settings.source.slot} exists and is not this pipeline's",
                remedy="give another name with TANDEM_SOURCE__SLOT; or, if nobody needs it:"
                f" SELECT pg_drop_replication_slot('{self.settings.source.slot}')",
                slot_database=slot.database,
                target=self.settings.target.database,
            )
        there = rest.config() or {}
        names = ("connector.class", "database.dbname", "slot.name", "topic.prefix")
        differs = [f"{n} is {there[n]}" for n in names if n in there and there[n] != wanted[n]]
        if differs:
            raise ConnectRefused(
                f"the connector {self.settings.connect.connector} is another pipeline's: {', '.join(differs)}",
                remedy="give another name with TANDEM_CONNECT__CONNECTOR",
            )

    def _identity(self, facts: slots.ServerFacts) -> dict[str, str]:
        return {
            "system": facts.system_identifier,
            "database": facts.database,
            "slot": self.settings.source.slot,
        }

    def _same_source(self, db: Database, facts: slots.ServerFacts) -> None:
        known = ledger.state(db, "pipeline")
        mine = self._identity(facts)
        if known is not None:
            differs = [
                f"{name} was {known.get(name)}" for name, value in mine.items() if known.get(name) != value
            ]
            if differs:
                raise SourceReplaced(
                    f"the target database belongs to a pipeline from another source: {', '.join(differs)}",
                    remedy="correct the settings, give another target database, or `tandem teardown` the old pipeline",
                    **mine,
                )

    # -- Kafka ---------------------------------------------------------------------------------------------------
    def _row_topics(self, plan: Plan) -> dict[str, str]:
        return {
            config.topic_of(self.settings.kafka.topic_prefix, table): table for table in plan.declared.tables
        }

    def _same_topics(self, admin: Admin, plan: Plan, db: Database) -> None:
        """Refuse a topic that was removed, or made anew, under what is loaded; before that, begin anew with it."""
        there = admin.topics(self._row_topics(plan))
        names = self._row_topics(plan)
        lost = [
            p
            for p in ledger.positions(db).values()
            if p.partition.topic in names
            and (p.partition.topic not in there or there[p.partition.topic].id != p.topic_id)
        ]
        if gone := sorted({p.partition.topic for p in lost if p.holder != ledger.UNLOADED}):
            raise SourceReplaced(
                f"topics were removed, or made anew, since this pipeline was set up: {', '.join(gone)}",
                remedy="what they held is gone: run `tandem teardown`, then `tandem setup` and `tandem snapshot`",
            )
        with mongo.translated():
            db[ledger.POSITIONS].delete_many(
                {"_id": {"$in": [p.partition.id for p in lost]}, "holder": ledger.UNLOADED}
            )

    def _topics(self, admin: Admin, plan: Plan, db: Database) -> None:
        kafka = self.settings.kafka
        lag_ms = str(kafka.compaction_lag_hours * _HOUR_MS)
        rows = self._row_topics(plan)
        if len(rows) < len(plan.declared.tables):
            shared = [t for t in plan.declared.tables if rows[config.topic_of(kafka.topic_prefix, t)] != t]
            raise TableUnfit(
                f"tables whose names differ only in what a topic's cannot have: {', '.join(shared)} and others",
                remedy="rename one of them, or give them pipelines of their own",
            )
        own = config.own_topics(kafka.topic_prefix)
        there = admin.topics([*rows, *own])
        for name in rows:
            if name not in there:
                partitions = 1 if plan.tables[rows[name]].one_partition else kafka.partitions
                admin.create(
                    name,
                    partitions,
                    {
                        "cleanup.policy": "compact",
                        "min.compaction.lag.ms": lag_ms,
                        "delete.retention.ms": lag_ms,
                        "max.message.bytes": str(config.LONGEST_RECORD_BYTES),
                    },
                )
                self._made(f"topic {name} with {partitions} partitions")
        for name in own:
            if name not in there:
                admin.create(name, 1, {"cleanup.policy": "delete", "retention.ms": str(24 * _HOUR_MS)})
        there = admin.topics(rows)
        for name, table in rows.items():
            if name not in there:
                raise TopicMissing(f"Kafka has not made the topic {name}", remedy="run `tandem setup` again")
            topic = there[name]
            if plan.tables[table].one_partition and topic.partitions > 1:
                raise TopicUnfit(
                    f"the topic {name} has {topic.partitions} partitions, and a key of {table} may have one value in"
                    " several forms: only in one partition do its changes keep their order",
                    remedy=f"run `tandem teardown`, or delete the topic {name}; setup makes it with one partition",
                )
            ends = admin.ends([Partition(name, n) for n in range(topic.partitions)])
            ledger.add_positions(db, table, topic.id, ends, plan.follows(table))
            self._keeps_every_event(admin, name)

    def _keeps_every_event(self, admin: Admin, name: str) -> None:
        """A topic that removes events by age or size, or compacts them at once, would lose changes."""
        found = admin.config(name, ["cleanup.policy", "min.compaction.lag.ms"])
        for what, remedy in requirements.of_topic(name, found, self.settings.kafka.compaction_lag_hours):
            facts = {key.replace(".", "_"): value for key, value in found.items()}
            raise TopicUnfit(what, remedy=remedy, **facts)

    # -- the slot ------------------------------------------------------------------------------------------------
    def _same_slot(self, found: slots.SlotFacts | None, db: Database) -> None:
        """Refuse a slot that has lost changes which somebody waits for."""
        name = self.settings.source.slot
        if found is None:
            if not _all_unloaded(db):
                raise SlotLost(
                    f"the slot {name} is gone: changes since it was dropped are in no event",
                    remedy="run `tandem heal`: it makes a new slot and reads every row again",
                )
        elif found.wal_status == "lost":
            raise SlotLost(
                f"the slot {name} is lost: PostgreSQL has removed WAL that it needed",
                remedy="run `tandem heal`: it makes a new slot and reads every row again",
            )
        elif found.plugin != "pgoutput":
            raise SlotTaken(
                f"the slot {name} exists and is not ours: its plugin is {found.plugin}",
                remedy="give another name with TANDEM_SOURCE__SLOT",
            )

    def _slot(
        self, found: slots.SlotFacts | None, db: Database, rest: Connect, admin: Admin, wanted: dict[str, str]
    ) -> None:
        name = self.settings.source.slot
        if found is not None:
            ledger.set_state(db, "pipeline", slotMade=True)  # that run may have ended before it could say so
            return
        rest.drop(wanted)  # offsets of a connector on an older slot would not fit the new one
        # what an older slot has sent is older than the load that will follow
        ledger.skip_to(db, admin.ends(list(ledger.positions(db))))
        ledger.set_state(db, "pipeline", slotWanted=True)
        self.report.slot_snapshot = slots.create_slot(self.settings.source)
        ledger.set_state(db, "pipeline", slotMade=True, slotLsn=str(self.report.slot_snapshot.lsn))
        self._made(f"slot {name} at {self.report.slot_snapshot.lsn}")

    # -- the connector -------------------------------------------------------------------------------------------
    def wanted_connector(self, plan: Plan, session: Session) -> dict[str, str]:
        """The configuration that this mapping wants."""
        left_out = [f"{n}.{c}" for n, t in plan.tables.items() for c in not_carried(t.table)]
        settings = self.settings
        return config.wanted(
            settings.source,
            settings.kafka,
            settings.connect,
            effective(settings.source, session),
            plan.declared.tables,
            left_out,
            {n: t.key for n, t in plan.tables.items() if set(t.key) != set(t.table.primary)},
        )

    def _wait_streaming(self, session: Session, rest: Connect, within_s: float = 60) -> None:
        """RUNNING says little: the slot being in use says that Debezium streams."""
        until = time.monotonic() + within_s
        while not ((slot := slots.slot_facts(session, self.settings.source.slot)) and slot.active):
            state = rest.state()
            if state.failed or time.monotonic() > until:
                raise ConnectRefused(
                    f"the connector does not stream from the slot: {state.failure or 'it does not say why'}",
                    remedy="mend the cause (can Connect reach PostgreSQL?), then run `tandem setup` again",
                )
            time.sleep(0.1)


def _all_unloaded(db: Database) -> bool:
    return all(p.holder == ledger.UNLOADED for p in ledger.positions(db).values())


def check_connect(rest: Connect, wanted: dict[str, str]) -> None:
    """Refuse before anything is made."""
    # what the connector says of the database it says again, and better, when it starts
    wrong = requirements.of_connect(rest.plugins()) or requirements.of_exactly_once(rest.complaints(wanted))
    if wrong:
        raise ConnectRefused(wrong[0].what, remedy=wrong[0].remedy)


class Teardown:
    """Take away what setup made; the documents stay unless it is said otherwise."""

    def __init__(self, settings: Settings, log: Log) -> None:
        self.settings, self.log = settings, log

    def run(self, *, drop_collections: bool) -> list[str]:
        """Connector, slot, publication, topics, tandem's own collections. Safe to repeat. Returns what was removed.

        Nothing is removed before every server has answered.
        """
        settings, done = self.settings, list[str]()
        declared = spec.load(settings.mapping)
        slot, publication = settings.source.slot, settings.source.publication
        with ExitStack() as stack:
            session = stack.enter_context(connect(settings.source, name="tandem teardown"))
            stack.enter_context(translated(settings.source))
            db = mongo.connect(settings.target, name="tandem teardown")
            stack.callback(db.client.close)
            self._ours(db)
            if drop_collections:
                ledger.demand_not_retired(ledger.positions(db).values())
            rest = stack.enter_context(Connect(settings.connect))
            connected = rest.state().connector != "ABSENT"
            admin = stack.enter_context(Admin(settings.kafka))
            rest.drop()
            if connected:
                done.append(f"connector {settings.connect.connector}")
            if not any((p.holder or "").startswith(ledger.RETIRED) for p in ledger.positions(db).values()):
                done += reverse.drop(session, slot)  # else it is the way back
            if drop_slot(session, slot):
                done.append(f"slot {slot}")
            if slots.published_tables(session, publication) is not None:
                slots.drop_publication(session, publication)
                done.append(f"publication {publication}")
            prefix = settings.kafka.topic_prefix
            names = [config.topic_of(prefix, table) for table in declared.tables]
            names += [p.topic for p in ledger.positions(db)]  # of tables that are no longer mapped
            done += [f"topic {name}" for name in admin.delete([*names, *config.own_topics(prefix)])]
            there = collections.collection_names(db)
            if drop_collections:
                collections.drop(db, declared.collections)
                done += [f"collection {name}" for name in declared.collections if name in there]
            target.drop_own(db)
            if there & set(ledger.OWN):
                done.append("tandem's own collections")
        return done

    def _ours(self, db: Database) -> None:
        """Refuse to forget what another pipeline knows of itself."""
        known = ledger.state(db, "pipeline") or {}
        if known.get("slot", self.settings.source.slot) != self.settings.source.slot:
            raise SourceReplaced(
                f"the target database {db.name} belongs to the pipeline of the slot {known['slot']}",
                remedy="correct MONGODB_DATABASE, or give that pipeline's own names (TANDEM_SOURCE__SLOT and others)",
                slot=self.settings.source.slot,
            )


def drop_slot(session: Session, name: str) -> bool:
    """Whether there was one."""
    until = time.monotonic() + 30
    while True:
        try:
            return slots.drop_slot(session, name)
        except Contended:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
