"""Records of a topic as data of an Avro schema, and back: exactly what a decoder reads in them. Pure.

A schema is made of the shape of an event (Debezium documentation, connector for PostgreSQL, "Data change events")
and of the columns' types in PostgreSQL. What does not fit it is kept all the same: a value as its JSON text
(`Json`), a record that is no event as its bytes; `why` of the entry says so. Source of the schema language: Apache
Avro 1.12 specification.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from connectors.events import Entry, Record
from connectors.positions import Partition

#: the one field of every key (connectors/debezium, which this room does not know)
KEY_FIELD = "k"
NAMESPACE = "tandem.archive"
_WORDS = {str: "a text", dict: "an object", list: "an array", bool: "a boolean"}
_JSON = f"{NAMESPACE}.Json"
#: doubles that JSON has no numbers for, as the connector writes them
_ENDLESS = ("NaN", "Infinity", "-Infinity")
_INT, _LONG = 1 << 31, 1 << 63
#: of a column of PostgreSQL, by its type as the catalog names it, where the connector sends more than a text
#: (docs/types.md; `decimal.handling.mode=string`, `time.precision.mode=microseconds`, `binary.handling.mode=bytes`)
KINDS = {
    "smallint": "int",
    "integer": "int",
    "bigint": "long",
    "oid": "long",
    "boolean": "boolean",
    "real": "double",
    "double precision": "double",
    "date": "int",
    "time without time zone": "long",
    "timestamp without time zone": "long",
    "bytea": "bytes",
}
#: the fields of an event and of its `source` that are no text
_NUMBERS = {"ts_ms": "long", "ts_us": "long", "ts_ns": "long", "txId": "long", "lsn": "long", "xmin": "long"}
_TEXTS = (
    "op",
    "version",
    "connector",
    "name",
    "snapshot",
    "db",
    "sequence",
    "schema",
    "table",
    "origin",
    "id",
)
_COUNTS = {"total_order": "long", "data_collection_order": "long"}
_OBJECTS = {"before": "Row", "after": "Row", "source": "Source", "transaction": "Transaction"}


#: the fields that are objects of known fields, in a key and in an event
_NESTED = frozenset({KEY_FIELD, *_OBJECTS})


def kind_of(sql_type: str) -> str:
    """The kind of a column of this type."""
    return KINDS.get(sql_type, "string")


@dataclass(frozen=True, slots=True)
class Field:
    """One field. name: in the event. avro: in the schema. kind: of its values, or the fields of the object that it is.
    sql: the column's type."""

    name: str
    avro: str
    kind: str | Shape
    sql: str = ""


