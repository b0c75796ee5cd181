"""Repairs without servers: what is read and written, what is left alone, and what is told."""

from __future__ import annotations

import io
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from bson import Int64, ObjectId
from rich.console import Console

from connectors.mongo import ledger
from connectors.positions import Lsn, Partition, Snapshot
from consumers.mapping.ids import object_id
from consumers.repair import Act, Repaired, Repairer, Wanted
from sync.repair.report import RepairReport, Suspect, changed, ids_meant, line_of, render, suspects
from sync.repair.run import Repair
from tests.support.memory_mongo import MemoryMongo, MemoryTransactions
from tests.support.simulation import MEMBERS, TEAMS, plan_of

PLAN = plan_of(False)
TABLES = (TEAMS, MEMBERS)
SYNC = {"at": None, "lsn": Int64(1)}


class _Rows:
    """PostgreSQL: teams by id, members by id. asked: what was read, by table."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[int, dict[str, Any]]] = {TEAMS: {}, MEMBERS: {}}
        self.asked: list[str] = []

    def team(self, number: int, name: str = "a", *, score: str = "1") -> None:
        self.rows[TEAMS][number] = {
            "id": number, "team_name": name, "description": None, "is_active": True, "score": Decimal(score),
        }  # fmt: skip

    def member(self, number: int, team: int, status: str = "active") -> None:
        self.rows[MEMBERS][number] = {
            "id": number, "team_id": team, "place": number, "joined": 0, "note": None, "status": status,
            "weight": Decimal(1),
        }  # fmt: skip

    def read(self, wanted: Any) -> tuple[dict[str, list[Any]], Lsn]:
        found = {}
        for read, keys in wanted.items():
            self.asked.append(read.table)
            there = self.rows[read.table].values()
            found[read.table] = [
                tuple(row[c.name] for c in read.columns)
                for row in there
                if tuple(str(row[c]) for c in read.key) in {tuple(k) for k in keys}
            ]
        return found, Lsn(500)

    def visible_now(self) -> Snapshot:
        return Snapshot(10**6, 10**6, frozenset())


def team_id(number: int) -> ObjectId:
    return object_id(TEAMS, [number])


@dataclass
class World:
    store: MemoryMongo
    rows: _Rows

    def repairer(self, **more: Any) -> Repairer:
        return Repairer(
            MemoryTransactions(self.store.db),  # type: ignore[arg-type]
            self.rows,
            PLAN,
            lambda: 2_000_000,
            lambda: ledger.positions(self.store.db).values(),  # type: ignore[arg-type]
            **more,
        )

    def repair(self, *numbers: int, keep: bool = True, **more: Any) -> dict[int, Repaired]:
        wanted = [Wanted("teams", team_id(n), (n,)) for n in numbers]
        done = list(self.repairer(**more).repair(wanted, keep=keep))
        return dict(zip(numbers, done, strict=True))

    def put(self, collection: str, _id: Any, document: dict[str, Any]) -> None:
        self.store.plain_write(collection, _id, {"_id": _id, **document})

    @property
    def teams(self) -> dict[Any, Any]:
        return self.store.collection("teams")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    store = MemoryMongo()
    for table in TABLES:
        homes = {Partition(f"tandem.{table}", n): 0 for n in (0, 1)}
        ledger.add_positions(store.db, table, "id", homes)  # type: ignore[arg-type]
        for home in homes:
            position = store.collection(ledger.POSITIONS)[home.id]
            store.plain_write(ledger.POSITIONS, home.id, {**position, "holder": None})
    for name in ("register_guest", "forget_worker"):
        monkeypatch.setattr(ledger, name, lambda *_: None)
    return World(store, _Rows())


def test_a_document_is_made_anew_with_its_arrays_and_what_is_staged(world: World) -> None:
    world.rows.team(1)
    for number in (1, 2):
        world.rows.member(number, 1)
    world.put("teams", team_id(1), {"teamName": "x", "isVip": True, "_sync": SYNC})
    place = next(iter(PLAN.arrays["teams"].values())).place
    strange = ObjectId()
    world.put(place, strange, {"p": team_id(1), "d": {}, "o": [0], "l": Int64(1)})
    done = world.repair(1)[1]
    assert done.act is Act.WRITTEN
    assert set(done.rows) == {f"{TEAMS} [1]", f"{MEMBERS} [1]", f"{MEMBERS} [2]"}
    document = world.teams[team_id(1)]
    assert document["teamName"] == "a"
    assert "isVip" not in document
    assert len(document["members"]) == 2
    assert set(world.store.collection(place)) == {object_id(MEMBERS, [n]) for n in (1, 2)}
    assert (done.before or {})["isVip"] is True


def test_all_positions_of_its_tables_are_written_first(world: World) -> None:
    world.rows.team(1)
    world.repair(1)
    positions = world.store.collection(ledger.POSITIONS).values()
    assert [p.get("touched") for p in positions] == [1] * 4


def test_what_has_no_row_is_removed(world: World) -> None:
    world.put("teams", team_id(9), {"_sync": SYNC})
    assert world.repair(9)[9].act is Act.REMOVED
    assert world.teams == {}
    assert world.repair(9)[9].act is Act.ABSENT


def test_a_dry_run_tells_and_keeps_nothing(world: World) -> None:
    world.rows.team(1)
    world.put("teams", team_id(1), {"teamName": "x", "_sync": SYNC})
    done = world.repair(1, keep=False)[1]
    assert (done.after or {})["teamName"] == "a"
    assert world.teams[team_id(1)]["teamName"] == "x"
    assert world.store.open == []


def test_a_row_that_is_parked_is_for_a_retry(world: World) -> None:
    world.rows.team(1)
    world.rows.team(2)
    world.rows.member(7, 1)
    world.put("teams", team_id(1), {"teamName": "x", "_sync": SYNC})
    world.put(ledger.PARKED, f"{MEMBERS} [7]", {"table": MEMBERS, "key": "[7]"})
    done = world.repair(1, 2)
    assert done[1].act is Act.PARKED
    assert done[1].remedy == f"tandem dead-letters retry '{MEMBERS} [7]'"
    assert world.teams[team_id(1)]["teamName"] == "x"
    assert done[2].act is Act.WRITTEN
    assert f"{MEMBERS} [7]" in world.store.collection(ledger.PARKED)


def test_what_tandem_did_not_write_is_left_unless_it_is_asked_for(world: World) -> None:
    foreign = [Wanted("teams", "me"), Wanted("teams", object_id("public.other", [1]))]
    for one in foreign:
        world.put("teams", one.id, {"x": 1})
    strange = Wanted("teams", object_id("public.other", [2]))
    world.put("teams", strange.id, {"_sync": SYNC})
    acts = [one.act for one in world.repairer().repair([*foreign, strange])]
    assert acts == [Act.FOREIGN, Act.FOREIGN, Act.REMOVED]
    assert len(world.teams) == 2
    assert [one.act for one in world.repairer(remove_foreign=True).repair(foreign)] == [Act.REMOVED] * 2
    assert world.teams == {}


def test_one_that_cannot_be_written_is_found_among_many(world: World) -> None:
    for number in range(1, 30):
        world.rows.team(number, f"team {number}", score="1." + "1" * 40 if number == 13 else "1")
    by_id = {one.wanted.id: one.act for one in world.repair(*range(1, 30)).values()}
    assert by_id.pop(team_id(13)) is Act.FAILING
    assert set(by_id.values()) == {Act.WRITTEN}
    assert len(world.teams) == 28


def test_nothing_is_written_while_a_table_is_held(world: World) -> None:
    world.rows.team(1)
    home = f"tandem.{MEMBERS}/1"
    position = world.store.collection(ledger.POSITIONS)[home]
    world.store.plain_write(ledger.POSITIONS, home, {**position, "holder": "heal:x"})
    assert world.repair(1)[1].act is Act.BUSY
    assert world.rows.asked == []


def test_what_else_is_made_of_its_rows_stays(world: World) -> None:
    """A member of two uses: only the team's is written."""
    world.rows.team(1)
    world.rows.member(1, 1)
    world.repair(1)
    written = {name for name, of in world.store.documents.items() if of and not name.startswith("_tandem_")}
    assert written == {"teams"}


