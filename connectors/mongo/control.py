"""What an operator has asked of running processes: one document, `control` in `_tandem_state`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from bson import DatetimeMS, Int64
from pymongo.errors import DuplicateKeyError

from connectors.mongo.client import Database, Document, translated
from connectors.mongo.ledger import STATE

_ID = "control"
ROLES = ("consumers", "snapshot", "verify")


@dataclass(frozen=True, slots=True)
class Control:
    """paused: roles that stand still. max_ops: rows a second, of all processes of a role together. max_lag_s: the
    snapshot waits while what streams is further behind than that. by, at_ms: who asked last, and when."""

    paused: frozenset[str] = frozenset()
    max_ops: int | None = None
    max_lag_s: float | None = None
    by: str = ""
    at_ms: int = 0

    @classmethod
    def of(cls, document: Document) -> Control:
        """From its document."""
        return cls(
            frozenset(document.get("paused", ())),
            document.get("max_ops"),
            document.get("max_lag_s"),
            document.get("by", ""),
            int(document.get("at", 0)),
        )

    @property
    def free(self) -> bool:
        """Nothing is asked."""
        return not self.paused and self.max_ops is None and self.max_lag_s is None


def control(db: Database) -> Control:
    """What is asked now."""
    with translated():
        return Control.of(db[STATE].find_one({"_id": _ID}) or {})


def ask(db: Database, before: Control, wanted: Control) -> Control:
    """Ask for what is different in wanted; what somebody else asks at the same time stays. Running processes see it
    within a second. Returns what is asked then."""
    fields = {
        name: getattr(wanted, name)
        for name in ("max_ops", "max_lag_s")
        if getattr(wanted, name) != getattr(before, name)
    }
    change: Document = {"$set": {**fields, "by": wanted.by, "at": DatetimeMS(wanted.at_ms)}}
    if more := wanted.paused - before.paused:
        change["$addToSet"] = {"paused": {"$each": sorted(more)}}
    elif fewer := before.paused - wanted.paused:
        change["$pullAll"] = {"paused": sorted(fewer)}
    with translated():
        db[STATE].update_one({"_id": _ID}, change, upsert=True)
        return Control.of(db[STATE].find_one({"_id": _ID}) or {})


def say_throttled(db: Database, who: str, why: str) -> None:
    """A direct writer says why it goes slowly at the moment; empty: it does not."""
    with translated():
        db[STATE].update_one({"_id": who}, {"$set": {"throttled": why}})


def throttled(db: Database, who: str) -> str:
    """Why a direct writer goes slowly, as it said last."""
    with translated():
        found = db[STATE].find_one({"_id": who, "beat": {"$exists": True}}, {"throttled": 1})
    return str((found or {}).get("throttled", ""))


# -- restarts of the connector -----------------------------------------------------------------------------------
_CONNECTOR = "connector"


#: a connector that ran for so long was not restarted in vain
_LASTED_MS = 600_000


def restarts(db: Database, now_ms: int) -> int:
    """How many in a row until now, each soon after the one before."""
    with translated():
        known = db[STATE].find_one({"_id": _CONNECTOR}) or {}
    return int(known["count"]) if known.get("last", 0) > now_ms - _LASTED_MS else 0


def claim_restart(db: Database, failure: str, now_ms: int, next_ms: int, count: int) -> bool:
    """Be the one that restarts it now, and nobody before next_ms. False: another one is, or it is too early."""
    wanted = {"next": Int64(next_ms), "last": Int64(now_ms), "count": count, "failure": failure}
    with translated(), suppress(DuplicateKeyError):  # where there is one whose time has not come
        db[STATE].update_one(
            {"_id": _CONNECTOR, "next": {"$lte": Int64(now_ms)}}, {"$set": wanted}, upsert=True
        )
        return True
    return False
