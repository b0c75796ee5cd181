"""Prometheus metrics of the long-running roles (docs/metrics.md lists them). Names and units by Prometheus's own rules:
base units, `_total` for counters, `_seconds` and `_bytes`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from types import TracebackType

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    generate_latest,
    start_http_server,
)
from prometheus_client.process_collector import ProcessCollector

from connectors.errors import Misused
from consumers.worker import Tally
from sync.archive.keep import Kept
from sync.lag.judge import LagReport
from sync.lag.status import StatusReport, Verification
from sync.snapshot.load import LoadReport
from sync.snapshot.reload import ReloadReport

#: seconds from commit to acknowledged write: a consumer that keeps up is in the first, one that was away in the last
LATENCY_BUCKETS = (0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30, 60, 300, 900, 3600)
_BATCH_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Role:
    """What every role has. role: consumer, snapshot, verify, archive or dashboard."""

    def __init__(self, role: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        version = "unknown"
        with suppress(metadata.PackageNotFoundError):
            version = metadata.version("tandem-cdc")
        Info("tandem_build", "The program.", registry=self.registry).info({"version": version, "role": role})

    def counter(self, name: str, what: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(f"tandem_{name}", what, labels, registry=self.registry)

    def gauge(self, name: str, what: str, labels: Sequence[str] = ()) -> Gauge:
        return Gauge(f"tandem_{name}", what, labels, registry=self.registry)


class ConsumerMetrics(Role):
    """A consumer's. It is the worker's `Observer`."""

    def __init__(self) -> None:
        super().__init__("consumer")
        self._events = self.counter("events_applied", "Change events applied.", ["table"])
        self._latency = Histogram(
            "tandem_event_latency_seconds",
            "From the commit in PostgreSQL to the acknowledged write in MongoDB.",
            ["table"],
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self._batch = Histogram(
            "tandem_batch_seconds",
            "One transaction with a batch, conflicts and repeats included.",
            buckets=_BATCH_BUCKETS,
            registry=self.registry,
        )
        tallied = {
            "rows_written": ("rows", "Rows written, after events of one row were folded."),
            "rows_reread": ("reread", "Rows that had to be read again from PostgreSQL."),
            "conflicts": ("conflicts", "Transactions that lost against another writer, and were run again."),
            "events_parked": ("parked", "Events that could not be applied and were parked."),
            "rows_healed": ("healed", "Parked rows that a later try has written."),
            "moves": ("moved", "Times that positions had been moved by others."),
        }
        self._tallied = {field: self.counter(name, what) for name, (field, what) in tallied.items()}
        self._seen = dict.fromkeys(self._tallied, 0)
        self._partitions = self.gauge("assigned_partitions", "Partitions that this consumer reads.")
        self._paused = self.gauge("paused", "1 while an operator has paused this role.")

    def applied(self, events: Sequence[tuple[str, int]], seconds: float) -> None:
        """A transaction was acknowledged."""
        now_ms = time.time_ns() / 1_000_000
        by_table: dict[str, list[int]] = {}
        for table, commit_ms in events:
            by_table.setdefault(table, []).append(commit_ms)
        for table, commits in by_table.items():
            latency = self._latency.labels(table)
            for commit_ms in commits:
                latency.observe(max(0.0, (now_ms - commit_ms) / 1_000))
            self._events.labels(table).inc(len(commits))
        self._batch.observe(seconds)

    def take(self, tally: Tally, partitions: int, *, paused: bool) -> None:
        """The worker's own counts."""
        for field, counter in self._tallied.items():
            now = getattr(tally, field)
            counter.inc(max(0, now - self._seen[field]))
            self._seen[field] = now
        self._partitions.set(partitions)
        self._paused.set(paused)


class LoaderMetrics(Role):
    """A loader's."""

    def __init__(self) -> None:
        super().__init__("snapshot")
        self._rows = self.gauge("snapshot_rows", "Rows of this collection that are loaded.", ["collection"])
        self._total = self.gauge(
            "snapshot_expected_rows", "Rows of its table, filter not applied.", ["collection"]
        )
        self._chunks = self.gauge("snapshot_done_chunks", "Chunks that are loaded.", ["collection"])
        self._parked = self.gauge("snapshot_parked_rows", "Rows that could not be loaded.", ["collection"])
        self._throttled = self.gauge("snapshot_throttled", "1 while the load gives way, or is limited.")

    def take(self, report: LoadReport | ReloadReport, *, throttled: bool) -> None:
        """The report as it is now; of what is read again, by table."""
        for name, of in dict(report.collections).items():
            self._rows.labels(name).set(of.rows)
            self._total.labels(name).set(of.total)
            self._chunks.labels(name).set(of.chunks_done)
            self._parked.labels(name).set(of.parked)
        self._throttled.set(throttled)


class DashboardMetrics(Role):
    """The dashboard's: it has no work of its own to count."""

    def __init__(self) -> None:
        super().__init__("dashboard")

    def text(self) -> bytes:
        """As Prometheus reads them."""
        return generate_latest(self.registry)


class VerifyMetrics(Role):
    """Of who verifies without end: its reports are in the pipeline's numbers."""

    def __init__(self) -> None:
        super().__init__("verify")


