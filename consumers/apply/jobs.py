"""What is too large for the transaction that asks for it: the removal that a truncate wants, copies of a parent in many
documents. A job may be done twice, also at the same time, and is struck only while it is still the same one.

Of all consumers the one that reads the first partition of a table does the jobs that write its rows: two that did the
same one would only be in each other's way. When it dies, whoever is given the partition begins anew. It does them in
small transactions, and a little at a time, between its batches. Each turn begins with the job behind the one that the
last turn ended with, so that none waits for another for ever.

A job that is recorded anew while it is done, as that of a parent that is written all the time, goes on where it is: its
documents are a circle, which has to be gone round once since it was recorded last.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from bson import ObjectId

from connectors.errors import Contended, Moved, TooMuchAtOnce, Unappliable, UniqueTaken
from connectors.mongo import ledger, parked
from connectors.mongo.ledger import CopyJob, Job
from connectors.mongo.transaction import Transaction, Transactions
from connectors.positions import Partition
from consumers.apply.copies import copy_again
from consumers.apply.untangle import key_of_document, park_row
from consumers.apply.write import RowWriter
from consumers.mapping.plan import Plan, RowPlan, pointer_of

#: documents in one transaction: one that is short is seldom in the way of a batch, and loses little when it is
_AT_ONCE = 100
#: so long jobs go on before the next batch has its turn
_TURN_S = 0.5
#: so many copy jobs are looked at in a turn
_LOOKED_AT = 100
#: so many places are remembered; a job whose place is forgotten begins with its first document
_PLACES = 10_000


class _Otherwise(Exception):
    """A job is struck, or was recorded anew, or is not seen yet."""


@dataclass(slots=True)
class _Circle:
    """How far a parent's documents have been gone round. serial: of the job as it was recorded last, when they were
    gone through to `start` (None: it begins with the first one). last: the `_id` that it has come to. around: whether
    it is past the end, and goes on from the first one."""

    serial: int
    start: Any = None
    last: Any = None
    around: bool = True

    def anew(self, serial: int) -> _Circle:
        """For another recording: all of them once more, from here on."""
        return _Circle(serial, self.last, self.last, self.last is None)


class Jobs:
    """Does what is recorded. first: the first partition of a table, where this worker is the one that reads it."""

    def __init__(
        self,
        transactions: Transactions,
        plan: Plan,
        writer: RowWriter,
        log: Callable[..., None],
        first: Callable[[str], Partition | None],
    ) -> None:
        self.transactions, self.plan, self.writer, self.log = transactions, plan, writer, log
        self._first = first
        #: the job that had the last turn
        self._last = ""
        self._circles: dict[tuple[str, str, ObjectId], _Circle] = {}

    def run(self) -> bool:
        """Go on with the jobs that are this worker's. True when there is more to do, and soon."""
        until, more, begun = time.monotonic() + _TURN_S, False, False
        mine = [n for n, use in self.plan.documents.items() if self._first(use.table.name) is not None]
        copies = ledger.copy_jobs(self.transactions.db, mine, self._last, _LOOKED_AT)
        jobs: list[Job | CopyJob] = [
            *(job for job in ledger.jobs(self.transactions.db) if self._first(job.table) is not None),
            *copies,
        ]
        for job in sorted(jobs, key=lambda job: (job.id <= self._last, job.id)):
            if begun and time.monotonic() > until:
                return True
            begun, self._last = True, job.id
            more |= not self._do(job, until)
        return more or len(copies) == _LOOKED_AT

    def _do(self, job: Job | CopyJob, until: float) -> bool:
        """Go on with a job. False when there is more to do of it, and soon."""
        try:
            return self._truncate(job, until) if isinstance(job, Job) else self._copy(job, until)
        except (Contended, _Otherwise):  # who is faster goes first
            return False
        except Moved:  # somebody holds the table: it goes on when it is let go
            return True
        except TooMuchAtOnce as trouble:
            self.log(f"a job waits: {trouble.what}", job=job.id, remedy=trouble.remedy)
            return True

    def _demand(self, tx: Transaction, job: Job | CopyJob) -> None:
        if not ledger.still(tx, job):
            raise _Otherwise

    # -- truncates -----------------------------------------------------------------------------------------------
    def _truncate(self, job: Job, until: float) -> bool:
        """Documents and staged rows older than the watermark go. False when there was no time for all."""
        for use in self.plan.uses(job.table):
            if not self._remove_older(job, use, until):
                return False
        self.transactions.repeat(partial(self._end_truncate, job=job), within_s=_TURN_S)
        return True

    def _remove_older(self, job: Job, use: RowPlan, until: float) -> bool:
        while ids := ledger.older_than(self.transactions.db, use.place, use.stamp, job.lsn, _AT_ONCE):
            self._remove(job, use, ids)
            if time.monotonic() > until and len(ids) == _AT_ONCE:
                return False
        return True

    def _remove(self, job: Job, use: RowPlan, ids: Sequence[Any]) -> None:
        remove = partial(self._remove_below, job=job, use=use, ids=ids)
        try:
            self.transactions.repeat(remove, within_s=_TURN_S)
        except UniqueTaken as race:  # a parent whose array is made anew has let its value go meanwhile
            raise Contended(
                f"removing what a TRUNCATE of {use.table.name} left: {race.what}",
                remedy="it is tried again",
            ) from race
        except TooMuchAtOnce:
            if len(ids) == 1:
                raise
            half = len(ids) // 2
            self._remove(job, use, ids[:half])
            self._remove(job, use, ids[half:])

    def _remove_below(self, tx: Transaction, *, job: Job, use: RowPlan, ids: Sequence[Any]) -> None:
        self._as_owner(tx, job, job.table)
        self.writer.remove_below(tx, use, ids, job.lsn)

    def _end_truncate(self, tx: Transaction, *, job: Job) -> None:
        self._as_owner(tx, job, job.table)
        parked.void_below(tx, job.table, job.lsn)
        ledger.strike(tx, job, self.plan.digest)

    # -- copies --------------------------------------------------------------------------------------------------
    def _copy(self, job: CopyJob, until: float) -> bool:
        """Every document that points to the parent when this begins; who comes later takes what is there then. False
        when there was no time for all."""
        circle = self._circle(job)
        while True:
            ids = self.transactions.repeat(partial(self._next, job=job, circle=circle), within_s=_TURN_S)
            if ids:
                self._copy_into(job, ids)
                circle.last = ids[-1]
            elif circle.around:
                self._circles.pop((job.collection, job.field, job.parent), None)
                return True
            else:
                circle.around, circle.last = True, None
            if time.monotonic() > until:
                return False

    def _circle(self, job: CopyJob) -> _Circle:
        """The place of a job's parent, for this recording of the job."""
        key = job.collection, job.field, job.parent
        circle = self._circles.pop(key, None) or _Circle(job.serial)
        if circle.serial != job.serial:
            circle = circle.anew(job.serial)
        self._circles[key] = circle
        if len(self._circles) > _PLACES:
            self._circles.pop(next(iter(self._circles)))
        return circle

    def _next(self, tx: Transaction, *, job: CopyJob, circle: _Circle) -> list[Any]:
        """The next documents. After the last ones the job is struck."""
        self._demand(tx, job)
        ids: list[Any] = []
        if job.field in self.plan.copies.get(job.collection, {}):
            end = circle.start if circle.around else None
            pointer = pointer_of(job.field)
            ids = ledger.pointing(tx, job.collection, pointer, job.parent, circle.last, end, _AT_ONCE)
        if not ids and circle.around:
            self._as_owner(tx, job, self.plan.documents[job.collection].table.name)
            ledger.strike(tx, job, self.plan.digest)
        return ids

    def _copy_into(self, job: CopyJob, ids: Sequence[Any]) -> None:
        """What is refused, or is too much, is found by halving; the row of what is refused is parked."""
        try:
            self.transactions.repeat(partial(self._write, job=job, ids=ids), within_s=_TURN_S)
        except (Unappliable, TooMuchAtOnce) as trouble:
            if len(ids) > 1:
                half = len(ids) // 2
                self._copy_into(job, ids[:half])
                self._copy_into(job, ids[half:])
            elif isinstance(trouble, Unappliable):
                park = partial(self._park, job=job, _id=ids[0], trouble=trouble)
                self.transactions.repeat(park, within_s=_TURN_S)
                self.log(f"parked: {trouble.what}", collection=job.collection, remedy=trouble.remedy)
            else:
                raise

    def _write(self, tx: Transaction, *, job: CopyJob, ids: Sequence[Any]) -> None:
        self._as_owner(tx, job, self.plan.documents[job.collection].table.name)
        copy_again(tx, self.plan, job, ids)

    def _as_owner(self, tx: Transaction, job: Job | CopyJob, table: str) -> None:
        """See that the job is still the same one, and write a position of the table whose rows are written, as all who
        write rows do: so nothing is written under somebody else's hold, nor by another mapping. It is this worker's
        own: it meets no other's batches."""
        position = self._first(table)
        if position is None:
            raise Moved("the partition is another worker's by now", remedy="that one goes on with the job")
        ledger.touch(tx, [position], self.plan.follows)
        self._demand(tx, job)

    def _park(self, tx: Transaction, *, job: CopyJob, _id: Any, trouble: Unappliable) -> None:
        use = self.plan.documents[job.collection]
        self._as_owner(tx, job, use.table.name)
        found = tx.one(job.collection, {"_id": _id})
        if found is None:
            return
        key = key_of_document(use, found)
        lsn = int(found["_sync"]["lsn"])  # as the document has: the TRUNCATE that removes it voids this too
        park_row(tx, use.table.name, key, trouble, self.writer.now_us() // 1_000, lsn)
