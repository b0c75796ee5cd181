"""Conditions and computed values: what they give, and how they refuse."""

from __future__ import annotations

from decimal import Decimal
from itertools import product
from typing import Any
from uuid import UUID

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from consumers.mapping import filters
from consumers.mapping.filters import MINUS_INFINITY, PLUS_INFINITY, EvaluationFailed, FilterInvalid, parse

TYPES = {
    "s": "smallint",
    "a": "integer",
    "b": "bigint",
    "n": "numeric",
    "f": "double precision",
    "r": "real",
    "t": "text",
    "v": "character varying",
    "c": "character",
    "e": "enum",
    "e2": "enum",
    "u": "uuid",
    "z": "timestamp with time zone",
    "k": "timestamp without time zone",
    "d": "date",
    "p": "boolean",
    "q": "boolean",
    "j": "jsonb",
    "Mixed Case": "text",
}
NOW = 1_704_067_200_000_000  # 2024-01-01
DAY = 86_400_000_000


def value(text: str, **row: Any) -> Any:
    return parse(text).compile(TYPES)(dict.fromkeys(TYPES) | row, NOW)


# -- the example ---------------------------------------------------------------------------------------------
def test_a_boolean_column_is_a_condition() -> None:
    where = parse("is_active")
    assert where.columns == {"is_active"}
    assert not where.uses_now
    assert where.sql() == '"is_active"'
    run = where.compile({"is_active": "boolean"})
    assert [run({"is_active": is_active}, NOW) for is_active in (True, False, None)] == [True, False, None]


def test_a_status_is_compared_with_a_literal() -> None:
    where = parse("status = 'active'")
    assert where.sql() == "(\"status\" = 'active')"
    run = where.compile({"status": "text"})
    assert [run({"status": status}, NOW) for status in ("active", "disabled", None)] == [True, False, None]


def test_a_session_expires() -> None:
    where = parse("expires_at > now()")
    assert where.uses_now
    run = where.compile({"expires_at": "timestamp with time zone"})
    assert [run({"expires_at": at}, NOW) for at in (NOW + 1, NOW, PLUS_INFINITY, MINUS_INFINITY, None)] == [
        True,
        False,
        True,
        False,
        None,
    ]


def test_the_last_activity_is_the_first_of_two_that_is_there() -> None:
    computed = parse("coalesce(last_activity, created_at)")
    types = dict.fromkeys(("last_activity", "created_at"), "timestamp with time zone")
    assert computed.check(types) == "timestamp with time zone"
    run = computed.compile(types)
    assert run({"last_activity": None, "created_at": 5}, NOW) == 5
    assert run({"last_activity": 7, "created_at": 5}, NOW) == 7


# -- three-valued logic --------------------------------------------------------------------------------------
LOGIC = (True, False, None)


@pytest.mark.parametrize(("p", "q"), list(product(LOGIC, LOGIC)))
def test_and_or_not_follow_the_truth_tables(p: bool | None, q: bool | None) -> None:
    both = False if p is False or q is False else None if p is None or q is None else True
    either = True if p is True or q is True else None if p is None or q is None else False
    assert value("p AND q", p=p, q=q) is both
    assert value("p OR q", p=p, q=q) is either
    assert value("NOT p", p=p) is (None if p is None else not p)
    assert value("NOT (p AND q)", p=p, q=q) is value("NOT p OR NOT q", p=p, q=q)


@pytest.mark.parametrize("p", LOGIC)
def test_the_tests_of_truth_are_never_null(p: bool | None) -> None:
    for word, expected in (
        ("TRUE", p is True),
        ("FALSE", p is False),
        ("UNKNOWN", p is None),
        ("NULL", p is None),
    ):
        assert value(f"p IS {word}", p=p) is expected
        assert value(f"p IS NOT {word}", p=p) is not expected


