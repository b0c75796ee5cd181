"""Which fields a row's document has; judging one row against one document; what may be an expression."""

from __future__ import annotations

from typing import Any

import pytest
from bson import Decimal128, Int64
from bson.datetime_ms import DatetimeMS

from connectors.errors import MappingInvalid
from connectors.postgres.sql import Composable
from consumers.mapping.ids import object_id
from consumers.mapping.spec import Mapping_, parse
from sync.verify import forms
from sync.verify.catalog import Column, Table
from sync.verify.expected import Reading, one_expression, reading
from sync.verify.expiry import may_be_gone
from sync.verify.forms import Form
from sync.verify.judge import judge
from sync.verify.report import Difference, Kind

BIG = ("bigint", forms.BIGINT)
TABLES = {
    "public.shops": {"id": BIG, "full_name": ("text", forms.TEXT)},
    "public.items": {
        "id": BIG,
        "shop_id": BIG,
        "unit_price": ("numeric", forms.NUMERIC),
        "secret": ("text", forms.TEXT),
        "last_seen": ("timestamptz", forms.MOMENT),
    },
    "public.tags": {"item_id": BIG, "tag": ("text", forms.TEXT), "shop_id": BIG},
}
KEYS = {"public.shops": ["id"], "public.items": ["id"], "public.tags": ["item_id", "tag"]}


class Twin:
    """The catalog of the tables above."""

    def table(self, name: str) -> Table:
        columns = {
            column: Column(column, form, sql_type, collated=form is forms.TEXT)
            for column, (sql_type, form) in TABLES[name].items()
        }
        return Table(name, tuple(columns.values()), tuple(columns[column] for column in KEYS[name]))

    def form_of(self, table: Table, expression: Composable) -> Form:
        return forms.MOMENT


MAPPING = """
version: 1
collections:
  shops: {from: public.shops}
  items:
    from: public.items
    where: unit_price > 0
    rename: {id: originalId}
    omit: [secret]
    references: {shop: {column: shop_id, to: shops, keep: originalShopId}}
    computed: {lastSeen: "coalesce(last_seen, now())"}
    constants: {status: active, version: 1}
    embed:
      tags:
        from: public.tags
        foreign_key: item_id
        order_by: tag
        references: {shop: {column: shop_id, to: shops}}
    indexes: [{keys: {lastSeen: 1}, expire_after_s: 60}]
"""
ITEM = (7, "741", 7, 3, 3, "1.50", "1000")  # key, version, then the fields in the table's order


def items(mapping: str = MAPPING) -> Reading:
    return reading("items", parse(mapping), Twin())


def elements(*tags: tuple[Any, ...]) -> dict[Any, list[Any]]:
    """As rows.py gathers them from what a statement returned."""
    [children] = items().children
    made: dict[Any, list[Any]] = {}
    for tag in tags:
        made.setdefault(children.parent_of(tag), []).append((children.fields(tag), [children.version(tag)]))
    return made


def expected(*tags: tuple[Any, ...]) -> dict[str, Any]:
    [made] = items().expected([ITEM], [elements(*tags)])
    assert made.id == object_id("public.items", (7,))
    return made.fields


def test_fields_of_a_document() -> None:
    tags = (7, 7, "a", "742", "a", 3), (7, 7, "b", "742", "b", None), (8, 8, "a", "742", "of another", 3)
    assert expected(*tags) == {
        "originalId": Int64(7),
        "shop": object_id("public.shops", (3,)),
        "originalShopId": Int64(3),
        "unitPrice": Decimal128("1.50"),
        "lastSeen": DatetimeMS(1000),
        "tags": [{"tag": "a", "shop": object_id("public.shops", (3,))}, {"tag": "b", "shop": None}],
        "status": "active",
        "version": 1,
    }


def test_a_parent_without_children_has_an_empty_array() -> None:
    assert expected()["tags"] == []


def test_a_child_that_changes_makes_another_version() -> None:
    found = [items().expected([ITEM], [elements((7, 7, "a", xmin, "a", 3))]) for xmin in ("1", "2")]
    versions = [made.version for [made] in found]
    assert versions[0] != versions[1]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("secret]", "secrets]"),
        ("rename: {id:", "rename: {ids:"),
        ("foreign_key: item_id", "foreign_key: [item_id, tag]"),
        ("foreign_key: item_id", "foreign_key: item"),
        ("order_by: tag", "order_by: tags"),
        ("unit_price > 0", "unit_price > 0; DROP TABLE items"),
    ],
)
def test_a_mapping_that_does_not_fit_its_tables(old: str, new: str) -> None:
    with pytest.raises(MappingInvalid):
        items(MAPPING.replace(old, new))


