"""Every type on every way: loaded, inserted, updated, left alone by an update, moved to another key. The bytes that
MongoDB holds have to be the same."""

from __future__ import annotations

import base64
import uuid
from pathlib import Path

import bson
import pytest
from bson import Decimal128, Int64
from bson.binary import Binary
from bson.datetime_ms import DatetimeMS

from tests.support.pipeline import RAW, Pipeline, bare, consuming, pipeline
from tests.support.stack import Own
from tests.support.until import until

TYPES = """
CREATE EXTENSION vector; CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE EXTENSION ltree;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s "fine", {really}');
CREATE TYPE pair AS (a integer, b text);
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE DOMAIN small_positive AS positive;
CREATE DOMAIN label AS text;
CREATE DOMAIN moment AS timestamptz;
CREATE DOMAIN amount AS numeric(12, 4);
CREATE DOMAIN numbers AS integer[];
CREATE DOMAIN notes AS jsonb;
"""
#: column: type, of what events carry
CARRIED = {
    "sm": "smallint",
    "i": "integer",
    "b": "bigint",
    "o": "oid",
    "bo": "boolean",
    "r": "real",
    "d": "double precision",
    "n": "numeric",
    "n_scaled": "numeric(12,4)",
    "n_whole": "numeric(5,0)",
    "t": "text",
    "vc": "varchar(20)",
    "ch": "char(6)",
    "ci": "citext",
    "nm": "name",
    "en": "mood",
    "u": "uuid",
    "js": "json",
    "jb": "jsonb",
    "by": "bytea",
    "tz": "timestamptz",
    "tz_ms": "timestamptz(3)",
    "ts": "timestamp",
    "ts_s": "timestamp(0)",
    "da": "date",
    "ti": "time",
    "ti_s": "time(0)",
    "d_positive": "small_positive",
    "d_label": "label",
    "d_moment": "moment",
    "d_amount": "amount",
    "d_notes": "notes",
}
#: and of what is read again
READ_AGAIN = {
    "tag": "text",
    "tiz": "timetz",
    "iv": "interval",
    "ip": "inet",
    "net": "cidr",
    "mac": "macaddr",
    "bits": "bit(5)",
    "vbits": "varbit",
    "rng": "int4range",
    "trng": "tstzrange",
    "mrng": "int4multirange",
    "mo": "money",
    "pt": "point",
    "bx": "box",
    "hs": "hstore",
    "lt": "ltree",
    "tsv": "tsvector",
    "tsq": "tsquery",
    "co": "pair",
    "a_sm": "smallint[]",
    "a_i": "integer[]",
    "a_b": "bigint[]",
    "a_bo": "boolean[]",
    "a_r": "real[]",
    "a_d": "double precision[]",
    "a_n": "numeric[]",
    "a_t": "text[]",
    "a_vc": "varchar(9)[]",
    "a_u": "uuid[]",
    "a_en": "mood[]",
    "a_tz": "timestamptz[]",
    "a_js": "jsonb[]",
    "a_ch": "char(3)[]",
    "a_by": "bytea[]",
    "d_numbers": "numbers",
    "v": "vector(3)",
    "v_any": "vector",
    "hv": "halfvec(3)",
    "sv": "sparsevec(5)",
    "stored": "integer GENERATED ALWAYS AS (cardinality(a_i) * 2) STORED",
    "virtual": "text GENERATED ALWAYS AS (tag || '!') VIRTUAL",
}

