"""Documents into rows and back again: through random mappings, what a mapping covers comes back as it was.

The rows are in memory, and read texts as PostgreSQL would; the way forward is the real one (`RowPlan.document`), put
together here from all rows, so that a row too many or too few shows.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import pytest
import yaml
from bson import Decimal128, Int64, ObjectId
from bson.datetime_ms import DatetimeMS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.errors import MappingFailed, RowRefused
from connectors.postgres.catalog import Column, Table
from connectors.postgres.rows import Row, TableRead
from connectors.postgres.writing import Given
from consumers.mapping import spec
from consumers.mapping.ids import object_id
from consumers.mapping.plan import Plan, RowPlan, compile_plan
from consumers.reverse import alike, echo
from consumers.reverse.invert import Back, invert, not_invertible
from consumers.reverse.texts import NoText, to_text
from consumers.reverse.write import KeyTexts, Writer, id_of, key_of_document, key_of_id

Doc = dict[str, Any]
_2000 = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)


def column(name: str, type_: str, *, null: bool = True) -> Column:
    return Column(name, type_, not null, False, type_)


def table(name: str, key: Sequence[str], *columns: Column) -> Table:
    return Table(f"public.{name}", "r", columns, tuple(key), "d", "p", False, 0)


PEOPLE = table(
    "people", ["id"], column("id", "bigint", null=False), column("full_name", "text", null=False),
    column("score", "numeric"), column("born", "timestamp with time zone"), column("is_active", "boolean", null=False),
    column("extra_data", "jsonb"), column("rank", "integer"), column("home_id", "uuid"), column("path", "text"),
    column("ratio", "double precision"),
)  # fmt: skip
HOMES = table("homes", ["id"], column("id", "uuid", null=False), column("city", "text"))
PETS = table(
    "pets", ["id"], column("id", "bigint", null=False), column("person_id", "bigint", null=False),
    column("name", "text", null=False), column("kind", "text"), column("weight", "numeric"),
)  # fmt: skip
TOYS = table(
    "toys", ["pet_id", "n"], column("pet_id", "bigint", null=False), column("n", "integer", null=False),
    column("label", "text"),
)  # fmt: skip
CATALOG = {t.name: t for t in (PEOPLE, HOMES, PETS, TOYS)}
GIVEN = {
    "public.people": {"id": Given(False), "is_active": Given(False)},
    "public.homes": {"id": Given(False)},
    "public.pets": {"id": Given(False)},
}


def read_text(kind: str, text: str) -> Any:
    """What a binary read gives of a value that was written as this text."""
    if kind in ("bigint", "integer"):
        return int(text)
    if kind == "boolean":
        return {"true": True, "false": False}[text]
    if kind == "uuid":
        return uuid.UUID(text)
    if kind == "numeric":
        return str(Decimal(text))
    if kind == "double precision":
        return float(text)
    if kind == "timestamp with time zone":
        return (dt.datetime.fromisoformat(text) - _2000) // dt.timedelta(microseconds=1)
    if kind == "jsonb":
        return b"\x01" + json.dumps(json.loads(text)).encode()
    assert kind == "text"
    return text


class MemoryRows:
    """Tables in memory."""

    def __init__(self) -> None:
        self.tables: dict[str, list[dict[str, Any]]] = {name: [] for name in CATALOG}
        self.next = 1_000
        self.writes = 0

    def _row(self, read: TableRead, row: Mapping[str, Any]) -> Row:
        return tuple(row[c.name] for c in read.columns)

    def _found(self, read: TableRead, columns: Sequence[str], key: Sequence[str]) -> list[dict[str, Any]]:
        kinds = {c.name: c.type for c in CATALOG[read.table].columns}
        wanted = {c: read_text(kinds[c], text) for c, text in zip(columns, key, strict=True)}
        return [r for r in self.tables[read.table] if all(r[c] == v for c, v in wanted.items())]

    def rows(self, read: TableRead, columns: Sequence[str], key: Sequence[str]) -> list[Row]:
        return [self._row(read, r) for r in self._found(read, columns, key)]

    def _cells(self, read: TableRead, cells: Mapping[str, str | None]) -> dict[str, Any]:
        kinds = {c.name: c for c in CATALOG[read.table].columns}
        for name, text in cells.items():
            if text is None and kinds[name].not_null:
                raise RowRefused(f"{name} takes no NULL", remedy="")
        return {n: None if t is None else read_text(kinds[n].type, t) for n, t in cells.items()}

    def insert(self, read: TableRead, cells: Mapping[str, str | None], *, overriding: bool) -> Row:
        row: dict[str, Any] = dict.fromkeys(c.name for c in CATALOG[read.table].columns)
        self.next += 1
        if read.table == "public.homes":
            row["id"] = uuid.UUID(int=self.next)
        elif "id" in row:
            row["id"] = self.next
        if "is_active" in row:
            row["is_active"] = True
        row |= self._cells(read, cells)
        if missing := [c.name for c in CATALOG[read.table].columns if c.not_null and row[c.name] is None]:
            raise RowRefused(f"{missing} takes no NULL", remedy="")
        if self._found(read, read.key, [str(row[c]) for c in read.key]):
            raise RowRefused("another row has this key", remedy="", sqlstate="23505")
        self.tables[read.table].append(row)
        self.writes += 1
        return self._row(read, row)

    def update(self, read: TableRead, key: Sequence[str], cells: Mapping[str, str | None]) -> Row:
        [row] = self._found(read, read.key, key)
        row |= self._cells(read, cells)
        self.writes += 1
        return self._row(read, row)

    def delete(self, read: TableRead, key: Sequence[str]) -> str:
        [row] = self._found(read, read.key, key)
        self.tables[read.table].remove(row)
        self.writes += 1
        return "{}"


class World:
    """Documents that an application writes, rows in memory, and the way back between them."""

    def __init__(self, mapping: Doc, *, deletes: bool = False) -> None:
        text = yaml.safe_dump(mapping)
        self.lines = spec.Lines(text, "mapping")
        self.declared = spec.parse(text)
        self.plan: Plan = compile_plan(self.declared, CATALOG, self.lines)
        self.backs: dict[str, Back] = invert(self.plan, GIVEN)
        self.memory = MemoryRows()
        self.ids: dict[tuple[str, str], KeyTexts] = {}
        self.writer = Writer(self.backs, self.memory, self, 0, deletes=deletes)
        self.documents: dict[tuple[str, str], Doc] = {}
        self.aside: dict[str, Doc] = {}

    def key(self, collection: str, id_: Any) -> KeyTexts | None:
        return self.ids.get((collection, str(id_)))

    def known(self, collection: str, id_: Any) -> KeyTexts | None:
        return key_of_id(self.backs[collection], id_) or self.key(collection, id_)

    def put(self, collection: str, document: Doc) -> None:
        key = self.known(collection, document["_id"]) or key_of_document(self.backs[collection], document)
        done = self.writer.put(collection, document, key)
        assert done.key is not None
        self.ids[collection, str(document["_id"])] = done.key
        self.documents[collection, str(document["_id"])] = document
        self.aside[str(document["_id"])] = done.aside

    def remove(self, collection: str, id_: Any) -> None:
        key = self.known(collection, id_)
        if key is not None:
            self.writer.remove(collection, key)
        self.documents.pop((collection, str(id_)), None)

    # -- the way forward -----------------------------------------------------------------------------------------
    def forward(self, collection: str) -> dict[ObjectId, Doc]:
        use = self.plan.documents[collection]
        found = {}
        for natives in self._natives(use):
            if use.inside(natives, 0):
                document = use.document(natives, 0)
                self._arrays(document, use.place, use.id_of(use.table.key_of(natives)))
                found[use.id_of(use.table.key_of(natives))] = document
        return found

    def _arrays(self, document: Doc, place: str, parent: ObjectId) -> None:
        for name, use in self.plan.arrays.get(place, {}).items():
            rows = [n for n in self._natives(use) if use.parent_of(n) == parent and use.inside(n, 0)]
            elements = []
            for natives in rows:
                element = use.document(natives, 0)
                self._arrays(element, use.place, use.id_of(use.table.key_of(natives)))
                elements.append(element)
            document[name] = elements

    def _natives(self, use: RowPlan) -> list[Mapping[str, Any]]:
        return [
            use.table.from_row([row[c.name] for c in use.table.columns])
            for row in self.memory.tables[use.table.name]
        ]

    def check(self) -> None:
        """Each document that its filter lets in is what the rows make; no row makes another one."""
        for collection, back in self.backs.items():
            made = self.forward(collection)
            for (of, id_), document in self.documents.items():
                if of == collection:
                    key = self.ids[of, id_]
                    found = made.pop(id_of(back.use.table, key), None)
                    if found is None:
                        assert back.use.where is not None
                        assert document.get("isActive") is False
                    else:
                        self.same(back, document, found)
            assert not made, f"rows without a document: {made}"

    def same(self, back: Back, document: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        for field in back.fields:
            if field.name in document and document[field.name] is not None:
                assert alike.same(document[field.name], found[field.name]), field.name
            elif field.nullable:
                assert found[field.name] in (None, dict(back.use.defaults).get(field.name)), field.name
        for reference in back.references:
            value = document.get(reference.name)
            key = None if value is None else self.known(reference.to, value)
            wanted = None if key is None else id_of(self.backs[reference.to].use.table, key)
            assert found[reference.name] == wanted
        for name, inner in back.arrays.items():
            elements = list(document.get(name) or [])
            assert len(elements) == len(found[name]), name
            for element in elements:
                fits = [f for f in found[name] if self.fits(inner, element, f)]
                assert fits, (element, found[name])

    def fits(self, back: Back, element: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
        try:
            self.same(back, element, found)
        except AssertionError:
            return False
        return True


# -- random mappings, and what an application writes under them --------------------------------------------------
texts = st.text(alphabet="ab é'\\\"{},\n", max_size=4)
numbers = st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-1000, max_value=1000)
moments = st.integers(-(10**12), 10**12).map(DatetimeMS)
plain = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | texts | st.floats(-10, 10, width=32)
jsons = st.dictionaries(
    texts, st.recursive(plain, lambda s: st.lists(s, max_size=2), max_leaves=4), max_size=3
)


@st.composite
def mappings(draw: st.DrawFn) -> Doc:
    people: Doc = {"from": "public.people", "rename": {}, "convert": {}}
    if draw(st.booleans()):
        people["where"] = draw(st.sampled_from(["is_active", "is_active AND full_name IS NOT NULL"]))
    if draw(st.booleans()):
        people["rename"] |= {"full_name": "n", "id": "originalId"}
    if draw(st.booleans()):
        people["convert"] |= draw(
            st.sampled_from(
                [{"score": "text"}, {"score": "double"}, {"born": "micros"}, {"extra_data": "text"}]
            )
        )
    if draw(st.booleans()):
        people["convert"]["path"] = {"prefix": {"from": "/old", "to": "/new"}}
    if draw(st.booleans()):
        people["references"] = {"home": {"column": "home_id", "to": "homes"}}
    if draw(st.booleans()):
        people["constants"] = {"type": "person"}
    if draw(st.booleans()):
        people["defaults"] = {"rank": 7}
    if draw(st.booleans()):
        people["omit"] = ["ratio"]
    if draw(st.booleans()):
        pets: Doc = {"from": "public.pets", "foreign_key": "person_id"}
        if draw(st.booleans()):
            pets["where"] = "kind <> 'hidden'"
        if draw(st.booleans()):
            pets["omit"] = ["id"]
        elif draw(st.booleans()):
            pets["embed"] = {"toys": {"from": "public.toys", "foreign_key": "pet_id"}}
        people["embed"] = {"pets": pets}
    return {"version": 1, "collections": {"people": people, "homes": {"from": "public.homes"}}}


def people_of(world: World, homes: Sequence[ObjectId], draw: Callable[..., Any], document: Doc) -> None:
    """Give a person's document what an application would."""
    convert = world.declared.collections["people"].convert
    back = world.backs["people"]
    values = {
        "full_name": texts, "is_active": st.booleans(), "extra_data": jsons, "rank": st.integers(-5, 5),
        "ratio": st.floats(-10, 10), "score": numbers.map(Decimal128), "born": moments,
        "path": st.sampled_from(["/new/a", "/new", "/other/b", "/newer"]),
    }  # fmt: skip
    special = {"text": numbers.map(str), "double": st.floats(-10, 10, width=16)}
    for field in back.fields:
        if field.column in ("id", "home_id"):
            continue
        kind = convert.get(field.column)
        of = values[field.column]
        if field.column == "score" and isinstance(kind, str):
            of = special[kind]
        if field.column == "born" and kind == "micros":
            of = st.integers(-(10**12), 10**12).map(Int64)
        if field.column == "extra_data" and kind == "text":
            of = jsons.map(json.dumps)
        if field.nullable and draw(st.booleans()):
            document.pop(field.name, None)
            if draw(st.booleans()):
                document[field.name] = None
        else:
            document[field.name] = draw(of)
    for reference in back.references:
        document[reference.name] = draw(st.none() | st.sampled_from(homes)) if homes else None
    if "pets" in back.arrays:
        document["pets"] = pets_of(back.arrays["pets"], draw, document.get("pets", []))
    if draw(st.booleans()):
        document["unknown"] = draw(st.integers())


