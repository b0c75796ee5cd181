"""A new slot in place of one that is lost (docs/write-rule.md, clause 6). In this order and no other: nobody sends any
more; all tables are held, at the ends of what the old slot sent; then there is a new slot; then rows are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from connectors.debezium.connect import Connect
from connectors.errors import MappingChanged, NotSetUp, Refused
from connectors.kafka.admin import Admin
from connectors.mongo import client as mongo
from connectors.mongo import ledger
from connectors.mongo.client import Database
from connectors.positions import Partition
from connectors.postgres import slots
from connectors.postgres.client import Session, connect, translated
from consumers.mapping.plan import Plan
from sync.setup import schema
from sync.setup.make import Setup, check_connect, drop_slot, load_plan

Take = Callable[[Mapping[Partition, int]], None]


def replace_slot(
    stop: Callable[[], object],
    ends: Callable[[], Mapping[Partition, int]],
    take: Take,
    make: Callable[[], object],
) -> None:
    """The order of it. What was sent before is not applied over what is read after, and from the new slot's point on
    nothing is missing in the topics."""
    stop()
    take(ends())
    make()


class Renewal(Setup):
    """One run. Killed anywhere, the next one goes on: as long as there is no new slot it begins anew."""

    def renew(self, take: Take, *, force: bool = False) -> None:
        """Make the new slot and let the connector stream from it. Raises Refused where the slot is in order.

        take: holds all tables, and moves their positions to these ends. force: also where a slot is there and in
        order, since somebody has made it.
        """
        settings = self.settings
        with connect(settings.source, name="tandem heal") as session, translated(settings.source):
            db = mongo.connect(settings.target, name="tandem heal")
            plan = load_plan(settings, session, schema.known(db))
            facts = slots.server_facts(session)
            slot = slots.slot_facts(session, settings.source.slot)
            try:
                with Connect(settings.connect) as rest, Admin(settings.kafka) as admin:
                    wanted = self._wanted_connector(plan, session)
                    fresh = self._is_lost(slot, db, plan, force=force)
                    self._not_others(facts, slot, db, rest, wanted)
                    self._same_source(db, facts)
                    self._same_topics(admin, plan, db)
                    check_connect(rest, wanted)
                    if fresh:
                        self._renew(session, db, rest, admin, wanted, take)
                    else:
                        take({})
                        if slot is not None and not (ledger.state(db, "pipeline") or {}).get("slotMade"):
                            ledger.set_state(db, "pipeline", slotMade=True, slotLsn=str(slot.confirmed))
                    self._connector(session, rest, wanted)
            finally:
                db.client.close()

    def _is_lost(self, slot: slots.SlotFacts | None, db: Database, plan: Plan, *, force: bool) -> bool:
        """Whether a slot has to be made; False: an earlier run has made it, and did not come to its end."""
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
        if slot is None or slot.wal_status == "lost":
            return True
        if known.get("healing"):
            return False
        if not force:
            raise Refused(
                f"the slot {self.settings.source.slot} is there and in order: there is nothing to heal",
                remedy="to read rows again: `tandem reload COLLECTION`; if the slot was dropped and made again by hand:"
                " `tandem heal --force`",
            )
        return True

    def _renew(
        self,
        session: Session,
        db: Database,
        rest: Connect,
        admin: Admin,
        wanted: dict[str, str],
        take: Take,
    ) -> None:
        def make() -> None:
            ledger.set_state(db, "pipeline", healing=True, slotMade=False)
            drop_slot(session, name)
            made = slots.create_slot(self.settings.source)
            made.session.close()  # rows are read as they are later
            ledger.set_state(db, "pipeline", slotMade=True, slotLsn=str(made.lsn))
            self._made(f"slot {name} at {made.lsn}")

        name = self.settings.source.slot
        replace_slot(
            # with its offsets: the new one begins where the new slot does
            stop=lambda: rest.drop(wanted),
            ends=lambda: admin.ends(list(ledger.positions(db))),
            take=take,
            make=make,
        )


def healed(db: Database) -> None:
    """All tables were read again: the new slot is one like any other."""
    ledger.set_state(db, "pipeline", healing=False)
