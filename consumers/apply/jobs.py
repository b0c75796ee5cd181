"""What is too large for the transaction that asks for it: the removal that a truncate wants, copies of a parent in many
documents. A job may be done twice, also at the same time, and is struck only while it is still the same one.

Of all consumers the one that reads the first partition of a table does the jobs that write its rows: two that did the
same one would only be in each other's way. When it dies, whoever is given the partition begins anew. It does them in
small transactions, and a little at a time, between its batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from connectors.errors import Contended, Moved, Unappliable, UniqueTaken
from connectors.mongo import ledger, parked
from connectors.mongo.ledger import CopyJob, Job
from connectors.mongo.transaction import Transaction, Transactions
from connectors.positions import Lsn, Partition
from consumers.apply.copies import copy_again
from consumers.apply.untangle import key_of_document, parked_id
from consumers.apply.write import RowWriter
from consumers.mapping.ids import row_key
from consumers.mapping.plan import Plan, RowPlan, pointer_of

#: documents in one transaction: one that is short is seldom in the way of a batch, and loses little when it is
_AT_ONCE = 100
#: so long jobs go on before the next batch has its turn
_TURN_S = 0.5


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
        #: how far copying has come: the last `_id`, by job
        self._done: dict[CopyJob, Any] = {}

    def run(self) -> bool:
        """Go on with the jobs that are this worker's. True when there is more to do, and soon."""
        try:
            return not self._take_turn(time.monotonic() + _TURN_S)
        except Contended:  # who is faster goes first
            return True

    def _take_turn(self, until: float) -> bool:
        """False when there was no time for all."""
        for job in ledger.jobs(self.transactions.db):
            if self._first(job.table) is not None and not self._truncate(job, until):
                return False
        mine = [n for n, use in self.plan.documents.items() if self._first(use.table.name) is not None]
        copies = ledger.copy_jobs(self.transactions.db, mine) if mine else []
        self._done = {job: last for job, last in self._done.items() if job in copies}
        return all(self._copy(job, until) for job in copies)

    # -- truncates -----------------------------------------------------------------------------------------------
    def _truncate(self, job: Job, until: float) -> bool:
        """Documents and staged rows older than the watermark go. False when there was no time for all."""
        for use in self.plan.uses(job.table):
            if not self._remove_older(use, job.lsn, until):
                return False
        self.transactions.repeat(partial(parked.void_below, table=job.table, lsn=job.lsn))
        self.transactions.repeat(partial(ledger.strike, job=job, plan=self.plan.digest))
        return True

    def _remove_older(self, use: RowPlan, lsn: Lsn, until: float) -> bool:
        while ids := ledger.older_than(self.transactions.db, use.place, use.stamp, lsn, _AT_ONCE):
            try:
                remove = partial(self.writer.remove_below, use=use, ids=ids, lsn=lsn)
                self.transactions.repeat(remove, within_s=_TURN_S)
            except UniqueTaken as race:  # a parent whose array is made anew has let its value go meanwhile
                raise Contended(
                    f"removing what a TRUNCATE of {use.table.name} left: {race.what}",
                    remedy="it is tried again",
                ) from race
            if time.monotonic() > until and len(ids) == _AT_ONCE:
                return False
        return True

    # -- copies --------------------------------------------------------------------------------------------------
    def _written_by(self, job: CopyJob) -> Partition | None:
        """The position that this worker writes with the job's documents, where it is the one to do that."""
        use = self.plan.documents.get(job.collection)
        return None if use is None else self._first(use.table.name)

    def _copy(self, job: CopyJob, until: float) -> bool:
        """Every document that points to the parent when this begins; who comes later takes what is there then. False
        when there was no time for all."""
        if job.field in self.plan.copies.get(job.collection, {}):
            db, pointer = self.transactions.db, pointer_of(job.field)
            while ids := ledger.pointing(
                db, job.collection, pointer, job.parent, self._done.get(job), _AT_ONCE
            ):
                try:
                    self._copy_into(job, ids)
                except Moved:  # somebody holds the table: the job goes on when it is let go
                    return True
                self._done[job] = ids[-1]
                if time.monotonic() > until:
                    return False
        self.transactions.repeat(partial(ledger.strike, job=job, plan=self.plan.digest))
        return True

    def _copy_into(self, job: CopyJob, ids: Sequence[Any]) -> None:
        """What is refused is found by halving, and its row parked."""
        try:
            self.transactions.repeat(partial(self._write, job=job, ids=ids), within_s=_TURN_S)
        except Unappliable as trouble:
            if len(ids) > 1:
                half = len(ids) // 2
                self._copy_into(job, ids[:half])
                self._copy_into(job, ids[half:])
            else:
                self.transactions.repeat(partial(self._park, job=job, _id=ids[0], trouble=trouble))
                self.log(f"parked: {trouble.what}", collection=job.collection, remedy=trouble.remedy)

    def _write(self, tx: Transaction, *, job: CopyJob, ids: Sequence[Any]) -> None:
        self._as_owner(tx, job)
        copy_again(tx, self.plan, job, ids)

    def _as_owner(self, tx: Transaction, job: CopyJob) -> None:
        """Write a position of the table whose documents are written, as all who write rows do: so nothing is written
        under somebody else's hold, nor by another mapping. It is this worker's own: it meets no other's batches."""
        position = self._written_by(job)
        if position is None:
            raise Moved("the partition is another worker's by now", remedy="that one goes on with the job")
        ledger.touch(tx, [position], self.plan.follows)

    def _park(self, tx: Transaction, *, job: CopyJob, _id: Any, trouble: Unappliable) -> None:
        self._as_owner(tx, job)
        use = self.plan.documents[job.collection]
        found = tx.one(job.collection, {"_id": _id})
        if found is None:
            return
        key = key_of_document(use, found)
        parked.park(
            tx,
            parked_id(use.table.name, key),
            table=use.table.name,
            key=row_key(key),
            partition="",
            trouble=trouble,
            now_ms=self.writer.now_us() // 1_000,
        )