class ArchiveMetrics(Role):
    """An archiver's."""

    def __init__(self) -> None:
        super().__init__("archive")
        counted = {
            "records": "Records that are in segments.",
            "bytes": "Bytes of segments.",
            "segments": "Segments that were ended.",
            "odd": "Records of which something did not fit the schema, and is kept as it came.",
            "gaps": "Times that Kafka had removed events before they were kept.",
            "retries": "Times that a server was away.",
        }
        self._counted = {name: self.counter(f"archive_{name}", what) for name, what in counted.items()}
        self._seen = dict.fromkeys(counted, 0)
        self._partitions = self.gauge("archive_partitions", "Partitions that are kept.")
        self._open = self.gauge("archive_open_records", "Records that are read and in no segment yet.")

    def take(self, kept: Kept) -> None:
        """The archiver's own counts."""
        for name, counter in self._counted.items():
            now = getattr(kept, name)
            counter.inc(max(0, now - self._seen[name]))
            self._seen[name] = now
        self._partitions.set(kept.partitions)
        self._open.set(kept.open)


class PipelineMetrics:
    """The whole pipeline's numbers: of whoever measures them. A number that is unknown is NaN, never zero."""

    def __init__(self, role: Role) -> None:
        self._wal = role.gauge("lag_wal_bytes", "WAL that is not yet in Kafka.")
        self._seconds = role.gauge("lag_seconds", "Age of the oldest change that may not be applied.")
        self._records = role.gauge("lag_records", "Records in Kafka that are not applied.", ["collection"])
        self._behind = role.gauge("collection_lag_seconds", "The same, of one collection.", ["collection"])
        self._parked = role.gauge("parked_rows", "Rows that are parked.")
        self._unknown = role.gauge("lag_unknown", "1 where this number cannot be asked.", ["number"])
        self._active = role.gauge("slot_active", "1 while Debezium streams from the slot.")
        self._lost = role.gauge("slot_lost", "1 when PostgreSQL has removed WAL that the slot needed.")
        self._retained = role.gauge("slot_retained_bytes", "WAL that the slot keeps.")
        self._left = role.gauge("slot_left_bytes", "WAL until the slot is lost, or its disk full.")
        self._full = role.gauge("slot_full_seconds", "Until then, at the present growth.")
        self._up = role.gauge("component_up", "1: in order, 0: not, NaN: unknown.", ["component"])
        self._restarts = role.gauge("connector_restarts", "Restarts of the failed connector in a row.")
        self._verified = role.gauge("verify_age_seconds", "Since the last verification of the whole ended.")
        self._differences = role.gauge("verify_differences", "That the last verification found.")
        self._coverage = role.gauge("verify_coverage_ratio", "Which part of the whole the last one compared.")
        self._looked = role.gauge("lag_timestamp_seconds", "When the lag was last looked at.")
        self.fail()  # before the first look nothing is known
        self._restarts.set(math.nan)
        self._verification(None, None)

    def fail(self) -> None:
        """Nothing could be measured."""
        numbers = ("wal_bytes", "records", "seconds", "parked")
        self.take(LagReport("", unknown=dict.fromkeys(numbers, "not measured")))
        self._looked.set(0)

    def take(self, report: LagReport) -> None:
        """A look at the lag."""
        self._wal.set(_known(report.wal_bytes))
        self._seconds.set(_known(report.seconds))
        self._parked.set(_known(report.parked))
        for number in ("wal_bytes", "records", "seconds", "parked"):
            self._unknown.labels(number).set(getattr(report, number) is None)
        self._records.clear()  # of collections that are perhaps not mapped any more
        self._behind.clear()
        for one in report.collections:
            self._records.labels(one.name).set(_known(one.records))
            self._behind.labels(one.name).set(_known(one.seconds))
        slot = report.slot
        self._active.set(_known(None if slot is None else float(slot.active)))
        self._lost.set(_known(None if slot is None else float(slot.wal_status == "lost")))
        self._retained.set(_known(None if slot is None else slot.retained_bytes))
        self._left.set(_known(None if slot is None else slot.left_bytes))
        self._full.set(_known(None if slot is None else slot.full_in_seconds))
        self._looked.set(time.time())

    def take_status(self, report: StatusReport) -> None:
        """A look at the components."""
        self._up.clear()  # of those that are not spoken of any more
        for part in report.parts:
            self._up.labels(part.name).set(_known(None if part.ok is None else float(part.ok)))
        self._restarts.set(_known(report.restarts))
        verification = report.verification or {}
        self._verification(verification.get("last"), verification.get("whole"))

    def _verification(self, last: Verification | None, whole: Verification | None) -> None:
        self._verified.set(_known(None if whole is None else whole.age_s))
        self._differences.set(_known(None if last is None else float(last.differences)))
        self._coverage.set(_known(None if last is None else last.coverage))


def _known(value: float | None) -> float:
    return math.nan if value is None else float(value)


class Served:
    """An endpoint /metrics of these metrics, as a context. where: `[HOST:]PORT`, on loopback unless it says otherwise;
    port 0: a free one. Raises Misused."""

    def __init__(self, registry: CollectorRegistry, where: str, tell: Callable[[str], None]) -> None:
        host, _, port = where.rpartition(":")
        self._registry, self._tell = registry, tell
        self._host = host.strip("[]") or "127.0.0.1"
        if not port.isdigit() or int(port) > 65_535:
            raise Misused(
                f"--metrics {where} is no address", remedy="give a port, or host:port, such as 127.0.0.1:9464"
            )
        self._port = int(port)

    def __enter__(self) -> int:
        """Begin; returns the port."""
        try:
            self._server, self._thread = start_http_server(self._port, self._host, self._registry)
        except (OSError, UnicodeError) as error:
            raise Misused(
                f"metrics cannot be served on {self._host}:{self._port}: {error}",
                remedy="give a free port with --metrics, or 0 for any",
            ) from None
        port = int(self._server.server_port)
        self._tell(f"http://{self._host}:{port}/metrics")
        return port

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2)