# -- what is told ------------------------------------------------------------------------------------------------
@dataclass
class _Found:
    kind: str
    collection: str
    id: str
    key: str | None
    field: str | None = None
    expected: str | None = None
    found: str | None = None


def test_differences_of_a_document_are_one_and_flux_is_not_repaired(world: World) -> None:
    world.rows.team(1)
    one, two = str(team_id(1)), str(team_id(2))
    found = [
        _Found("differs", "teams", one, "[1]", "teamName"),
        _Found("differs", "teams", one, "[1]", "score"),
        _Found("in flux", "teams", two, "[2]", "score"),
    ]
    assert [s.differs for s in suspects(found)] == [["teamName", "score"], ["score"]]
    work = Repair(PLAN, world.repairer(), lambda wanted: [[]] * len(wanted), lambda name, ids: [])
    report = work.run(found, "0/1", execute=True)
    assert {line.suspect.id: line.verdict for line in report.lines} == {one: "mended", two: "in flux"}
    assert not report.ok
    still = Repair(
        PLAN, world.repairer(), lambda wanted: [[_Found("differs", "teams", one, "[1]", "score", "1", "2")]],
        lambda name, ids: [],
    ).run(found[:1], "0/1", execute=True)  # fmt: skip
    assert still.lines[0].verdict == "still differs"
    assert still.lines[0].still == ("score: expected 1, found 2",)


