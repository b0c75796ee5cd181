"""One row against one document: the differences between them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from bson import ObjectId

from consumers.mapping.ids import row_key
from sync.verify.canonical import Unfit
from sync.verify.compare import SYNC, mismatches, wrong_sync
from sync.verify.expected import Key, Reading
from sync.verify.expiry import may_be_gone
from sync.verify.report import Difference, Kind


def judge(
    its: Reading,
    id_: Any,
    key: Key | None,
    expected: Mapping[str, Any] | None,
    document: Mapping[str, Any] | None,
    now_ms: int,
    copy: Mapping[str, ObjectId | None] = MappingProxyType({}),
) -> list[Difference]:
    """What tells a document from its row's fields; None: there is no document, no row in the filter.

    copy: the `_id`s of the rows that are copied into it.

    One that a TTL index lets go of may be there or not; while it is there, its fields have to agree.
    """
    whole = Difference(Kind.MISSING, its.collection, str(id_), None if key is None else row_key(key))
    if expected is not None and document is not None:
        return [
            replace(
                whole,
                kind=Kind.DIFFERS,
                field=mismatch.at,
                expected=mismatch.expected,
                found=mismatch.found,
                cause=_foreign(document),
            )
            for mismatch in mismatches(expected, document, copy, its.secret)
        ]
    there = document if expected is None else expected
    if there is None or may_be_gone(its.ttl, there, now_ms):
        return []
    if document is not None:
        return [replace(whole, kind=Kind.EXTRA, cause=_foreign(document))]
    unfit = next((_why(its, name, value) for name, value in there.items() if isinstance(value, Unfit)), None)
    return [replace(whole, cause=unfit and f"the row has no faithful document: {unfit}")]


def _why(its: Reading, field: str, value: Unfit) -> str:
    return "a secret value" if field in its.secret else value.why


def _foreign(document: Mapping[str, Any]) -> str | None:
    if SYNC not in document:
        return "written by another client: it has no _sync"
    return "written by another client: its _sync is not tandem's" if wrong_sync(document) else None
