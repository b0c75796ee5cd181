"""How `tandem verify` is put together: completeness, the walk, its pace, and what of it is kept in the target."""

from __future__ import annotations

import json
import os
import random
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import psutil

from connectors.errors import Kind, MappingInvalid, Misused, NotComplete, NotSetUp, SyncError
from connectors.kafka.admin import Admin
from connectors.mongo import client as mongo
from connectors.mongo import control, ledger, verified
from connectors.mongo.client import Database
from connectors.positions import Lsn
from connectors.postgres.client import connect, translated
from connectors.postgres.rows import rows_of
from consumers.mapping import spec
from consumers.mapping.plan import digest_of
from sync.control.pace import Pace
from sync.control.pulse import Every, Pulse
from sync.lag.token import Completeness, parse_token
from sync.settings import Settings
from sync.setup import schema
from sync.verify.chunks import Seen
from sync.verify.report import VerifyReport
from sync.verify.run import Before, Limits
from sync.verify.run import verify as run_verify

Log = Callable[..., None]
_BEAT_EVERY_S, _HEAR_EVERY_S = 5.0, 0.5
#: a run that ended too early is gone on with, if it began within this time
RESUMED_WITHIN_S = 86_400.0
#: who starts consumers at the same time is waited for so long; where none lives, nothing more comes
_STARTING_S = 6.0
#: somebody else may walk by the same schedule
_ASKED_EVERY_S = 60.0
#: a chunk takes so long at most at a limited pace
_CHUNK_S = 10.0
#: of its period a scheduled walk takes so much: the rest is for what goes wrong
_PART_OF_PERIOD = 0.8


@dataclass(frozen=True)
class Asked:
    """What `tandem verify` is asked for. at: `now`, an LSN, or a token. sample: percent of the rows; None: all.
    resume: go on with a run that ended too early. scheduled: the period of a walk without end, in seconds."""

    collections: Sequence[str] | None = None
    at: str = "now"
    sample: float | None = None
    seed: int | None = None
    max_rows_per_s: int | None = None
    timeout_s: float = 60
    resume: bool = True
    workers: int = 2
    scheduled: float | None = None


def check(asked: Asked) -> None:
    """Raises Misused for what cannot be."""
    if asked.sample is not None and not 0 < asked.sample <= 100:
        raise Misused("--sample has to be above 0 and at most 100", remedy="give a percentage, such as 5")
    if asked.max_rows_per_s is not None and asked.max_rows_per_s < 1:
        raise Misused("--max-rows-per-s has to be at least 1", remedy="leave it out for full speed")
    if not 1 <= asked.workers <= 64:
        raise Misused("--workers has to be from 1 to 64", remedy="2 is enough for most")
    if asked.scheduled is not None and (asked.sample is not None or asked.collections):
        raise Misused(
            "--schedule walks the whole data", remedy="leave --sample and --collection out, or --schedule"
        )


def verify(
    settings: Settings,
    asked: Asked,
    *,
    log: Log = lambda *_, **__: None,
    progress: Callable[[str, int], None] | None = None,
    report: VerifyReport | None = None,
) -> VerifyReport:
    """Compare both sides, and keep the report in the target. report: filled from the beginning, for who looks on.

    Raises NotSetUp, NotComplete before the first load, Misused, MappingInvalid, and what the servers say.
    """
    check(asked)
    declared = with_collections(settings.mapping, asked.collections or ())
    report = report or VerifyReport.begun()
    with ExitStack() as stack:
        complete = completeness(settings, stack)
        complete.now()  # a server that is away comes before what it has not got
        demand_loaded(complete.db, declared, asked.collections)
        if asked.at != "now":
            report.wanted, positions = parse_token(asked.at, complete.now)
            complete.demand_own(report.wanted, positions)
            waited(complete, report.wanted, asked.timeout_s)
        left_out = {table: of.ignored for table, of in schema.known(complete.db).items()}
        report.mapping = digest_of(declared)
        report.version = _version()
        report.scheduled = asked.scheduled is not None
        known = [name for name, c in declared.collections.items() if c.table]
        report.left_out = [n for n in known if asked.collections is not None and n not in asked.collections]
        kept = _Kept(complete.db, asked, report, repr(sorted(left_out.items())), complete.now())
        pace = Pace("verify")
        stack.enter_context(_beside(complete.db, kept, pace, asked.max_rows_per_s, log))
        with kept:
            found = run_verify(
                schema.leaving_out(declared, left_out),
                settings.source,
                settings.target,
                collections=asked.collections,
                wait=lambda lsn: waited(complete, lsn, asked.timeout_s),
                progress=progress,
                limits=_limits(asked, settings.limits.chunk_rows),
                sample=asked.sample,
                seed=kept.seed,
                pace=pace,
                keep=kept if kept.run else None,
                before=kept.before,
                report=report,
            )
            kept.end(found)
        return found


