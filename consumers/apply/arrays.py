"""Arrays in documents, made from staged rows (docs/write-rule.md, clause 9)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bson import ObjectId

from connectors.mongo import ledger
from connectors.mongo.transaction import Transaction, anchor, write
from consumers.mapping.plan import Document, Plan, RowPlan

#: a staged row's fields: p: its parent's `_id`, d: the element, o: sort values, l: LSN
_STAGED = {"p": 1, "d": 1, "o": 1}
_SLICE = 100


class Anchors:
    """The anchors of a transaction.

    They are written when all is read that tells them and before anything else: whoever finds another one there has
    done little in vain, where the longer of two would else lose again and again. And in the order of their names,
    so that two that want the same ones don't each hold what the other wants.
    """

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._wanted: set[str] = set()

    def want(self, _id: str) -> None:
        """This transaction changes, or looks at, what is told by this anchor."""
        self._wanted.add(_id)

    def write(self) -> None:
        """Write all that are wanted by now."""
        self._tx.bulk(ledger.ANCHORS, [anchor(_id) for _id in sorted(self._wanted)])
        self._wanted.clear()


class Arrays:
    """Which parents' arrays have to be made anew, and their anchors: all who change what an array is made from
    meet there, and one of two that do so at once conflicts and runs again (reads alone would not: write skew).

    An array may be inside of an element, whose row is staged itself: then a change goes up, from the row by way of
    the staged rows above it to the document. Whoever looks up a staged row on that way writes its anchor, and so
    does whoever makes it come, go or move. later: collections whose documents are made anew afterwards, by the one
    who holds all their tables.

    First all that changes is told, then `go_up` reads what lies above it, then the anchors and the rows are written,
    then `remake`.
    """

    def __init__(
        self, tx: Transaction, plan: Plan, anchors: Anchors, later: frozenset[str] = frozenset()
    ) -> None:
        self._tx, self._plan, self._anchors, self._later = tx, plan, anchors, later
        self._changed: dict[tuple[str, ObjectId], set[str]] = {}
        self._exists: dict[tuple[str, ObjectId], bool] = {}

    def changed(self, use: RowPlan, parent: ObjectId | None) -> None:
        """A row of this parent's array has come, gone or changed."""
        if parent is not None and use.array and use.collection not in self._later:
            self._anchor(use.home, parent)
            self._changed.setdefault((use.home, parent), set()).add(use.array)

    def moved(self, use: RowPlan, row: ObjectId) -> None:
        """A staged row has come or gone, or has another parent: those that look it up have to meet it."""
        if use.place in self._plan.arrays and use.collection not in self._later:
            self._anchor(use.place, row)

    def come(self, collection: str, parent: ObjectId) -> None:
        """This parent is new, or begins a new life."""
        self._anchor(collection, parent)
        self._changed.setdefault((collection, parent), set()).update(self._plan.arrays[collection])
        self._exists[collection, parent] = True

    def gone(self, collection: str, parent: ObjectId) -> None:
        """This parent is no longer there."""
        self._anchor(collection, parent)
        self._exists[collection, parent] = False

    def there(self, collection: str, parent: ObjectId) -> None:
        """This parent is known to be there."""
        self._exists[collection, parent] = True

    def go_up(self) -> None:
        """What has changed inside of staged rows has changed the arrays that these are in; the innermost first.

        The staged rows are looked up as they were before this transaction: of one that it makes come, go or move,
        both parents are told already.
        """
        above = [use for place in self._plan.arrays if (use := self._plan.at(place)) is not None]
        for use in sorted(above, key=lambda use: -len(use.path)):
            rows = sorted(row for place, row in self._changed if place == use.place)
            for staged in by_ids(self._tx, use.place, rows, {"p": 1}):
                self.changed(use, staged["p"])

    def remake(self) -> None:
        """Write every array that has a document to be in."""
        for collection in self._plan.documents:
            ordered = sorted(parent for place, parent in self._changed if place == collection)
            there = self._those_there(collection, ordered)
            for array, use in self._plan.arrays.get(collection, {}).items():
                mine = [p for p in there if array in self._changed[collection, p]]
                made = arrays_from_staging(self._tx, self._plan, use, mine)
                self._tx.bulk(collection, [write("set", p, {array: made.get(p, [])}) for p in mine])

    def _anchor(self, place: str, row: ObjectId) -> None:
        self._anchors.want(f"{place}/{row}")

    def _those_there(self, collection: str, parents: Iterable[ObjectId]) -> list[ObjectId]:
        unknown = [p for p in parents if (collection, p) not in self._exists]
        if unknown:
            found = {d["_id"] for d in by_ids(self._tx, collection, unknown, {"_id": 1})}
            self._exists.update({(collection, p): p in found for p in unknown})
        return [p for p in parents if self._exists[collection, p]]


def by_ids(
    tx: Transaction, collection: str, ids: Sequence[Any], fields: Mapping[str, Any] | None
) -> Iterator[Document]:
    """The documents with these `_id`s that there are. Asked for in slices: some servers take long lists slowly."""
    for start in range(0, len(ids), _SLICE):
        yield from tx.find(collection, {"_id": {"$in": list(ids[start : start + _SLICE])}}, fields)


def arrays_from_staging(
    tx: Transaction, plan: Plan, use: RowPlan, parents: Sequence[ObjectId]
) -> dict[ObjectId, list[Document]]:
    """The array of each of these parents that has any rows, from what is staged, in its order; with the arrays
    inside of its elements."""
    rows: dict[ObjectId, list[Document]] = {}
    for start in range(0, len(parents), _SLICE):
        wanted = {"p": {"$in": list(parents[start : start + _SLICE])}}
        for staged in tx.find(use.place, wanted, _STAGED):
            rows.setdefault(staged["p"], []).append(staged)
    inner_arrays(tx, plan, use, {row["_id"]: row["d"] for of in rows.values() for row in of})
    return {
        parent: [row["d"] for row in sorted(of, key=lambda row: sort_key(row["o"]))]
        for parent, of in rows.items()
    }


def inner_arrays(tx: Transaction, plan: Plan, use: RowPlan, elements: Mapping[ObjectId, Document]) -> None:
    """Give these elements, by the `_id` of their staged rows, the arrays that are inside of them."""
    for array, inner in plan.arrays.get(use.place, {}).items():
        made = arrays_from_staging(tx, plan, inner, list(elements))
        for row, element in elements.items():
            element[array] = made.get(row, [])


def sort_key(values: Sequence[Any]) -> tuple[Any, ...]:
    """Ascending as PostgreSQL's default order is: NaN above infinity, NULLs last; texts by code point."""
    return tuple((2, 0) if v is None else (1, 0) if v != v else (0, v) for v in values)