ODD_JSON = (
    '{"a.b": 1, "$x": {"$y": [true, null, "z"]}, "": 3, "twice": 1, "twice": 2, "int32": 2147483647,'
    ' "int64": 2147483648, "more": 9223372036854775808, "zero": -0.0, "e": 1e3, "tenth": 0.1, "padded": 0.10,'
    ' "fine": 0.1000000000000000055, "far": 1e400, "text": "\\u00e9\\ud83d\\ude80 \\u0000", "deep": [[[{}]], []]}'
)
ODD_JSONB = ODD_JSON.replace(" \\u0000", "")
#: about 6 kB that do not compress, so they lie out of line
_WIDE = "(SELECT string_agg(md5(n::text || '{0}'), '') FROM generate_series(1, 200) AS n)"
#: rows by name: column: SQL; what is not named is NULL
ROWS: dict[str, dict[str, str]] = {
    "nulls": {},
    "plain": {
        "sm": "-7", "i": "42", "b": "42", "o": "4000000000", "bo": "true", "r": "3.3", "d": "0.1",
        "n": "1.50", "n_scaled": "1.5", "n_whole": "12345", "t": "'Grüße, 世界 🚀'",
        "vc": "'it''s'", "ch": "'abc'", "ci": "'MiXeD'", "nm": "'a name'", "en": "'it''s \"fine\", {really}'",
        "u": "'12345678-1234-5678-9234-567812345678'", "js": f"'{ODD_JSON}'", "jb": f"'{ODD_JSONB}'",
        "by": "'\\x00ff10'", "tz": "'2024-02-29 12:34:56.789999+02'", "tz_ms": "'2024-02-29 12:34:56.7899+00'",
        "ts": "'2024-02-29 12:34:56.789999'", "ts_s": "'2024-02-29 12:34:56.5'", "da": "'2024-02-29'",
        "ti": "'13:51:30.120'", "ti_s": "'13:51:30'", "d_positive": "7", "d_label": "'labelled'",
        "d_moment": "'2024-02-29 00:00+00'", "d_amount": "2.5", "d_notes": "'{\"k\": [1.10]}'",
        "tag": "'x'", "tiz": "'13:51:30.12+02'", "iv": "'1 year 2 mons -3 days 04:05:06.7'", "ip": "'10.1.2.3/8'",
        "net": "'10.0.0.0/8'", "mac": "'08:00:2b:01:02:03'", "bits": "'10100'", "vbits": "'0010'", "rng": "'[1,5)'",
        "trng": "'[2024-01-01 00:00+02,)'", "mrng": "'{[1,3),[7,9)}'", "mo": "'-1234.5'", "pt": "'(1.5,-2)'",
        "bx": "'(1,1),(0,0)'", "hs": "'a=>1, b=>NULL'", "lt": "'Top.Science'", "tsv": "'fat cat'",
        "tsq": "'fat & cat'",
        "co": "(1, 'x, \"y\"')", "a_sm": "'{1,NULL,-1}'", "a_i": "'{3,2,1}'", "a_b": "'{1,NULL}'",
        "a_bo": "'{t,f,NULL}'",
        "a_r": "'{3.3,NaN}'", "a_d": "'{0.1,Infinity}'", "a_n": "'{1.50,NaN,NULL}'",
        "a_t": "ARRAY['a', NULL, '', '{,}', 'NULL']",
        "a_vc": "'{ab,c}'", "a_u": "'{12345678-1234-5678-9234-567812345678,NULL}'", "a_en": "'{sad,ok}'",
        "a_tz": "'{2024-01-01 00:00+02}'", "a_js": "ARRAY['{\"a\": 1}']::jsonb[]", "a_ch": "'{a,bc}'",
        "a_by": "ARRAY['\\x00'::bytea]", "d_numbers": "'{1,2}'", "v": "'[1,2.5,3.3]'", "v_any": "'[0.1]'",
        "hv": "'[1,2.5,3.3]'", "sv": "'{1:1.5,3:2}/5'",
    },
    "lowest": {
        "sm": "-32768", "i": "-2147483648", "b": "-9223372036854775808", "o": "0", "bo": "false",
        "r": "'-Infinity'", "d": "'-Infinity'", "n": "'-Infinity'", "n_scaled": "-99999999.9999", "n_whole": "-0.4",
        "t": "''", "vc": "''", "ch": "''", "ci": "''", "nm": "''", "js": "'[]'", "jb": "'{}'", "by": "''",
        "tz": "'0001-01-01 00:00+00'", "tz_ms": "'0001-01-01 00:00+00'", "ts": "'0001-01-01 00:00'",
        "ts_s": "'1582-10-10 12:00'", "da": "'0001-01-01'", "ti": "'00:00'", "ti_s": "'00:00:01'",
        "tag": "''", "tiz": "'00:00+14'", "iv": "'-1 mon 1 day'", "bits": "'00000'", "vbits": "''", "rng": "'empty'",
        "a_i": "'{}'", "a_t": "'{}'", "a_n": "'{}'", "hs": "''", "lt": "''", "tsv": "''", "mrng": "'{}'",
    },
    "highest": {
        "sm": "32767", "i": "2147483647", "b": "9223372036854775807", "o": "4294967295", "r": "3.4028235e38",
        "d": "1.7976931348623157e308", "n": "9.99999999999999999999999999999999e33", "n_scaled": "99999999.9999",
        "n_whole": "99999", "tz": "'9999-12-31 23:59:59.999999+00'", "tz_ms": "'9999-12-31 23:59:59.999+00'",
        "ts": "'9999-12-31 23:59:59.999999'", "ts_s": "'9999-12-31 23:59:59'", "da": "'9999-12-31'",
        "ti": "'24:00:00'",
        "ti_s": "'24:00:00'", "u": "'ffffffff-ffff-ffff-ffff-ffffffffffff'", "js": "'-1.5'", "jb": "'\"a text\"'",
        "tiz": "'24:00-14'", "a_b": "'{9223372036854775807}'",
    },
    "odd numbers": {
        "r": "'NaN'", "d": "'NaN'", "n": "'NaN'", "n_scaled": "'NaN'", "js": "'null'", "jb": "'null'",
        "tz": "'1969-12-31 23:59:59.9995+00'", "ts": "'1969-12-31 23:59:59.999001'", "ts_s": "'1500-03-01'",
        "da": "'1582-10-10'", "ti": "'00:00:00.000001'", "d_moment": "'1890-01-01 00:00+00'",
    },
    "infinity": {
        "r": "'Infinity'", "d": "'Infinity'", "n": "'Infinity'", "ts": "'1500-02-28 00:00'", "da": "'1500-02-28'",
    },
    "34 digits": {
        "r": "1e-45", "d": "5e-324", "n": "1234567890123456789012345678901234",
        "js": "1234567890123456789012345678901234::text::json",
        "jb": "'1e5000'", "tz": "'1582-10-04 23:59:59+00'",
    },
    "zeros": {
        "r": "'-0'", "d": "'-0'", "n": "0.000", "n_scaled": "0", "jb": "'0.10'", "da": "'1970-01-01'",
        "tz": "'1970-01-01 00:00+00'",
    },
    "many zeros": {
        "n": "1e60", "jb": "'1e400'", "js": "'1E400'", "tz": "'1582-10-15 00:00+00'", "ts": "'0004-02-29 00:00'",
    },
    "small": {
        "n": "1e-40", "jb": "'{\"$ref\": \"x\", \"$id\": 1}'", "js": "'{\"_id\": {\"_sync\": 1}}'",
        "n_scaled": "-0.0001",
    },
    "3 MB": {"t": "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 93750) AS n)", "b": "3000000"},
    "out of line": {
        "t": _WIDE.format("t"), "by": f"convert_to({_WIDE.format('by')}, 'UTF8')", "ci": _WIDE.format("ci"),
        "js": f"to_json({_WIDE.format('js')})", "jb": f"to_jsonb({_WIDE.format('jb')})",
        "d_label": _WIDE.format("label"),
        "d_notes": f"to_jsonb({_WIDE.format('notes')})", "vc": "'beside'", "i": "1", "n_scaled": "1.5",
        "tag": "'kept'", "a_t": f"ARRAY[{_WIDE.format('a')}, 'short']", "hs": f"hstore('k', {_WIDE.format('hs')})",
        "a_i": "(SELECT array_agg(n) FROM generate_series(1, 5000) AS n)",
        "v_any": "(SELECT array_agg(sin(n)) FROM generate_series(1, 2000) AS n)::vector",
    },
}  # fmt: skip
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


