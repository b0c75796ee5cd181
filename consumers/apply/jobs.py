"""What is too large for the transaction that asks for it: the removal that a truncate wants, copies of a parent in many
documents. A job may be done twice, also at the same time, and is struck only while it is still the same one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from connectors.errors import Contended, Unappliable, UniqueTaken
from connectors.mongo import ledger, parked
from connectors.mongo.ledger import CopyJob
from connectors.mongo.transaction import Transaction, Transactions
from connectors.positions import Lsn
from consumers.apply.copies import copy_again
from consumers.apply.untangle import key_of_document, parked_id
from consumers.apply.write import RowWriter
from consumers.mapping.ids import row_key
from consumers.mapping.plan import Plan, RowPlan, pointer_of


class Jobs:
    """Does what is recorded."""

    def __init__(
        self, transactions: Transactions, plan: Plan, writer: RowWriter, log: Callable[..., None]
    ) -> None:
        self.transactions, self.plan, self.writer, self.log = transactions, plan, writer, log

    def run(self) -> bool:
        """Carry out every job that there is. True when there were any."""
        truncates = ledger.jobs(self.transactions.db)
        for job in truncates:
            for use in self.plan.uses(job.table):
                self._remove_older(use, job.lsn)
            self.transactions.repeat(partial(parked.void_below, table=job.table, lsn=job.lsn))
            self.transactions.repeat(partial(ledger.strike, job=job, plan=self.plan.digest))
        copies = ledger.copy_jobs(self.transactions.db)
        for copy in copies:
            self._copy(copy)
        return bool(truncates or copies)

    def _remove_older(self, use: RowPlan, lsn: Lsn) -> None:
        """Documents and staged rows older than the watermark go."""
        while ids := ledger.older_than(self.transactions.db, use.place, use.stamp, lsn):
            try:
                self.transactions.repeat(partial(self.writer.remove_below, use=use, ids=ids, lsn=lsn))
            except UniqueTaken as race:  # a parent whose array is made anew has let its value go meanwhile
                raise Contended(
                    f"removing what a TRUNCATE of {use.table.name} left: {race.what}",
                    remedy="it is tried again",
                ) from race

    def _copy(self, job: CopyJob) -> None:
        """Every document that points to the parent when this begins; who comes later takes what is there then."""
        if job.field in self.plan.copies.get(job.collection, {}):
            db, pointer, last = self.transactions.db, pointer_of(job.field), None
            while ids := ledger.pointing(db, job.collection, pointer, job.parent, last):
                self._copy_into(job, ids)
                last = ids[-1]
        self.transactions.repeat(partial(ledger.strike, job=job, plan=self.plan.digest))

    def _copy_into(self, job: CopyJob, ids: Sequence[Any]) -> None:
        """What is refused is found by halving, and its row parked."""
        try:
            self.transactions.repeat(lambda tx: copy_again(tx, self.plan, job, ids))
        except Unappliable as trouble:
            if len(ids) > 1:
                half = len(ids) // 2
                self._copy_into(job, ids[:half])
                self._copy_into(job, ids[half:])
            else:
                self.transactions.repeat(partial(self._park, job=job, _id=ids[0], trouble=trouble))
                self.log(f"parked: {trouble.what}", collection=job.collection, remedy=trouble.remedy)

    def _park(self, tx: Transaction, *, job: CopyJob, _id: Any, trouble: Unappliable) -> None:
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
