"""`convert` in the mapping: what fits which column, with the line of the mistake, and what it makes."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from bson import Int64

from connectors.errors import MappingFailed, MappingInvalid
from connectors.postgres.catalog import Column, Table
from consumers.mapping import spec
from consumers.mapping.conversion import converter
from consumers.mapping.plan import Plan, compile_plan

TYPES = {
    "id": "bigint",
    "n": "numeric",
    "tz": "timestamp with time zone",
    "da": "date",
    "js": "jsonb",
    "path": "text",
    "v": "vector",
    "tags": "text[]",
    "owner": "bigint",
}


def table(name: str) -> Table:
    columns = tuple(Column(c, t, c == "id", False, t) for c, t in TYPES.items())
    return Table(f"public.{name}", "r", columns, ("id",), "d", "p", False, 1)


CATALOG = {f"public.{name}": table(name) for name in ("files", "parts")}


def compiled(rest: str) -> Plan:
    text = f"version: 1\ncollections:\n  files:\n    from: public.files\n{rest}"
    return compile_plan(spec.parse(text, "m.yaml"), CATALOG, spec.Lines(text, "m.yaml"))


def refused(rest: str) -> str:
    with pytest.raises(MappingInvalid) as caught:
        compiled(rest)
    return caught.value.what


def made(rest: str, **natives: Any) -> dict[str, Any]:
    return compiled(rest).documents["files"].document(natives, 0)


def test_a_policy_changes_what_a_column_becomes() -> None:
    rest = "    convert: {n: text, tz: micros, js: text, da: text}\n"
    natives = {"n": Decimal("1.50"), "tz": 1_500, "js": '{"a": 1.0}', "da": 0}
    assert made(rest, **natives) == {"n": "1.50", "tz": Int64(1_500), "js": '{"a": 1.0}', "da": "1970-01-01"}
    assert made("", n=None) == {"n": None}


def test_a_policy_counts_where_it_stands() -> None:
    rest = (
        "    embed:\n      parts: {from: public.parts, foreign_key: owner, convert: {n: double}}\n"
        "    references: {ownerId: {column: owner, to: files, keep: was}}\n    convert: {owner: text}\n"
    )
    plan = compiled(rest)
    assert plan.documents["files"].document({"n": Decimal(1), "owner": 7}, 0)["was"] == "7"
    assert plan.arrays["files"]["parts"].document({"n": Decimal("0.1")}, 0) == {"n": 0.1}


@pytest.mark.parametrize(
    ("rest", "line", "said"),
    [
        ("    convert:\n      n: double\n      tz: decimal\n", 7, "no policy 'decimal' for it"),
        ("    convert: {tz: decimal}\n", 5, "takes: date, date-or-null, date-clamped, micros, text (the first is"),
        ("    convert: {nope: text}\n", 5, "has no column 'nope'"),
        ("    convert: {n: {prefix: {from: /a, to: /b}}}\n", 5, "only the prefix of a text can be rewritten"),
        ("    convert: {path: upper}\n", 5, "takes: text (the first is the default), {prefix: {from: /old, to: /new}}"),
        ("    omit: [n]\n    convert: {n: text}\n", 6, "there is nothing to convert"),
        ("    convert: {path: {prefix: {from: a, to: /b}}}\n", 5, "prefix"),
        ("    convert: {path: null}\n", 5, "YAML's null"),
        ("    embed:\n      parts:\n        from: public.parts\n        foreign_key: owner\n"
         "        convert: {v: floats}\n", 9, "array, binary, text"),
    ],
)  # fmt: skip
def test_a_conversion_that_does_not_fit_is_refused_with_its_line(rest: str, line: int, said: str) -> None:
    what = refused(rest)
    assert f"m.yaml:{line}: " in what
    assert said in what


def test_a_collection_without_a_table_has_nothing_to_convert() -> None:
    with pytest.raises(MappingInvalid, match="'convert' needs 'from'"):
        spec.parse("version: 1\ncollections:\n  files: {convert: {n: text}}\n", "m.yaml")


@pytest.mark.parametrize(
    ("old", "new", "path", "wanted"),
    [
        ("/old", "/new/place", "/old", "/new/place"),
        ("/old", "/new/place", "/old/a", "/new/place/a"),
        ("/old/", "/new/", "/old/a", "/new/a"),
        ("/old", "/new", "/old/", "/new/"),
        ("/old", "/new", "/older", "/older"),
        ("/old", "/new", "old", "old"),
        ("/old", "/new", "/x/old/a", "/x/old/a"),
        ("/old", "/new", "", ""),
        ("/old", "/", "/old", "/"),
        ("/old", "/", "/old/a", "/a"),
        ("/", "/new", "/a", "/new/a"),
        ("/", "/new", "", ""),
        ("/", "/new", "a", "a"),
    ],
)
def test_paths_under_a_folder_are_moved(old: str, new: str, path: str, wanted: str) -> None:
    rewrite = spec.Rewrite.model_validate({"prefix": {"from": old, "to": new}})
    convert = converter(Column("p", "text", False, False, "text"), rewrite)
    assert convert is not None
    assert convert(path) == wanted


def test_a_numeric_beyond_a_double_is_refused() -> None:
    rest = "    convert: {n: double}\n"
    assert made(rest, n=Decimal("-Infinity")) == {"n": float("-inf")}
    assert made(rest, n=Decimal("1e-400")) == {"n": 0.0}
    for text in ("1e309", "-1.8e308", "1e131071"):
        with pytest.raises(MappingFailed, match=r"public\.files\.n: a numeric beyond the largest double"):
            made(rest, n=Decimal(text))