MAPPING = """
version: 1
collections:
  carried: {from: public.carried, rename: {id: originalId}}
  again: {from: public.again, rename: {id: originalId}}
"""
#: what "plain" has to be, by hand
PINNED = {
    "sm": -7, "i": 42, "b": Int64(42), "o": Int64(4000000000), "bo": True, "r": 3.299999952316284, "d": 0.1,
    "n": Decimal128("1.50"), "nScaled": Decimal128("1.5000"), "nWhole": Decimal128("12345"),
    "t": "Grüße, 世界 🚀", "vc": "it's", "ch": "abc   ", "ci": "MiXeD", "nm": "a name", "en": 'it\'s "fine", {really}',
    "u": Binary(uuid.UUID("12345678-1234-5678-9234-567812345678").bytes, 4),
    "js": {
        "a.b": 1, "$x": {"$y": [True, None, "z"]}, "": 3, "twice": 2, "int32": 2147483647, "int64": Int64(2147483648),
        "more": Decimal128("9223372036854775808"), "zero": -0.0, "e": 1000.0, "tenth": 0.1, "padded": 0.1,
        "fine": Decimal128("0.1000000000000000055"), "far": Decimal128("1E+400"), "text": "é🚀 \0",
        "deep": [[[{}]], []],
    },
    "by": b"\x00\xff\x10", "tz": DatetimeMS(1709202896789), "tzMs": DatetimeMS(1709210096790),
    "ts": DatetimeMS(1709210096789),
    "tsS": DatetimeMS(1709210097000), "da": DatetimeMS(1709164800000), "ti": "13:51:30.12", "tiS": "13:51:30",
    "dPositive": 7,
    "dLabel": "labelled", "dMoment": DatetimeMS(1709164800000), "dAmount": Decimal128("2.5000"),
}  # fmt: skip
PINNED_AGAIN = {
    "iv": "P1Y2M-3DT4H5M6.7S", "ip": "10.1.2.3/8", "bits": "10100", "vbits": "0010", "rng": "[1,5)",
    "aSm": [1, None, -1], "aB": [Int64(1), None], "aBo": [True, False, None], "aT": ["a", None, "", "{,}", "NULL"],
    "aN": [Decimal128("1.50"), Decimal128("NaN"), None], "aEn": "{sad,ok}", "dNumbers": [1, 2],
    "v": [1.0, 2.5, 3.299999952316284], "hv": [1.0, 2.5, 3.30078125], "sv": "{1:1.5,3:2}/5", "stored": 6,
    "virtual": "x!",
}  # fmt: skip


