"""Rows made into documents by the mapping's own transform, and what the load would park of them. No server is asked.

It follows the loader: what is told here is what `tandem snapshot` parks, row by row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import bson
from bson import ObjectId
from bson.errors import BSONError

from connectors.debezium.config import LONGEST_RECORD_BYTES
from connectors.errors import MappingFailed, TooLarge, Unappliable, ValidatorRefused, WriteRefused
from connectors.mongo.client import CODEC
from connectors.postgres.rows import Row
from consumers.apply.arrays import sort_key
from consumers.apply.decide import Put
from consumers.apply.write import RowWriter, sync_of
from consumers.mapping.ids import row_key
from consumers.mapping.plan import Document, Key, Plan, RowPlan
from consumers.mapping.spec import Index
from sync.preflight import schema
from sync.preflight.equality import index_entries, matches
from sync.preflight.findings import Example
from sync.preflight.tally import Kind, Tally, texts

MOST_BYTES = 16 << 20
#: as `connectors.mongo.client.translated` lets them out as refusals
_NOT_BSON = (BSONError, OverflowError, UnicodeError, RecursionError)
_CODES = {"too-large": TooLarge.__name__, "validator": ValidatorRefused.__name__}
#: from here on it is worth to compute how large the row's event is
_LARGE_BYTES = 4 << 20
#: MongoDB documentation, "MongoDB Limits and Thresholds"
_DEEPEST = 100
_SHOWN = 120
#: about what a staged row has beside its element; and how near to the limit it is measured
_STAGED_BYTES, _NEAR = 80, 1 << 20


@dataclass(slots=True)
class ArrayOf:
    """One parent's array: how long, how many bytes in BSON; its elements where something has to look at them."""

    count: int = 0
    bytes: int = 5
    broken: str = ""
    elements: list[tuple[list[object], Document]] = field(default_factory=list)

    def add(self, size: int) -> None:
        """One more element of so many bytes."""
        self.bytes += 2 + len(str(self.count)) + size
        self.count += 1

    def sorted(self) -> list[Document]:
        """Its elements, as far as they are kept, in their order."""
        return [element for _, element in sorted(self.elements, key=lambda pair: sort_key(pair[0]))]


@dataclass(frozen=True)
class Wanted:
    """What has to be looked at in a collection's documents. unique: by name. skip: keys that were told already."""

    validator: Mapping[str, Any]
    unique: Mapping[str, Index]
    elements_of: frozenset[str]
    ids: bool
    show_values: bool
    examples: int
    skip: frozenset[tuple[str, ...]] = frozenset()


def wanted(
    plan: Plan, collection: str, unique: Mapping[str, Index], *, show_values: bool, examples: int
) -> Wanted:
    """Of one collection."""
    declared = plan.declared.collections[collection].validator
    validator: dict[str, Any] = {}
    if declared is not None:
        validator = {"required": list(declared.required), "properties": declared.properties}
    paths = {path.partition(".")[0] for index in unique.values() for path in index.keys}
    paths |= {path.partition(".")[0] for index in unique.values() for path in index.partial or {}}
    if any(name in (index.partial or {}) for index in unique.values() for name in ("$and", "$or")):
        paths |= set(plan.arrays.get(collection, {}))
    key = plan.documents[collection].table.key
    kinds = {c.name: c.type for c in plan.documents[collection].table.table.columns}
    hashed = len(key) != 1 or kinds[key[0]] not in ("smallint", "integer", "bigint", "oid")
    return Wanted(
        validator,
        unique,
        frozenset(paths | set(validator.get("properties", {}))) & frozenset(plan.arrays.get(collection, {})),
        hashed,
        show_values,
        examples,
    )


