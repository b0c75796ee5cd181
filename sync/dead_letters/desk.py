"""What is parked, for people: listed, shown, tried again, discarded. `consumers.dead_letters` does it to the rows."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from connectors.errors import PARKED_CLASSES, DecodeFailed, Misused, NotParked, SyncError
from connectors.events import Record
from connectors.mongo import ledger, parked
from connectors.mongo.client import Database
from connectors.mongo.parked import Parked
from connectors.mongo.transaction import Transactions
from connectors.positions import Partition
from connectors.postgres.rows import TableRead
from consumers.apply.write import table_read
from consumers.dead_letters import Fate, Outcome, Settler
from consumers.mapping import spec
from consumers.mapping.plan import Key, Plan
from consumers.records import Decoder

_SHOWN_RAW = 400
_MASK = "***"


class RowsAsText(Protocol):
    """PostgreSQL's own text of a row."""

    def as_text(
        self, read: TableRead, columns: Sequence[str], key: Sequence[str]
    ) -> dict[str, str | None] | None:
        """Each column's text; None where there is no such row."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One parked row, without any value of its."""

    parked: Parked
    collections: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        one = self.parked
        return {
            "key": one.id,
            "table": one.table,
            "collections": list(self.collections),
            "class": one.parked_class,
            "code": one.code,
            "reason": one.reason,
            "events": one.count,
            "since": moment(one.since_ms),
            "partition": one.partition or None,
            "tries": one.tries,
            "tried": moment(one.tried_ms),
            "due": one.due,
        }


@dataclass(frozen=True, slots=True)
class ShownEvent:
    """One event that is kept of a parked row. row: as Debezium sent it; raw: where that cannot be read."""

    at: int | None
    code: str
    op: str
    committed: str | None
    key: dict[str, Any] | None
    row: dict[str, Any] | None
    unsent: tuple[str, ...]
    raw: str
    cut: bool

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "offset": self.at,
            "code": self.code,
            "op": self.op,
            "committed": self.committed,
            "key": self.key,
            "row": self.row,
            "unsent": list(self.unsent),
            "raw": self.raw,
            "cut": self.cut,
        }


@dataclass(frozen=True, slots=True)
class Shown:
    """All that is known of one parked row. row: as PostgreSQL has it now, as text; None: it has none, or it cannot be
    asked: then note says why. retry: what a retry would do now."""

    listed: Listed
    events: tuple[ShownEvent, ...]
    row: dict[str, str | None] | None
    note: str
    retry: Outcome

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            **self.listed.as_dict(),
            "details": self.listed.parked.details,
            "parked_events": [event.as_dict() for event in self.events],
            "row_now": self.row,
            "row_note": self.note,
            "retry_would": {"outcome": str(self.retry.fate), "reason": self.retry.reason},
        }


@dataclass(slots=True)
class RetryReport:
    """What became of each row that was tried."""

    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """None of them is parked any more."""
        return all(o.fate in (Fate.HEALED, Fate.GONE) for o in self.outcomes)

    def of(self, fate: Fate) -> list[Outcome]:
        """Those that came to this."""
        return [o for o in self.outcomes if o.fate is fate]

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "ok": self.ok,
            "counts": {fate.name.lower(): len(self.of(fate)) for fate in Fate},
            "rows": [
                {"key": o.parked.id, "outcome": o.fate.name.lower(), "reason": o.reason or None}
                for o in self.outcomes
            ],
        }


def moment(ms: int) -> str | None:
    """A time for people; None for none."""
    return datetime.fromtimestamp(ms / 1_000, UTC).isoformat(timespec="seconds") if ms else None


def chosen(
    db: Database,
    declared: spec.Mapping_,
    *,
    collection: str | None = None,
    parked_class: str | None = None,
    most: int | None = None,
) -> list[Listed]:
    """Parked rows, the oldest first: all, or those of a collection and of a class; at most so many. Raises Misused for
    unknown names."""
    if parked_class is not None and parked_class not in PARKED_CLASSES:
        raise Misused(
            f"'{parked_class}' is no class of parked rows", remedy=f"name one of: {', '.join(PARKED_CLASSES)}"
        )
    fed = {name: frozenset(c.tables) for name, c in declared.collections.items() if c.table}
    if collection is not None and collection not in fed:
        raise Misused(
            f"the mapping has no collection {collection} with a table",
            remedy=f"name one of: {', '.join(fed)}",
        )
    of_topic = {p.topic: position.table for p, position in ledger.positions(db).items()}
    found: list[Listed] = []
    all_of_them = collection is None and parked_class is None
    for one in parked.all_parked(db, events=False, most=most if all_of_them else None):
        if most is not None and len(found) >= most:
            break
        table = of_topic.get(one.table, one.table)
        listed = Listed(one, tuple(name for name, tables in fed.items() if table in tables))
        if parked_class in (None, one.parked_class) and (
            collection is None or collection in listed.collections
        ):
            found.append(listed)
    return found


