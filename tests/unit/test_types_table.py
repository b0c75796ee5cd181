"""docs/types.md says what the code does: its table is compared with the codecs, line by line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from connectors.postgres.types import NEGATIVE_SCALE, Type, TypeKind, named
from consumers.mapping.codecs import CODECS, OTHER
from consumers.mapping.composed import OTHERS, codec_of, policies

PAGE = (Path(__file__).parents[2] / "docs" / "types.md").read_text(encoding="utf-8")
_LINE = re.compile(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \| (yes|no) \|$", re.MULTILINE)
LINES = {found[1]: (tuple(found[2].split(", ")), found[4]) for found in _LINE.finditer(PAGE)}
_SUBTYPES = {
    "int4": "integer",
    "int8": "bigint",
    "num": "numeric",
    "date": "date",
    "ts": "timestamp without time zone",
    "tstz": "timestamp with time zone",
}


def type_of(name: str) -> Type:
    """A type as the catalog gives it."""
    if name == NEGATIVE_SCALE.name:
        return NEGATIVE_SCALE
    if (found := re.fullmatch(r"(\w+?)(multi)?range", name)) is None:
        return named(name)
    of = Type(f"{found[1]}range", TypeKind.RANGE, named(_SUBTYPES[found[1]]))
    return Type(name, TypeKind.MULTIRANGE, of) if found[2] else of


@pytest.mark.parametrize("name", LINES)
def test_a_line_of_the_table_is_what_the_code_does(name: str) -> None:
    fitting, carried = LINES[name]
    kind = codec_of(type_of(name))
    assert policies(type_of(name)) == fitting
    assert kind.carried == (carried == "yes")


def test_every_type_with_a_rule_of_its_own_is_in_the_table() -> None:
    assert LINES.keys() >= {*CODECS, *OTHERS}
    rest = {name for name in LINES if name not in {*CODECS, *OTHERS} and not name.endswith("range")}
    assert {name for name in rest if codec_of(named(name)) is not OTHER} == set()


def test_every_policy_is_explained() -> None:
    names = {policy for fitting, _ in LINES.values() for policy in fitting}
    defaults = {fitting[0] for fitting, _ in LINES.values()}
    told = set(re.findall(r"^\| `([\w-]+)` \|", PAGE, re.MULTILINE))
    assert names - defaults <= told | {"document"}
