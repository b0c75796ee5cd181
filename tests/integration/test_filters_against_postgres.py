"""Random expressions on random rows: what the compiled function says is what PostgreSQL says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from random import Random
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from connectors.postgres.sql import SQL, Identifier
from consumers.mapping import filters
from consumers.mapping.conversion import moved
from sync.verify.forms import AS_TEXT
from sync.verify.parts import moved as parts_moved
from tests.support.random_expressions import COLUMNS, ENUM_LABELS, random_expression, random_row

ROWS, EXPRESSIONS = 12, 60
TYPES = {
    name.strip('"').replace('""', '"'): {"mood": "enum"}.get(declared, declared.split("(")[0])
    for name, (declared, _) in COLUMNS.items()
}
#: type -> how a query asks for the native form
NATIVE = {
    "timestamp with time zone": "pg_temp.us({})",
    "timestamp without time zone": "pg_temp.us({})",
    "date": "pg_temp.days({})",
    "real": "({})::float8",
    "enum": "({})::text",
    "jsonb": "({})::text",
}
FUNCTIONS = """
CREATE TYPE pg_temp.mood AS ENUM ({labels});
CREATE FUNCTION pg_temp.us(anyelement) RETURNS bigint LANGUAGE sql AS $$
    SELECT CASE $1 WHEN 'infinity' THEN 9223372036854775807 WHEN '-infinity' THEN -9223372036854775808
                   ELSE (extract(epoch FROM $1) * 1000000)::bigint END $$;
CREATE FUNCTION pg_temp.days(date) RETURNS bigint LANGUAGE sql AS $$
    SELECT CASE $1 WHEN 'infinity' THEN 2147483647 WHEN '-infinity' THEN -2147483648
                   ELSE $1 - date '1970-01-01' END $$;
CREATE TEMP TABLE random_rows (row_number int, {columns});
"""
Outcome = Any  # a native value, or FAILED
FAILED = "the evaluation fails"


@pytest.fixture(scope="module")
def postgres(stack: Any) -> Iterator[psycopg.Connection[Any]]:
    columns = ", ".join(
        f"{name} {declared.replace('mood', 'pg_temp.mood')}" for name, (declared, _) in COLUMNS.items()
    )
    labels = ", ".join(f"'{label}'" for label in ENUM_LABELS)
    with psycopg.connect(stack.postgres_dsn, options="-c TimeZone=UTC") as connection:
        connection.execute(FUNCTIONS.format(labels=labels, columns=columns))
        yield connection
        connection.rollback()


@settings(
    max_examples=40,
    deadline=None,
    print_blob=True,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a seed does not shrink
    suppress_health_check=list(HealthCheck),
)
@given(seed=st.integers(0, 2**64 - 1))
def test_an_expression_means_the_same_on_both_sides(postgres: psycopg.Connection[Any], seed: int) -> None:
    tally = compare(postgres, Random(seed), seed)
    assert tally["compared"] > EXPRESSIONS * ROWS // 4, f"too few expressions pass the check: {tally}"


def compare(postgres: psycopg.Connection[Any], random: Random, seed: int) -> Counter[str]:
    """Try one batch; raises AssertionError with the first expression and row that differ."""
    rows, now_us = _fill(postgres, random)
    tally: Counter[str] = Counter()
    usable: list[tuple[str, filters.Expression, str]] = []
    for _ in range(EXPRESSIONS):
        text = random_expression(random)
        try:
            expression = filters.parse(text)
            usable.append((text, expression, expression.check(TYPES)))
        except filters.FilterInvalid:
            tally["refused"] += 1
    for (text, expression, kind), found in zip(usable, _ask(postgres, usable), strict=True):
        evaluate = expression.compile(TYPES)
        for row, (expected, of_text, type_name) in zip(rows, found, strict=True):
            try:
                actual: Outcome = evaluate(row, now_us)
            except filters.EvaluationFailed:
                actual = FAILED
            used = {name: row[name] for name in expression.columns}
            story = f"{text}\nas SQL: {expression.sql()}\nrow: {used}\nseed: {seed}"
            assert _same(actual, expected), f"compiled {actual!r}, PostgreSQL {expected!r}: {story}"
            assert _same(of_text, expected), (
                f"text as it stands {of_text!r}, from the tree {expected!r}: {story}"
            )
            assert type_name in (None, "mood" if kind == "enum" else kind), (
                f"check {kind}, is {type_name}: {story}"
            )
            tally["compared"] += 1
            tally["failed"] += actual is FAILED
    return tally


def _fill(postgres: psycopg.Connection[Any], random: Random) -> tuple[list[dict[str, Any]], int]:
    """New rows in the table; returned in native forms, with the transaction's now()."""
    postgres.execute("TRUNCATE random_rows")
    with postgres.cursor().copy("COPY random_rows FROM STDIN") as copy:
        for number in range(ROWS):
            copy.write_row((number, *random_row(random).values()))
    asked = ", ".join(
        NATIVE.get(kind, "{}").format(name) for name, kind in zip(COLUMNS, TYPES.values(), strict=True)
    )
    found = postgres.execute(f"SELECT {asked} FROM random_rows ORDER BY row_number").fetchall()
    now = postgres.execute("SELECT pg_temp.us(now())").fetchone()
    assert now is not None
    return [dict(zip(TYPES, values, strict=True)) for values in found], now[0]


