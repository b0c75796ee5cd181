"""Why a document may disagree with its row, where that can be told."""

from __future__ import annotations

from dataclasses import replace

from connectors.mongo.client import Database
from connectors.postgres.client import Session
from consumers.mapping.ids import row_key
from sync.verify import documents, rows
from sync.verify.expected import Key, Reading
from sync.verify.report import Difference, Kind


def explained(
    difference: Difference, key: Key | None, its: Reading, session: Session, database: Database
) -> Difference:
    """The difference with its row's key, and what is known besides."""
    causes = [difference.cause] if difference.cause else []
    if key is not None and documents.parked(database, its.table.name, [row_key(key)]):
        causes.append("an event of this key is parked")
    if difference.kind is Kind.EXTRA:
        there = key is not None and rows.present(session, its, [key], filtered=False)
        causes.append("its row does not pass the filter" if there else "there is no such row")
    if difference.kind is Kind.MISSING and its.ttl:
        fields = ", ".join(field for field, _ in its.ttl)
        causes.append(f"perhaps a TTL index on {fields} has removed it")
    if difference.kind is Kind.DIFFERS:
        parked = [table for table in its.embedded if documents.parked_count(database, table)]
        causes += [f"events of {table} are parked" for table in parked]
    return replace(difference, key=row_key(key) if key is not None else None, cause="; ".join(causes) or None)