def _limits(asked: Asked, rows: int) -> Limits:
    """Chunks are small where the pace is low: their snapshots should be short."""
    if asked.max_rows_per_s is not None:
        rows = max(1, min(rows, int(asked.max_rows_per_s * _CHUNK_S)))
    return Limits(workers=asked.workers, chunk_rows=rows, batch=min(Limits.batch, rows))


def completeness(settings: Settings, stack: ExitStack) -> Completeness:
    """Who knows when the target holds everything up to an LSN."""
    db = mongo.connect(settings.target, name="tandem wait-for")
    stack.callback(db.client.close)
    complete = Completeness(settings.source, db, stack.enter_context(Admin(settings.kafka)))
    stack.callback(complete.close)
    return complete


def with_collections(mapping: Path, wanted: Sequence[str]) -> spec.Mapping_:
    """The mapping file. Raises MappingInvalid where it has no such collections."""
    declared = spec.load(mapping)
    known = [name for name, c in declared.collections.items() if c.table]
    if unknown := sorted(set(wanted) - set(known)):
        raise MappingInvalid(
            f"{mapping} has no collection with a table named {', '.join(unknown)}",
            remedy=f"name one of: {', '.join(known)}",
        )
    return declared


def demand_loaded(db: Database, declared: spec.Mapping_, wanted: Sequence[str] | None) -> None:
    """There is something to compare. Waiting would be in vain where nobody loads, and long where somebody does."""
    positions = ledger.positions(db).values()
    if not positions:
        raise NotSetUp("the pipeline is not set up", remedy="run `tandem setup` first")
    holds = {p.table for p in positions if (p.holder or "").startswith(ledger.LOAD)}
    names = wanted if wanted is not None else declared.collections
    waiting = [name for name in names if holds & set(declared.collections[name].tables)]
    if waiting:
        raise NotComplete(
            f"not loaded yet: {', '.join(waiting)}",
            remedy="run `tandem snapshot`, or wait until it has ended; `tandem status` says how far it is",
        )


def waited(complete: Completeness, lsn: Lsn, timeout_s: float) -> None:
    """Wait for the consumers; where none lives, not for long."""
    if timeout_s > _STARTING_S and not _consumed(complete.db):
        try:
            complete.wait(lsn, _STARTING_S)
            return
        except NotComplete as error:
            if not _consumed(complete.db):
                raise NotComplete(
                    f"{error.what}; no consumer runs", remedy="start `tandem run`, then verify again"
                ) from None
    complete.wait(lsn, timeout_s)


def _consumed(db: Database) -> bool:
    return any(w.alive_s < ledger.SILENT_AFTER_S for w in ledger.workers(db))


def _version() -> str:
    try:
        return metadata.version("tandem-cdc")
    except metadata.PackageNotFoundError:
        return "unknown"


class _Kept:
    """What is kept of one run, as a context: who leaves it too early lets others go on. run: None where the target does
    not let anything be kept."""

    def __init__(self, db: Database, asked: Asked, report: VerifyReport, left_out: str, lsn: Lsn) -> None:
        self.db, self.report = db, report
        self.run: str | None = None
        self.before: Before | None = None
        self.seed = random.getrandbits(32) if asked.seed is None else asked.seed
        kind = [report.mapping, left_out, sorted(asked.collections or ()), asked.sample, asked.seed]
        wanted = json.dumps([*kind, asked.scheduled is not None])
        within_s = max(RESUMED_WITHIN_S, 2 * (asked.scheduled or 0))
        try:
            by = f"{os.getpid()}@{socket.gethostname()}"
            earlier = verified.take_over(db, wanted, within_s, by, _ended) if asked.resume else None
            if earlier is None:
                self.run = verified.begin(db, uuid.uuid4().hex[:12], wanted, lsn, self.seed, by).id
            else:
                self.run, self.seed = earlier.id, earlier.seed
                done = [Seen.of(chunk) for chunk in verified.chunks(db, earlier.id)]
                began = datetime.fromtimestamp(earlier.began_ms / 1_000, UTC)
                self.before = Before(earlier.lsn, began, done)
        except SyncError as error:
            if error.kind is Kind.RETRY:
                raise
            report.not_kept = error.what
        report.run = self.run or ""

    def done(self, seen: Seen) -> None:
        """A chunk is done."""
        if self.run is not None:
            verified.done(self.db, self.run, seen.document())

    def beat(self) -> None:
        """The run lives."""
        if self.run is not None:
            verified.beat(self.db, self.run)

    def end(self, report: VerifyReport) -> None:
        """The run has ended."""
        if self.run is None:
            return
        run, self.run = self.run, None
        try:
            verified.keep(self.db, run, json.loads(json.dumps(report.as_dict(), default=str)))
        except SyncError as error:  # it is told all the same
            report.not_kept = error.what

    def __enter__(self) -> _Kept:
        return self

    def __exit__(self, *_: object) -> None:
        if self.run is not None:
            with suppress(SyncError):  # what ended the run is told; without this the next waits for the lease
                verified.let_go(self.db, self.run)


