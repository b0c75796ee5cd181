"""Rows made into documents without a server: sizes to the byte, events, nesting, and no value in any reason."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import bson
import pytest
from bson import ObjectId

from connectors.mongo.client import CODEC
from connectors.postgres.catalog import Column, Table
from consumers.apply.write import sync_of
from consumers.mapping import spec
from consumers.mapping.ids import object_id
from consumers.mapping.plan import compile_plan
from sync.preflight import inspect
from sync.preflight.inspect import MOST_BYTES, Inspector

MAPPING = """version: 1
collections:
  ps:
    from: public.p
    embed: {cs: {from: public.c, foreign_key: p_id}}
"""
P = Table(
    "public.p",
    "r",
    tuple(
        Column(n, t, n == "id", False, t) for n, t in {"id": "bigint", "data": "bytea", "doc": "json"}.items()
    ),
    ("id",),
    "d",
    "p",
    False,
    -1,
)
C = replace(
    P, name="public.c", columns=(P.columns[0], Column("p_id", "bigint", False, False, "bigint"), P.columns[1])
)


def inspector(identity: str = "d", *, show_values: bool = False) -> Inspector:
    lines = spec.Lines(MAPPING, "m.yaml")
    plan = compile_plan(
        spec.parse(MAPPING), {"public.p": replace(P, replica_identity=identity), "public.c": C}, lines
    )
    want = inspect.wanted(plan, "ps", {}, show_values=show_values, examples=5)
    return Inspector(plan, "ps", want, 0)


def row(of: Inspector, table: str, **values: Any) -> tuple[Any, ...]:
    return tuple(values.get(c.name) for c in of.plan.tables[table].columns)


def names(of: Inspector) -> list[str]:
    return sorted(kind.name for kind in of.tally.misfits)


def test_the_size_is_that_of_the_document_with_its_arrays() -> None:
    of = inspector()
    child = of.plan.arrays["ps"]["cs"]
    for n in range(12):
        of.child(child, row(of, "public.c", id=n, p_id=7, data=b"x" * n))
    of.row(row(of, "public.p", id=7, data=b"y", doc=b'{"a": [1, "z"]}'))
    elements = [{"id": bson.Int64(n), "data": b"x" * n} for n in range(12)]
    document = {"id": bson.Int64(7), "data": b"y", "doc": {"a": [1, "z"]}, "cs": elements}
    whole = {"_id": object_id("public.p", (7,)), **document, "_sync": sync_of(of.use, (7,), {}, None, 0)}
    assert of.tally.sizes.most == len(bson.encode(whole, codec_options=CODEC))
    assert of.tally.arrays["cs"].most == 12
    assert not names(of)


@pytest.mark.parametrize(("more", "fits"), [(0, True), (1, False)])
def test_a_document_fits_up_to_the_last_byte(more: int, fits: bool) -> None:
    of = inspector()
    of.row(row(of, "public.p", id=1, data=b""))
    empty = of.tally.sizes.most
    of.row(row(of, "public.p", id=2, data=b"x" * (MOST_BYTES - empty + more)))
    assert (("too-large" not in names(of)), of.tally.documents) == (fits, 2 if fits else 1)


@pytest.mark.parametrize(("more", "fits"), [(0, True), (1, False)])
def test_a_staged_row_fits_up_to_the_last_byte(more: int, fits: bool) -> None:
    of = inspector()
    child = of.plan.arrays["ps"]["cs"]
    staged = {"_id": "[1]", "p": ObjectId(), "o": [bson.Int64(1)], "l": bson.Int64(0)}
    empty = len(bson.encode({**staged, "d": {"id": bson.Int64(1), "data": b""}}))
    of.child(child, row(of, "public.c", id=1, p_id=1, data=b"x" * (MOST_BYTES - empty + more)))
    assert ("too-large" not in names(of)) is fits


def test_an_event_is_twice_as_large_where_the_old_row_is_sent() -> None:
    for identity, told in (("d", []), ("f", ["event-too-large"])):
        of = inspector(identity)
        of.row(row(of, "public.p", id=1, data=b"x" * 9_000_000))
        assert names(of) == told


def test_nesting_beyond_what_mongodb_takes_is_told() -> None:
    of = inspector()
    for n, depth in enumerate((97, 98, 99, 100)):
        of.row(row(of, "public.p", id=n, doc=("[" * depth + "]" * depth).encode()))
    [(kind, deep)] = of.tally.misfits.items()
    assert (kind.name, [e.key for e in deep.examples]) == ("deep", [("3",)])


def test_no_reason_holds_a_value_unless_it_is_asked_for() -> None:
    secret = '{"hunter2\\u0000": 1}'
    for show, doc in (
        (False, secret),
        (False, '{"a": "hunter2 \\ud800"}'),
        (True, '{"a": "hunter2 \\ud800"}'),
    ):
        of = inspector(show_values=show)
        of.row(row(of, "public.p", id=1, doc=doc.encode()))
        [(kind, misfits)] = of.tally.misfits.items()
        told = json.dumps([str(kind), [e.as_dict() for e in misfits.examples]])
        assert ("hunter2" in told) is show


NESTED = """version: 1
collections:
  ps:
    from: public.p
    embed:
      cs:
        from: public.c
        foreign_key: p_id
        embed: {gs: {from: public.g, foreign_key: c_id, order_by: id}}
  cs:
    from: public.c
    copy: {p: {from: public.p, foreign_key: p_id, only: [data]}}
    validator: {properties: {p: {bsonType: [object]}}}
