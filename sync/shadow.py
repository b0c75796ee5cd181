"""`tandem rebuild`, put together: a second pipeline beside the live one, on the same topics, whose collections and
positions lie under a prefix of their own (docs/rebuild.md). The loader, the worker and the verification are those of
the live side."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import Any

from connectors.debezium.connect import Connect
from connectors.errors import (
    Disagreement,
    MappingInvalid,
    NotComplete,
    NotSetUp,
    Refused,
    SchemaChanged,
)
from connectors.mongo import client as mongo
from connectors.mongo import ledger, rebuilds
from connectors.mongo.client import Database, Document, Shadow
from connectors.mongo.rebuilds import Journal
from connectors.mongo.transaction import Transaction, Transactions
from connectors.positions import Partition
from connectors.postgres import slots
from connectors.postgres.client import connect, translated
from connectors.settings import ShadowTarget
from consumers.mapping.plan import Plan
from sync import proof, swap
from sync.control import roles
from sync.control.pace import Pace
from sync.differences import differences
from sync.follower import Follower, LivePositions
from sync.lag.watch import LagWatch
from sync.made import RebuildReport
from sync.past import Past, kept_cut
from sync.rebuild.states import Asked, Phase, Step, decide
from sync.settings import Settings
from sync.setup import change, target
from sync.setup import schema as tables
from sync.setup.make import Setup, load_plan
from sync.setup.same import check_source
from sync.snapshot.lease import lease
from sync.snapshot.load import Loader

Log = Callable[..., None]
#: slot, topics and the pipeline, while the shadow follows
_CHECK_EVERY_S = 5.0
#: somebody may start consumers at the same time
_STARTING_S = 6.0


class Rebuild:
    """One run of the command. within_s: how long the consumers may wait while the shadow comes to where they are."""

    def __init__(
        self,
        settings: Settings,
        asked: Asked,
        log: Log,
        *,
        stop: Callable[[], bool] = lambda: False,
        within_s: float = 60,
        report: RebuildReport | None = None,
    ) -> None:
        self.settings, self.asked, self.log, self.stop, self.within_s = settings, asked, log, stop, within_s
        self.report = report or RebuildReport()
        self.run_name = f"{rebuilds.LEASE}:{uuid.uuid4().hex[:12]}"
        self.pace = Pace("snapshot")
        self.db: Database
        self.journal: Journal
        self.plan: Plan
        self._checked = 0.0
        self._wanted: Mapping[Partition, int] = {}

    # -- the whole -----------------------------------------------------------------------------------------------
    def run(self) -> RebuildReport:
        """Do what is asked for, from where the journal says. Raises named errors; can be run again after each."""
        began = time.monotonic()
        with ExitStack() as stack:
            self.db = mongo.connect(self.settings.target, name="tandem rebuild")
            stack.callback(self.db.client.close)
            known = rebuilds.journal(self.db)
            step = decide(known, self.asked)
            stack.enter_context(lease(self.db, rebuilds.LEASE, self.run_name, "tandem rebuild"))
            self.journal = Journal(self.db, self.run_name)
            swap.let_go(self.db)  # a swap that has died before its switch
            known = self.journal.take()
            step = decide(known, self.asked)  # as the one before has left it
            if step in (Step.DISCARD, Step.DROP_KEPT):
                self._discard(known, step)
            else:
                self._look()
                self._carry_on(known, step)
            swap.drop_strays(self.db)
            self.report.phase = str((rebuilds.journal(self.db) or {}).get("phase", Phase.NONE))
        self.report.seconds = time.monotonic() - began
        return self.report

    def _carry_on(self, known: Document, step: Step) -> None:
        if step is Step.FINISH:
            self.log("a swap was cut off: carrying it to its end")
            self._is_followed()
            swap.finish(self.db, self.journal, self.plan, self.log)
            self._tell(known)
            self.report.swapped = True
            return
        if step is Step.BEGIN:
            known = self._begin()
        elif step is Step.UNDO:
            known = self._begin_undo(known)
        else:
            self._same_mapping(known)
        self._tell(known)
        if known["phase"] == Phase.PREPARING:
            self._prepare(known)
        self._work(known)

    def _tell(self, known: Document) -> None:
        report = self.report
        report.id, report.source = known["id"], known["source"]
        report.collections, report.prefix = list(known["collections"]), rebuilds.prefix_of(known["id"])
        report.until = known.get("until") or ""

    def _discard(self, known: Document, step: Step) -> None:
        if step is Step.DROP_KEPT:
            name = known["kept"]["id"]
            self.journal.write(kept=None)
        else:
            name = known["id"]
        if step is Step.DISCARD and known["source"] == "kept":
            # it has been brought nearer to now, positions and all: it is kept as before
            self.journal.write(phase=Phase.NONE, kept=known["taken_back"])
            self.report.id, self.report.discarded = name, True
            return
        if step is Step.DISCARD:
            self.journal.write(phase=Phase.DISCARDING)
        swap.drop_shadow(self.db, name)
        if step is Step.DISCARD:
            self.journal.write(phase=Phase.NONE)
        self.report.id, self.report.discarded = name, True
        self.log("discarded", id=name)

    # -- looking -------------------------------------------------------------------------------------------------
    def _look(self) -> None:
        """The pipeline, and the mapping as it is asked for. Raises NotSetUp, SourceReplaced, SchemaChanged."""
        positions = ledger.positions(self.db).values()
        if not positions:
            raise NotSetUp("the pipeline is not set up", remedy="run `tandem setup` first")
        ledger.demand_not_retired(positions)
        with connect(self.settings.source, name="tandem rebuild") as session:
            kept = tables.known(self.db)
            self.plan = load_plan(self.settings, session, kept)
            facts = slots.server_facts(session)
            check_source(ledger.state(self.db, "pipeline") or {}, facts)
            changed = [
                name for name, of in self.plan.tables.items()
                if name in kept and kept[name].version != of.table.version
            ]  # fmt: skip
            if changed:
                raise SchemaChanged(
                    f"tables have changed since the pipeline took them over: {', '.join(changed)}",
                    remedy="`tandem setup` takes them over as they are now; then rebuild",
                )

    def _is_followed(self) -> None:
        followed = (ledger.state(self.db, "pipeline") or {}).get("mapping")
        if followed != self.plan.digest:
            raise Refused(
                "the mapping file is not the one that this swap was begun with, which is followed by now",
                remedy="give that one with --mapping",
            )

    def _same_mapping(self, known: Document) -> None:
        if known["mapping"] != self.plan.digest:
            raise Refused(
                "this rebuild was begun with another mapping",
                remedy="give that one with --mapping; or `tandem rebuild --discard`, then begin anew",
            )

    def _may_begin(self, names: Sequence[str]) -> Document:
        """Whether these collections can be rebuilt by this mapping. Returns the pipeline's base. Raises Refused."""
        unknown = sorted(set(names) - set(self.plan.documents))
        if unknown:
            raise MappingInvalid(
                f"{self.settings.mapping} has no collection with a table named {', '.join(unknown)}",
                remedy=f"name one of: {', '.join(self.plan.documents)}",
            )
        pipeline = ledger.state(self.db, "pipeline") or {}
        positions = ledger.positions(self.db)
        if pipeline.get("healing"):
            raise Refused("a lost slot is being healed", remedy="run `tandem heal`, then rebuild")
        asked = change.change(self.plan, change.shapes_of(self.db), positions.values())
        more = sorted({*asked.new, *asked.changed} - set(names))
        if more:
            raise Refused(
                f"this mapping changes other collections too: {', '.join(more)}",
                remedy="name them as well, or take their changes out of the file",
            )
        streaming = {p.table for p in positions.values() if not (p.holder or "").startswith(ledger.LOAD)}
        missing = sorted(set(self.plan.tables) - streaming)
        if missing or asked.begun or asked.removed or asked.removed_tables:
            what = [*missing, *asked.begun, *asked.removed, *asked.removed_tables]
            raise Refused(
                f"this mapping adds or removes tables or collections, or they are not loaded yet: {', '.join(what)}",
                remedy="run `tandem setup` and `tandem snapshot` with it; what streams can be rebuilt",
            )
        if pipeline.get("mapping") != self.plan.digest:
            self._same_connector()
        return rebuilds.base_of(pipeline)

    def _same_connector(self) -> None:
        settings = self.settings
        with connect(settings.source, name="tandem rebuild") as session, translated(settings.source):
            wanted = Setup(settings, self.log).wanted_connector(self.plan, session)
        with Connect(settings.connect) as rest:
            if rest.config() != {**wanted, "name": settings.connect.connector}:
                raise Refused(
                    "this mapping wants another configuration of the connector (another key of a table, for example)",
                    remedy="run `tandem setup` and `tandem snapshot` with it",
                )

    # -- making --------------------------------------------------------------------------------------------------
    def _begin(self) -> Document:
        names = list(dict.fromkeys(self.asked.collections))
        source = self.asked.source or "snapshot"
        fields = {
            "id": swap.dated(),
            "collections": names,
            "source": source,
            "until": self.asked.until,
            "phase": Phase.PREPARING,
            "mapping": self.plan.digest,
            "base": self._may_begin(names),
        }
        fields |= self._image(source, names)
        self.journal.write(**fields, cut=[])
        self.log(f"rebuilding {', '.join(names)} from {source}", id=fields["id"])
        return {**fields, "kept": (rebuilds.journal(self.db) or {}).get("kept")}

    def _image(self, source: str, names: Sequence[str]) -> dict[str, Any]:
        """What of the past this source begins with. Raises Refused where it cannot give these collections."""
        if source == "snapshot":
            return {"image": ""}
        past = Past(self.settings, self.db, source, self.asked.until, self.log)
        part = self.plan.only(names)
        partitions = list(rebuilds.live_positions(self.db, part.tables))
        if source == "topics":
            past.demand_whole(part)
            return {"image": ""}
        past.demand_joined(partitions)
        base = past.base()
        past.begins(partitions, base)
        return {"image": base.name if base else ""}

    def _begin_undo(self, known: Document) -> Document:
        kept = known["kept"]
        names = list(kept["collections"])
        fresh = [name for name, shape in kept["shapes"].items() if shape is None]
        if fresh:
            raise Refused(
                f"the swap has made {', '.join(fresh)}, which was not there before",
                remedy="take it out of the mapping and run `tandem setup`; nothing is to be put back",
            )
        other = [
            n for n in names if n not in self.plan.documents or self.plan.shape_of(n) != kept["shapes"][n]
        ]
        if other:
            raise Refused(
                f"the mapping file does not make {', '.join(other)} as before the swap",
                remedy="give the mapping of before with --mapping: what has happened since is applied by it",
            )
        fields = {
            "id": kept["id"],
            "collections": names,
            "source": "kept",
            "until": None,
            "phase": Phase.PREPARING,
            "mapping": self.plan.digest,
            "base": self._may_begin(names),
            "kept": None,
            "taken_back": kept,
        }
        self.journal.write(**fields)
        self.log(f"taking back {', '.join(names)} as kept at {kept['at']}: catching up with what came since")
        return fields

    def _prepare(self, known: Document) -> None:
        """The shadow's collections, its knowledge of the pipeline, and its positions; the last in the transaction
        that says so."""
        part = self.plan.only(known["collections"])
        shadow = self._shadow(known)
        self._make(part, shadow)
        rebuilds.copy_state(self.db, shadow, self.plan.digest)
        source, follows, names = known["source"], self.plan.follows, list(part.tables)
        loads = source in ("snapshot", "archive")
        phase = Phase.LOADING if loads else Phase.FOLLOWING
        begins = {}
        if source == "kept":
            rebuilds.follow(shadow, follows)
        elif source != "snapshot":
            past = self._past(known)
            begins = past.begins(
                list(rebuilds.live_positions(self.db, names)), past.base(known["image"]) if loads else None
            )

        def work(tx: Transaction) -> None:
            if source == "snapshot":
                rebuilds.begin_at_live(tx, shadow, names, follows, ledger.UNLOADED)
            elif source != "kept":
                holder = ledger.UNLOADED if loads else None
                rebuilds.begin_at(tx, shadow, names, follows, begins, holder)
            self.journal.write_in(tx, phase=phase)

        transactions = Transactions(self.db)
        try:
            transactions.repeat(work)
        finally:
            transactions.close()
        known["phase"] = phase

    def _make(self, part: Plan, shadow: Shadow) -> None:
        declared = {name: part.declared.collections[name] for name in part.documents}
        small = part.declared.model_copy(update={"collections": declared})
        target.make_collections(shadow, replace(part, declared=small))
        for warning in target.make_vector_indexes(shadow, small, self.log):
            self.log(warning)

    def _shadow(self, known: Document) -> Shadow:
        return Shadow(self.db, rebuilds.prefix_of(known["id"]))

    def _shadow_settings(self, known: Document) -> Settings:
        live = self.settings.target
        prefixed = ShadowTarget(uri=live.uri, database=live.database, prefix=rebuilds.prefix_of(known["id"]))
        return self.settings.model_copy(update={"target": prefixed})

    # -- working -------------------------------------------------------------------------------------------------
    def _work(self, known: Document) -> None:
        """Load, follow, build, verify, compare; and swap where that is asked for."""
        part, settings = self.plan.only(known["collections"]), self._shadow_settings(known)
        with self._paced():
            if known["phase"] == Phase.LOADING:
                self._load(known, part, settings)
            with self._follower(known, part, settings) as follower:
                try:
                    began = time.monotonic()
                    self._catch_up(known, follower)
                    self.report.followed_s = time.monotonic() - began
                    self.report.followed = follower.events
                    self._build(known, part, follower)
                    self._prove(known, settings, follower)
                    if self.asked.swap or (self.asked.undo and known["source"] == "kept"):
                        self._swap(known, part, follower)
                finally:
                    self.report.events = follower.events

    def _past(self, known: Document) -> Past:
        return Past(self.settings, self.db, known["source"], known.get("until"), self.log)

    def _follower(self, known: Document, part: Plan, settings: Settings) -> Follower:
        live = LivePositions(self.db, part.tables)
        if known["source"] in ("snapshot", "kept"):
            return Follower(settings, part, live, self.log, pace=self.pace)
        past, archived = self._past(known), known["source"] == "archive"
        if not known.get("until"):
            return Follower(settings, part, live, self.log, pace=self.pace, wrap=past.wrap, whole=archived)
        assert past.moment is not None
        us = past.moment.us
        if not known.get("cut"):
            base = past.base(known["image"]) if archived else None
            known["cut"] = [[p.id, at] for p, at in past.cut(base, self.stop).items()]
            self.journal.write(cut=known["cut"])
        mine = {p: at for p, at in kept_cut(known).items() if p in set(ledger.positions(self._shadow(known)))}
        self._wanted = mine
        return Follower(
            settings,
            part,
            lambda: mine,
            self.log,
            pace=self.pace,
            past=True,
            wrap=past.wrap,
            whole=archived,
            now_us=(lambda: us) if us is not None else (lambda: time.time_ns() // 1_000),
        )

    @contextmanager
    def _paced(self) -> Iterator[None]:
        """As `tandem pause snapshot` and `tandem throttle` say."""
        with (
            closing(LagWatch(self.settings)) as watch,
            roles.loader(self.settings, self.pace, self.log, lambda: watch.look().streaming_seconds),
        ):
            yield

    def _load(self, known: Document, part: Plan, settings: Settings) -> None:
        if known["source"] == "archive":
            past, shadow = self._past(known), self._shadow(known)
            base = past.base(known["image"])
            assert base is not None
            self.log("loading the base image", base=base.name, lsn=str(base.at))
            begins = past.begins(list(ledger.positions(shadow)), base)
            self.report.rows = past.load(base, part, shadow, begins)
            self.journal.write(phase=Phase.FOLLOWING)
            return
        loader = Loader(settings.source, settings.target, part, settings.limits, log=self.log, pace=self.pace)
        try:
            report = loader.load()
        finally:
            loader.db.client.close()
        self.report.rows = sum(of.rows for of in report.collections.values())
        self.journal.write(phase=Phase.FOLLOWING)

    def _catch_up(self, known: Document, follower: Follower) -> None:
        """To where the live side is by now, or to the moment that was asked for."""
        live = rebuilds.live_positions(self.db, follower.plan.tables)
        wanted = self._wanted or {p: position.at for p, position in live.items()}
        told = time.monotonic()

        def tell(behind: int) -> None:
            nonlocal told
            self._still(known)
            if behind and time.monotonic() - told > 5:
                told = time.monotonic()
                self.log(f"{behind:,} records behind the live side", applied=follower.events)

        if not follower.reach(wanted, None, self.stop, tell):
            raise _stopped()

    def _still(self, known: Document) -> None:
        """The pipeline is the one that this was begun on. Raises Refused."""
        if time.monotonic() - self._checked < _CHECK_EVERY_S:
            return
        self._checked = time.monotonic()
        pipeline = ledger.state(self.db, "pipeline") or {}
        if rebuilds.base_of(pipeline) != known["base"] or pipeline.get("healing"):
            raise Refused(
                "the pipeline is no longer as it was when the rebuild began: its mapping or its slot has changed",
                remedy="`tandem rebuild --discard`, then begin anew",
            )

    def _build(self, known: Document, part: Plan, follower: Follower) -> None:
        """Unique indexes, which meet duplicates while two values change places; then once more."""
        shadow = self._shadow(known)
        declared = {name: part.declared.collections[name] for name in part.documents}
        small = part.declared.model_copy(update={"collections": declared})
        left = target.missing_unique(shadow, small)
        for _ in range(20):
            left = target.build_unique(shadow, left, self.log) if left else left
            if not left:
                return
            time.sleep(0.5)
            self._catch_up(known, follower)
        names = ", ".join(f"{name}.{index.wire_name}" for name, index in left)
        raise Refused(
            f"unique indexes meet duplicates: {names}",
            remedy="PostgreSQL takes several NULLs in a unique column, MongoDB one: give the index a `partial` filter",
        )

    def _prove(self, known: Document, settings: Settings, follower: Follower) -> None:
        """Every field of the shadow against PostgreSQL; then the shadow beside the live side, for people."""
        follower.check()
        report = self.report
        shadow = self._shadow(known)
        with mongo.translated():
            report.parked = [str(d["_id"]) for d in shadow[ledger.PARKED].find({}, {"_id": 1}).limit(100)]
        if known.get("until"):
            self.journal.write(phase=Phase.REACHED)
        elif not report.parked:
            self._consumed()
            names = list(known["collections"])
            self.log(f"verifying {', '.join(names)}")
            report.verified = proof.verify(
                settings, proof.Asked(collections=names, timeout_s=120, resume=False), log=self.log
            )
        follower.check()
        report.differences = {
            name: differences(self.db, shadow, name, lambda: self._catch_up(known, follower))
            for name in known["collections"]
        }

    def _consumed(self) -> None:
        """The shadow goes as far as the live consumers have come, so some have to run. Raises NotComplete."""
        until = time.monotonic() + _STARTING_S
        while not any(w.alive_s < ledger.SILENT_AFTER_S for w in ledger.workers(self.db)):
            if time.monotonic() > until:
                raise NotComplete(
                    "no consumer runs, and the shadow goes no further than the live side",
                    remedy="start `tandem run` (its mapping is the one that is followed by now), then go on with"
                    " `tandem rebuild`",
                )
            time.sleep(0.2)

    def _swap(self, known: Document, part: Plan, follower: Follower) -> None:
        report = self.report
        if report.verified is not None and not report.verified.ok:
            raise Disagreement(
                f"the shadow does not agree with PostgreSQL: {report.verified.total} differences; nothing was swapped",
                remedy="run `tandem rebuild` without --swap to see them; `tandem rebuild --discard` throws it away",
            )
        shadow = self._shadow(known)
        one = swap.Swap(
            self.db,
            shadow,
            self.journal,
            self.plan,
            part,
            self.log,
            within_s=self.within_s,
            keep=self.asked.keep,
            replace_existing=self.asked.replace_existing,
        )
        done = one.swap(known, follower, self.stop)
        report.swapped, report.held_s, report.kept = True, done.held_s, done.kept
        report.undone = known["source"] == "kept"


def _stopped() -> Refused:
    return Refused("told to stop", remedy="run `tandem rebuild` again: it goes on where it was")
