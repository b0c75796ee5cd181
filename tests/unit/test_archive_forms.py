"""A record that was archived is read as the record was: by its bytes, and by the consumers' decoder."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import orjson
from fastavro.write import Writer
from hypothesis import example, given
from hypothesis import strategies as st

from connectors.archive import forms
from connectors.debezium import envelope
from connectors.errors import DecodeFailed
from connectors.events import Entry, Record
from connectors.positions import Partition

HOME = Partition("p.public.t", 3)
PLACEHOLDER = "__tandem_unsent_x"
TYPES = [*forms.KINDS, "text", "numeric", "jsonb", "uuid"]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.integers(-10, 10),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["NaN", "Infinity", "-Infinity", "AAH/", "AA==", "AB==", PLACEHOLDER, "\x00", "é😀"]),
    st.binary(max_size=9).map(lambda data: __import__("base64").b64encode(data).decode()),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
names = st.one_of(
    st.sampled_from(["id", "a b", "a-b", "a_b", "1", "", "json", "offset", "é"]), st.text(max_size=6)
)
columns = st.dictionaries(names, st.sampled_from(TYPES), max_size=6)


@st.composite
def values(draw: st.DrawFn, known: dict[str, str]) -> Any:
    """Mostly events of the table, as Debezium writes them; also what is none."""
    row = st.fixed_dictionaries({name: draw(st.sampled_from([scalars, anything])) for name in known})
    source: dict[str, Any] = {
        "version": "3",
        "schema": "public",
        "table": "t",
        "lsn": draw(scalars),
        "txId": 5,
        "ts_ms": 1,
    }
    event = {
        "before": draw(st.none() | row),
        "after": draw(st.none() | row),
        "source": draw(st.just(source) | anything),
        "transaction": draw(st.none() | st.just({"id": "1:2", "total_order": 1, "data_collection_order": 1})),
        "op": draw(st.sampled_from(["c", "u", "d", "t", "r"]) | scalars),
        "ts_ms": draw(st.integers(0, 2**40) | scalars),
    }
    if draw(st.integers(0, 9)) == 0:
        event[draw(st.text(max_size=5))] = draw(anything)
    return event


@st.composite
def topics(draw: st.DrawFn) -> tuple[dict[str, str], list[Entry]]:
    """A table's columns as they are thought to be, and records."""
    known = draw(columns)
    entries = []
    for offset in range(draw(st.integers(1, 5))):
        told = {**known, **draw(st.sampled_from([{}, {"late": "text"}]))}
        key = orjson.dumps({"k": {name: draw(scalars) for name in list(told)[:2]}})
        value = orjson.dumps(draw(values(told)))
        odd = st.sampled_from([b"", b"null", b"[1]", b"{", b'{"a": 1}', b"\xff", b'{"k": null}', b'"x"'])
        record = Record(
            HOME, offset, draw(st.just(key) | st.none() | odd), draw(st.just(value) | st.none() | odd), offset
        )
        headers = st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=2)
        entries.append(Entry(record, tuple(draw(headers)), draw(st.integers(0, 1))))
    return known, entries


def through(known: dict[str, str], entries: list[Entry]) -> list[Entry]:
    """Each entry through a file of its own, with the form that the entries before it have led to."""
    form: forms.Form | None = None
    found = []
    for entry in entries:
        key, value = forms.loaded(entry.record.key), forms.loaded(entry.record.value)
        if form is None or not forms.fits(form, key, value):
            form = forms.form_for(key, value, known, form)
        file = io.BytesIO()
        writer = Writer(file, fastavro.parse_schema(form.schema()), codec="deflate")
        writer.write(forms.encode(form, entry, key, value))
        writer.flush()
        file.seek(0)
        reader = fastavro.reader(file, return_record_name=True)
        again = forms.form_of(json.loads(reader.metadata["avro.schema"]))
        assert again == form
        found += [forms.decode(again, HOME, datum) for datum in reader]
        file.seek(0)
        assert sum(1 for _ in fastavro.reader(file)) == 1  # by anyone
    return found


def exact(found: Any) -> Any:
    """A value with the types of all that is in it: 1, 1.0 and True are not the same, nor are two orders."""
    if isinstance(found, dict):
        return [(name, exact(value)) for name, value in found.items()]
    if isinstance(found, list):
        return [exact(value) for value in found]
    return type(found).__name__, repr(found)


def decoded(record: Record) -> object:
    """What the consumers' decoder makes of it."""
    try:
        event = envelope.decode(record, PLACEHOLDER)
    except DecodeFailed:
        return "no event"
    row = None if event.row is None else exact(dict(event.row))
    return (
        event.table,
        event.op,
        exact(dict(event.key)),
        row,
        event.unsent,
        event.lsn,
        event.tx,
        event.commit_ms,
    )


def parsed(data: bytes | None) -> object:
    """JSON, or the bytes themselves."""
    try:
        return data if data is None else exact(orjson.loads(data))
    except orjson.JSONDecodeError:
        return data


@given(topics())
@example(({}, [Entry(Record(HOME, 0, b'{"k":null}', b'{"before":null,"after":null,"op":"t"}', 1))]))
def test_a_record_comes_back_as_it_was(case: tuple[dict[str, str], list[Entry]]) -> None:
    known, entries = case
    found = through(known, entries)
    assert len(found) == len(entries)
    for there, back in zip(entries, found, strict=True):
        assert (back.headers, back.timestamp_type) == (there.headers, there.timestamp_type)
        assert (back.record.home, back.record.offset, back.record.timestamp_ms) == (
            there.record.home,
            there.record.offset,
            there.record.timestamp_ms,
        )
        assert parsed(back.record.key) == parsed(there.record.key)
        assert parsed(back.record.value) == parsed(there.record.value)
        assert (back.record.value is None) == (there.record.value is None)
        assert decoded(back.record) == decoded(there.record)


def test_what_fits_is_a_field_and_what_does_not_is_kept_with_the_reason() -> None:
    known = {"id": "integer", "n": "numeric", "raw": "bytea", "f": "double precision"}
    row = {"id": 2**40, "n": "1.50", "raw": "AAH/", "f": "NaN"}
    value = {"before": None, "after": row, "source": {"lsn": 7}, "op": "c", "extra": [1]}
    entry = Entry(Record(HOME, 0, b'{"k":{"id":1}}', orjson.dumps(value), 1))
    form = forms.form_for(forms.loaded(entry.record.key), value, known)
    datum = forms.encode(form, entry, forms.loaded(entry.record.key), value)
    after = datum["value"][1]["after"][1]
    assert after["n"] == "1.50"
    assert after["raw"] == b"\x00\x01\xff"
    assert after["f"] != after["f"]
    assert after["id"] == ("tandem.archive.Json", {"json": str(2**40)})
    assert datum["why"] == "value.after.id: a number is no int; value.extra: an array is no any"
    types = {f.name: f.sql for f in forms.row_of(form)}
    assert types == known