def named(found: Sequence[Listed], keys: Sequence[str]) -> list[Listed]:
    """Those with these keys. Raises NotParked, with what comes near, where there is none."""
    by_id = {one.parked.id: one for one in found}
    unknown = [key for key in keys if key not in by_id]
    if unknown:
        near = difflib.get_close_matches(unknown[0], by_id, n=3, cutoff=0.5)
        raise NotParked(
            f"nothing is parked under {', '.join(repr(key) for key in unknown)}",
            remedy=f"did you mean {' or '.join(repr(key) for key in near)}?"
            if near
            else "see `tandem dead-letters list` for the keys",
        )
    return [by_id[key] for key in dict.fromkeys(keys)]


def discard(transactions: Transactions, ids: Sequence[str]) -> int:
    """Drop what is parked of these rows. Returns of how many there was any."""
    return transactions.repeat(lambda tx: parked.settled(tx, ids))


class Desk:
    """Shows parked rows and tries them again. Needs both servers."""

    def __init__(
        self, db: Database, plan: Plan, decoder: Decoder, settler: Settler, rows: RowsAsText
    ) -> None:
        self._db, self._plan, self._decoder, self._settler, self._rows = db, plan, decoder, settler, rows

    def retry(
        self, wanted: Sequence[Listed], tell: Callable[[Outcome], None] = lambda _: None
    ) -> RetryReport:
        """Try these rows again, each as it is now. tell: called with each as it is done."""
        report = RetryReport()
        for outcome in self._settler.settle(list(self._whole(wanted))):
            report.outcomes.append(outcome)
            tell(outcome)
        return report

    def _whole(self, wanted: Sequence[Listed]) -> Iterator[Parked]:
        """With the record where the key has to be read from it."""
        unknown = [one.parked.id for one in wanted if not one.parked.key]
        records = {p.id: p for p in parked.all_parked(self._db, ids=unknown)} if unknown else {}
        for one in wanted:
            yield records.get(one.parked.id, one.parked)

    def show(self, one: Listed) -> Shown:
        """All of it. Raises NotParked where it was settled meanwhile."""
        found = parked.all_parked(self._db, ids=[one.parked.id])
        if not found:
            raise NotParked(f"{one.parked.id} is no longer parked", remedy="nothing is left to do")
        whole = found[0]
        row, note = None, ""
        try:
            table, key = self._settler.key_of(whole)
            row = self._row_now(table, key)
            note = "" if row is not None else "PostgreSQL has no such row"
        except SyncError as error:
            note = error.what
        return Shown(
            Listed(whole, one.collections),
            tuple(self._event(whole, event) for event in whole.events),
            row,
            note,
            self._settler.rehearse(whole),
        )

    def _row_now(self, table: str, key: Key) -> dict[str, Any] | None:
        plan = self._plan.tables[table]
        columns = [column.name for column in plan.table.columns]
        found = self._rows.as_text(table_read(plan), columns, [str(value) for value in key])
        return None if found is None else self._hidden(table, found)

    def _hidden(self, table: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row without the values of the columns that the mapping calls secret."""
        secret = {
            n for _, shape in self._plan.declared.shapes() if shape.table == table for n in shape.secret
        }
        return {name: _MASK if name in secret and value is not None else value for name, value in row.items()}

    def _event(self, one: Parked, kept: dict[str, Any]) -> ShownEvent:
        value = kept.get("value")
        raw = "" if value is None else bytes(value[:_SHOWN_RAW]).decode(errors="replace")
        at, code, cut = kept.get("at"), str(kept.get("code")), bool(kept.get("cut"))
        if at is None:
            return ShownEvent(None, code, "load", None, None, None, (), "", False)
        topic, _, number = (one.partition or one.id.partition("@")[0]).rpartition("/")
        home = Partition(topic, int(number) if number.isdigit() else 0)
        try:
            event = self._decoder.event(Record(home, int(at), kept.get("key"), value, 0))
        except DecodeFailed:
            return ShownEvent(int(at), code, "?", None, None, None, (), raw, cut)
        return ShownEvent(
            int(at),
            code,
            event.op.name.lower(),
            moment(event.commit_ms),
            dict(event.key),
            None if event.row is None else self._hidden(event.table, event.row),
            tuple(sorted(event.unsent)),
            "",
            cut,
        )
