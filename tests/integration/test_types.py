"""Every type that this server has, and random values of many: what the writer makes of a row is what `verify`, by a
path of its own, says that it has to be. No events here: those are in test_pipeline_values."""

from __future__ import annotations

import math
import random
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bson
import psycopg
import pytest
from bson.binary import UuidRepresentation
from pydantic import SecretStr

from connectors.errors import MappingFailed
from connectors.postgres import catalog
from connectors.postgres.client import Session, connect
from connectors.postgres.rows import CurrentRows
from connectors.postgres.sql import SQL, Identifier
from connectors.postgres.types import TypeKind
from connectors.settings import SourceEndpoint
from consumers.apply.write import table_read
from consumers.mapping import spec
from consumers.mapping.codecs import OTHER
from consumers.mapping.composed import codec_of, policies
from consumers.mapping.plan import compile_plan
from sync.verify import rows as verified
from sync.verify.canonical import Unfit
from sync.verify.catalog import Catalog
from sync.verify.compare import mismatches
from sync.verify.expected import reading
from tests.support.pipeline import RAW
from tests.support.stack import Own

PAGE = (Path(__file__).parents[2] / "docs" / "types.md").read_text(encoding="utf-8")
TABLED = set(re.findall(r"^\| ([^|]+) \| [^|]+ \| [^|]+ \| (?:yes|no) \|$", PAGE, re.MULTILINE))
EXTENSIONS = ("vector", "hstore", "citext", "ltree", "isn", "cube", "seg")
DECODED = RAW.with_options(uuid_representation=UuidRepresentation.STANDARD)


@pytest.fixture
def seed(pytestconfig: pytest.Config) -> int:
    """Of the random values, printed with a failure."""
    given: int | None = pytestconfig.getoption("--seed")
    chosen = random.randrange(1 << 32) if given is None else given
    print(f"--seed={chosen}")
    return chosen


@pytest.fixture
def source(own: Own) -> Iterator[tuple[SourceEndpoint, Session]]:
    endpoint = SourceEndpoint(dsn=SecretStr(own.addresses.postgres_dsn), slot=own.name, publication=own.name)
    with connect(endpoint) as session:
        for name in EXTENSIONS:
            session.execute(SQL("CREATE EXTENSION {}").format(Identifier(name)))
        session.execute("CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s \"x\", {y}')")
        session.execute('CREATE TYPE pair AS (a integer, "b.$" text, c numeric[], d tstzrange)')
        session.execute("CREATE DOMAIN few AS integer[] CHECK (cardinality(VALUE) < 9)")
        yield endpoint, session


def test_every_type_of_the_server_is_in_the_table_or_is_text(source: tuple[SourceEndpoint, Session]) -> None:
    """A table with a column of each: its codec is a line of docs/types.md, or made of such, or the stated rule."""
    _, session = source
    found = session.execute(
        "SELECT t.oid::regtype::text, t.typname::text FROM pg_type t LEFT JOIN pg_type e ON e.typarray = t.oid"
        " LEFT JOIN pg_class c ON c.oid IN (t.typrelid, e.typrelid)"
        " WHERE t.typtype <> 'p' AND e.typtype IS DISTINCT FROM 'p' AND (c.relkind IS NULL OR c.relkind = 'c')"
    ).fetchall()
    columns = [(f"c{n}", sql) for n, (sql, _) in enumerate(found)]
    taken = []
    for name, sql in columns:
        session.execute(
            SQL("CREATE TEMP TABLE {} ({} " + sql + ")").format(Identifier(f"t_{name}"), Identifier(name))
        )
        taken.append((name, sql))
    schema = session.execute("SELECT pg_my_temp_schema()::regnamespace::text").fetchone()
    assert schema is not None
    tables = catalog.tables(session, [f"{schema[0]}.t_{name}" for name, _ in taken])
    assert len(tables) == len(found) > 190
    as_text = set()
    for table in tables.values():
        [column] = table.columns
        kind = codec_of(column.resolved)
        assert policies(column.resolved)[-1] == "text" or "text" in kind.policies, column
        if column.resolved.kind in (TypeKind.BASE, TypeKind.ENUM) and column.type not in TABLED:
            assert kind is OTHER, f"{column.type} has a rule of its own and no line in docs/types.md"
            as_text.add(column.type)
    print(f"{len(found)} types; by the rule for any other: {', '.join(sorted(as_text))}")
    assert {"refcursor", "pg_snapshot", "aclitem", "cube", "isbn", "lquery", "tid"} <= as_text


# -- random values -----------------------------------------------------------------------------------------------
def _text(rng: random.Random) -> str:
    alphabet = "ab ,{}()[]\"'\\%\t\nNULé\u05d0\u202e\ufffd🚀\U0010fffd"
    return rng.choice(("", "NULL", "null", "empty", "".join(rng.choices(alphabet, k=rng.randint(1, 12)))))


