"""`tandem status`: every component, and how far each collection is. What cannot be asked is said to be unknown."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

import psutil

from connectors.debezium.connect import Connect
from connectors.errors import SyncError
from connectors.kafka.admin import Admin
from connectors.mongo import client as mongo
from connectors.mongo import clock, control, journal, ledger, parked, rebuilds, verified
from connectors.mongo.client import Database
from connectors.mongo.parked import Parked
from connectors.mongo.transaction import Transactions
from connectors.postgres import slots
from connectors.postgres.client import Session, connect, translated
from consumers.mapping import spec
from sync.lag.asked import Asked
from sync.lag.phase import phase_of
from sync.lag.token import Ledger, demand_topics, read_ledger
from sync.settings import Settings

#: a consumer that lives, but has not moved for so long, waits for something
_STUCK_AFTER_S = 30.0
_ORDER = (
    "PostgreSQL", "publication", "Connect", "Kafka", "MongoDB", "consumers", "control", "snapshot", "reload", "cutover",
    "archive", "machine"
)  # fmt: skip
#: one round of questions, each from a thread of its own; there are two
_PATIENCE_S = 2.4
#: after the answers of the others, so long the count of documents is waited for
_COUNTED_S = 0.6
#: a direct writer that has not said for so long that it lives is dead
LEASE_S = 6.0
#: an archiver tells every few seconds how far it is
_SILENT_S = 60
_NOT_SET_UP = "the pipeline is not set up"
#: more than this part of memory, disk or connections in use is not in order
_FULL = 0.9
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
class Verification:
    """What is kept of a verification. age_s: since it ended. coverage: which part of the whole it compared. mapping:
    whether the pipeline still follows the mapping that it was made with."""

    ok: bool
    age_s: float
    coverage: float
    differences: int
    lsn: str
    until: str
    mapping: bool

    @classmethod
    def of(cls, kept: verified.Kept, followed: object) -> Verification:
        """From its report."""
        report = kept.report
        return cls(
            bool(report["ok"]),
            kept.age_s,
            float(report["coverage"]),
            int(report["total"]) + int(report["unchecked"]),
            str(report["lsn"]),
            str(report["until"]),
            report["mapping"] == followed,
        )

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {**asdict(self), "age_s": round(self.age_s, 1)}


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
    #: the slot's confirmed LSN: Kafka has everything before it
    checkpoint: str | None = None
    #: consumers that were heard of lately: name and how many partitions
    members: list[dict[str, object]] = field(default_factory=list)
    control: dict[str, object] | None = None
    #: `last`: the last one; `whole`: the last one that compared everything. None: unknown
    verification: dict[str, Verification | None] | None = None
    #: of the failed connector, in a row; None where that cannot be asked
    restarts: int | None = None

    @property
    def ok(self) -> bool:
        """Every component answers and is in order, and nothing is parked."""
        return self.healthy and self.parked == 0

    @property
    def healthy(self) -> bool:
        """Every component answers and is in order."""
        return all(part.ok for part in self.parts)

    @property
    def phase(self) -> str:
        """Of the whole: not set up, unloaded, loading, reloading, streaming, or unknown."""
        phases = {c.phase for c in self.collections}
        if any(p.name == "MongoDB" and p.what == _NOT_SET_UP for p in self.parts):
            return "not set up"
        order = ("unknown", "not set up", "loading", "unloaded", "reloading", "streaming")
        return next((phase for phase in order if phase in phases), "unknown")

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "ok": self.ok,
            "phase": self.phase,
            "checkpoint": self.checkpoint,
            "members": self.members,
            "control": self.control,
            "connector_restarts": self.restarts,
            "verification": None
            if self.verification is None
            else {name: one and one.as_dict() for name, one in self.verification.items()},
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


def look(settings: Settings, timeout_ms: int = 2_000) -> StatusReport:
    """Ask every component; one that hangs is unknown. Takes at most five seconds. Raises only what is wrong with the
    mapping file."""
    declared = spec.load(settings.mapping)
    report = StatusReport(
        collections=[CollectionStanding(n, c.table) for n, c in declared.collections.items() if c.table]
    )
    opened: list[Database] = []

    def target() -> list[Part]:
        db = mongo.connect(settings.target, timeout_ms=timeout_ms, name="tandem status")
        opened.append(db)
        return _mongo(db, declared, report)

    _ask_all(report, {"MongoDB": target})  # first: it knows what the others should be like
    answers = all(p.ok is not None for p in report.parts)
    db = opened[0] if opened and answers else None  # one that hangs is asked nothing more
    counting = Asked("MongoDB", lambda: _count(db, report))
    counting.begin()
    _ask_all(
        report,
        {
            "PostgreSQL": lambda: _postgres(settings, db, declared, report),
            "Connect": lambda: [_connect(settings, report)],
            "Kafka": lambda: [_kafka(settings, db, declared, report, timeout_ms)],
            "consumers": lambda: [_consumers(db, report)],
            "control": lambda: _control(db, report),
            "archive": lambda: _archive(settings),
            "machine": lambda: [machine()],
        },
    )
    counted = True
    with suppress(
        SyncError
    ):  # a server that counts slowly is not one that hangs: what is not counted is unknown
        counted = bool(counting.wait(_COUNTED_S)[0])
    late = not answers or any(p.ok is None and "has not answered" in p.what for p in report.parts)
    if opened and counted and not late:
        opened[0].client.close()
    report.parts.sort(key=lambda part: _ORDER.index(part.name))
    return report


def _ask_all(report: StatusReport, questions: Mapping[str, Callable[[], list[Part]]]) -> None:
    """Ask them all at once. One that does not answer in time is left to itself."""
    asked = {name: Asked(name, question) for name, question in questions.items()}
    for one in asked.values():
        one.begin()
    until = time.monotonic() + _PATIENCE_S
    for name, one in asked.items():
        try:
            found, late = one.wait(max(0.0, until - time.monotonic()))
            report.parts += found if found is not None else [Part(name, None, late, "see whether it hangs")]
        except SyncError as error:
            report.parts.append(Part(name, None if error.retry_helps else False, error.what, error.remedy))
        except Exception as error:  # one part that is not understood takes nothing away from the others
            report.parts.append(
                Part(name, None, f"{type(error).__name__}: {error}", "report it: tandem should know it")
            )


def _postgres(
    settings: Settings, db: Database | None, declared: spec.Mapping_, report: StatusReport
) -> list[Part]:
    with connect(settings.source, name="tandem status") as session, translated(settings.source):
        parts = [_slot(settings, session, db, report)]
        used, most = slots.connections(session)
        if used > most * _FULL:
            parts[0].ok = False
            parts[0].what += f"; {used} of {most} connections are in use"
            parts[0].remedy = parts[0].remedy or "close sessions, or raise max_connections"
        published = slots.published_tables(session, settings.source.publication)
    if any(c.phase != "unknown" for c in report.collections) or published is not None:
        parts.append(_publication(settings.source.publication, published, declared))
    return parts


def _publication(name: str, published: list[str] | None, declared: spec.Mapping_) -> Part:
    if published is None:
        return Part("publication", False, f"there is no publication {name}", "run `tandem setup`")
    missing = sorted(set(declared.tables) - set(published))
    if missing:
        what = f"the publication {name} is without {', '.join(missing)}: their changes are in no event"
        return Part("publication", False, what, "run `tandem setup`")
    return Part("publication", True, f"{name} has {len(published)} tables")


def _slot(settings: Settings, session: Session, db: Database | None, report: StatusReport) -> Part:
    name = settings.source.slot
    slot = slots.slot_facts(session, name)
    if slot is None:
        if any(c.phase in ("loading", "reloading", "streaming") for c in report.collections):
            return Part("PostgreSQL", False, f"the slot {name} is gone: {clock.missing_since(db)}", _HEAL)
        return Part("PostgreSQL", False, f"there is no slot {name}", "run `tandem setup`")
    report.wal_bytes = max(0, slots.wal_position(session) - slot.confirmed)
    report.checkpoint = str(slot.confirmed)
    retained = f"{slot.retained_bytes / 1e6:.1f} MB of WAL retained"
    if slot.wal_status == "lost":
        lost = (
            f"the slot {name} is lost, PostgreSQL has removed WAL that it needed: {clock.missing_since(db)}"
        )
        return Part("PostgreSQL", False, lost, _HEAL)
    if not slot.active:
        return Part("PostgreSQL", False, f"nobody streams from the slot {name}; {retained}", "see Connect")
    return Part("PostgreSQL", True, f"the slot {name} streams; {retained}")


def _archive(settings: Settings) -> list[Part]:
    """How far the archive is, as it has told Kafka; nothing where there is none."""
    if settings.archive.url is None:
        return []
    run = "run `tandem archive run`"
    with Admin(settings.kafka, timeout_ms=2_000) as admin:
        told = admin.told(settings.archive_group)
        if not told:
            return [Part("archive", False, "nothing is kept yet", run)]
        ends = admin.ends(list(told))
    behind = sum(max(0, end - told[home][0]) for home, end in ends.items())
    notes = [int(note) for _, note in told.values() if note.isdigit()]
    silent_s = max(0, int(time.time()) - max(notes, default=0))
    what = f"{behind:,} offsets are not kept yet"
    if behind and silent_s > _SILENT_S:
        return [Part("archive", False, f"{what}; no archiver was heard of for {silent_s:,} s", run)]
    return [Part("archive", True, what)]


def machine() -> Part:
    """The one that this runs on: memory, and the disk of the working directory."""
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(".")
    what = f"{memory.available / 1e9:.1f} GB of memory and {disk.free / 1e9:.1f} GB of disk are free here"
    scarce = memory.available < memory.total * (1 - _FULL) / 2 or disk.free < disk.total * (1 - _FULL) / 2
    return Part("machine", not scarce, what, "make room" if scarce else "")


def _connect(settings: Settings, report: StatusReport) -> Part:
    with Connect(settings.connect, timeout_s=2) as rest:
        state = rest.state()
    if state.running:
        return Part("Connect", True, f"the connector {settings.connect.connector} runs")
    what = f"the connector {settings.connect.connector} is {state.told}"
    if report.restarts:
        what += f", restarted {report.restarts} times in a row by the consumers"
    if state.failure:
        what += f": {state.failure}"
    return Part("Connect", False, what, "run `tandem setup`: it makes or restarts the connector")


def _mongo(db: Database, declared: spec.Mapping_, report: StatusReport) -> list[Part]:
    report.restarts = control.restarts(db, time.time_ns() // 1_000_000)
    transactions = Transactions(db)
    try:
        found = read_ledger(transactions)
    finally:
        transactions.close()
    report.parked = found.parked
    report.verification = _verification(db)
    if not found.positions:
        return [Part("MongoDB", False, _NOT_SET_UP, "run `tandem setup`")]
    with mongo.translated():
        chunks = list(db[ledger.CHUNKS].find({}, {"collection": 1, "done": 1}))
    for standing in report.collections:
        mine = [c for c in chunks if c["collection"] == standing.name]
        standing.chunks, standing.chunks_done = len(mine), sum(c["done"] for c in mine)
        tables = declared.collections[standing.name].tables
        standing.phase = phase_of(p.holder for p in found.positions.values() if p.table in tables)
    looks = (_reload(db, found), _rebuild(db, found), _snapshot(db, report), _cutover(db))
    parts = [part for part in looks if part is not None]
    jobs = f"; {found.jobs} jobs under way" if found.jobs else ""
    left_out = ledger.left_out(db)
    jobs += "; left out by on_schema_change: " + ", ".join(left_out) if left_out else ""
    if found.parked:
        report.parked_classes, first = parked.by_class(db), parked.oldest(db)
        report.parked_oldest = first
        classes = ", ".join(f"{name} {n}" for name, n in sorted(report.parked_classes.items()))
        what = f"{found.parked} rows are parked ({classes})"
        if first is not None:
            what += f", the oldest since {_when(first)}: {first.id}: {first.reason}"
        remedy = (
            "see `tandem dead-letters list`; mend the row or the mapping (docs/operations.md, Parked rows)"
        )
        return [*parts, Part("MongoDB", False, what + jobs, remedy)]
    return [*parts, Part("MongoDB", True, f"{len(found.positions)} positions, nothing parked{jobs}")]


def _cutover(db: Database) -> Part | None:
    """Where the cutover is, once there was one."""
    known = journal.current(db)
    if known is None or known["state"] == "aborted":
        return None
    what = f"{known['run']} is {known['state']}"
    if known.get("intent"):
        return Part("cutover", False, f"{what}; {known['intent']} was begun", "see `tandem cutover status`")
    return Part("cutover", True, what)


def _verification(db: Database) -> dict[str, Verification | None]:
    followed = (ledger.state(db, "pipeline") or {}).get("mapping")
    found = {"last": verified.last(db), "whole": verified.last(db, coverage=1.0)}
    return {name: None if kept is None else Verification.of(kept, followed) for name, kept in found.items()}


def _count(db: Database | None, report: StatusReport) -> bool:
    """How many documents each collection has."""
    if db is not None:
        with mongo.translated():
            for standing in report.collections:
                standing.documents = db[standing.name].estimated_document_count()
    return True


def _snapshot(db: Database, report: StatusReport) -> Part | None:
    """A load that runs, or should."""
    phases = {c.phase for c in report.collections}
    if not phases & {"loading", "unloaded"}:
        return None
    if not ledger.load_lives(db, LEASE_S):
        if "loading" in phases:
            return Part("snapshot", False, "a load has ended too early", "run `tandem snapshot`: it goes on")
        return Part("snapshot", False, "nothing is loaded yet", "run `tandem snapshot`")
    why = control.throttled(db, ledger.LOAD)
    return Part("snapshot", True, f"loads, slowly: {why}" if why else "loads")


def _control(db: Database | None, report: StatusReport) -> list[Part]:
    """What an operator has asked of running processes."""
    if db is None:
        return []
    asked = control.control(db)
    slow = control.throttled(db, ledger.LOAD) if ledger.load_lives(db, LEASE_S) else ""
    report.control = {
        "paused": sorted(asked.paused),
        "max_ops": asked.max_ops,
        "max_lag_s": asked.max_lag_s,
        "by": asked.by,
        "at": None if not asked.at_ms else _moment(asked.at_ms),
        "throttled": [{"who": "snapshot", "why": slow}] if slow else [],
    }
    if asked.free:
        return []
    limits = [f"at most {asked.max_ops:,} rows/s"] if asked.max_ops is not None else []
    limits += (
        [f"a snapshot that waits while the stream is {asked.max_lag_s:g} s behind"] if asked.max_lag_s else []
    )
    who = f" (asked by {asked.by}, {_moment(asked.at_ms)})"
    if asked.paused:
        what = "; ".join([f"paused: {', '.join(sorted(asked.paused))}", *limits])
        return [Part("control", False, what + who, "`tandem resume` goes on")]
    return [Part("control", True, "; ".join(limits) + who)]


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


def _rebuild(db: Database, found: Ledger) -> Part | None:
    """A rebuild beside the live side, and whether its swap holds tables that nobody lets go of."""
    known = rebuilds.journal(db) or {}
    held = sorted({p.table for p in found.positions.values() if (p.holder or "").startswith(ledger.SWAP)})
    lives = ledger.load_lives(db, LEASE_S, rebuilds.LEASE)
    if held and not lives:
        what = f"a swap has ended too early: {', '.join(held)} stand still until it is carried on"
        return Part("rebuild", False, what, "run `tandem rebuild`: it goes on, or lets go")
    if known.get("phase", "none") == "none":
        return None
    names = ", ".join(known["collections"])
    how = "" if lives else "; nobody works on it: `tandem rebuild` goes on, `--discard` drops it"
    return Part("rebuild", True, f"{names} from {known['source']}: {known['phase']}{how}")


def _when(one: Parked) -> str:
    return _moment(one.since_ms)


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1_000, UTC).isoformat(timespec="seconds")


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


def _consumers(db: Database | None, report: StatusReport) -> Part:
    if db is None:
        return Part("consumers", None, "unknown, as MongoDB does not answer")
    known = ledger.workers(db)
    alive = [w for w in known if w.alive_s < ledger.SILENT_AFTER_S]
    stuck = [w for w in alive if w.seen_s > _STUCK_AFTER_S]
    report.members = [
        {"name": w.name, "partitions": w.partitions, "alive": w in alive, "worked_s_ago": round(w.seen_s, 1)}
        for w in known
    ]
    gone = (
        f"; {len(known) - len(alive)} silent for more than {ledger.SILENT_AFTER_S:.0f} s"
        if len(known) > len(alive)
        else ""
    )
    if not alive:
        return Part("consumers", False, f"none runs{gone}", "start `tandem run`")
    what = f"{len(alive)} run, with {sum(w.partitions for w in alive)} partitions{gone}"
    if stuck:
        what += f"; {stuck[0].name} has not got on for {stuck[0].seen_s:.0f} s"
        return Part("consumers", False, what, "see its log: it says what it waits for")
    return Part("consumers", True, what)
