"""How `tandem verify --repair` and `tandem explain` are put together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from bson import ObjectId

from connectors.debezium import config
from connectors.errors import NotComplete, NotSetUp, ServerGone
from connectors.kafka.tail import Tails
from connectors.mongo import client as mongo
from connectors.mongo import ledger
from connectors.mongo.transaction import Transactions
from connectors.positions import Lsn
from connectors.postgres import slots
from connectors.postgres.client import connect
from connectors.postgres.rows import CurrentRows
from consumers.mapping import spec
from consumers.mapping.ids import KeyValue
from consumers.records import Decoder
from consumers.repair import Act, Repairer, Wanted
from sync import proof
from sync.explain.facts import Facts
from sync.explain.read import Asked, Explain
from sync.explain.verdict import Verdict, verdict
from sync.lag.token import Completeness
from sync.repair.report import RepairReport
from sync.repair.run import Repair
from sync.settings import Settings
from sync.setup import schema
from sync.setup.make import load_plan
from sync.setup.same import check_pipeline
from sync.verify.again import Document as Again
from sync.verify.again import look_again
from sync.verify.expected import secret_places
from sync.verify.one import key_of, look_at
from sync.verify.report import Difference
from sync.verify.run import Limits
from sync.verify.run import verify as run_verify

#: so many differences are repaired in one run
_REPAIRED_AT_ONCE = 10_000


def now_us() -> int:
    """Microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1_000