def _numeric(rng: random.Random) -> str:
    if rng.random() < 0.1:
        return rng.choice(("NaN", "Infinity", "-Infinity", "0", "0.000", "-0.1"))
    digits = str(rng.randint(1, 10 ** rng.choice((1, 5, 20, 33))))
    return f"{rng.choice(('', '-'))}{digits}e{rng.randint(-60, 60)}"


def _float(rng: random.Random, pattern: str = "d") -> str:
    if rng.random() < 0.15:
        return rng.choice(("NaN", "Infinity", "-Infinity", "-0", "0"))
    if rng.random() < 0.5:
        return repr(round(rng.uniform(-1e7, 1e7), rng.randint(-6, 8)))
    size = struct.calcsize(pattern)
    value = struct.unpack(pattern, rng.randbytes(size))[0]
    return repr(value) if value == value and abs(value) != float("inf") else "1"


def _vector(rng: random.Random, pattern: str) -> str:
    made = [
        struct.unpack(pattern, rng.randbytes(struct.calcsize(pattern)))[0] for _ in range(rng.randint(1, 5))
    ]
    return "[" + ",".join(repr(x) if math.isfinite(x) else "1" for x in made) + "]"


def _moment(rng: random.Random) -> str:
    if rng.random() < 0.1:
        return rng.choice(("infinity", "-infinity"))
    year = rng.choice((rng.randint(1, 4713), rng.randint(1900, 2100), rng.randint(1, 294_000)))
    clock = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}:{rng.randint(0, 59):02d}.{rng.randint(0, 999_999):06d}"
    bc = " BC" if year <= 4712 and rng.random() < 0.3 else ""
    return f"{year:04d}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d} {clock}{bc}"


def _interval(rng: random.Random) -> str:
    months, days, micros = (
        rng.randint(-(10**6), 10**6),
        rng.randint(-(10**6), 10**6),
        rng.randint(-(10**15), 10**15),
    )
    return rng.choice(
        ("infinity", f"{months} mon {days} days {micros} microseconds", f"{micros} microseconds")
    )


#: type -> a random value's text
VALUES: dict[str, Callable[[random.Random], str]] = {
    "integer": lambda rng: str(rng.randint(-(1 << 31), (1 << 31) - 1)),
    "bigint": lambda rng: str(rng.randint(-(1 << 63), (1 << 63) - 1)),
    "boolean": lambda rng: rng.choice("tf"),
    "double precision": _float,
    "real": lambda rng: _float(rng, "f"),
    "numeric": _numeric,
    "money": lambda rng: str(rng.randint(-(10**12), 10**12) / 100),
    "text": _text,
    "char(5)": lambda rng: _text(rng)[:5],
    "uuid": lambda rng: rng.randbytes(16).hex(),
    "bytea": lambda rng: "\\x" + rng.randbytes(rng.randint(0, 9)).hex(),
    "jsonb": lambda rng: rng.choice(('{"a": [1, 2.50, "x\\""], "": null}', "1e2", "[]", '"\\u00e9"')),
    "timestamptz": lambda rng: _moment(rng),
    "timestamp": lambda rng: _moment(rng),
    "date": lambda rng: re.sub(r" \d\d:\S+", "", _moment(rng)),
    "time": lambda rng: rng.choice(
        ("24:00:00", "00:00", f"{rng.randint(0, 23)}:05:06.{rng.randint(0, 999999):06d}")
    ),
    "interval": _interval,
    "inet": lambda rng: f"{rng.randint(0, 255)}.0.0.1" + rng.choice(("", "/8", "/32")),
    "point": lambda rng: f"({_float(rng)},{_float(rng)})",
    "mood": lambda rng: rng.choice(("sad", "ok", 'it\'s "x", {y}')),
    "vector": lambda rng: _vector(rng, "f"),
    "halfvec": lambda rng: _vector(rng, "e"),
}
MADE = ("int4range", "numrange", "tstzrange", "daterange", "nummultirange", "pair", "few", "hstore")
PLACES = ("", "[]", "[][]", *MADE)


def _column_types() -> dict[str, str]:
    columns = {f"{kind}": kind for kind in VALUES}
    columns |= {f"{kind} array": f"{kind}[]" for kind in VALUES}
    return columns | {kind: kind for kind in MADE} | {f"{kind} array": f"{kind}[]" for kind in MADE}


