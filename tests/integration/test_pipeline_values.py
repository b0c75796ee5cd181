"""Every type on every way: loaded, inserted, updated, left alone by an update, moved to another key. The bytes that
MongoDB holds have to be the same."""

from __future__ import annotations

import base64
from pathlib import Path

import bson
import pytest

from tests.support.pipeline import RAW, Pipeline, bare, consuming, pipeline
from tests.support.stack import Own
from tests.support.typed_rows import (
    CARRIED,
    CONVERTED,
    CONVERTED_AGAIN,
    DIGITS,
    MAPPING,
    PINNED,
    PINNED_AGAIN,
    READ_AGAIN,
    ROWS,
    TYPES,
)
from tests.support.until import until

#: where the rows of each way have their keys
LOADED, INSERTED, UPDATED, LEFT_ALONE, MOVED = 0, 1_000, 2_000, 3_000, 4_000
WAYS = (LOADED, INSERTED, UPDATED, LEFT_ALONE, MOVED)


def table(name: str, columns: dict[str, str]) -> str:
    listed = ", ".join(f"{column} {kind}" for column, kind in columns.items())
    return f"CREATE TABLE {name} (id bigint PRIMARY KEY, {listed}, touched integer NOT NULL DEFAULT 0);"


def insert(name: str, columns: dict[str, str], base: int) -> str:
    """Every row of ROWS; of columns that this table has."""
    statements = []
    for number, row in enumerate(ROWS.values()):
        given = {c: v for c, v in row.items() if c in columns}
        names, values = ", ".join(["id", *given]), ", ".join([str(base + number), *given.values()])
        statements.append(f"INSERT INTO {name} ({names}) VALUES ({values});")
    return "\n".join(statements)


def empty(name: str, base: int) -> str:
    return f"INSERT INTO {name} (id) SELECT {base} + n FROM generate_series(0, {len(ROWS) - 1}) AS n;"


def update(name: str, columns: dict[str, str], base: int) -> str:
    statements = []
    for number, row in enumerate(ROWS.values()):
        given = {c: v for c, v in row.items() if c in columns}
        sets = ", ".join([*(f"{c} = {v}" for c, v in given.items()), "touched = 1"])
        statements.append(f"UPDATE {name} SET {sets} WHERE id = {base + number};")
    return "\n".join(statements)


def test_every_type_is_the_same_loaded_inserted_updated_left_alone_and_moved(
    own: Own, tmp_path: Path
) -> None:
    tables = {"carried": CARRIED, "again": READ_AGAIN}
    ddl = TYPES + "".join(table(name, columns) for name, columns in tables.items())
    ddl += "CREATE TABLE digits (id bigint PRIMARY KEY, n numeric);"
    with pipeline(own, tmp_path, ddl, MAPPING) as on:
        on.sql.execute(_digits(LOADED))
        for name, columns in tables.items():
            on.sql.execute(insert(name, columns, LOADED).encode())
            on.sql.execute(insert(name, columns, LEFT_ALONE).encode())
            on.sql.execute(empty(name, UPDATED).encode())
            on.sql.execute(insert(name, columns, MOVED + 10_000).encode())
        loaded = on.tandem.json("snapshot")
        assert loaded["exact"]
        assert not on.parked(), {row: parked["reason"] for row, parked in on.parked().items()}
        with consuming(on):
            on.sql.execute(_digits(INSERTED))
            for name, columns in tables.items():
                with on.sql.transaction():
                    on.sql.execute(insert(name, columns, INSERTED).encode())
                on.sql.execute(update(name, columns, UPDATED).encode())
                on.sql.execute(f"UPDATE {name} SET touched = touched + 1 WHERE id >= {LEFT_ALONE}")
                on.sql.execute(f"UPDATE {name} SET id = id - 10000 WHERE id >= {MOVED + 10_000}")
            on.agree(120)
            assert not on.parked()
        for name in tables:
            _assert_ways_agree(on, name)
        digits = {d["id"]: d["n"] for d in on.all("digits")}
        assert digits == {
            base + number: str(on.sql.execute(f"SELECT ({value})::numeric::text".encode()).fetchone()[0])  # type: ignore[index]
            for base in (LOADED, INSERTED)
            for number, value in enumerate(DIGITS)
        }
        _assert_pinned(on, "carried", "plain", PINNED)
        _assert_pinned(on, "again", "plain", PINNED_AGAIN)
        _assert_pinned(on, "carried", "converted", CONVERTED)
        _assert_pinned(on, "again", "converted", CONVERTED_AGAIN)


def _digits(base: int) -> bytes:
    rows = ", ".join(f"({base + number}, {value})" for number, value in enumerate(DIGITS))
    return f"INSERT INTO digits VALUES {rows}".encode()


def _assert_ways_agree(on: Pipeline, name: str) -> None:
    for number, row in enumerate(ROWS):
        documents = {base: on.one(name, f"public.{name}", base + number) for base in WAYS}
        for base, document in documents.items():
            assert document is not None, f"{row}: no document of the row with key {base + number}"
            first = documents[LOADED]
            assert first is not None
            if bare(document, "originalId", "touched") != bare(first, "originalId", "touched"):
                differ = {
                    f: (first.get(f), document.get(f))
                    for f in first
                    if bare({"f": first[f]}) != bare({"f": document.get(f)})
                }
                pytest.fail(f"{name}, {row}, key {base + number}: not as loaded: {_short(differ)}")


def _short(value: object) -> str:
    return repr(value)[:1500]


def _assert_pinned(on: Pipeline, name: str, row: str, pinned: dict[str, object]) -> None:
    number = list(ROWS).index(row)
    document = on.one(name, f"public.{name}", number)
    assert document is not None
    for field, value in pinned.items():
        found, wanted = (
            bson.encode({field: document[field]}, codec_options=RAW),
            bson.encode({field: value}, codec_options=RAW),
        )
        assert found == wanted, f"{field}: {document[field]!r}, not {value!r}"