def pets_of(back: Back, draw: Callable[..., Any], before: list[Doc]) -> list[Doc]:
    fields = {f.name: f for f in back.fields}
    kept = [dict(pet) for pet in before if draw(st.booleans())]
    for pet in kept:
        if draw(st.booleans()):
            pet["name"] = draw(texts)
    for _ in range(draw(st.integers(0, 2))):
        pet = {
            "name": draw(texts),
            "kind": draw(st.sampled_from(["cat", "dog"])),
            "weight": Decimal128(draw(numbers)),
        }
        kept.append({name: value for name, value in pet.items() if name in fields})
        if "id" in fields:
            kept[-1]["id"] = Int64(draw(st.integers(1, 10**9)) * 1_000 + len(kept))
    if "toys" in back.arrays:
        for pet in kept:
            numbers_ = draw(st.lists(st.integers(1, 4), unique=True, max_size=3))
            pet["toys"] = [{"n": n, "label": draw(texts)} for n in numbers_]
    keys = [pet.get("id") for pet in kept]
    return kept if "id" not in fields or len(set(keys)) == len(keys) else kept[:1]


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_what_a_mapping_covers_comes_back_as_it_was(data: st.DataObject) -> None:
    world = World(data.draw(mappings(), label="mapping"))
    homes: list[ObjectId] = []
    for _ in range(data.draw(st.integers(1, 6), label="operations")):
        there = [d for (c, _), d in world.documents.items() if c == "people"]
        act = data.draw(st.sampled_from(["home", "insert", "update", "delete", "again"]))
        if act == "home":
            home = {"_id": ObjectId(), "city": data.draw(texts)}
            world.put("homes", home)
            homes.append(home["_id"])
        elif act == "insert" or (act in ("update", "again") and not there):
            document: Doc = {"_id": ObjectId()}
            people_of(world, homes, data.draw, document)
            world.put("people", document)
        elif act == "update":
            document = dict(data.draw(st.sampled_from(there)))
            people_of(world, homes, data.draw, document)
            world.put("people", document)
        elif act == "again":
            before = world.memory.writes
            world.put("people", data.draw(st.sampled_from(there)))
            assert world.memory.writes == before, "the same document once more was written"
        elif there:
            world.remove("people", data.draw(st.sampled_from(there))["_id"])
        world.check()