def test_an_id_without_a_key_may_be_meant_in_several_ways() -> None:
    hexed = "0" * 24
    assert ids_meant(hexed) == [ObjectId(hexed), hexed]
    assert ids_meant("-5") == ["-5", -5]
    assert ids_meant("me") == ["me"]


def test_changes_are_told_by_field_and_secrets_are_not() -> None:
    before = {"_id": 1, "size": 3.0, "pin": "1234", "members": [{"n": 1}, {"n": 2, "pin": "x"}], "same": 1}
    after = {"_id": 1, "size": 3, "pin": "9", "members": [{"n": 1}], "same": 1, "_sync": SYNC}
    told = changed({**before, "_sync": SYNC}, after, lambda path: path.endswith("pin"))
    assert told == [
        "- size: 3.0",
        "+ size: 3",
        "- pin: '***'",
        "+ pin: '***'",
        "  members: 2 elements, then 1",
        "- members[1]: {n: 2, pin: '***'}",
    ]
    assert changed(None, {"_id": 1, "a": Int64(1), "_sync": SYNC}, lambda _: False) == ["+ a: NumberLong(1)"]
    assert changed(before, after, lambda _: False)[-1].startswith("+ _sync: {at: null")
    many = changed({}, {f"f{n}": n for n in range(30)}, lambda _: False)
    assert many[-1] == "… and 23 more lines"
    assert "nothing but _sync" in changed({**after}, after, lambda _: False)[0]


def test_a_report_is_printed() -> None:
    suspect = Suspect("teams", "66f0", "[1]", ["size"], in_flux=False)
    done = Repaired(
        Wanted("teams", team_id(1), (1,)), Act.WRITTEN, {"size": 1}, {"size": 2}, ("public.teams [1]",)
    )
    report = RepairReport(execute=False, lsn="0/1", lines=[line_of(suspect, done, lambda _: False)])
    console = Console(record=True, width=120, file=io.StringIO())
    render(report, console)
    text = console.export_text()
    assert "teams 66f0 key [1]: would be made anew" in text
    assert "read: public.teams [1]" in text
    assert "+ size: 2" in text
    assert "repeat with --execute" in text
    assert not report.ok
    assert report.as_dict()["documents"][0]["act"] == "made anew"
