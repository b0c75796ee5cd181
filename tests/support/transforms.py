"""Mistakes in what the consumers make of rows, one at a time, and a small database on which each of them shows.

The mistakes are made in place: a function's code is replaced, so that tables of functions made at import have it too.
"""

from __future__ import annotations

import importlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

SCHEMA = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TYPE mood AS ENUM ('low', 'high');
CREATE TYPE size AS (width int, note text);
CREATE TABLE owners (
  id bigint PRIMARY KEY, name text NOT NULL, nick text, score numeric(12, 3), weight numeric, ratio float8, small real,
  seen timestamptz, exactly timestamptz, local timestamp, day date, at time, tags text[], grid int[], doc jsonb,
  raw bytea, uid uuid, vec vector(3), span int4range, extent size, pause interval, felt mood, on_ bool, ends date,
  folder text, spot point, tall float8, cash money);
CREATE TABLE items (
  id int PRIMARY KEY, owner_id bigint REFERENCES owners, place int, kind text, title text, due timestamptz);
CREATE TABLE marks (id int PRIMARY KEY, item_id int REFERENCES items, mark text);
CREATE TABLE prices (code numeric(10, 4) PRIMARY KEY, amount numeric);
CREATE TABLE orders (
  id uuid PRIMARY KEY, owner_id bigint, code numeric(10, 4), lender_id bigint, note text, quantity int);
INSERT INTO owners VALUES
  (1, 'Ann', NULL, 12.500, 1.25, 0.1, 0.3, '2024-02-29 23:59:59.123456+00', '2024-02-29 23:59:59.123457+00',
   '1999-12-31 12:00:00.001', '2024-02-29', '12:34:56.780000', '{a,NULL,"b,c"}', '{{1,2},{3,4}}',
   '{"whole": 9007199254740993, "part": 1.5, "long": 0.12345678901234567890}', '\\x00ff',
   '00112233-4455-6677-8899-aabbccddeeff', '[1.5,-2,0.25]', '[1,5)', '(3,"two words")', '1 mon 2 days 03:04:05.000006',
   'high', true, 'infinity', '/mnt/old/ann', '(1,-2)', 1e20, 12.34),
  (2, 'Bo', 'b', -0.000, 'NaN', 'NaN', 1e10, '1969-12-31 23:59:59.999999+00', '-infinity', '2262-04-12', '1969-12-30',
   '24:00', '{x,NULL}', '{}', '[null, {"a": []}]', '', 'ffffffff-0000-0000-0000-000000000000', '[0,0,0]', 'empty',
   '(,)', '-1 days', NULL, false, NULL, '/mnt/older/bo', '(0,0)', -1.5, -0.01),
  (3, '', '', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
   NULL, 'low', NULL, '2024-01-01', '/mnt/old', NULL, NULL, NULL);
INSERT INTO items VALUES (1, 1, 2, 'open', 'second', now()), (2, 1, 1, 'open', 'first', NULL),
  (3, 1, 3, NULL, 'no kind', NULL), (4, 2, 9, 'hidden', 'not seen', NULL),
  (5, 2, 2, 'open', 'two', NULL), (6, 2, NULL, 'open', 'last', NULL),
  (10, 2, 10, 'open', 'ten', NULL), (7, NULL, 1, 'open', 'nobody', NULL);
INSERT INTO marks VALUES (1, 1, 'x'), (2, 1, 'y'), (3, 5, 'z');
INSERT INTO prices VALUES (1.5, 2), (2, 3.10);
INSERT INTO orders VALUES
  ('00000000-0000-0000-0000-000000000001', 1, 1.5, 2, 'Straße', 3),
  ('00000000-0000-0000-0000-000000000002', 3, 2, NULL, NULL, NULL),
  ('00000000-0000-0000-0000-000000000003', NULL, NULL, 1, 'x', -7);
"""
TABLES = ("owners", "items", "marks", "prices", "orders")
MAPPING = """
version: 1
collections:
  owners:
    from: public.owners
    rename: {on_: active}
    constants: {version: 2, since: 2024-01-01}
    defaults: {nick: none given}
    omit: [weight]
    convert:
      exactly: micros
      local: text
      ratio: text
      small: text
      ends: date-clamped
      pause: document
      folder: {prefix: {from: /mnt/old, to: /srv/new}}
    embed:
      items:
        from: public.items
        foreign_key: owner_id
        where: kind <> 'hidden'
        order_by: [place]
        embed: {marks: {from: public.marks, foreign_key: item_id}}
  prices: {from: public.prices}
  orders:
    from: public.orders
    where: quantity IS NULL OR quantity > -5 OR note = 'x'
    references: {owner: {column: owner_id, to: owners}, price: {column: code, to: prices}}
    computed: {twice: "quantity * 2 - 1", label: "coalesce(note, '-') || '!'", many: "quantity > 2"}
    copy: {lender: {from: public.owners, foreign_key: lender_id, only: [name, nick, score]}}
