"""`tandem preflight`: every check, one report. Nothing is changed, but for what MongoDB is tried with and the report
that is kept there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from connectors.errors import MappingInvalid, SyncError
from connectors.mongo import client as mongo
from connectors.mongo import ledger
from connectors.mongo.client import Database
from connectors.postgres import facts
from connectors.postgres.client import Session, translated
from consumers.mapping.plan import Plan
from sync.preflight import checks, findings, fit, machine, way_back
from sync.preflight.findings import Finding, Level
from sync.preflight.scan import Extent, Scan, ScanReport
from sync.settings import Known

_STATE = "preflight"


@dataclass(frozen=True, slots=True)
class Asked:
    """Which parts, and how much of the data."""

    extent: Extent
    settings: bool = True
    data: bool = True


@dataclass
class PreflightReport:
    """All findings. scan: None where the data was not looked at. kept: stored in the target."""

    at: str
    findings: list[Finding] = field(default_factory=list)
    scan: ScanReport | None = None
    mapping: str = ""
    seconds: float = 0.0
    kept: bool = False

    @property
    def ok(self) -> bool:
        """Nothing is an error."""
        return not any(f.level is Level.ERROR for f in self.findings)

    def counts(self) -> dict[str, int]:
        """Findings by level."""
        return {level.value: sum(f.level is level for f in self.findings) for level in Level}

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "ok": self.ok,
            "at": self.at,
            "seconds": round(self.seconds, 2),
            "counts": self.counts(),
            "findings": [f.as_dict() for f in self.findings],
            "data": scanned(self.scan) if self.scan else None,
            "kept": self.kept,
        }


def scanned(scan: ScanReport) -> dict[str, object]:
    """What was read, what it cost, and what the load will be like."""
    collections = {}
    for name, tally in scan.tallies.items():
        reading = scan.reading[name]
        share = 1.0 if reading.whole else max((scan.extent.percent or 100) / 100, 0.0001)
        collections[name] = {
            "rows_read": tally.rows,
            "child_rows_read": tally.child_rows,
            "whole": reading.whole,
            "documents": tally.documents,
            "bytes_read": tally.sizes.sum,
            "estimated_rows": round((tally.rows + tally.child_rows) / share),
            "estimated_bytes": round((tally.sizes.sum + tally.staged_bytes) / share),
            "document_bytes": tally.sizes.as_dict(),
            "arrays": {array: lengths.as_dict() for array, lengths in tally.arrays.items()},
        }
    return {
        "read_at": scan.lsn,
        "mode": "full" if scan.extent.percent is None else f"sample of {scan.extent.percent:g} %",
        "seed": scan.extent.seed,
        "seconds": round(scan.seconds, 2),
        "rows_read": rows_read(scan),
        "estimated_rows": sum(int(str(c["estimated_rows"])) for c in collections.values()),
        "estimated_bytes": sum(int(str(c["estimated_bytes"])) for c in collections.values()),
        "collections": collections,
    }


def rows_read(scan: ScanReport) -> int:
    """Of all tables."""
    return sum(t.rows + t.child_rows for t in scan.tallies.values())


class Preflight:
    """One run. scanning: the scan as it grows, once there is one. users: who has sessions now; None: nobody knows."""

    def __init__(
        self,
        settings: Known,
        session: Session,
        asked: Asked,
        users: Callable[[Plan], Mapping[str, int] | None] = lambda _: None,
    ) -> None:
        self.settings, self.session, self.asked, self._users = settings, session, asked, users
        self.report = PreflightReport(datetime.now(UTC).isoformat(timespec="seconds"))
        self._scan: Scan | None = None

    @property
    def scanning(self) -> ScanReport | None:
        """The scan's report so far."""
        return self._scan.report if self._scan else None

    def run(self, plan: Plan | MappingInvalid) -> PreflightReport:
        """Every check that was asked for. plan: the mistakes, where it does not fit the source's tables."""
        began = time.monotonic()
        found = self.report.findings
        if self.asked.settings:
            found += findings.run("PostgreSQL", lambda: checks.of_source(self.session, self.settings.source))
        if isinstance(plan, MappingInvalid):
            found += _mistakes(plan)
            if self.asked.data:
                what = "not looked at while the mapping has mistakes"
                found.append(
                    Finding(Level.UNKNOWN, fit.CHECK, "not-read", "", what, "correct the mapping first")
                )
        else:
            self.report.mapping = plan.digest
            if self.asked.settings:
                found += findings.run(
                    "tables", lambda: checks.of_tables(self.session, self.settings.source, plan)
                )
                found += self._pipeline(plan)
                found += self._moving(plan)
            if self.asked.data:
                found += findings.run(fit.CHECK, lambda: self._data(plan))
        self._target(plan)
        self.report.seconds = time.monotonic() - began
        return self.report

    def _pipeline(self, plan: Plan) -> list[Finding]:
        known = self.settings
        if known.kafka is None:
            found = [findings.not_asked("Kafka", "KAFKA_BOOTSTRAP_SERVERS")]
        else:
            kafka = known.kafka
            found = findings.run("Kafka", lambda: checks.of_kafka(kafka, plan))
        if known.connect is None or known.kafka is None:
            missing = "CONNECT_URL" if known.connect is None else "KAFKA_BOOTSTRAP_SERVERS"
            return [*found, findings.not_asked("Connect", missing)]
        connect, kafka = known.connect, known.kafka
        return found + findings.run(
            "Connect", lambda: checks.of_connect(self.session, known.source, kafka, connect, plan)
        )

    def _moving(self, plan: Plan) -> list[Finding]:
        """What the cutover will need of folders, programs and sessions."""
        known = self.settings
        found = findings.run("backup", lambda: machine.of_backup(known, self.session))
        found += findings.run(way_back.CHECK, lambda: way_back.of_mapping(known, self.session, plan))
        if known.files.old is not None or known.files.new is not None:
            found += findings.run("files", lambda: machine.of_files(known))
        if known.sessions.collection in plan.documents:
            found += findings.run("sessions", lambda: machine.of_sessions(known, lambda: self._users(plan)))
        return found

    def _data(self, plan: Plan) -> list[Finding]:
        if unfit := [
            name for name, table in plan.tables.items() if not table.key or table.table.kind not in "rp"
        ]:
            what = f"not looked at while {', '.join(sorted(unfit))} cannot be replicated"
            return [Finding(Level.UNKNOWN, fit.CHECK, "not-read", "", what, "mend the tables first")]
        with translated(self.settings.source):
            known = facts.table_facts(self.session, list(plan.tables))
        limits = self.settings.limits
        self._scan = Scan(
            self.settings.source,
            plan,
            known,
            self.asked.extent,
            workers=limits.load_workers,
            chunk_rows=limits.chunk_rows,
        )
        self.report.scan = self._scan.run()
        return list(fit.assess(self.report.scan, plan, known))

    # -- MongoDB -------------------------------------------------------------------------------------------------
    def _target(self, plan: Plan | MappingInvalid) -> None:
        """Looked at last: it is told how much will come. The report is kept there, with its age."""
        found = self.report.findings
        if self.settings.target is None:
            if self.asked.settings:
                found += self._clocks(None)
                found.append(findings.not_asked("MongoDB", "MONGODB_URI and MONGODB_DATABASE"))
            return
        try:
            db = mongo.connect(self.settings.target, name="tandem preflight")
        except SyncError as error:
            if self.asked.settings:
                found.append(findings.could_not_run("MongoDB", error))
            return
        try:
            if self.asked.settings:
                found += self._clocks(db)
            if self.asked.settings and isinstance(plan, Plan):
                scan = self.report.scan
                needed = int(str(scanned(scan)["estimated_bytes"])) if scan else None
                found += findings.run("MongoDB", lambda: checks.of_target(db, plan, needed))
            self._keep(db)
        finally:
            db.client.close()

    def _clocks(self, db: Database | None) -> list[Finding]:
        return findings.run("clocks", lambda: machine.of_clocks(self.settings, self.session, db))

    def _keep(self, db: Database) -> None:
        """So that whoever asks later sees how old it is, and what was looked at."""
        report, scan = self.report, self.report.scan
        try:
            ledger.set_state(
                db,
                _STATE,
                at=report.at,
                ok=report.ok,
                mapping=report.mapping,
                counts=report.counts(),
                settings=self.asked.settings,
                data=None if scan is None else {k: v for k, v in scanned(scan).items() if k != "collections"},
                collections=list(self.asked.extent.collections),
                findings=[
                    {"level": f.level.value, "kind": f.kind, "subject": f.subject, "what": f.what}
                    for f in report.findings
                    if f.level in (Level.ERROR, Level.WARNING, Level.UNKNOWN)
                ][:500],
            )
            report.kept = True
        except SyncError as error:
            report.findings.append(findings.could_not_run("MongoDB", error))


def _mistakes(error: MappingInvalid) -> list[Finding]:
    """Each mistake of a mapping that does not fit the source: among them two columns for one field."""
    return [
        Finding(
            Level.ERROR, "mapping", "mapping", line.partition(": ")[0], line.partition(": ")[2], error.remedy
        )
        for line in error.what.splitlines()
    ]
