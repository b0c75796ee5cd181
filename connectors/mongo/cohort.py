"""Which cohort reads from MongoDB already, kept in `_tandem_state` as `cohort` from before its flags are turned until
they are turned for everybody, or back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from connectors.mongo.client import Database, Document, translated
from connectors.mongo.ledger import STATE

_ID = "cohort"


def held(db: Database) -> Document | None:
    """`{cohort, keys, flags, since}`; None: there is none."""
    with translated():
        known = db[STATE].find_one({"_id": _ID}, {"_id": 0})
    return None if known is None else {**known, "since": _moment(known["since"])}


def _moment(value: Any) -> datetime:
    return value if isinstance(value, datetime) else value.as_datetime()


def hold(db: Database, cohort: str, keys: int, flags: Sequence[str], since: datetime) -> None:
    """Note it, before the flags are turned."""
    with translated():
        found = {"cohort": cohort, "keys": keys, "flags": list(flags), "since": since}
        db[STATE].replace_one({"_id": _ID}, found, upsert=True)


def let_go(db: Database) -> None:
    """There is none any more."""
    with translated():
        db[STATE].delete_one({"_id": _ID})