class Inspector:
    """Of one portion of a collection: what is inside of others first, then these, and what is copied; then its own
    rows."""

    def __init__(self, plan: Plan, collection: str, want: Wanted, now_us: int) -> None:
        self.plan, self.use, self.want, self.now = plan, plan.documents[collection], want, now_us
        self.tally = Tally(want.examples)
        #: by where the parents are, and the array's name
        self.arrays: dict[tuple[str, str], dict[ObjectId, ArrayOf]] = {}
        #: by field: what is copied, by the `_id` of its row
        self.copies: dict[str, dict[ObjectId, Document]] = {}
        #: index name (or `_id`) -> digests with keys
        self.entries: dict[str, list[tuple[bytes, str]]] = {}

    # -- embedded rows -------------------------------------------------------------------------------------------
    def child(self, use: RowPlan, row: Row) -> None:
        """One row of an embedded table. As the loader stages it."""
        assert use.array is not None
        self.tally.child_rows += 1
        natives = use.table.from_row(row)
        key, parent = use.table.key_of(natives), use.parent_of(natives)
        if parent is None:
            return
        try:
            staged = RowWriter.staged_document(use, Put(key, natives, True, True, None, 0), parent, self.now)
        except Unappliable as trouble:
            self._unfit(use, key, trouble, natives)
            return
        of = self.arrays.setdefault((use.home, use.array), {}).setdefault(parent, ArrayOf())
        inner = self._inside(use.place, use.id_of(key))
        for name, array in inner.items():
            self.tally.array(".".join((*use.path, name)), array.count, texts(key))
            of.broken = of.broken or array.broken
        try:
            size = len(bson.encode(staged["d"], codec_options=CODEC))
        except _NOT_BSON as error:
            of.broken = self._not_bson(use, key, error)
            return
        whole = size + _STAGED_BYTES + sum(len(v) * 4 for v in staged["o"] if isinstance(v, str))
        if whole > MOST_BYTES - _NEAR:  # else it is near enough
            whole = len(bson.encode({"_id": row_key(key), **staged}, codec_options=CODEC))
        if whole > MOST_BYTES:
            self._refused(use, key, "too-large", "", f"a staged row of {whole:,} bytes")
        self.tally.staged_bytes += whole
        of.add(size + sum(2 + len(name.encode()) + array.bytes for name, array in inner.items()))
        if use.path[0] in self.want.elements_of and of.bytes <= MOST_BYTES:
            element = {**staged["d"], **{name: array.sorted() for name, array in inner.items()}}
            of.elements.append((staged["o"], element))

    def copied(self, use: RowPlan, row: Row) -> None:
        """One row whose fields are copied into documents of this portion. As the loader stages it."""
        assert use.copied is not None
        natives = use.table.from_row(row)
        key = use.table.key_of(natives)
        try:
            value = use.document(natives, self.now)
        except Unappliable as trouble:
            self._unfit(use, key, trouble, natives)
            return
        self.copies.setdefault(use.copied, {})[use.id_of(key)] = value

    # -- its own rows --------------------------------------------------------------------------------------------
    def row(self, row: Row) -> None:
        """One row of the collection's table."""
        use = self.use
        natives = use.table.from_row(row)
        key = use.table.key_of(natives)
        if texts(key) in self.want.skip:
            return
        self.tally.rows += 1
        try:
            document = use.document(natives, self.now)
        except Unappliable as trouble:
            self._unfit(use, key, trouble, natives)
            return
        _id = use.id_of(key)
        arrays = self._inside(use.collection, _id)
        for name, array in arrays.items():
            self.tally.array(name, array.count, texts(key))
        try:
            stamp = sync_of(use, key, natives, None, 0)
            for field_, pointer in stamp.get("copy", {}).items():
                document[field_] = self.copies.get(field_, {}).get(pointer)
            size = len(bson.encode({"_id": _id, **document, "_sync": stamp}, codec_options=CODEC))
        except _NOT_BSON as error:
            self._not_bson(use, key, error)
            return
        size += sum(2 + len(name.encode()) + of.bytes for name, of in arrays.items())
        if size > _LARGE_BYTES:
            self._event(use, key, natives)
        if self._fits(use, key, document, arrays, size):
            self._count(key, _id, size)

    def _inside(self, place: str, _id: ObjectId) -> dict[str, ArrayOf]:
        """The arrays of a document or an element, empty ones too."""
        names = self.plan.arrays.get(place, {})
        return {name: self.arrays.get((place, name), {}).get(_id) or ArrayOf() for name in names}

    def _fits(
        self, use: RowPlan, key: Key, document: Document, arrays: Mapping[str, ArrayOf], size: int
    ) -> bool:
        for name, of in arrays.items():
            if of.broken:
                self._refused(use, key, "not-bson", name, f"an element: {of.broken}")
                return False
        if size > MOST_BYTES:
            self.tally.largest.add(size, texts(key))
            self._refused(use, key, "too-large", "", f"a document of {size:,} bytes")
            return False
        elements = {name: of.sorted() for name, of in arrays.items()}
        whole = {**document, **elements}
        broken = next(schema.violations(whole, self.want.validator), None)
        if broken is not None:
            where, _, what = broken.partition(": ")
            self._refused(use, key, "validator", where, what)
            return False
        for name, index in self.want.unique.items():
            if index.partial is None or matches(whole, index.partial):
                found = index_entries(whole, list(index.keys))
                self.entries.setdefault(name, []).extend((entry, row_key(key)) for entry in found)
        if _depth(document) > _DEEPEST:
            self._tell(use, key, "deep", WriteRefused.__name__, "", f"nested deeper than {_DEEPEST} levels")
        return True

    def _count(self, key: Key, _id: ObjectId, size: int) -> None:
        self.tally.documents += 1
        self.tally.sizes.add(size)
        self.tally.largest.add(size, texts(key))
        if self.want.ids:
            self.entries.setdefault("_id", []).append((_id.binary, row_key(key)))

    # -- misfits -------------------------------------------------------------------------------------------------
    def _unfit(self, use: RowPlan, key: Key, trouble: Unappliable, natives: Mapping[str, Any]) -> None:
        """What has no form. The words of an error that is not the mapping's own may hold a value: not shown."""
        column = str(trouble.facts.get("column", ""))
        cause = trouble.__cause__
        if cause is None or isinstance(cause, MappingFailed) or self.want.show_values:
            reason = trouble.what.removeprefix(f"{use.table.name}.{column}: ")
        else:
            reason = type(cause).__name__
        value = None
        if self.want.show_values and column in natives:
            value = str(natives[column])[:_SHOWN]
        self._tell(use, key, "value", trouble.code, column, reason, value)

    def _not_bson(self, use: RowPlan, key: Key, error: Exception) -> str:
        reason = str(error) if self.want.show_values else _unsaid(error)
        self._refused(use, key, "not-bson", "", reason)
        return reason

    def _refused(self, use: RowPlan, key: Key, name: str, column: str, reason: str) -> None:
        self._tell(use, key, name, _CODES.get(name, WriteRefused.__name__), column, reason)

    def _tell(
        self, use: RowPlan, key: Key, name: str, code: str, column: str, reason: str, value: str | None = None
    ) -> None:
        place = ".".join((use.collection, *use.path))
        what = "" if name in ("too-large", "event-too-large") else reason.partition(": ")[0]
        self.tally.misfit(
            Kind(place, use.table.name, name, code, column, what), Example(texts(key), reason, value)
        )

    def _event(self, use: RowPlan, key: Key, natives: Mapping[str, Any]) -> None:
        """A large row's event has to get through Kafka too: bytea as base64, twice where the old row is sent."""
        size = sum(_sent_bytes(v) for name, v in natives.items() if name in use.table.sent)
        size *= 2 if use.table.table.replica_identity == "f" else 1
        if size > LONGEST_RECORD_BYTES:
            self._tell(use, key, "event-too-large", "", "", f"an event of about {size:,} bytes")


def _unsaid(error: Exception) -> str:
    """What BSON does not take, without the values that the message may quote."""
    text = str(error)
    if "NULL byte" in text:
        return "a field name with a NUL"
    if isinstance(error, RecursionError):
        return "nested too deep to be written"
    if isinstance(error, OverflowError) or "8-byte ints" in text:
        return "a whole number beyond 64 bits"
    return "a value that BSON has no type for"


def _depth(value: Any) -> int:
    """Levels of documents and arrays, without recursion; at most one more than what is allowed."""
    level, at = [value], 0
    while level and at <= _DEEPEST:
        at += 1
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
    return at


def _sent_bytes(value: Any) -> int:
    if isinstance(value, bytes):
        return len(value) * 4 // 3 + 2
    if isinstance(value, str):
        return len(json.dumps(value, ensure_ascii=False).encode())
    return 24


def child_uses(plan: Plan, collection: str) -> Iterable[RowPlan]:
    """The uses whose rows are read before the collection's own."""
    return plan.arrays.get(collection, {}).values()


def combined(inspectors: Sequence[Inspector]) -> Tally:
    """What several portions have counted."""
    whole = Tally(inspectors[0].want.examples if inspectors else 0)
    for one in inspectors:
        whole.merge(one.tally)
    return whole