PEOPLE_ONLY: Doc = {"version": 1, "collections": {"people": {"from": "public.people", "where": "is_active"}}}


def test_microseconds_stay_where_the_date_is_the_same() -> None:
    world = World(PEOPLE_ONLY)
    world.put(
        "people", {"_id": object_id("public.people", (5,)), "fullName": "Ann", "born": DatetimeMS(1_000)}
    )
    [row] = world.memory.tables["public.people"]
    row["born"] += 123
    world.put(
        "people", {"_id": object_id("public.people", (5,)), "fullName": "Bea", "born": DatetimeMS(1_000)}
    )
    assert row["born"] % 1_000 == 123
    assert row["full_name"] == "Bea"
    assert row["id"] == 5


def test_what_goes_to_no_column_is_told() -> None:
    world = World(PEOPLE_ONLY | {"collections": {"people": {"from": "public.people", "constants": {"v": 1}}}})
    world.put(
        "people", {"_id": 1, "fullName": "a", "isActive": True, "v": 2, "more": [1], "_sync": {"lsn": 1}}
    )
    assert world.aside["1"] == {"v": 2, "more": [1]}


def test_a_deleted_document_is_hidden_or_gone() -> None:
    for deletes in (False, True):
        world = World(PEOPLE_ONLY, deletes=deletes)
        world.put("people", {"_id": 1, "fullName": "a", "isActive": True})
        world.remove("people", 1)
        assert [r["is_active"] for r in world.memory.tables["public.people"]] == ([] if deletes else [False])
        world.check()


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"fullName": 5}, "a int where a string is needed"),
        ({"fullName": "a", "rank": 1.5}, "not whole"),
        ({"fullName": "a\0"}, "NUL"),
        ({"fullName": "a", "extraData": {"a": ObjectId()}}, "ObjectId inside of JSON"),
        ({"fullName": "a", "homeId": "no uuid"}, "badly formed"),
        ({}, "takes no NULL"),
    ],
)
def test_what_does_not_fit_is_refused(document: Doc, told: str) -> None:
    world = World(PEOPLE_ONLY)
    with pytest.raises((MappingFailed, RowRefused, ValueError), match=told):
        world.put("people", {"_id": 1, **document})