@dataclass(frozen=True, slots=True)
class Shape:
    """An object whose fields are known. name: of the Avro record."""

    name: str
    fields: tuple[Field, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """As the event has them, in its order."""
        return tuple(field.name for field in self.fields)


@dataclass(frozen=True, slots=True)
class Form:
    """What the records of a segment look like. None: none of them has a key, or a value, that is an object."""

    key: Shape | None
    value: Shape | None

    def schema(self) -> dict[str, Any]:
        """The Avro schema of the entries."""
        held = [_field("name", "string"), _field("value", ["null", "bytes"])]
        header = {"type": "record", "name": "Header", "fields": held}
        known: set[str] = set()
        parts: list[dict[str, Any]] = [
            _field("offset", "long"),
            _field("timestamp", "long", doc="milliseconds since 1970"),
            _field("timestamp_type", "int", doc="0: when it was sent, 1: when the broker had it"),
            _field("headers", {"type": "array", "items": header}),
            _field("why", ["null", "string"], doc="what of it did not fit the schema"),
        ]
        for name, shape in (("key", self.key), ("value", self.value)):
            told = [] if shape is None else [_record(shape, known)]
            parts.append(_field(name, ["null", "bytes", *told]))
        return {"type": "record", "name": "Entry", "namespace": NAMESPACE, "fields": parts}


def _field(name: str, of: object, **more: object) -> dict[str, Any]:
    return {"name": name, "type": of, **more}


def _json(known: set[str]) -> Any:
    """What a value is kept as that does not fit: defined where it is first used."""
    if _JSON in known:
        return _JSON
    known.add(_JSON)
    return {"type": "record", "name": _JSON, "doc": "a value as JSON", "fields": [_field("json", "string")]}


def _record(shape: Shape, known: set[str]) -> Any:
    full = f"{NAMESPACE}.{shape.name}"
    if full in known:
        return full
    known.add(full)
    fields = []
    for field in shape.fields:
        kinds: list[Any] = (
            [_record(field.kind, known)] if isinstance(field.kind, Shape) else _kinds(field.kind)
        )
        more = {"sql": field.sql} if field.sql else {}
        kind = "object" if isinstance(field.kind, Shape) else field.kind
        fields.append(_field(field.avro, ["null", *kinds, _json(known)], field=field.name, kind=kind, **more))
    return {"type": "record", "name": full, "fields": fields}


def _kinds(kind: str) -> list[Any]:
    return ["boolean", "long", "double", "string"] if kind == "any" else [kind]


def form_of(schema: Mapping[str, Any]) -> Form:
    """The form that a schema was made of."""
    known: dict[str, Shape] = {}
    found: dict[str, Shape | None] = {"key": None, "value": None}
    for field in schema["fields"]:
        if field["name"] in found:
            records = [kind for kind in field["type"] if isinstance(kind, dict)]
            found[field["name"]] = _shape(records[0], known) if records else None
    return Form(found["key"], found["value"])


def _shape(record: Any, known: dict[str, Shape]) -> Shape:
    if isinstance(record, str):
        return known[record]
    fields = []
    for field in record["fields"]:
        kind = _shape(field["type"][1], known) if field["kind"] == "object" else field["kind"]
        fields.append(Field(field["field"], field["name"], kind, field.get("sql", "")))
    shape = Shape(record["name"].removeprefix(f"{NAMESPACE}."), tuple(fields))
    known[record["name"]] = known[f"{NAMESPACE}.{shape.name}"] = shape
    return shape


# -- which form a record has -------------------------------------------------------------------------------------
def loaded(data: bytes | None) -> Any:
    """What the bytes say as JSON; None where they are none, or say it of something that is no object."""
    if data is None:
        return None
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def form_for(key: Any, value: Any, columns: Mapping[str, str], before: Form | None = None) -> Form:
    """The form of a record with this key and value, as `loaded` gives them. columns: the type of each column in
    PostgreSQL. before: of the record before it, for what this one does not show: a row, where it has none."""
    return Form(
        _key_shape(key, columns) if key is not None else (before.key if before else None),
        _value_shape(value, columns, before.value if before else None)
        if value is not None
        else (before.value if before else None),
    )


def fits(form: Form, key: Any, value: Any) -> bool:
    """Whether the schema of this form has a field for everything of the record, and none that it lacks."""
    return _fits(form.key, key) and _fits(form.value, value)


def _fits(shape: Shape | None, found: Any) -> bool:
    if found is None:
        return True
    if shape is None or tuple(found) != shape.names:
        return False
    for field in shape.fields:
        inner = found[field.name]
        known = type(inner) is dict and isinstance(field.kind, Shape) and tuple(inner) == field.kind.names
        if type(inner) is dict and field.name in _NESTED and not known:
            return False
    return True


def _key_shape(key: Mapping[str, Any], columns: Mapping[str, str]) -> Shape:
    def kind(name: str) -> str | Shape:
        inner = key[name]
        return _columns("KeyColumns", inner, columns) if type(inner) is dict else _column_kind(name, columns)

    return _make("Key", key, kind)


def _value_shape(value: Mapping[str, Any], columns: Mapping[str, str], before: Shape | None) -> Shape:
    earlier = {} if before is None else {f.name: f.kind for f in before.fields}
    row = next((value[n] for n in ("after", "before") if type(value.get(n)) is dict), None)
    shown = _columns("Row", row, columns) if row is not None else None
    if shown is None:
        shown = next((k for n in ("after", "before") if isinstance(k := earlier.get(n), Shape)), None)

    def kind(name: str) -> str | Shape:
        if name in ("before", "after"):
            return shown if shown is not None else "any"
        if name in ("source", "transaction"):
            inner = value[name]
            if type(inner) is dict:
                kinds = _NUMBERS if name == "source" else _COUNTS
                return _make(_OBJECTS[name], inner, lambda n: _known_kind(n, kinds))
            known = earlier.get(name)
            return known if isinstance(known, Shape) else "any"
        return _known_kind(name, _NUMBERS)

    return _make("Event", value, kind)


def _known_kind(name: str, numbers: Mapping[str, str]) -> str:
    return numbers.get(name) or ("string" if name in _TEXTS else "any")


def _columns(name: str, row: Mapping[str, Any], columns: Mapping[str, str]) -> Shape:
    return _make(name, row, lambda n: _column_kind(n, columns), columns)


def _column_kind(name: str, columns: Mapping[str, str]) -> str:
    return kind_of(columns[name]) if name in columns else "any"


def _make(
    name: str,
    found: Mapping[str, Any],
    kind: Callable[[str], str | Shape],
    sql: Mapping[str, str] | None = None,
) -> Shape:
    taken: set[str] = set()
    fields = []
    for field in found:
        avro = avro_name(field, taken)
        taken.add(avro)
        fields.append(Field(field, avro, kind(field), (sql or {}).get(field, "")))
    return Shape(name, tuple(fields))


def avro_name(name: str, taken: set[str]) -> str:
    """A name that Avro takes, and no other field has."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    if not plain or plain[0].isdigit():
        plain = f"_{plain}"
    found, n = plain, 1
    while found in taken:
        n += 1
        found = f"{plain}_{n}"
    return found


# -- there -------------------------------------------------------------------------------------------------------
def encode(form: Form, entry: Entry, key: Any, value: Any) -> dict[str, Any]:
    """The Avro datum of a record. key, value: as `loaded` gives them."""
    why: list[str] = []
    record = entry.record
    return {
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
        "timestamp_type": entry.timestamp_type,
        "headers": [{"name": name, "value": held} for name, held in entry.headers],
        "key": _whole(form.key, record.key, key, "key", why),
        "value": _whole(form.value, record.value, value, "value", why),
        "why": "; ".join(why) or None,
    }


def _whole(shape: Shape | None, data: bytes | None, found: Any, name: str, why: list[str]) -> Any:
    if data is None:
        return None
    if found is None:
        why.append(f"{name}: it is no JSON object")
        return data
    if shape is None or tuple(found) != shape.names:
        why.append(f"{name}: it has other fields")
        return data
    return _object(shape, found, name, why)


def _object(shape: Shape, found: Mapping[str, Any], path: str, why: list[str]) -> tuple[str, dict[str, Any]]:
    return f"{NAMESPACE}.{shape.name}", {
        field.avro: _value(field.kind, found[field.name], path, field.name, why) for field in shape.fields
    }


def _value(kind: str | Shape, value: Any, path: str, name: str, why: list[str]) -> Any:
    if value is None:
        return None
    of = type(value)
    if isinstance(kind, Shape):
        if of is dict and tuple(value) == kind.names:
            return _object(kind, value, f"{path}.{name}", why)
    elif kind == "string":
        if of is str:
            return value
    elif kind == "double":
        if of is float:
            return value
        if of is str and value in _ENDLESS:
            return float(value)
    elif kind == "boolean":
        if of is bool:
            return value
    elif kind == "int":
        if of is int and -_INT <= value < _INT:
            return value
    elif kind == "long":
        if of is int and -_LONG <= value < _LONG:
            return value
    elif kind == "bytes":
        if of is str and (data := _canonical(value)) is not None:
            return data
    elif of in (str, float, bool) or (of is int and -_LONG <= value < _LONG):
        return value
    wanted = "object of these fields" if isinstance(kind, Shape) else kind
    why.append(f"{path}.{name}: {_WORDS.get(of, 'a number')} is no {wanted}")
    return _JSON, {"json": orjson.dumps(value).decode()}


def _canonical(text: str) -> bytes | None:
    """The bytes that have just this base64."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data).decode() == text else None


# -- and back ----------------------------------------------------------------------------------------------------
def decode(form: Form, home: Partition, datum: Mapping[str, Any]) -> Entry:
    """The record that a datum was made of: a decoder finds the same in it, and the same bytes where they were written
    as Debezium's converter writes them."""
    record = Record(
        home,
        datum["offset"],
        _bytes(form.key, datum["key"]),
        _bytes(form.value, datum["value"]),
        datum["timestamp"],
    )
    headers = tuple((header["name"], header["value"]) for header in datum["headers"])
    return Entry(record, headers, datum["timestamp_type"])


def _bytes(shape: Shape | None, found: Any) -> bytes | None:
    if found is None or isinstance(found, bytes):
        return found
    assert shape is not None
    return orjson.dumps(_restored(shape, found))


def _restored(shape: Shape, found: Any) -> dict[str, Any]:
    fields = found[1] if isinstance(found, tuple) else found
    return {field.name: _restored_value(field.kind, fields[field.avro]) for field in shape.fields}


def _restored_value(kind: str | Shape, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, tuple):
        name, fields = value
        if name == _JSON:
            return orjson.loads(fields["json"])
        assert isinstance(kind, Shape)
        return _restored(kind, fields)
    if kind == "bytes":
        return base64.b64encode(value).decode()
    if kind == "double" and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def row_of(form: Form) -> Sequence[Field]:
    """The columns of a row, where the form has one."""
    for field in form.value.fields if form.value else ():
        if field.name == "after" and isinstance(field.kind, Shape):
            return field.kind.fields
    return ()
