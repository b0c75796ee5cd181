"""The walk over both sides, while both may be written.

First every row is compared with its document, and every document without a row is looked for (`first`). What differs is
only in doubt: the consumers may be on their way. Each doubt is looked at again until it is settled or confirmed
(`settle`).
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from connectors.errors import MappingInvalid
from connectors.mongo import client as mongo
from connectors.positions import Lsn
from connectors.postgres import client as postgres
from connectors.settings import SourceEndpoint, TargetEndpoint
from consumers.mapping.spec import Mapping_
from sync.verify import rows
from sync.verify.catalog import Catalog
from sync.verify.chunks import Seen
from sync.verify.doubts import Doubts
from sync.verify.expected import reading
from sync.verify.first import Extent, FirstLook, Keep, Pace, add_blocks
from sync.verify.report import Counts, VerifyReport
from sync.verify.settle import Settling, Wait

#: Called with a collection and how many of its rows have been compared.
Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Limits:
    """How much at once, and how often."""

    batch: int = 500
    rounds: int = 10
    samples: int = 100
    #: Documents that are looked at again; each holds its key in memory.
    doubts: int = 100_000
    workers: int = 2
    chunk_rows: int = 5_000


@dataclass(frozen=True)
class Before:
    """What an earlier run of the same kind had done when it ended too early. lsn, at: when it began."""

    lsn: Lsn
    at: datetime
    done: Iterable[Seen]


def verify(
    mapping: Mapping_,
    source: SourceEndpoint,
    target: TargetEndpoint,
    *,
    collections: Sequence[str] | None = None,
    wait: Wait | None = None,
    progress: Progress | None = None,
    limits: Limits | None = None,
    sample: float | None = None,
    seed: int = 0,
    pace: Pace | None = None,
    keep: Keep | None = None,
    before: Before | None = None,
    report: VerifyReport | None = None,
) -> VerifyReport:
    """Compare every field of every document with PostgreSQL.

    wait: returns when the consumers have applied everything up to an LSN, or raises NotComplete. Without it
    there is one comparison, which is right only while nothing is written. report: filled from the beginning, for who
    looks on. Raises MappingInvalid, TableUnfit, and errors of kind RETRY when a server goes away.
    """
    limits = limits or Limits()
    began, cpu = time.monotonic(), time.process_time()
    with _sessions(source, target) as (looking, database):
        catalog = Catalog(looking, mapping.keys())
        readings = {name: reading(name, mapping, catalog) for name in _wanted(mapping, collections)}
        started = rows.lsn(looking)
        report = report or VerifyReport(lsn=started, at=datetime.now(UTC), until=started)
        report.lsn, report.at = (started, datetime.now(UTC)) if before is None else (before.lsn, before.at)
        report.sample, report.seed = sample, None if sample is None else seed
        clock_ms, clock_read = rows.clock_ms(looking), time.monotonic()

        def now_ms() -> int:
            """PostgreSQL's clock, run on by ours."""
            return clock_ms + int((time.monotonic() - clock_read) * 1000)

        for name, its in readings.items():
            report.collections[name] = Counts(its.table.name, total=rows.about(looking, its.table))
        doubts = Doubts(limits.doubts)
        settling = Settling(
            readings, looking, database, report, doubts, wait, now_ms,
            batch=limits.batch, rounds=limits.rounds, samples=limits.samples,
        )  # fmt: skip
        report.waited = settling.waited(started)
        extent = Extent(limits.workers, limits.chunk_rows, limits.batch, sample, seed)
        look = FirstLook(
            readings, source, database, extent, report, doubts, now_ms, progress or (lambda _, __: None), pace, keep
        )  # fmt: skip
        walked = time.monotonic()
        look.run(before.done if before else ())
        walked = time.monotonic() - walked
        settling.settle()
        add_blocks(report.cost, rows.blocks(looking))
        report.until = rows.lsn(looking)
    report.took_s = time.monotonic() - began
    report.cost.cpu_s = time.process_time() - cpu
    report.cost.rows_per_s = _mine(report, before) / walked if walked else 0.0
    report.cost.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return report


def _mine(report: VerifyReport, before: Before | None) -> int:
    """Rows that this run compared itself."""
    return sum(c.rows for c in report.collections.values()) - sum(
        s.rows for s in (before.done if before else ())
    )


def _wanted(mapping: Mapping_, collections: Sequence[str] | None) -> list[str]:
    fed = [name for name, collection in mapping.collections.items() if collection.table is not None]
    unknown = [name for name in collections or () if name not in fed]
    if unknown:
        raise MappingInvalid(
            f"no table feeds a collection {', '.join(unknown)}", remedy=f"choose among {', '.join(fed)}"
        )
    return [name for name in fed if collections is None or name in collections]


@contextmanager
def _sessions(
    source: SourceEndpoint, target: TargetEndpoint
) -> Iterator[tuple[postgres.Session, mongo.Database]]:
    database = mongo.connect(target, name="tandem verify")
    with (
        closing(database.client),
        closing(postgres.connect(source, name="tandem verify again")) as looking,
    ):
        yield looking, database
