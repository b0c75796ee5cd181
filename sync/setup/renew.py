"""A new slot in place of one that is lost (docs/write-rule.md, clause 6). In this order and no other: no earlier run
can replace the slot any more; nobody sends any more; all tables are held; there is a new slot; the connector streams
from it; the positions are moved to the ends; then rows are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from connectors.debezium.connect import Connect
from connectors.errors import MappingChanged, NotSetUp, Refused
from connectors.kafka.admin import Admin
from connectors.mongo import client as mongo
from connectors.mongo import ledger
from connectors.mongo.client import Database
from connectors.positions import Lsn, Partition
from connectors.postgres import slots
from connectors.postgres.client import Session, connect, translated
from consumers.mapping.plan import Plan
from sync.setup import schema
from sync.setup.make import Setup, check_connect, drop_slot, load_plan

Ends = Mapping[Partition, int]
Take = Callable[[Ends | None], None]
Move = Callable[[Ends, Lsn], None]


def replace_slot(
    stop: Callable[[], object],
    ends: Callable[[], Ends],
    take: Take,
    make: Callable[[], Lsn],
    start: Callable[[], object],
    move: Move,
) -> None:
    """The order of it, for whoever alone may replace the slot. What was sent before is not applied over what is read
    after, and from the new slot's point on nothing is missing in the topics.

    The ends are read again when Debezium streams from the new slot. Only then can nobody send any more what older ones
    held: a Connect worker that was cut off is fenced by the producer of the next task, and a run that has made a slot
    since the first look by who may replace it. What the new slot has sent by then is skipped with it: rows are read
    later.
    """
    stop()
    take(ends())
    begins = make()
    start()
    move(ends(), begins)


def begins_anew(healing: object, *, in_order: bool, force: bool = False) -> bool:
    """Whether a slot has to be made. in_order: one is there. healing: how far the last run has come: its slot counts
    when the positions are known to lie where it begins."""
    return force or not in_order or (bool(healing) and healing != ledger.NEW_SLOT)


class Renewal(Setup):
    """One run. Killed anywhere, the next one goes on: as long as positions are not where a new slot begins, anew."""

    def renew(self, take: Take, move: Move, *, force: bool = False) -> None:
        """Make the new slot and let the connector stream from it. Raises Refused where the slot is in order.

        take: holds all tables, and moves their positions to these ends; None: goes on with an earlier run's walk. move:
        moves them under that hold. force: also where a slot is there and in order, since somebody has made it.
        """
        settings = self.settings
        with connect(settings.source, name="tandem heal") as session, translated(settings.source):
            db = mongo.connect(settings.target, name="tandem heal")
            plan = load_plan(settings, session, schema.known(db))
            facts = slots.server_facts(session)
            slot = slots.slot_facts(session, settings.source.slot)
            try:
                with Connect(settings.connect) as rest, Admin(settings.kafka) as admin:
                    wanted = self.wanted_connector(plan, session)
                    self._is_lost(slot, db, plan, force=force)
                    self._not_others(facts, slot, db, rest, wanted)
                    self._same_source(db, facts)
                    self._same_topics(admin, plan, db)
                    check_connect(rest, wanted)
                    if ended := slots.fence(session, settings.source.slot):
                        self.log("ended the session of an earlier `tandem heal`", sessions=len(ended))
                    slot = slots.slot_facts(session, settings.source.slot)
                    fresh = self._is_lost(slot, db, plan, force=force)
                    if fresh:
                        self._renew(session, db, rest, admin, wanted, take, move)
                    else:
                        take(None)
                        self._connector(session, rest, wanted)
            finally:
                db.client.close()

    def _is_lost(self, slot: slots.SlotFacts | None, db: Database, plan: Plan, *, force: bool) -> bool:
        """Whether a slot has to be made; False: an earlier run has, and did not come to its end."""
        known = ledger.state(db, "pipeline") or {}
        if not known.get("slotWanted"):
            raise NotSetUp(
                "the pipeline is not set up", remedy="run `tandem setup`: there is nothing to heal"
            )
        if known.get("mapping") != plan.digest:
            raise MappingChanged(
                "the mapping is not the one that the pipeline was set up with",
                remedy="heal with that one (--mapping FILE); run `tandem setup` with the new one afterwards",
            )
        in_order = slot is not None and slot.wal_status != "lost"
        if in_order and not known.get("healing") and not force:
            raise Refused(
                f"the slot {self.settings.source.slot} is there and in order: there is nothing to heal",
                remedy="to read rows again: `tandem reload COLLECTION`; if the slot was dropped and made again by hand:"
                " `tandem heal --force`",
            )
        return begins_anew(known.get("healing"), in_order=in_order, force=force)

    def _renew(
        self,
        session: Session,
        db: Database,
        rest: Connect,
        admin: Admin,
        wanted: dict[str, str],
        take: Take,
        move: Move,
    ) -> None:
        def make() -> Lsn:
            """In the session that `slots.fence` speaks of, and no other."""
            drop_slot(session, name)
            begins = slots.make_slot(session, name)
            self._made(f"slot {name} at {begins}")
            return begins

        name = self.settings.source.slot
        replace_slot(
            # with its offsets: the new one begins where the new slot does
            stop=lambda: rest.drop(wanted),
            ends=lambda: admin.ends(list(ledger.positions(db))),
            take=take,
            make=make,
            start=lambda: self._connector(session, rest, wanted),
            move=move,
        )


def healed(db: Database) -> None:
    """All tables were read again: the new slot is one like any other."""
    ledger.healed(db)
