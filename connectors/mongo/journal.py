"""The journal of a cutover: one document, in the target, written with majority before each act and behind it.

One controller writes it at a time. Every write names its writer and the number of the write before it, so that one who
was taken for dead, and is not, changes nothing any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from bson import DatetimeMS, Int64

from connectors.errors import CutoverState, TakenOver
from connectors.mongo.client import Database, Document, translated

COLLECTION = "_tandem_cutover"
#: the document of the one that is
CUTOVER, ROLLBACK = "current", "rollback"


def current(db: Database, which: str = CUTOVER) -> Document | None:
    """The cutover, or the rollback, that is or was the last."""
    with translated():
        known = db[COLLECTION].find_one({"_id": which})
    if known is None:
        return None
    entries = [{**entry, "at": _moment(entry["at"])} for entry in known["entries"]]
    return {**known, "began": _moment(known["began"]), "entries": entries}


def _moment(value: Any) -> datetime:
    """As a datetime: the client reads dates as milliseconds."""
    return value.as_datetime() if isinstance(value, DatetimeMS) else value


class Journal:
    """The journal, in the hands of one controller. owner: its name, told to others. which: cutover or rollback."""

    def __init__(self, db: Database, owner: str, which: str = CUTOVER) -> None:
        self.db, self.owner, self._which = db, owner, which
        self._serial: Int64 | None = None

    def begin(self, run: str, fields: Mapping[str, Any], ended: tuple[str, ...]) -> None:
        """A new cutover. The one before is kept under its name. Raises CutoverState where it has not ended."""
        known = current(self.db, self._which)
        if known is not None and known["state"] not in ended:
            raise CutoverState(
                f"the {self._word} {known['run']} has not ended: it is {known['state']}",
                remedy=f"`tandem {self._word} resume`, or `tandem {self._word} abort`",
            )
        made = {
            **fields,
            "run": run,
            "owner": self.owner,
            "beat": Int64(0),
            "serial": Int64(1),
            "entries": [],
        }
        with translated():
            if known is None:
                self.db[COLLECTION].insert_one({"_id": self._which, **made})
            else:
                self.db[COLLECTION].replace_one(
                    {"_id": known["run"]}, {**known, "_id": known["run"]}, upsert=True
                )
                mine = {"_id": self._which, "run": known["run"], "serial": known["serial"]}
                self._demand(self.db[COLLECTION].replace_one(mine, made).modified_count)
        self._serial = Int64(1)

    @property
    def _word(self) -> str:
        return "rollback" if self._which == ROLLBACK else "cutover"

    def take(self, seen: Mapping[str, Any]) -> None:
        """Go on with a cutover whose controller has not been heard of since `seen`. Raises TakenOver when it has."""
        mine = {"_id": self._which, "run": seen["run"], "serial": seen["serial"], "beat": seen["beat"]}
        serial = Int64(seen["serial"] + 1)
        with translated():
            change = {"$set": {"owner": self.owner, "serial": serial}}
            self._demand(self.db[COLLECTION].update_one(mine, change).modified_count)
        self._serial = serial

    def beat(self) -> None:
        """Say that this controller lives. Raises TakenOver when another one has taken over."""
        with translated():
            mine = {"_id": self._which, "owner": self.owner}
            self._demand(self.db[COLLECTION].update_one(mine, {"$inc": {"beat": Int64(1)}}).modified_count)

    def write(self, entry: Mapping[str, Any], **fields: object) -> None:
        """Append an entry and set fields. Raises TakenOver when another controller has taken over."""
        assert self._serial is not None, "begin or take comes first"
        following = Int64(self._serial + 1)
        mine = {"_id": self._which, "owner": self.owner, "serial": self._serial}
        change = {"$set": {**fields, "serial": following}, "$push": {"entries": dict(entry)}}
        with translated():
            done = self.db[COLLECTION].update_one(mine, change).modified_count
            if not done:  # the answer to the same write may have been lost, and the driver has repeated it
                there = self.db[COLLECTION].find_one({"_id": self._which})
                done = int(
                    there is not None and there["owner"] == self.owner and there["serial"] == following
                )
        self._demand(done)
        self._serial = following

    def let_go(self) -> None:
        """This controller has ended: another one need not wait until it is silent."""
        with translated():
            mine = {"_id": self._which, "owner": self.owner}
            self.db[COLLECTION].update_one(mine, {"$set": {"owner": None}})

    def _demand(self, changed: int) -> None:
        if changed != 1:
            raise TakenOver(
                "another controller has taken over",
                remedy=f"see `tandem {self._word} status`; nothing was done here since",
            )