def repair(
    settings: Settings,
    *,
    collections: Sequence[str] | None = None,
    timeout_s: float = 60,
    execute: bool = False,
    remove_foreign: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> RepairReport:
    """Verify, make what differs anew from its rows, and verify that again; without execute only say what would be done.

    Raises NotComplete where differences cannot be confirmed, as the consumers do not catch up.
    """
    declared = proof.with_collections(settings.mapping, collections or ())
    with ExitStack() as stack:
        complete = proof.completeness(settings, stack)
        db = complete.db
        with connect(settings.source, name="tandem repair") as session:
            plan = load_plan(settings, session, schema.known(db))
            facts = slots.server_facts(session)
        proof.demand_loaded(db, declared, collections)
        check_pipeline(db, plan, facts)
        schema.demand_taken_over(db, plan)
        mapping = schema.leaving_out(declared, {t: of.ignored for t, of in schema.known(db).items()})
        wait = lambda lsn: _applied(complete, lsn, timeout_s)  # noqa: E731
        tell("verifying")
        verified = run_verify(
            mapping,
            settings.source,
            settings.target,
            collections=collections,
            wait=wait,
            limits=Limits(samples=_REPAIRED_AT_ONCE),
        )
        if verified.not_waited is not None:
            raise NotComplete(
                f"what differs cannot be told from what is on its way: {verified.not_waited}",
                remedy="see `tandem status`: do consumers and connector run? or wait longer (--timeout)",
            )
        rows = CurrentRows(settings.source)
        stack.callback(rows.close)
        transactions = Transactions(db)
        stack.callback(transactions.close)
        repairer = Repairer(
            transactions,
            rows,
            plan,
            now_us,
            lambda: ledger.positions(db).values(),
            remove_foreign=remove_foreign,
        )
        stack.callback(repairer.close)

        def again(wanted: Sequence[Wanted]) -> list[list[Difference]]:
            looked_at = [Again(one.collection, one.id, one.key) for one in wanted]
            return look_again(mapping, settings.source, settings.target, looked_at, wait)

        secret = {name: secret_places(collection) for name, collection in mapping.collections.items()}
        work = Repair(
            plan,
            repairer,
            again,
            lambda collection, ids: mongo.those_there(db, collection, ids),
            lambda collection, path: any(f"{path}.".startswith(f"{one}.") for one in secret[collection]),
        )
        report = work.run(verified.differences, str(verified.lsn), execute=execute, tell=tell)
        report.left = verified.total - len(verified.differences) + verified.unchecked
        return report


def explain(
    settings: Settings, asked: Asked, log: Callable[..., None] = lambda *_, **__: None
) -> tuple[Facts, Verdict]:
    """All that is known of one document, and what to tell first. Raises MappingInvalid, KeyUnknown, NotSetUp."""
    declared = proof.with_collections(settings.mapping, [asked.collection])
    with ExitStack() as stack:
        db = mongo.connect(settings.target, name="tandem explain")
        stack.callback(db.client.close)
        with connect(settings.source, name="tandem explain") as session:
            plan = load_plan(settings, session, schema.known(db))
            facts = slots.server_facts(session)
        positions = ledger.positions(db)
        if not positions:
            raise NotSetUp("the pipeline is not set up", remedy="run `tandem setup` first")
        check_pipeline(db, plan, facts)
        mapping = schema.leaving_out(declared, {t: of.ignored for t, of in schema.known(db).items()})
        rows = CurrentRows(settings.source)
        stack.callback(rows.close)
        tails, no_tails = None, ""
        try:
            tails = Tails(settings.kafka)
            stack.callback(tails.close)
        except ServerGone as gone:  # document and row can be told all the same
            no_tails = gone.what
        tables = {p.topic: position.table for p, position in positions.items()}

        def behind(collection: str, id_: ObjectId) -> tuple[KeyValue, ...] | None:
            log("looking for the row among all keys of its table", collection=collection)
            found = key_of(mapping, settings.source, collection, id_)
            if found is None:
                return None
            return plan.documents[collection].table.key_from_texts([str(value) for value in found])

        known = Explain(
            plan,
            spec.Lines.of(settings.mapping),
            db,
            rows,
            Decoder(plan, config.placeholder(settings.source, settings.kafka), tables),
            tails,
            no_tails,
            lambda collection, id_, key: look_at(
                mapping, settings.source, settings.target, collection, id_, key
            ),
            behind,
        ).facts(asked)
        return known, verdict(known)


def _applied(complete: Completeness, lsn: Lsn, timeout_s: float) -> None:
    """Return when everything up to an LSN is applied, or parked. Raises NotComplete."""
    try:
        proof.waited(complete, lsn, timeout_s)
    except NotComplete:
        if not complete.look(lsn).only_parked:
            raise


def make_anew(
    settings: Settings, wanted: Sequence[tuple[str, Any, tuple[Any, ...] | None]], stop: Callable[[], bool]
) -> dict[str, object]:
    """Make documents anew from their rows: collection, `_id`, and the row's key where it is known. Raises ServerGone
    for those that could not be tried; safe to repeat."""
    done: dict[str, int] = {}
    failing: list[str] = []
    with ExitStack() as stack:
        db = mongo.connect(settings.target, name="tandem rollback")
        stack.callback(db.client.close)
        with connect(settings.source, name="tandem rollback") as session:
            plan = load_plan(settings, session, schema.known(db))
        rows = CurrentRows(settings.source)
        stack.callback(rows.close)
        transactions = Transactions(db)
        stack.callback(transactions.close)
        repairer = Repairer(
            transactions,
            rows,
            plan,
            lambda: time.time_ns() // 1_000,
            lambda: ledger.positions(db).values(),
            remove_foreign=True,
        )
        stack.callback(repairer.close)
        for one in repairer.repair([Wanted(*of) for of in wanted], stop=stop):
            done[str(one.act)] = done.get(str(one.act), 0) + 1
            if one.act is Act.BUSY:
                raise ServerGone(
                    f"documents could not be made anew: {one.reason}", remedy="it is tried again"
                )
            if one.act in (Act.FAILING, Act.PARKED):
                failing.append(f"{one.wanted.collection} {one.wanted.id}: {one.reason}")
    return {"made_anew": sum(done.values()), **({"left": failing[:20]} if failing else {})}