"""


@dataclass(frozen=True)
class Mistake:
    """place: `module:name` or `module:Class.name`. A text of it is replaced by another."""

    place: str
    old: str
    new: str

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.place.removeprefix('consumers.')}: {self.old} -> {self.new}"


@contextmanager
def made(mistake: Mistake) -> Iterator[None]:
    """With this mistake."""
    module_name, _, path = mistake.place.partition(":")
    module = importlib.import_module(module_name)
    found: Any = module
    for part in path.split("."):
        found = inspect.getattr_static(found, part)
    function = getattr(found, "__func__", found)
    assert isinstance(function, FunctionType), mistake.place
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(mistake.old) != 1:
        raise ValueError(f"{mistake.place} has no longer just one {mistake.old!r}: mend this mistake")
    scope = dict(vars(module))
    lines = source.replace(mistake.old, mistake.new)
    if lines.startswith("@"):
        lines = lines[lines.index("def ") :]
    exec(compile(f"from __future__ import annotations\n{lines}", mistake.place, "exec"), scope)
    broken = scope[path.rsplit(".", 1)[-1]]
    assert not isinstance(broken, MethodType)
    whole, function.__code__ = function.__code__, broken.__code__
    try:
        yield
    finally:
        function.__code__ = whole


_VALUES, _MOMENTS, _TEXTS = "consumers.mapping.values", "consumers.mapping.moments", "consumers.mapping.texts"
_COMPOSED, _RENDERED, _KEYS = (
    "consumers.mapping.composed",
    "consumers.mapping.rendered",
    "consumers.mapping.keys",
)
_PLAN, _ARRAYS, _COPIES = "consumers.mapping.plan", "consumers.apply.arrays", "consumers.apply.copies"

MISTAKES = (
    Mistake(f"{_MOMENTS}:instant_to_bson", "value // 1_000", "value // 1_000_000 * 1_000"),
    Mistake(f"{_MOMENTS}:instant_to_bson", "value // 1_000", "int(value / 1_000)"),
    Mistake(f"{_MOMENTS}:micros_to_bson", "Int64(value)", "Int64(value - value % 2)"),
    Mistake(f"{_MOMENTS}:micros_to_bson", "Int64(value)", "float(value)"),
    Mistake(f"{_MOMENTS}:date_to_bson", "86_400_000", "86_400_001"),
    Mistake(f"{_MOMENTS}:instant_from_row", "value + _EPOCH_2000_US", "value + _EPOCH_2000_US + 1"),
    Mistake(f"{_MOMENTS}:time_text", '.rstrip("0")', ""),
    Mistake(f"{_MOMENTS}:timestamp_text", "{day} ", "{day}T"),
    Mistake(f"{_VALUES}:decimal_to_bson", "Decimal128(value)", "Decimal128(value.normalize())"),
    Mistake(
        f"{_VALUES}:_json_int", "return value if value in INT64", "return float(value) if value in INT64"
    ),
    Mistake(f"{_VALUES}:_json_float", "Decimal(repr(value)) == exact", "True"),
    Mistake(f"{_VALUES}:vector_from_row", "floats.byteswap()", "pass"),
    Mistake(f"{_VALUES}:vector_from_row", "value[4:]", "value[8:]"),
    Mistake(f"{_VALUES}:_constant", "86_400_000", "86_400"),
    Mistake(f"{_TEXTS}:array", 'None if item == "NULL" else item', "item"),
    Mistake(f"{_TEXTS}:_nested", 'None if bare == "NULL" else bare', "bare"),
    Mistake(f"{_TEXTS}:_nested", "_plain(quoted)", '_plain(quoted).replace(",", "")'),
    Mistake(f"{_TEXTS}:bounds", 'text[-1] == "]"', "True"),
    Mistake(f"{_TEXTS}:bounds", "return None", "return Bounds(None, None, False, False)"),
    Mistake(f"{_TEXTS}:fields", "else bare or None", "else bare or '0'"),
    Mistake(f"{_COMPOSED}:_interval", "whole + (-micros if minus else micros)", "whole + micros // 10"),
    Mistake(f"{_COMPOSED}:_point", '"x": x, "y": y', '"x": y, "y": x'),
    Mistake(f"{_RENDERED}:_printed", "-4 <= point < limit", "-4 <= point < 99"),
    Mistake(f"{_KEYS}:_numeric", 'text.rstrip("0").rstrip(".") if "." in text else text', "text"),
    Mistake(f"{_PLAN}:RowPlan.inside", "is True", "is not False"),
    Mistake(f"{_PLAN}:RowPlan.inside", "self.where(natives, now_us) is True", "True"),
    Mistake(f"{_PLAN}:RowPlan.document", "fields[name] is None", "not fields[name]"),
    Mistake(f"{_PLAN}:RowPlan.document", "for name, value in self.defaults", "for name, value in ()"),
    Mistake(f"{_PLAN}:RowPlan.document", "fields.update(self.constants)", "pass"),
    Mistake(
        f"{_PLAN}:RowPlan.document",
        "referred(table, parts, natives)",
        "referred(self.table.name, parts, natives)",
    ),
    Mistake(f"{_PLAN}:RowPlan.document", "in self.computed", "in self.computed[1:]"),
    Mistake(
        f"{_PLAN}:RowPlan.sort_values", "for column, of in self.order", "for column, of in self.order[1:]"
    ),
    Mistake(
        f"{_PLAN}:RowPlan.parent_of",
        "self.parent_key, natives)",
        "self.parent_key, natives) if natives['id'] != 10 else None",
    ),
    Mistake(f"{_ARRAYS}:arrays_from_staging", 'sort_key(row["o"])', 'str(row["o"])'),
    Mistake(f"{_ARRAYS}:arrays_from_staging", "sorted(of,", "sorted(of[:1],"),
    Mistake(f"{_ARRAYS}:sort_key", "(2, 0) if v is None", "(-1, 0) if v is None"),
    Mistake(f"{_ARRAYS}:inner_arrays", "made.get(row, [])", "[]"),
    Mistake(f"{_COPIES}:copied_anew", "{field: value}", "{field: None}"),
)