@pytest.mark.parametrize(
    "written",
    [
        "is_active",
        "status = 'a;b'",
        "expires_at > now()",
        "a % 2 = 0",
        "x IS NOT NULL AND NOT (y OR z)",
        "'--'",
    ],
)
def test_one_expression(written: str) -> None:
    assert one_expression(written, "here").as_string(None) == f"({written}\n)"


@pytest.mark.parametrize(
    "written",
    [
        "",
        "a; b",
        "a) OR (b",
        "a), (b",
        "a, b",
        "a) FROM users WHERE (b",
        "a b",
        "SELECT 1",
        "(SELECT 1)",
        "EXISTS (SELECT 1)",
        "a IN (SELECT 1)",
        "a -- comment",
        "a /* comment */",
        "a = $1",
        "a = 'open",
        "DELETE FROM users",
    ],
)
def test_not_one_expression(written: str) -> None:
    with pytest.raises(MappingInvalid):
        one_expression(written, "here")


def document(fields: dict[str, Any]) -> dict[str, Any]:
    return {"_id": object_id("public.items", (7,)), "_sync": {"at": None, "lsn": Int64(1)}, **fields}


def judged(fields: dict[str, Any] | None, found: dict[str, Any] | None, now_ms: int = 0) -> list[Difference]:
    return judge(items(), object_id("public.items", (7,)), (7,), fields, found, now_ms)


def test_what_a_document_points_by_is_made_from_its_own_row() -> None:
    copy = "    copy: {store: {from: public.shops, foreign_key: shop_id, only: [id]}}\n"
    copied = MAPPING.replace("    indexes:", f"{copy}    indexes:")
    its = items(copied)
    for held, pointer in ((3, object_id("public.shops", (3,))), (None, None)):
        [made] = its.expected([(*ITEM[:2], held, *ITEM[2:])], [elements()], [{}])
        assert made.copy == {"store": pointer}
        assert made.fields["store"] is None
        for kept, number in ((pointer, 0), (object_id("public.shops", (4,)), 1)):
            found = document(made.fields) | {"_sync": {"at": None, "lsn": Int64(1), "copy": {"store": kept}}}
            assert len(judge(its, made.id, made.key, made.fields, found, 0, made.copy)) == number


def test_kinds_of_differences() -> None:
    fields = expected() | {"lastSeen": DatetimeMS(10**9)}
    assert judged(fields, document(fields)) == []
    assert [d.kind for d in judged(fields, None)] == [Kind.MISSING]
    assert [d.kind for d in judged(None, document(fields))] == [Kind.EXTRA]
    [differs] = judged(fields, document(fields | {"status": "gone"}))
    assert (differs.kind, differs.field, differs.key) == (Kind.DIFFERS, "status", "[7]")
    [foreign] = judged(None, {"_id": 1})
    assert "another client" in (foreign.cause or "")


def test_what_a_ttl_lets_go_of_may_be_there_or_not() -> None:
    fields = expected()  # expires 61 s after 1970
    assert judged(fields, None, now_ms=61_000) == judged(None, document(fields), now_ms=61_000) == []
    assert judged(fields, document(fields | {"status": "gone"}), now_ms=61_000) != []


def test_ttl_boundaries() -> None:
    ttl = [("a.b", 10)]
    assert may_be_gone(ttl, {"a": {"b": DatetimeMS(0)}}, 10_000 - 120_000)
    assert not may_be_gone(ttl, {"a": {"b": DatetimeMS(0)}}, 10_000 - 120_001)
    assert may_be_gone(ttl, {"a": {"b": [DatetimeMS(10**15), DatetimeMS(0)]}}, 10_000)
    assert not may_be_gone(ttl, {"a": {"b": None}}, 10**15)
    assert not may_be_gone(ttl, {}, 10**15)


def test_a_mapping_of_collections_without_tables() -> None:
    assert isinstance(parse("version: 1\ncollections: {a: {}}"), Mapping_)
