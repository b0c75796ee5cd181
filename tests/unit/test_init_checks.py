"""What is understood of a CHECK constraint, as PostgreSQL writes it back; everything else is left alone."""

from __future__ import annotations

import pytest

from connectors.postgres.schema_facts import Check
from sync.init.checks import Limits, understood

TYPES = {
    "s": "text",
    "v": "character varying",
    "n": "integer",
    "We ird": "bigint",
    "e": "enum",
    "c": "character",
}


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("(s = ANY (ARRAY['a'::text, 'b'::text]))", [Limits("s", values=("a", "b"))]),
        (
            "((v)::text = ANY ((ARRAY['a'::character varying, 'it''s'::character varying])::text[]))",
            [Limits("v", values=("a", "it's"))],
        ),
        ("(s = 'only'::text)", [Limits("s", values=("only",))]),
        ("(n = ANY (ARRAY[1, '-2'::integer, (3)::bigint]))", [Limits("n", values=(1, -2, 3))]),
        ("(e = ANY (ARRAY['x'::public.mood, 'y'::mood]))", [Limits("e", values=("x", "y"))]),
        ("((n >= 0) AND (n < 10))", [Limits("n", minimum=0), Limits("n", maximum=9)]),
        ("(0 < n)", [Limits("n", minimum=1)]),
        ('("We ird" > (0)::numeric)', [Limits("We ird", minimum=1)]),
        (
            "((s = 'a'::text) AND (n <= '-5'::integer))",
            [Limits("s", values=("a",)), Limits("n", maximum=-5)],
        ),
    ],
)
def test_lists_and_bounds_are_understood(expression: str, said: list[Limits]) -> None:
    assert understood(Check("k", expression), TYPES) == said


@pytest.mark.parametrize(
    "expression",
    [
        "((n > 0) OR (n IS NULL))",
        "(n > 1.5)",
        "(n <> 3)",
        "(NOT (n > 5))",
        "(lower(s) = 'a'::text)",
        "((s)::citext = 'a'::citext)",  # in which 'A' is equal
        "((s)::bpchar = 'a'::bpchar)",  # in which 'a  ' is equal
        "(c = ANY (ARRAY['a'::bpchar]))",
        "((v)::character varying(1) = 'a'::text)",
        "(s = 'ab'::character varying(1))",
        "((n)::double precision > (1)::double precision)",
        "(n > s)",
        "(s ~ '^a'::text)",
        "(s > 'a'::text)",
        "((n >= 0) AND (s ~ 'x'::text))",
        "(n = ANY (ARRAY[1, NULL::integer]))",
        "not sql at all (",
        "",
        "(" * 5_000,
    ],
)
def test_what_says_more_than_a_validator_could_is_left_alone(expression: str) -> None:
    assert understood(Check("k", expression), TYPES) is None


def test_a_domains_check_is_about_the_column_that_has_it() -> None:
    check = Check("k", "((VALUE >= 1901) AND (VALUE <= 2155))", "n")
    assert understood(check, TYPES) == [Limits("n", minimum=1901), Limits("n", maximum=2155)]
    assert understood(Check("k", "(n > 0)", "n"), TYPES) is None