"""
G = replace(
    C, name="public.g", columns=(P.columns[0], Column("c_id", "bigint", False, False, "bigint"), P.columns[1])
)


def nested(collection: str) -> Inspector:
    tables = {"public.p": P, "public.c": C, "public.g": G}
    plan = compile_plan(spec.parse(NESTED), tables, spec.Lines(NESTED, "m.yaml"))
    want = inspect.wanted(plan, collection, {}, show_values=False, examples=5)
    return Inspector(plan, collection, want, 0)


def test_the_size_is_that_of_the_document_with_what_is_inside_of_its_elements() -> None:
    of = nested("ps")
    child = of.plan.arrays["ps"]["cs"]
    inner = of.plan.arrays[child.place]["gs"]
    for n in range(12):
        of.child(inner, row(of, "public.g", id=n, c_id=1, data=b"z" * n))
    for n in range(3):
        of.child(child, row(of, "public.c", id=n, p_id=7, data=b"x"))
    of.row(row(of, "public.p", id=7, data=b"y"))
    gs = [{"id": bson.Int64(n), "data": b"z" * n} for n in range(12)]
    elements = [{"id": bson.Int64(n), "data": b"x", "gs": gs if n == 1 else []} for n in range(3)]
    document = {"id": bson.Int64(7), "data": b"y", "doc": None, "cs": elements}
    whole = {"_id": object_id("public.p", (7,)), **document, "_sync": sync_of(of.use, (7,), {}, None, 0)}
    assert of.tally.sizes.most == len(bson.encode(whole, codec_options=CODEC))
    assert of.tally.arrays["cs"].most == 3
    assert of.tally.arrays["cs.gs"].most == 12
    assert not names(of)


def test_the_size_is_that_of_the_document_with_what_is_copied() -> None:
    of = nested("cs")
    of.copied(of.plan.copies["cs"]["p"], row(of, "public.p", id=7, data=b"y" * 99))
    of.row(row(of, "public.c", id=1, p_id=7, data=b"x"))
    stamp = sync_of(of.use, (1,), {"p_id": 7}, None, 0)
    document = {"id": bson.Int64(1), "pId": bson.Int64(7), "data": b"x", "p": {"data": b"y" * 99}}
    whole = {"_id": object_id("public.c", (1,)), **document, "_sync": stamp}
    assert of.tally.sizes.most == len(bson.encode(whole, codec_options=CODEC))
    assert not names(of)
    of.row(row(of, "public.c", id=2, p_id=8, data=b"x"))
    assert names(of) == ["validator"]  # it points to a row that is not there: null