@pytest.mark.parametrize(
    ("text", "a", "expected"),
    [
        ("a IN (1, 2)", 1, True),
        ("a IN (1, 2)", 3, False),
        ("a IN (1, NULL)", 1, True),
        ("a IN (1, NULL)", 3, None),
        ("a NOT IN (1, NULL)", 3, None),
        ("a NOT IN (1, NULL)", 1, False),
        ("a IN (1, 2)", None, None),
        ("a IS DISTINCT FROM 1", None, True),
        ("a IS NOT DISTINCT FROM NULL", None, True),
        ("a IS DISTINCT FROM NULL", 1, True),
        ("a BETWEEN 1 AND NULL", 0, False),
        ("a BETWEEN 1 AND NULL", 2, None),
        ("CASE WHEN a > 1 THEN 'many' WHEN a = 1 THEN 'one' END", None, None),
        ("CASE a WHEN 1 THEN 'one' ELSE 'other' END", None, "other"),
        ("nullif(a, 1)", 1, None),
        ("nullif(a, NULL)", 1, 1),
    ],
)
def test_null_is_carried_as_in_sql(text: str, a: int | None, expected: Any) -> None:
    assert value(text, a=a) is expected or value(text, a=a) == expected


def test_any_type_can_be_asked_for_null() -> None:
    assert value("j IS NULL") is True
    assert value("j IS NOT NULL", j="{}") is True


# -- values --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "row", "expected"),
    [
        ("c = 'ab'", {"c": "ab   "}, True),
        ("c || '.'", {"c": "ab   "}, "ab."),
        ("t = 'ab'", {"t": "ab "}, False),
        ("n = 'NaN'", {"n": Decimal("NaN")}, True),
        ("n > 1e6", {"n": Decimal("NaN")}, True),
        ("f > 'Infinity'", {"f": float("nan")}, True),
        ("f <= 1", {"f": float("nan")}, False),
        ("f IN ('NaN', 1)", {"f": float("nan")}, True),
        ("b = 9007199254740993.0", {"b": 9007199254740993}, True),
        ("b = f", {"b": 9007199254740993, "f": 9007199254740992.0}, True),
        ("r = 3.3", {"r": 3.299999952316284}, False),
        ("u = '00000000-0000-0000-0000-00000000000A'", {"u": UUID(int=10)}, True),
        ("u < 'ffffffff-ffff-ffff-ffff-ffffffffffff'", {"u": UUID(int=10)}, True),
        ("z = '2024-01-01'", {"z": NOW}, True),
        ("z = '2024-01-01 02:00+02'", {"z": NOW}, True),
        ("z = TIMESTAMPTZ '2023-12-31T21:30:00-0230'", {"z": NOW}, True),
        ("d = z", {"d": 19_723, "z": NOW}, True),
        ("d < k", {"d": 19_723, "k": NOW}, False),
        ("z < d", {"z": PLUS_INFINITY, "d": 2**31 - 1}, False),
        ("now() - INTERVAL '1 day 2:30'", {}, NOW - DAY - 9_000_000_000),
        ("z + '90 minutes'::interval", {"z": 0}, 5_400_000_000),
        ("z + INTERVAL '1 week'", {"z": PLUS_INFINITY}, PLUS_INFINITY),
        ("n * 2.50", {"n": Decimal("1.10")}, Decimal("2.7500")),
        ("a + 1", {"a": 1}, 2),
        ("e = 'open'", {"e": "open"}, True),
        ("'it''s ' || v", {"v": "x"}, "it's x"),
        ('"Mixed Case" = t', {"Mixed Case": "x", "t": "x"}, True),
    ],
)
def test_values_compare_and_compute_as_in_postgresql(text: str, row: dict[str, Any], expected: Any) -> None:
    found = value(text, **row)
    assert str(found) == str(expected)


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("ab%", ["ab", "abc", "ab\n"], ["a", "xab", ""]),
        ("%ab", ["ab", "xab"], ["abx", "AB"]),
        ("%ab%", ["ab", "xabx"], ["ba"]),
        ("ab", ["ab"], ["ab ", "xab"]),
        ("a_b", ["axb", "a\nb", "aäb"], ["ab", "axxb"]),
        ("a\\_b", ["a_b"], ["axb"]),
        ("%a%b_", ["abc", "xaxbx"], ["ab", "ba1"]),
        ("a%a", ["aa", "aba"], ["a"]),
        ("%.%", ["a.b"], ["ab"]),
        ("%", ["", "x"], []),
        ("", [""], ["x"]),
        ("_%_", ["ab", "abc"], ["a"]),
    ],
)
def test_like(pattern: str, matching: list[str], other: list[str]) -> None:
    run = parse(f"t LIKE '{pattern}'").compile(TYPES)
    assert all(run({"t": text}, NOW) is True for text in matching)
    assert all(run({"t": text}, NOW) is False for text in other)