def _literal(rng: random.Random, session: Session, kind: str) -> str | None:
    """A random value of a column type, as PostgreSQL would write it."""
    if rng.random() < 0.1:
        return None
    if kind.endswith("[]"):
        return _array(rng, session, kind[:-2])
    if kind in VALUES:
        return VALUES[kind](rng)
    if kind == "few":
        return rng.choice(("{}", "{1,NULL}", "{{1,2},{3,4}}"))
    if kind == "hstore":
        return _asked(
            session,
            "SELECT hstore(%s::text[], %s::text[])::text",
            [_text(rng)],
            [rng.choice((_text(rng), None))],
        )
    if kind == "pair":
        parts = [_literal(rng, session, k) for k in ("integer", "text", "numeric[]", "tstzrange")]
        return _asked(
            session, "SELECT ROW(%s::integer, %s::text, %s::numeric[], %s::tstzrange)::pair::text", *parts
        )
    if kind == "nummultirange":
        return "{" + ",".join(f"[{n}.50,{n + 1})" for n in range(rng.randint(0, 3))) + "}"
    subtype = {
        "int4range": "integer",
        "numrange": "numeric",
        "tstzrange": "timestamptz",
        "daterange": "date",
    }[kind]
    low, high = (_literal(rng, session, subtype) for _ in range(2))
    # PostgreSQL orders them
    ask = (
        f"SELECT CASE WHEN a > b THEN {kind}(b, a, %s) ELSE {kind}(a, b, %s) END::text"
        f" FROM (SELECT %s::{subtype} a, %s::{subtype} b) s"
    )
    bounds = rng.choice(("[]", "[)", "(]", "()"))
    try:
        return _asked(session, ask, bounds, bounds, low, high)
    except psycopg.errors.DataError:  # one that has no next value
        return "empty"


def _array(rng: random.Random, session: Session, element: str) -> str:
    items = [_literal(rng, session, element) for _ in range(rng.choice((0, 1, 2, 4)))]
    text = _asked(session, f"SELECT %s::text[]::{element}[]::text", items)
    if len(items) == 4 and rng.random() < 0.5 and element not in ("few",):
        rows = _asked(
            session, f"SELECT ARRAY[(%s::text[])[1:2], (%s::text[])[3:4]]::{element}[]::text", items, items
        )
        return rows or text or "{}"
    return text or "{}"


def _asked(session: Session, query: str, *values: Any) -> str | None:
    found = session.execute(query.encode(), values).fetchone()
    return None if found is None else found[0]


ROWS = 40


def test_random_values_are_the_same_by_both_paths(source: tuple[SourceEndpoint, Session], seed: int) -> None:
    """Under every policy of every column. Where one path has no form, the other has none."""
    endpoint, session = source
    rng = random.Random(seed)
    columns = _column_types()
    names = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
    session.execute(f"CREATE TABLE random (id integer PRIMARY KEY, {names})".encode())
    for number in range(ROWS):
        values = [_literal(rng, session, kind) for kind in columns.values()]
        slots = ", ".join(f"%s::text::{kind}" for kind in columns.values())
        session.execute(f"INSERT INTO random VALUES (%s, {slots})".encode(), [number, *values])
    table = catalog.tables(session, ["public.random"])["public.random"]
    most = max(len(policies(c.resolved)) for c in table.columns)
    reader = CurrentRows(endpoint)
    fits = Tally()
    try:
        for turn in range(most):
            chosen = {c.name: policies(c.resolved) for c in table.columns}
            convert = {name: fitting[min(turn, len(fitting) - 1)] for name, fitting in chosen.items()}
            _compare(endpoint, session, reader, convert, fits)
    finally:
        reader.close()
    print(f"{fits.same} values the same, {fits.none} without a form on both sides")
    assert fits.same > 10 * fits.none


class Tally:
    """How many values were alike."""

    same = 0
    none = 0


def _compare(
    endpoint: SourceEndpoint, session: Session, reader: CurrentRows, convert: dict[str, str], fits: Tally
) -> None:
    declared = spec.Mapping_.model_validate(
        {"version": 1, "collections": {"random": {"from": "public.random", "convert": convert}}}
    )
    lines = spec.Lines("{}", "random")
    use = compile_plan(declared, catalog.tables(session, declared.tables), lines).documents["random"]
    found, _ = reader.read({table_read(use.table): [(str(n),) for n in range(ROWS)]})
    natives = sorted(map(use.table.from_row, found["public.random"]), key=lambda row: row["id"])
    wanted = verified.look(
        session, reading("random", declared, Catalog(session, declared.keys())), [(n,) for n in range(ROWS)]
    )
    for row, expected in zip(natives, sorted(wanted, key=lambda e: e.key), strict=True):
        for field, column, to_bson in use.fields:
            value, should = row[column], expected.fields[field]
            where = f"{column} by {convert[column]}: {value!r}"
            if isinstance(should, Unfit):
                assert to_bson is not None, where
                with pytest.raises(MappingFailed):
                    to_bson(value)
                fits.none += 1
                continue
            made = value if value is None or to_bson is None else to_bson(value)
            back = bson.decode(bson.encode({field: made}, codec_options=RAW), codec_options=DECODED)
            back |= {"_sync": {"at": None, "lsn": bson.Int64(0)}}
            assert not list(mismatches({field: should}, back)), (
                f"{where}: {made!r}, and verify says {should!r}"
            )
            fits.same += 1