def _ask(
    postgres: psycopg.Connection[Any], expressions: list[tuple[str, filters.Expression, str]]
) -> list[list[tuple[Outcome, Outcome, str | None]]]:
    """For each expression and row: its value, the value of its text as written, its type."""
    parts = [
        f"{form.format(expression.sql())}, {form.format(text)}, pg_typeof((SELECT {expression.sql()}))::text"
        for text, expression, kind in expressions
        for form in [NATIVE.get(kind, "({})")]
    ]
    found = _rows(postgres, ", ".join(parts))
    if found is not None:
        return [[row[3 * i : 3 * i + 3] for row in found] for i in range(len(expressions))]
    if len(expressions) > 1:
        half = len(expressions) // 2
        return _ask(postgres, expressions[:half]) + _ask(postgres, expressions[half:])
    return [[_one(postgres, parts[0], number) for number in range(ROWS)]]


def _one(postgres: psycopg.Connection[Any], part: str, number: int) -> tuple[Outcome, Outcome, str | None]:
    found = _rows(postgres, part, f"WHERE row_number = {number}")
    return (FAILED, FAILED, None) if found is None else found[0]


def _rows(postgres: psycopg.Connection[Any], asked: str, where: str = "") -> list[Any] | None:
    try:
        with postgres.transaction():
            return postgres.execute(f"SELECT {asked} FROM random_rows {where} ORDER BY row_number").fetchall()
    except (psycopg.errors.NumericValueOutOfRange, psycopg.errors.DatetimeFieldOverflow):
        return None


def _same(a: Outcome, b: Outcome) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (a != a and b != b)
    if isinstance(a, Decimal) and isinstance(b, Decimal):
        return a.as_tuple() == b.as_tuple() or (a.is_nan() and b.is_nan())
    return type(a) is type(b) and bool(a == b)


def test_a_path_is_rewritten_alike_by_the_writer_and_by_the_judge(
    postgres: psycopg.Connection[Any], pytestconfig: pytest.Config
) -> None:
    """They share no code: one is Python, the other one SQL."""
    seed = pytestconfig.getoption("--seed") or Random().randrange(1 << 32)
    print(f"seed {seed}")
    random = Random(seed)
    parts = (
        "nfs",
        "private",
        "7",
        "",
        "saved",
        "a b",
        "\n",
        "é",
        "\\1",
        "private\n",
        "..",
        "$",
        "shared",
        "x%",
    )
    paths = [
        "",
        "/",
        "/nfs",
        "/nfs/",
        "/nfs/private/7",
        "/nfs/private/7/",
        "/nfs/private//a",
        "/nfs/private/7//",
    ]
    for _ in range(1_500):
        start = random.choice(("/nfs/private", "/nfs", "", "/private", "/nfs/private/7"))
        paths.append("/".join((start, *random.choices(parts, k=random.randrange(5)))))
    for old, new in (("/nfs", "/new"), ("/nfs", ""), ("", "/new"), ("/nfs", "/nfs")):
        for workspaces in (None, "saved/migration_7"):
            wanted = [moved(path, old, new, workspaces) for path in paths]
            form = parts_moved(AS_TEXT, old, new, workspaces)
            query = SQL(
                "SELECT array_agg({} ORDER BY n) FROM unnest(%s::text[]) WITH ORDINALITY AS p(path, n)"
            )
            found = postgres.execute(query.format(form.sql(Identifier("path"))), (paths,)).fetchone()
            assert found is not None
            different = [(p, w, f) for p, w, f in zip(paths, wanted, found[0], strict=True) if w != f]
            assert not different, (old, new, workspaces, different[:3])