def test_like_takes_no_longer_for_a_hostile_pattern() -> None:
    assert value(f"t LIKE '{'%a' * 30}b_'", t="a" * 5_000) is False


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("s + s", {"s": 32_767}),
        ("a * 2", {"a": 2**31 - 1}),
        ("- a", {"a": -(2**31)}),
        ("b - 1", {"b": -(2**63)}),
        ("f * f", {"f": 1e200}),
        ("f = n", {"f": 1.0, "n": Decimal("1e400")}),
        ("z + INTERVAL '1 hour'", {"z": PLUS_INFINITY - 1}),
    ],
)
def test_what_postgresql_cannot_compute_fails(text: str, row: dict[str, Any]) -> None:
    with pytest.raises(EvaluationFailed, match="out of range"):
        value(text, **row)


def test_int_arithmetic_has_the_wider_type() -> None:
    assert value("a + b", a=2**31 - 1, b=1) == 2**31
    assert parse("a + b").check(TYPES) == "bigint"
    assert parse("s + s").check(TYPES) == "smallint"


# -- names and text ------------------------------------------------------------------------------------------
def test_names_fold_as_in_postgresql() -> None:
    assert parse('Status = "Mixed Case" OR "a""b" IS NULL OR ÄB IS NULL').columns == {
        "status",
        "Mixed Case",
        'a"b',
        "Äb",
    }
    assert parse('"a""b" = 1').sql() == '("a""b" = 1)'


def test_the_sql_comes_from_the_tree() -> None:
    assert parse("a = 1 -- '; DROP TABLE x").sql() == '("a" = 1)'
    assert parse("t = 'a''b\\c'").sql() == "(\"t\" = E'a''b\\\\c')"
    assert parse("p AND (q AND NOT a IN (1, -2))").sql() == '("p" AND "q" AND (NOT ("a" IN (1, (-2)))))'
    assert (
        parse("z > now() - interval '1 day'").sql()
        == "(\"z\" > (now() - INTERVAL '86400000000 microseconds'))"
    )


def test_parentheses_follow_postgresql_where_it_ranks_is_lower() -> None:
    assert parse("a = b IS NULL").sql() == '(("a" = "b") IS NOT DISTINCT FROM NULL)'


