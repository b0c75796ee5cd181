"""`tandem status`: every component, and how far each collection is. What cannot be asked is said to be unknown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from connectors.debezium.connect import Connect
from connectors.errors import SyncError
from connectors.kafka.admin import Admin
from connectors.mongo import client as mongo
from connectors.mongo import ledger, parked
from connectors.mongo.client import Database
from connectors.mongo.parked import Parked
from connectors.mongo.transaction import Transactions
from connectors.postgres import slots
from connectors.postgres.client import connect, translated
from consumers.mapping import spec
from sync.lag.phase import phase_of
from sync.lag.token import Ledger, demand_topics, read_ledger
from sync.settings import Settings

_SILENT_AFTER_S = 20.0
_ORDER = ("PostgreSQL", "Connect", "MongoDB", "Kafka", "consumers", "reload")
#: a direct writer that has not said for so long that it lives is dead
LEASE_S = 6.0
_HEAL = "run `tandem heal`: it makes a new slot and reads every row again; then start the consumers again"


@dataclass(slots=True)
class Part:
    """One component. ok: None where it could not be asked."""

    name: str
    ok: bool | None
    what: str
    remedy: str = ""


@dataclass(slots=True)
class CollectionStanding:
    """One collection. behind: records not yet applied, None where unknown. phase: unloaded, loading,
    reloading, streaming."""

    name: str
    table: str
    phase: str = "unknown"
    documents: int | None = None
    behind: int | None = None
    chunks: int = 0
    chunks_done: int = 0


@dataclass(slots=True)
class StatusReport:
    """Everything at one look."""

    parts: list[Part] = field(default_factory=list)
    collections: list[CollectionStanding] = field(default_factory=list)
    wal_bytes: int | None = None
    records: int | None = None
    parked: int | None = None
    #: how many rows are parked, by class
    parked_classes: dict[str, int] = field(default_factory=dict)
    parked_oldest: Parked | None = None

    @property
    def ok(self) -> bool:
        """Every component answers and is in order, and nothing is parked."""
        return all(part.ok for part in self.parts) and self.parked == 0

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "ok": self.ok,
            "components": [
                {"name": p.name, "ok": p.ok, "what": p.what, **({"remedy": p.remedy} if p.remedy else {})}
                for p in self.parts
            ],
            "parked": {
                "rows": self.parked,
                "classes": self.parked_classes,
                "oldest": _oldest(self.parked_oldest),
            },
            "lag": {"wal_bytes": self.wal_bytes, "records": self.records, "parked": self.parked},
            "collections": [
                {
                    "name": c.name,
                    "table": c.table,
                    "phase": c.phase,
                    "documents": c.documents,
                    "behind": c.behind,
                    "chunks": c.chunks,
                    "chunks_done": c.chunks_done,
                }
                for c in self.collections
            ],
        }


def look(settings: Settings, timeout_ms: int = 4_000) -> StatusReport:
    """Ask every component. Raises only what is wrong with the mapping file."""
    declared = spec.load(settings.mapping)
    report = StatusReport(
        collections=[CollectionStanding(n, c.table) for n, c in declared.collections.items() if c.table]
    )
    db: Database | None = None

    def target() -> Part:
        nonlocal db
        db = mongo.connect(settings.target, timeout_ms=timeout_ms, name="tandem status")
        return _mongo(db, declared, report)

    _ask(report, "MongoDB", target)  # first: it knows what the others should be like
    _ask(report, "PostgreSQL", lambda: _postgres(settings, report))
    _ask(report, "Connect", lambda: _connect(settings))
    _ask(report, "Kafka", lambda: _kafka(settings, db, declared, report, timeout_ms))
    _ask(report, "consumers", lambda: _consumers(db))
    if db is not None:
        db.client.close()
    report.parts.sort(key=lambda part: _ORDER.index(part.name))
    return report


def _ask(report: StatusReport, name: str, question: Callable[[], Part]) -> None:
    try:
        report.parts.append(question())
    except SyncError as error:
        report.parts.append(Part(name, None if error.retry_helps else False, error.what, error.remedy))


def _postgres(settings: Settings, report: StatusReport) -> Part:
    with connect(settings.source, name="tandem status") as session, translated(settings.source):
        slot = slots.slot_facts(session, settings.source.slot)
        if slot is None:
            if any(c.phase in ("loading", "reloading", "streaming") for c in report.collections):
                gone = f"the slot {settings.source.slot} is gone: changes since then are in no event"
                return Part("PostgreSQL", False, gone, _HEAL)
            return Part("PostgreSQL", False, f"there is no slot {settings.source.slot}", "run `tandem setup`")
        report.wal_bytes = max(0, slots.wal_position(session) - slot.confirmed)
        retained = f"{slot.retained_bytes / 1e6:.1f} MB of WAL retained"
        if slot.wal_status == "lost":
            lost = f"the slot {settings.source.slot} is lost: PostgreSQL has removed WAL that it needed"
            return Part("PostgreSQL", False, lost, _HEAL)
        if not slot.active:
            return Part(
                "PostgreSQL",
                False,
                f"nobody streams from the slot {settings.source.slot}; {retained}",
                "see Connect",
            )
        return Part("PostgreSQL", True, f"the slot {settings.source.slot} streams; {retained}")


def _connect(settings: Settings) -> Part:
    with Connect(settings.connect, timeout_s=5) as rest:
        state = rest.state()
    if state.running:
        return Part("Connect", True, f"the connector {settings.connect.connector} runs")
    what = f"the connector {settings.connect.connector} is {state.told}"
    if state.failure:
        what += f": {state.failure}"
    return Part("Connect", False, what, "run `tandem setup`: it makes or restarts the connector")


def _mongo(db: Database, declared: spec.Mapping_, report: StatusReport) -> Part:
    transactions = Transactions(db)
    try:
        found = read_ledger(transactions)
    finally:
        transactions.close()
    report.parked = found.parked
    if not found.positions:
        return Part("MongoDB", False, "the pipeline is not set up", "run `tandem setup`")
    with mongo.translated():
        chunks = list(db[ledger.CHUNKS].find({}, {"collection": 1, "done": 1}))
        for standing in report.collections:
            standing.documents = db[standing.name].estimated_document_count()
    for standing in report.collections:
        mine = [c for c in chunks if c["collection"] == standing.name]
        standing.chunks, standing.chunks_done = len(mine), sum(c["done"] for c in mine)
        tables = declared.collections[standing.name].tables
        held = [p.holder for p in found.positions.values() if p.table in tables and p.holder]
        standing.phase = phase_of(held)
    if (part := _reload(db, found)) is not None:
        report.parts.append(part)
    jobs = f"; {found.jobs} truncates under way" if found.jobs else ""
    left_out = ledger.left_out(db)
    jobs += "; left out by on_schema_change: " + ", ".join(left_out) if left_out else ""
    if found.parked:
        report.parked_classes, first = parked.by_class(db), parked.oldest(db)
        report.parked_oldest = first
        classes = ", ".join(f"{name} {n}" for name, n in sorted(report.parked_classes.items()))
        what = f"{found.parked} rows are parked ({classes})"
        if first is not None:
            what += f", the oldest since {_when(first)}: {first.id}: {first.reason}"
        return Part(
            "MongoDB",
            False,
            what + jobs,
            "see `tandem dead-letters list`; mend the row or the mapping (docs/operations.md, Parked rows)",
        )
    return Part("MongoDB", True, f"{len(found.positions)} positions, nothing parked{jobs}")


def _reload(db: Database, found: Ledger) -> Part | None:
    """What has to be read again, or has stopped in the middle of it."""
    held = sorted({p.table for p in found.positions.values() if (p.holder or "").startswith(ledger.WALK)})
    lives = ledger.load_lives(db, LEASE_S, ledger.WALK)
    if held and not lives:
        return Part(
            "reload",
            False,
            f"a reload has ended too early: {', '.join(held)} stand still until it is ended",
            "run `tandem reload` (`tandem heal`, where a slot was lost): it goes on where that one was",
        )
    if held:
        return Part("reload", True, f"{', '.join(held)} are being read again, and stand still meanwhile")
    if found.rereads:
        why = "; ".join(f"{job.table}: {job.why}" for job in ledger.rereads(db))
        return Part("reload", False, f"to be read again: {why}", "run `tandem snapshot`")
    return None


def _when(one: Parked) -> str:
    return datetime.fromtimestamp(one.since_ms / 1_000, UTC).isoformat(timespec="seconds")


def _oldest(one: Parked | None) -> dict[str, object] | None:
    if one is None:
        return None
    return {"key": one.id, "class": one.parked_class, "since": _when(one), "reason": one.reason}


def _kafka(
    settings: Settings, db: Database | None, declared: spec.Mapping_, report: StatusReport, timeout_ms: int
) -> Part:
    with Admin(settings.kafka, timeout_ms=timeout_ms) as admin:
        if db is None:
            admin.topics([])
            return Part(
                "Kafka", True, "answers; how far it is applied is unknown, as MongoDB does not answer"
            )
        positions = ledger.positions(db)
        demand_topics(admin, positions)
        ends = admin.ends(list(positions)) if positions else {}
    behind = {p: max(0, end - positions[p].at) for p, end in ends.items()}
    report.records = sum(behind.values())
    for standing in report.collections:
        tables = declared.collections[standing.name].tables
        standing.behind = sum(n for p, n in behind.items() if positions[p].table in tables)
    return Part(
        "Kafka", True, f"{len({p.topic for p in ends})} topics, {report.records} records not yet applied"
    )


def _consumers(db: Database | None) -> Part:
    if db is None:
        return Part("consumers", None, "unknown, as MongoDB does not answer")
    alive, silent = ledger.workers(db, _SILENT_AFTER_S)
    assigned = sum(len(w["partitions"]) for w in alive)
    gone = f"; {len(silent)} silent for more than {_SILENT_AFTER_S:.0f} s" if silent else ""
    if not alive:
        return Part("consumers", False, f"none runs{gone}", "start `tandem run`")
    return Part("consumers", True, f"{len(alive)} run, with {assigned} partitions{gone}")