def test_every_type_is_the_same_loaded_inserted_updated_left_alone_and_moved(
    own: Own, tmp_path: Path
) -> None:
    tables = {"carried": CARRIED, "again": READ_AGAIN}
    ddl = TYPES + "".join(table(name, columns) for name, columns in tables.items())
    with pipeline(own, tmp_path, ddl, MAPPING) as on:
        for name, columns in tables.items():
            on.sql.execute(insert(name, columns, LOADED).encode())
            on.sql.execute(insert(name, columns, LEFT_ALONE).encode())
            on.sql.execute(empty(name, UPDATED).encode())
            on.sql.execute(insert(name, columns, MOVED + 10_000).encode())
        loaded = on.tandem.json("snapshot")
        assert loaded["exact"]
        assert {c["parked"] for c in loaded["collections"].values()} == {0}
        with consuming(on):
            for name, columns in tables.items():
                with on.sql.transaction():
                    on.sql.execute(insert(name, columns, INSERTED).encode())
                on.sql.execute(update(name, columns, UPDATED).encode())
                on.sql.execute(f"UPDATE {name} SET touched = touched + 1 WHERE id >= {LEFT_ALONE}")
                on.sql.execute(f"UPDATE {name} SET id = id - 10000 WHERE id >= {MOVED + 10_000}")
            on.agree()
            assert not on.parked()
        for name in tables:
            _assert_ways_agree(on, name)
        _assert_pinned(on, "carried", PINNED)
        _assert_pinned(on, "again", PINNED_AGAIN)


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


def _assert_pinned(on: Pipeline, name: str, pinned: dict[str, object]) -> None:
    number = list(ROWS).index("plain")
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
    9: ("grid", "'{{1,2},{3,4}}'", "public.odd.grid: an array of more than one dimension"),
    10: ("quantity", "-1", "does not take the document"),
    11: ("js", "'{\"a\\u0000b\": 1}'", ""),
    12: ("js", "'\"\\ud800\"'", "public.odd.js"),
    13: ("t", "repeat('x', 17000000)", "does not take the document"),
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
            _assert_later_events_park_behind(on)
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


def _assert_later_events_park_behind(on: Pipeline) -> None:
    on.sql.execute("UPDATE odd SET tz = '2024-01-01', t = 'mended' WHERE id = 101")
    until(lambda: on.parked()["public.odd [101]"]["count"] == 2, within=20)
    events = on.parked()["public.odd [101]"]["events"]
    assert [e["code"] for e in events] == ["MappingFailed", "ParkedBehind"]
    assert b"mended" in events[1]["value"]
    assert on.one("odd", "public.odd", 101) is None


def test_a_numeric_with_a_negative_scale_is_the_same_loaded_and_streamed(own: Own, tmp_path: Path) -> None:
    ddl = "CREATE TABLE sums (id bigint PRIMARY KEY, n numeric(4, -2)); INSERT INTO sums VALUES (1, 123456);"
    with pipeline(own, tmp_path, ddl, "version: 1\ncollections:\n  sums: {from: public.sums}\n") as on:
        on.tandem.run("snapshot")
        with consuming(on):
            on.sql.execute("INSERT INTO sums VALUES (2, 123456)")
            on.wait()
        assert [d["n"] for d in on.all("sums")] == [Decimal128("123500")] * 2


def test_an_array_of_a_domain_is_an_array_or_a_text_for_both_sides(own: Own, tmp_path: Path) -> None:
    ddl = """CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
             CREATE TABLE sums (id bigint PRIMARY KEY, a positive[]); INSERT INTO sums VALUES (1, '{1,2}');"""
    with pipeline(own, tmp_path, ddl, "version: 1\ncollections:\n  sums: {from: public.sums}\n") as on:
        on.tandem.run("snapshot")
        with consuming(on):
            on.sql.execute("INSERT INTO sums VALUES (2, '{1,2}')")
            on.agree()
        assert len({bare(d, "id") for d in on.all("sums")}) == 1


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