# -- refusals ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lower(t) = 'x'", "collation"),
        ("t < 'b'", "'<' on text is not in the subset: the order depends on the collation"),
        ("t BETWEEN 'a' AND 'b'", "the order depends on the collation"),
        ("e > 'open'", "'>' on an enum is not in the subset"),
        ("e = e2", "= of enum is not in the subset"),
        ("t ~ 'x'", "LIKE is in the subset"),
        ("t ILIKE 'x'", "LIKE is in the subset"),
        ("t SIMILAR TO 'x'", "LIKE is in the subset"),
        ("t LIKE v", "LIKE needs its pattern as a literal"),
        ("t LIKE 'x!%' ESCAPE '!'", "LIKE has the escape character"),
        ("t LIKE 'x\\'", "cannot end with its escape character"),
        ("a LIKE '1'", "LIKE is for text, not for integer"),
        ("a IN (SELECT 1)", "only the columns of the row itself"),
        ("EXISTS (SELECT 1)", "only the columns of the row itself"),
        ("(SELECT 1) = 1", "only the columns of the row itself"),
        ("count(*) > 1", "only the columns of the row itself"),
        ("a = ANY(ARRAY[1])", "only the columns of the row itself"),
        ("a IN (b, 1)", "IN needs a list of literals"),
        ("a IN ()", "not in the SQL subset"),
        ("length(t) = 1", "of functions there are coalesce, nullif and now"),
        ("my_function(t)", "of functions there are coalesce, nullif and now"),
        ("a / 2 = 1", "of arithmetic there are"),
        ("a % 2 = 1", "of arithmetic there are"),
        ("current_date = d", "of the clock there is now()"),
        ("now(3) = z", "not in the SQL subset"),
        ("user = 't'", 'a column of this name is written "user"'),
        ("x.a = 1", "a column is named without its table"),
        ("a::text = '1'", "only literals can be cast"),
        ("'1'::numeric(3, 1) = n", "is not in the subset of literals"),
        ("'x'::citext = t", "is not in the subset of literals"),
        ("$1 = a", "nothing to put in its place"),
        ("E'a\\n' = t", "write '...' or a decimal number"),
        ("$$x$$ = t", "write '...' or a decimal number"),
        ("j ->> 'x' = 't'", "not in the SQL subset"),
        ("j = '{}'", "column 'j' is of type jsonb: only IS [NOT] NULL is possible with it"),
        ("nope = 1", "there is no column 'nope'"),
        ("t = 1", "= of text and integer is not in the subset"),
        ("c = t", "= of character and text is not in the subset"),
        ("coalesce(t, a)", "coalesce of text and integer"),
        ("coalesce(r, 1.5)", "real beside other numbers"),
        ("r + r", "two real values"),
        ("r = '1.5'", "a literal of type real is not in the subset"),
        ("a = 'x'", "'x' is no integer"),
        ("s = '40000'", "'40000' is no smallint"),
        ("u = 'abc'", "'abc' is no uuid"),
        ("z > 'yesterday'", "'yesterday' is no timestamp with time zone"),
        ("z > '2024-02-30'", "'2024-02-30' is no timestamp with time zone"),
        ("d = '2024-01-01 10:00'", "'2024-01-01 10:00' is no date"),
        ("k = '2024-01-01 10:00+01'", "without a zone"),
        ("f = '1e400'", "'1e400' is no double precision"),
        ("p = 'maybe'", "'maybe' is no boolean"),
        ("now() - INTERVAL '1 month' < z", "months and years have no fixed length"),
        ("now() - INTERVAL '1.5 days' < z", "INTERVAL"),
        ("now() - INTERVAL '1 fortnight' < z", "the unit 'fortnight'"),
        ("now() - INTERVAL '1 day ago' < z", "INTERVAL '1 day ago'"),
        ("now() - INTERVAL '1' DAY < z", "INTERVAL '1' DAY: write the unit inside the quotes"),
        ("now() - INTERVAL day < z", "cannot be read as one SQL expression"),
        ("now() - '1 day' < z", "arithmetic is for numbers, and timestamps with INTERVAL"),
        ("d + INTERVAL '1 day' = z", "INTERVAL is for timestamps, not for date"),
        ("INTERVAL '1 day'", "an INTERVAL stands only after"),
        ("z - k = 1", "arithmetic is for numbers"),
        ("a || t = 'x'", "|| is for text, not for integer"),
        ("- t = 1", "- is for numbers, not for text"),
        ("a AND p", "a condition is needed where there is a integer"),
        ("NOT t", "a condition is needed where there is a text"),
        ("2147483647 + 1 = b", "this fails for every row: integer out of range"),
        ("a < b < 3", "put parentheses around"),
        ("a; b", "not in the SQL subset"),
        ("a b", "cannot be read as one SQL expression"),
        ("a =", "cannot be read as one SQL expression"),
        ("", "cannot be read as one SQL expression"),
        ("t = 'open", "cannot be read as one SQL expression"),
        ("a IS JSON", "not in the SQL subset"),
        ("a = 1\x00", "NUL"),
        ("(" * 5_000 + "a" + ")" * 5_000, "nested too deeply"),
        (" + ".join(["a"] * 100), "too large"),
    ],
)
def test_what_is_outside_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(FilterInvalid) as caught:
        parse(text).check(TYPES)
    assert message in str(caught.value)


@given(st.text(alphabet="abtz01.'\"(),=<>*+-|:;$%_[]{}\\ \nANDORISUL", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        expression = parse(text)
        result = expression.check(TYPES)
    except FilterInvalid:
        return
    assert parse(expression.sql()).check(TYPES) == result


# -- size ----------------------------------------------------------------------------------------------------
def test_chains_are_as_long_as_they_like() -> None:
    assert value(" OR ".join(f"a = {n}" for n in range(500)), a=499) is True
    assert value(" || ".join(["t"] * 300), t="x") == "x" * 300


@pytest.mark.parametrize(
    "form", ["coalesce({}, n * n + f)", "nullif({}, n)", "CASE WHEN p THEN {} END", "- ({})"]
)
def test_the_deepest_expression_compiles(form: str) -> None:
    texts = ["a"]
    while _is_read(form.format(texts[-1])):
        texts.append(form.format(texts[-1]))
    assert len(texts) > 12
    assert callable(parse(texts[-1]).compile(TYPES))


def _is_read(text: str) -> bool:
    try:
        parse(text)
    except FilterInvalid as error:
        return "too large" not in str(error)
    return True


def test_yaml_and_quotes() -> None:
    """As the mapping file has it: a condition in quotes."""
    declared = yaml.safe_load("""where: "status = 'active'" """)
    assert filters.parse(declared["where"]).columns == {"status"}
