"""The first look: every row against its document, chunk by chunk, by several workers; then every `_id` of the target.

A chunk is read in a snapshot of its own, so PostgreSQL keeps no old rows for long; its documents a moment later. What
differs is only in doubt (`settle`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Protocol

from bson import ObjectId

from connectors.mongo import client as mongo
from connectors.postgres import client as postgres
from connectors.settings import SourceEndpoint
from consumers.mapping.ids import integer_key
from sync.verify import documents, rows
from sync.verify.census import without_row
from sync.verify.chunks import Chunk, KeyRange, Seen, drawn, encoded, gaps, plus, row_hash
from sync.verify.compare import first_difference, wrong_sync
from sync.verify.doubts import Doubts
from sync.verify.expected import Expected, Key, Reading
from sync.verify.expiry import may_be_gone
from sync.verify.judge import judge
from sync.verify.report import Cost, VerifyReport

#: keys of a piece of the walk over all `_id`s, each in a snapshot of its own
_KEYS_AT_ONCE = 100_000
#: so many keys cost as much as a row
_KEY_COSTS = 20
#: a sample is drawn of smaller chunks, so that it is spread over the table
_SAMPLED_ROWS = 200
_UNFIT = b"no form"


class Pace(Protocol):
    """What says how fast rows may be read."""

    def wait(self, ops: int, stop: Callable[[], bool]) -> None:
        """Return when so many rows may be read, or stop() says so."""
        ...


class Keep(Protocol):
    """Where finished chunks are kept, so that a run that ends too early goes on later."""

    def done(self, seen: Seen) -> None:
        """One more is done."""
        ...


@dataclass(frozen=True)
class Extent:
    """What is looked at, and by how many. sample: so many percent of the rows, drawn by the seed; None: all."""

    workers: int = 2
    chunk_rows: int = 5_000
    batch: int = 500
    sample: float | None = None
    seed: int = 0

    @property
    def cut_rows(self) -> int:
        """Rows of one chunk."""
        return self.chunk_rows if self.sample is None else min(self.chunk_rows, _SAMPLED_ROWS)


@dataclass
class FirstLook:
    """Fills a report, and what is in doubt. now_ms: PostgreSQL's clock."""

    readings: Mapping[str, Reading]
    source: SourceEndpoint
    database: mongo.Database
    extent: Extent
    report: VerifyReport
    doubts: Doubts
    now_ms: Callable[[], int]
    progress: Callable[[str, int], None]
    pace: Pace | None = None
    keep: Keep | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    #: whose turn it is to cut the next chunk
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self, done: Iterable[Seen] = ()) -> None:
        """Look at all that is not done yet. Raises what a worker meets."""
        before: dict[str, list[Seen]] = {name: [] for name in self.readings}
        for seen in done:
            before[seen.chunk.collection].append(seen)
            self._take(seen)
            for id_ in seen.doubts:
                self.doubts.add(seen.chunk.collection, id_, key_in(self.readings[seen.chunk.collection], id_))
        self.report.resumed = sum(map(len, before.values()))
        self.report.cost.workers = self.extent.workers
        with (
            closing(postgres.connect(self.source, name="tandem verify")) as session,
            ThreadPoolExecutor(self.extent.workers, "verify") as pool,
        ):
            jobs = self._jobs(session, before)
            running = [pool.submit(self._work, jobs) for _ in range(self.extent.workers)]
            try:
                wait(running, return_when=FIRST_EXCEPTION)
            finally:
                self._stop.set()
        for one in running:
            one.result()

    def _jobs(self, session: postgres.Session, before: Mapping[str, Sequence[Seen]]) -> Iterator[Chunk | str]:
        """Chunks, and behind those of a collection its name: then its `_id`s are gone through. The larger first."""
        for name in sorted(self.readings, key=lambda name: -self.report.collections[name].total):
            done = before[name]
            for chunk in cut(session, self.readings[name], [one.chunk for one in done], self.extent.cut_rows):
                if drawn(self.extent.sample, self.extent.seed, chunk):
                    yield chunk
                elif chunk.keys.high is not None:
                    with self._lock:
                        self.report.collections[name].covered += self.extent.cut_rows
            yield name

    def _work(self, jobs: Iterator[Chunk | str]) -> None:
        with closing(postgres.connect(self.source, name="tandem verify")) as session:
            try:
                while (job := self._next(jobs)) is not None:
                    if isinstance(job, str):
                        self._extras(session, self.readings[job])
                    else:
                        self._look(session, job)
                    if self._stop.is_set():
                        return
                self._count_blocks(session)
            except BaseException:
                self._stop.set()
                raise

    def _next(self, jobs: Iterator[Chunk | str]) -> Chunk | str | None:
        with self._turn:
            return None if self._stop.is_set() else next(jobs, None)

    # rows

    def _look(self, session: postgres.Session, chunk: Chunk) -> None:
        self._allow(
            chunk.collection, self.extent.cut_rows
        )  # before the snapshot: none is kept open for the sake of the pace
        its, seen = self.readings[chunk.collection], Seen(chunk, rows.lsn(session))
        reading = rows.stream(session, its, self.extent.batch, chunk.keys)
        keys: dict[Any, Key] = {}
        while batch := self._timed("postgresql_s", lambda: next(reading, None)):
            if self._stop.is_set():
                reading.close()
                return
            found = self._timed(
                "mongodb_s",
                lambda ids=[one.id for one in batch]: documents.these(self.database, its.collection, ids),  # type: ignore[misc]
            )
            for expected in batch:
                if not self._compared(its, seen, expected, found.get(expected.id)):
                    seen.doubts.append(expected.id)
                    keys[expected.id] = expected.key
            with self._lock:
                self.report.cost.documents += len(found)
            self.progress(its.collection, self.report.collections[its.collection].rows + seen.rows)
        seen.covered = seen.rows if chunk.keys.high is None else max(seen.rows, self.extent.cut_rows)
        if self.keep is not None:
            self.keep.done(seen)
        for id_ in seen.doubts:
            self.doubts.add(its.collection, id_, keys[id_])
        self._take(seen)

    def _compared(self, its: Reading, seen: Seen, expected: Expected, document: Any) -> bool:
        """Count one row. False: its document is not as it has to be."""
        order = sorted(expected.fields)
        mine = encoded(expected.fields, order)
        hashed = row_hash(expected.id, _UNFIT if mine is None else mine)
        seen.rows += 1
        if document is None:
            if may_be_gone(its.ttl, expected.fields, self.now_ms()):
                seen.expiring += 1
                return True
            seen.source = plus(seen.source, hashed)
            return False
        seen.source = plus(seen.source, hashed)
        seen.compared += 1
        seen.fields += len(expected.fields)
        theirs = encoded(document, order)
        alike = mine is not None and mine == theirs and _tidy(document, expected)
        if not alike and judge(
            its, expected.id, expected.key, expected.fields, document, self.now_ms(), expected.copy
        ):
            seen.target = plus(seen.target, row_hash(expected.id, _UNFIT if theirs is None else theirs))
            return False
        seen.target = plus(seen.target, hashed)
        return True

    # documents

    def _extras(self, session: postgres.Session, its: Reading) -> None:
        """Look for documents that no row of the filter stands behind."""
        counts = self.report.collections[its.collection]

        def every_row() -> Iterator[bytes]:
            for chunk in cut(session, its, (), _KEYS_AT_ONCE):
                self._allow(its.collection, _KEYS_AT_ONCE, _KEY_COSTS)
                yield from rows.ids_in(session, its, chunk.keys)

        def every_document() -> Iterator[list[Any]]:
            for batch in documents.ids(self.database, its.collection, 10 * self.extent.batch):
                if self._stop.is_set():
                    return
                yield batch

        def count(more: int) -> None:
            counts.documents += more

        suspects: list[Any] = []
        for id_ in without_row(every_row, every_document, count):
            suspects.append(id_)
            if len(suspects) >= self.extent.batch:
                self._suspect(its, suspects)
                suspects = []
        self._suspect(its, suspects)

    def _suspect(self, its: Reading, suspects: Sequence[Any]) -> None:
        for found in documents.these(self.database, its.collection, suspects).values():
            if may_be_gone(its.ttl, found, self.now_ms()):
                with self._lock:
                    self.report.collections[its.collection].expiring += 1
            else:
                self.doubts.add(its.collection, found["_id"], key_in(its, found["_id"]))

    # both

    def _take(self, seen: Seen) -> None:
        with self._lock:
            self.report.add(seen)

    def _allow(self, collection: str, most: int, part: int = 1) -> None:
        """Wait for the pace: for so many rows, or all of a table that has fewer, or a part of that."""
        if self.pace is not None:
            self.pace.wait(
                max(1, min(most, self.report.collections[collection].total) // part), self._stop.is_set
            )

    def _timed(self, what: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        try:
            return work()
        finally:
            took = time.perf_counter() - began
            with self._lock:
                setattr(self.report.cost, what, getattr(self.report.cost, what) + took)

    def _count_blocks(self, session: postgres.Session) -> None:
        found = rows.blocks(session)
        with self._lock:
            add_blocks(self.report.cost, found)


def add_blocks(cost: Cost, found: tuple[int, int] | None) -> None:
    """Blocks that one more session has had from the cache, and has read."""
    if found is not None:
        cost.blocks_hit = (cost.blocks_hit or 0) + found[0]
        cost.blocks_read = (cost.blocks_read or 0) + found[1]


def cut(session: postgres.Session, its: Reading, done: Iterable[Chunk], every: int) -> Iterator[Chunk]:
    """The chunks of a collection that are not done, each found when it is asked for."""
    for gap, follower in gaps(its.collection, done):
        number, low = gap.number, gap.keys.low
        while True:
            last = follower is not None and number == follower - 1
            found = None if last else rows.bound_in(session, its.table, KeyRange(low, gap.keys.high), every)
            high = gap.keys.high if found is None else found
            yield Chunk(its.collection, number, KeyRange(low, high))
            if high == gap.keys.high:
                break
            number, low = number + 1, high


def key_in(its: Reading, id_: Any) -> Key | None:
    """The key that a document's `_id` tells."""
    if not its.has_integer_key or not isinstance(id_, ObjectId):
        return None
    key = integer_key(its.table.name, id_)
    return None if key is None else (key,)


def _tidy(document: Mapping[str, Any], expected: Expected) -> bool:
    """Nothing is in it besides its fields, and `_sync` is as tandem writes it."""
    if len(document) != len(expected.fields) + 2 or wrong_sync(document) is not None:
        return False
    if not expected.copy:
        return True
    kept = document["_sync"].get("copy")
    return isinstance(kept, dict) and all(
        field in kept and first_difference(pointer, kept[field], field) is None
        for field, pointer in expected.copy.items()
    )