def _ended(by: str) -> bool:
    """Whether a process, by its number and its machine, is known to be gone: of other machines nothing is known."""
    number, _, host = by.partition("@")
    return host == socket.gethostname() and not psutil.pid_exists(int(number))


@contextmanager
def _beside(db: Database, kept: _Kept, pace: Pace, max_rows_per_s: int | None, log: Log) -> Iterator[None]:
    """What goes on beside a walk: it says that it lives, and hears what an operator asks."""

    def hear() -> None:
        asked = control.control(db)
        limits = [limit for limit in (asked.max_ops, max_rows_per_s) if limit is not None]
        before = pace.paused
        pace.follow(replace(asked, max_ops=min(limits, default=None)))
        if pace.paused and not before:
            log("verification is paused: `tandem resume` lets it go on")

    hearing = Every("live control", _HEAR_EVERY_S, hear, log)
    with Pulse([hearing, Every("saying that it lives", _BEAT_EVERY_S, kept.beat, log)], first=hearing):
        yield


# -- the last one, and without end -----------------------------------------------------------------------------------
def last(settings: Settings) -> verified.Kept:
    """The report that is kept of the last verification. Raises Misused where there is none."""
    with closing(mongo.connect(settings.target, name="tandem verify").client) as client:
        found = verified.last(client.get_database(settings.target.database, codec_options=mongo.CODEC))
    if found is None:
        raise NotComplete("nothing was verified yet", remedy="run `tandem verify`")
    return found


def schedule(
    settings: Settings,
    asked: Asked,
    stop: Callable[[], bool],
    log: Log,
    tell: Callable[[VerifyReport], None] = lambda _: None,
) -> None:
    """Walk the whole data once per period, slowly, until stopped. What goes wrong is told, and tried again."""
    check(asked)
    assert asked.scheduled is not None
    while not stop():
        try:
            if (pause_s := _until_due(settings, asked.scheduled)) > 0:
                _sleep(min(pause_s, _ASKED_EVERY_S), stop)
                continue
            rate = asked.max_rows_per_s or _rate(settings, asked.scheduled)
            log("verifying", rows_per_s=rate)
            report = verify(settings, replace(asked, max_rows_per_s=rate), log=log)
            tell(report)
            log("verified", ok=report.ok, differences=report.total, took_s=round(report.took_s))
        except SyncError as error:
            if error.kind is Kind.USAGE:
                raise
            log(f"not verified: {error.what}", remedy=error.remedy)
            _sleep(min(60.0, asked.scheduled / 10), stop)


def _until_due(settings: Settings, period_s: float) -> float:
    """Seconds until the next walk has to begin: a period after the last one did."""
    db = mongo.connect(settings.target, name="tandem verify")
    try:
        found = verified.last(db, scheduled=True)
    finally:
        db.client.close()
    if found is None:
        return 0.0
    return period_s - found.age_s - float(found.report["took_s"])


def _rate(settings: Settings, period_s: float) -> int:
    """Rows a second at which a walk is done in time."""
    declared = spec.load(settings.mapping)
    with connect(settings.source, name="tandem verify") as session, translated(settings.source):
        rows = sum(rows_of(session, c.table) for c in declared.collections.values() if c.table)
    return max(1, int(rows / (period_s * _PART_OF_PERIOD)) + 1)


def _sleep(seconds: float, stop: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stop():
        time.sleep(0.2)