# -- what has no form --------------------------------------------------------------------------------------------
UNFIT_TABLE = """
CREATE TABLE odd (id bigint PRIMARY KEY, tz timestamptz, ts timestamp, da date, n numeric, js json, jb jsonb,
                  grid integer[], quantity integer, t text);
"""
UNFIT_MAPPING = """
version: 1
collections:
  odd:
    from: public.odd
    validator: {required: [quantity], properties: {quantity: {bsonType: [int, "null"], minimum: 0}}}
"""
#: column: (SQL without a form, what the reason names)
UNFIT = {
    1: ("tz", "'infinity'", "public.odd.tz: an infinite timestamp"),
    2: ("tz", "'-infinity'", "public.odd.tz: an infinite timestamp"),
    3: ("ts", "'infinity'", "public.odd.ts: an infinite timestamp"),
    4: ("ts", "'-infinity'", "public.odd.ts: an infinite timestamp"),
    5: ("da", "'infinity'", "public.odd.da: an infinite date"),
    6: ("da", "'-infinity'", "public.odd.da: an infinite date"),
    7: ("n", "12345678901234567890123456789012345", "public.odd.n: a numeric with more than 34"),
    8: ("jb", "'{\"a\": 12345678901234567890123456789012345}'", "public.odd.jb: a numeric with more than 34"),
    9: ("grid", "'[0:1]={1,2}'", "public.odd.grid: an array whose indices do not start at 1"),
    10: ("quantity", "-1", "the validator refuses the document"),
    11: ("js", "'{\"a\\u0000b\": 1}'", ""),
    12: ("js", "'\"\\ud800\"'", "public.odd.js"),
    13: ("t", "repeat('x', 17000000)", "larger than the 16 MB"),
}  # fmt: skip
SNAPSHOT, STREAM, CHANGED = 0, 100, 200


def test_rows_without_a_form_are_parked_with_their_reasons_and_the_others_go_on(
    own: Own, tmp_path: Path
) -> None:
    with pipeline(own, tmp_path, UNFIT_TABLE, UNFIT_MAPPING) as on:
        for number, (column, sql, _) in UNFIT.items():
            on.sql.execute(f"INSERT INTO odd (id, {column}) VALUES ({SNAPSHOT + number}, {sql})".encode())
            on.sql.execute(f"INSERT INTO odd (id, quantity) VALUES ({CHANGED + number}, 1)")
        on.sql.execute("INSERT INTO odd (id, t) VALUES (50, 'good')")
        loaded = on.tandem.json("snapshot")
        assert loaded["collections"]["odd"]["parked"] == len(UNFIT), on.parked().keys()
        _assert_parked(on, SNAPSHOT)
        with consuming(on):
            for number, (column, sql, _) in UNFIT.items():
                on.sql.execute(f"INSERT INTO odd (id, {column}) VALUES ({STREAM + number}, {sql})".encode())
                on.sql.execute(f"UPDATE odd SET {column} = {sql} WHERE id = {CHANGED + number}".encode())
            until(lambda: len(on.parked()) >= 3 * len(UNFIT) or not on.consumers[0].alive, within=90)
            assert on.consumers[0].alive, on.consumers[0].text()[-3000:]
            _assert_parked(on, STREAM)
            _assert_parked(on, CHANGED)
            _assert_a_later_event_heals(on)
            on.sql.execute("INSERT INTO odd (id, t) VALUES (51, 'good')")
            until(lambda: on.one("odd", "public.odd", 51), within=20)
            refused = on.tandem.run("wait-for", "now", "--timeout", "20", check=False)
            assert refused.returncode == 1
            assert f"{len(on.parked())} rows are parked" in refused.stderr
            status = on.tandem.run("status", check=False)
            assert status.returncode == 1
            assert f"{len(on.parked())} rows are parked" in status.stdout + status.stderr
        assert {d["t"] for d in on.all("odd", {"t": "good"})} == {"good"}
        # a row that was fit before it changed keeps its last good form, and says nothing else
        assert {d["quantity"] for d in on.all("odd", {"quantity": {"$ne": None}})} == {1}


def _assert_parked(on: Pipeline, base: int) -> None:
    parked = on.parked()
    for number, (column, _, reason) in UNFIT.items():
        found = parked.get(f"public.odd [{base + number}]")
        assert found is not None, f"not parked: {base + number} ({column})"
        assert reason in found["reason"], (base + number, found["reason"])


def _assert_a_later_event_heals(on: Pipeline) -> None:
    on.sql.execute("UPDATE odd SET tz = '2024-01-01', t = 'mended' WHERE id = 101")
    until(lambda: "public.odd [101]" not in on.parked(), within=60)
    healed = on.one("odd", "public.odd", 101)
    assert healed is not None
    assert healed["t"] == "mended"


def test_a_placeholder_of_another_pipeline_is_a_value_like_any_other(own: Own, tmp_path: Path) -> None:
    ddl = "CREATE TABLE words (id bigint PRIMARY KEY, t text, by bytea);"
    word = "__debezium_unavailable_value"
    with pipeline(own, tmp_path, ddl, "version: 1\ncollections:\n  words: {from: public.words}\n") as on:
        on.tandem.run("snapshot")
        with consuming(on):
            on.sql.execute("INSERT INTO words VALUES (1, %s, %s)", [word, word.encode()])
            on.sql.execute("UPDATE words SET t = t || '' WHERE id = 1")
            on.agree()
        found = on.one("words", "public.words", 1)
        assert found is not None
        assert (found["t"], found["by"]) == (word, word.encode())
        assert base64.b64encode(found["by"])