def test_what_does_not_come_back_is_said_by_line() -> None:
    mapping = """version: 1
collections:
  people:
    from: public.people
    omit: [full_name, born]
    computed:
      strength: "rank + 1"
      since: "coalesce(born, now())"
    embed:
      pets: {from: public.pets, foreign_key: person_id, omit: [id]}
  pets:
    from: public.pets
  notes: {indexes: [{keys: {a: 1}}]}
"""
    lines, declared = spec.Lines(mapping, "m"), spec.parse(mapping)
    backs = invert(compile_plan(declared, CATALOG, lines), GIVEN)
    told = {(f.line, f.lost): f.what for f in not_invertible(backs, declared, lines)}
    assert "full_name is NOT NULL" in told[3, True]
    assert "people.strength: it is computed" in told[7, False]
    assert "do not hold the key of public.pets" in told[10, False]
    assert "public.pets is in several places" in told[11, True]
    assert "no table feeds it" in told[13, False]
    assert not any("since" in what for what in told.values())


@pytest.mark.parametrize(
    ("kind", "set_", "sync", "before", "own"),
    [
        ("insert", (), {"at": 1, "lsn": 5}, None, True),
        ("insert", (), None, None, False),
        ("update", ("name",), None, {"lsn": 5}, False),
        ("update", ("name", "_sync.lsn"), None, {"lsn": 5}, True),
        ("update", ("_sync",), None, None, True),
        ("update", ("_syncing",), None, None, False),
        ("replace", (), {"lsn": 5}, {"lsn": 5}, False),
        ("replace", (), {"lsn": 6}, {"lsn": 5}, True),
        ("replace", (), {"lsn": 6}, None, False),
        ("delete", (), None, {"lsn": 5}, False),
    ],
)
def test_tandems_own_changes_are_known(kind: str, set_: Any, sync: Any, before: Any, own: bool) -> None:
    assert echo.own(kind, set_, sync, before) is own


def test_texts_that_paths_came_from() -> None:
    rewrite = spec.Rewrite.model_validate(
        {"prefix": {"from": "/old", "to": "/new", "workspaces": "saved/migration_1"}}
    )
    back = to_text(column("path", "text"), rewrite)
    assert back("/new/private/ann/saved/migration_1/x/y") == "/old/private/ann/x/y"
    assert back("/new/shared/z") == "/old/shared/z"
    assert back("/elsewhere") == "/elsewhere"
    assert back("/new/private/ann/active/n") == "/new/private/ann/active/n"
    with pytest.raises(NoText):
        back("/old/private/ann/x")
