"""Histories that have broken pipelines of this kind before: contention, swaps, filters, arrays, truncates. All on one
pipeline with two consumers; after each, every field has to agree."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from consumers.mapping.ids import object_id
from sync.dev.state import Addresses
from tests.support import stack as servers
from tests.support.pipeline import Pipeline, apart, consuming, partition_of, pipeline
from tests.support.until import until

TABLES = """
CREATE TABLE keyed (id bigint PRIMARY KEY, v text, u text UNIQUE);
CREATE TABLE defaults (id bigint PRIMARY KEY DEFAULT 7, i integer DEFAULT 5, t text DEFAULT 'a text',
                       b boolean DEFAULT true, at timestamptz DEFAULT now(), day date DEFAULT '2024-02-29',
                       n numeric(5, 2) DEFAULT 1.5, u uuid DEFAULT gen_random_uuid(), j jsonb DEFAULT '{}',
                       r real DEFAULT 0.5, by bytea DEFAULT 'bytes');
CREATE TABLE places (id bigint PRIMARY KEY, place integer UNIQUE DEFERRABLE INITIALLY IMMEDIATE);
CREATE TABLE letters (id bigint PRIMARY KEY, status text, body text, note text);
ALTER TABLE letters ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE TABLE clubs (id bigint PRIMARY KEY, name text, is_open boolean NOT NULL DEFAULT true, about text);
ALTER TABLE clubs ALTER COLUMN about SET STORAGE EXTERNAL;
CREATE TABLE members (id bigint PRIMARY KEY, club_id bigint REFERENCES clubs ON DELETE CASCADE, rank double precision,
                      name text, present boolean DEFAULT true, photo text);
ALTER TABLE members ALTER COLUMN photo SET STORAGE EXTERNAL;
CREATE TABLE tags (club_id bigint REFERENCES clubs ON DELETE CASCADE, tag text, weight integer,
                   PRIMARY KEY (club_id, tag));
CREATE TABLE tree (id bigint PRIMARY KEY, parent_id bigint REFERENCES tree ON DELETE CASCADE, label text);
"""
MAPPING = """
version: 1
collections:
  defaults: {from: public.defaults}
  keyed: {from: public.keyed, indexes: [{keys: {u: 1}, unique: true, partial: {u: {$type: string}}}]}
  places: {from: public.places, indexes: [{keys: {place: 1}, unique: true, partial: {place: {$type: number}}}]}
  letters: {from: public.letters, where: "status = 'open'"}
  clubs:
    from: public.clubs
    where: is_open
    embed:
      members: {from: public.members, foreign_key: club_id, where: present, order_by: [rank], omit: [present]}
      tags: {from: public.tags, foreign_key: club_id, order_by: weight}
  people: {from: public.members, references: {club: {column: club_id, to: clubs, keep: originalClubId}}}
  tree:
    from: public.tree
    references: {parent: {column: parent_id, to: tree}}
    embed: {children: {from: public.tree, foreign_key: parent_id, order_by: label}}
"""
WIDE = "(SELECT string_agg(md5(n::text || '{0}'), '') FROM generate_series(1, 200) AS n)"


@pytest.fixture(scope="module")
def running(stack: Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    folder = tmp_path_factory.mktemp("cases")
    with servers.own_names(stack) as own, pipeline(own, folder, TABLES, MAPPING) as on:
        on.tandem.run("snapshot")
        with consuming(on, 2):
            until(lambda: "u_1" in on.db["keyed"].index_information(), within=60)
            until(lambda: "place_1" in on.db["places"].index_information(), within=60)
            yield on


@pytest.fixture
def on(running: Pipeline) -> Iterator[Pipeline]:
    """With all tables empty, and in agreement at the end."""
    running.sql.execute("TRUNCATE keyed, defaults, places, letters, clubs, members, tags, tree")
    running.wait()
    yield running
    running.agree()


def club(on: Pipeline, key: int) -> dict[str, object]:
    found = on.one("clubs", "public.clubs", key)
    assert found is not None
    return found


def names(on: Pipeline, key: int) -> list[str]:
    return [m["name"] for m in club(on, key)["members"]]  # type: ignore[attr-defined]


# -- one row -----------------------------------------------------------------------------------------------------
def test_an_insert_that_waited_for_a_delete_of_its_key_stays_though_its_lsn_is_lower(on: Pipeline) -> None:
    on.sql.execute("INSERT INTO keyed VALUES (1, 'old', 'a')")
    with on.session() as first, on.session() as second:
        first.execute("UPDATE keyed SET v = 'locked' WHERE id = 1")
        waiting = threading.Thread(
            target=lambda: (second.execute("INSERT INTO keyed VALUES (1, 'new', 'b')"), second.commit())
        )
        waiting.start()
        blocked = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO keyed%'"
        until(lambda: on.sql.execute(blocked).fetchone())
        first.execute("DELETE FROM keyed WHERE id = 1")
        first.commit()
        waiting.join()
    on.wait()
    assert [d["v"] for d in on.all("keyed")] == ["new"]


def test_null_stays_null_in_a_column_with_a_default(on: Pipeline) -> None:
    """Connect's converters put a column's default where there is nothing, unless they are told not to."""
    columns = ("i", "t", "b", "at", "day", "n", "u", "j", "r", "by")
    on.sql.execute("INSERT INTO defaults (id) VALUES (1), (2)")
    on.sql.execute(f"UPDATE defaults SET {', '.join(f'{c} = NULL' for c in columns)} WHERE id = 1")
    on.sql.execute(f"INSERT INTO defaults VALUES (3{', NULL' * len(columns)})")
    on.wait()
    nothing = dict.fromkeys(columns)
    one, two, three = on.all("defaults")
    assert [{c: d[c] for c in columns} for d in (one, three)] == [nothing, nothing]
    assert None not in two.values()


def test_delete_and_insert_of_a_key_in_one_transaction(on: Pipeline) -> None:
    on.sql.execute("INSERT INTO keyed VALUES (1, 'old', 'a'), (2, 'old', 'b')")
    with on.sql.transaction():
        on.sql.execute("DELETE FROM keyed WHERE id = 1")
        on.sql.execute("INSERT INTO keyed (id, u) VALUES (1, 'a')")
        on.sql.execute("INSERT INTO keyed VALUES (3, 'in passing', 'c')")
        on.sql.execute("DELETE FROM keyed WHERE id = 3")
    on.wait()
    assert [(d["id"], d["v"]) for d in on.all("keyed")] == [(1, None), (2, "old")]


def test_a_row_updated_fifty_times_in_a_transaction_beside_rolled_back_ones(on: Pipeline) -> None:
    on.sql.execute("INSERT INTO keyed VALUES (1, '0', 'a')")
    with on.sql.transaction():
        for n in range(50):
            on.sql.execute("UPDATE keyed SET v = %s WHERE id = 1", [str(n)])
            with on.sql.transaction(force_rollback=True):
                on.sql.execute("UPDATE keyed SET v = 'never', u = 'never' WHERE id = 1")
    on.wait()
    assert [(d["v"], d["u"]) for d in on.all("keyed")] == [("49", "a")]


def test_a_key_that_moves_to_another_and_back(on: Pipeline) -> None:
    here, there = apart(2)
    on.sql.execute("INSERT INTO keyed VALUES (%s, 'row', 'a')", [here])
    with on.sql.transaction():
        on.sql.execute("UPDATE keyed SET id = %s WHERE id = %s", [there, here])
        on.sql.execute("UPDATE keyed SET id = %s, v = 'back' WHERE id = %s", [here, there])
    on.wait()
    assert [(d["id"], d["v"]) for d in on.all("keyed")] == [(here, "back")]


# -- unique values -----------------------------------------------------------------------------------------------
def test_unique_values_are_swapped_between_partitions(on: Pipeline) -> None:
    one, two = apart(2)
    on.sql.execute("INSERT INTO keyed VALUES (%s, '', 'a'), (%s, '', 'b')", [one, two])
    for n in range(12):
        with on.sql.transaction():
            _swap(on, one, two, f"passing {n}")
        if n % 4 == 3:
            on.wait()
    _swap(on, one, two, "each in a transaction of its own")
    _swap(on, one, two, "and again")
    on.wait()
    assert {d["id"]: d["u"] for d in on.all("keyed")} == {one: "a", two: "b"}


def _swap(on: Pipeline, one: int, two: int, passing: str) -> None:
    on.sql.execute("UPDATE keyed SET u = %s WHERE id = %s", [passing, one])
    on.sql.execute(
        "WITH mine AS (SELECT CASE u WHEN 'a' THEN 'b' ELSE 'a' END AS u, u AS mine FROM keyed WHERE id = %s)"
        " UPDATE keyed SET u = mine.u FROM mine WHERE id = %s",
        [two, two],
    )
    on.sql.execute(
        "UPDATE keyed SET u = (SELECT CASE u WHEN 'a' THEN 'b' ELSE 'a' END FROM keyed WHERE id = %s) WHERE id = %s",
        [two, one],
    )


def test_unique_values_rotate_through_three_partitions(on: Pipeline) -> None:
    keys = apart(3)
    assert len({partition_of(key) for key in keys}) == 3
    on.sql.execute("INSERT INTO keyed VALUES (%s, '', '0'), (%s, '', '1'), (%s, '', '2')", keys)
    for turn in range(1, 10):
        with on.sql.transaction():
            for key in keys:
                on.sql.execute("UPDATE keyed SET u = u || ' passing' WHERE id = %s", [key])
            for n, key in enumerate(keys):
                on.sql.execute("UPDATE keyed SET u = %s WHERE id = %s", [str((n + turn) % 3), key])
    on.wait()
    assert [on.one("keyed", "public.keyed", key)["u"] for key in keys] == ["0", "1", "2"]  # type: ignore[index]


def test_a_unique_value_that_goes_from_a_deleted_row_to_a_new_one(on: Pipeline) -> None:
    one, two = apart(2)
    for n in range(6):
        old, new = (one, two) if n % 2 else (two, one)
        with on.sql.transaction():
            on.sql.execute("DELETE FROM keyed WHERE id = %s", [old])
            on.sql.execute("INSERT INTO keyed VALUES (%s, %s, 'the one')", [new, str(n)])
    on.wait()
    assert [(d["id"], d["v"]) for d in on.all("keyed")] == [(two, "5")]


def test_values_of_a_deferrable_constraint_are_swapped_in_one_statement(on: Pipeline) -> None:
    keys = apart(4)
    on.sql.execute("INSERT INTO places VALUES (%s, 0), (%s, 1), (%s, 2), (%s, 3)", keys)
    for _ in range(7):
        on.sql.execute("UPDATE places SET place = (place + 1) %% 4", [])
    with on.sql.transaction():
        on.sql.execute("SET CONSTRAINTS ALL DEFERRED")
        on.sql.execute("UPDATE places SET place = 2 WHERE id = %s", [keys[0]])
        on.sql.execute("UPDATE places SET place = 3 WHERE place = 2 AND id <> %s", [keys[0]])
    on.wait()
    found = {d["id"]: d["place"] for d in on.all("places")}
    assert sorted(found.values()) == [0, 1, 2, 3]
    assert found[keys[0]] == 2


# -- filters -----------------------------------------------------------------------------------------------------
def test_rows_leave_their_filter_and_enter_it(on: Pipeline) -> None:
    on.sql.execute(
        "INSERT INTO letters"
        " SELECT n, CASE n % 3 WHEN 0 THEN 'open' WHEN 1 THEN 'shut' END FROM generate_series(1, 9) AS n"
    )
    on.wait()
    assert [d["id"] for d in on.all("letters")] == [3, 6, 9]
    on.sql.execute("UPDATE letters SET status = NULL WHERE id IN (3, 1)")
    on.sql.execute("UPDATE letters SET status = 'shut' WHERE id = 6")
    on.sql.execute("UPDATE letters SET status = 'open' WHERE id IN (2, 4)")
    on.sql.execute("DELETE FROM letters WHERE id = 5")
    on.wait()
    assert [d["id"] for d in on.all("letters")] == [2, 4, 9]


def test_a_row_that_enters_without_its_toasted_value_is_read_whole(on: Pipeline) -> None:
    on.sql.execute(f"INSERT INTO letters SELECT 1, 'shut', {WIDE.format('a')}, 'n'")
    on.wait()
    assert on.all("letters") == []
    on.sql.execute("UPDATE letters SET status = 'open' WHERE id = 1")
    on.wait()
    body = on.sql.execute("SELECT body FROM letters").fetchone()
    assert body is not None
    assert [d["body"] for d in on.all("letters")] == [body[0]]
    on.sql.execute("UPDATE letters SET note = 'again' WHERE id = 1")
    on.wait()
    assert [(d["body"], d["note"]) for d in on.all("letters")] == [(body[0], "again")]


def test_a_row_that_leaves_and_enters_in_one_transaction_keeps_its_toasted_value(on: Pipeline) -> None:
    on.sql.execute(
        f"INSERT INTO letters SELECT n, 'open', {WIDE.format('a')}, 'n' FROM generate_series(1, 2) AS n"
    )
    on.wait()
    with on.sql.transaction():
        on.sql.execute("UPDATE letters SET status = 'shut'")
        on.sql.execute("UPDATE letters SET status = 'open', note = 'new' WHERE id = 1")
    on.wait()
    assert [(d["id"], d["note"], len(d["body"])) for d in on.all("letters")] == [(1, "new", 6400)]


# -- arrays ------------------------------------------------------------------------------------------------------
def test_children_move_between_parents_by_foreign_key_and_by_key(on: Pipeline) -> None:
    on.sql.execute("INSERT INTO clubs VALUES (1, 'one'), (2, 'two'), (3, 'three')")
    on.sql.execute("INSERT INTO members VALUES (1, 1, 1, 'ann'), (2, 1, 2, 'bob'), (3, 2, 3, 'cyd')")
    on.sql.execute("INSERT INTO tags VALUES (1, 'red', 1), (1, 'blue', 2)")
    on.wait()
    assert names(on, 1) == ["ann", "bob"]
    on.sql.execute("UPDATE members SET club_id = 2 WHERE id = 1")
    on.sql.execute("UPDATE members SET club_id = NULL WHERE id = 2")
    on.sql.execute("UPDATE members SET id = 30, club_id = 3 WHERE id = 3")
    on.sql.execute("UPDATE tags SET club_id = 3 WHERE tag = 'red'")  # part of its key
    on.wait()
    assert (names(on, 1), names(on, 2), names(on, 3)) == ([], ["ann"], ["cyd"])
    assert [[t["tag"] for t in club(on, n)["tags"]] for n in (1, 3)] == [["blue"], ["red"]]  # type: ignore[attr-defined]
    with on.sql.transaction():
        for target in (1, 2, 3, 1):
            on.sql.execute("UPDATE members SET club_id = %s", [target])
    on.wait()
    assert names(on, 1) == ["ann", "bob", "cyd"]


def test_a_child_that_moves_keeps_its_toasted_value(on: Pipeline) -> None:
    on.sql.execute("INSERT INTO clubs VALUES (1), (2)")
    on.sql.execute(f"INSERT INTO members SELECT 1, 1, 1, 'ann', true, {WIDE.format('p')}")
    on.wait()
    photo = club(on, 1)["members"][0]["photo"]  # type: ignore[index]
    assert len(photo) == 6400
    on.sql.execute("UPDATE members SET club_id = 2")
    on.wait()
    assert club(on, 2)["members"][0]["photo"] == photo  # type: ignore[index]
    on.sql.execute("UPDATE members SET present = false")
    on.wait()
    assert names(on, 2) == []
    on.sql.execute("UPDATE members SET present = true, name = 'anna'")
    on.sql.execute("UPDATE members SET id = 5")
    on.wait()
    assert club(on, 2)["members"] == [{"id": 5, "rank": 1.0, "name": "anna", "photo": photo}]


def test_children_before_their_parent_is_let_in_and_while_it_is_out(on: Pipeline) -> None:
    on.sql.execute(f"INSERT INTO clubs SELECT 1, 'one', false, {WIDE.format('c')}")
    on.sql.execute("INSERT INTO members VALUES (1, 1, 2, 'ann')")
    on.wait()
    assert on.all("clubs") == []
    assert on.all("people")[0]["club"] == object_id("public.clubs", (1,))  # though there is no such document
    on.sql.execute("UPDATE clubs SET is_open = true")
    on.wait()
    assert names(on, 1) == ["ann"]
    on.sql.execute("UPDATE clubs SET is_open = false")
    on.sql.execute("INSERT INTO members VALUES (2, 1, 1, 'bob')")
    on.sql.execute("UPDATE members SET name = 'anna' WHERE id = 1")
    on.wait()
    assert on.all("clubs") == []
    on.sql.execute("UPDATE clubs SET is_open = true")
    on.wait()
    assert names(on, 1) == ["bob", "anna"]
    on.sql.execute("UPDATE clubs SET name = 'renamed'")  # an update of the parent leaves its arrays alone
    on.wait()
    assert names(on, 1) == ["bob", "anna"]


def test_a_parent_deleted_with_its_children_and_made_again(on: Pipeline) -> None:
    on.sql.execute("INSERT INTO clubs VALUES (1, 'one')")
    on.sql.execute("INSERT INTO members SELECT n, 1, n, 'm' || n FROM generate_series(1, 20) AS n")
    on.sql.execute("INSERT INTO tags VALUES (1, 'red', 1)")
    on.wait()
    on.sql.execute("DELETE FROM clubs WHERE id = 1")
    on.sql.execute("INSERT INTO clubs VALUES (1, 'again')")
    on.wait()
    assert (names(on, 1), club(on, 1)["tags"], club(on, 1)["name"]) == ([], [], "again")
    with on.sql.transaction():
        on.sql.execute("INSERT INTO members VALUES (1, 1, 1, 'new')")
        on.sql.execute("DELETE FROM clubs")
        on.sql.execute("INSERT INTO clubs VALUES (1, 'once more')")
        on.sql.execute("INSERT INTO members VALUES (1, 1, 1, 'newer')")
    on.wait()
    assert names(on, 1) == ["newer"]


def test_a_parent_whose_key_changes_with_its_children(on: Pipeline) -> None:
    on.sql.execute(
        "ALTER TABLE tags DROP CONSTRAINT tags_club_id_fkey,"
        " ADD FOREIGN KEY (club_id) REFERENCES clubs ON UPDATE CASCADE ON DELETE CASCADE"
    )
    on.sql.execute(f"INSERT INTO clubs SELECT 1, 'one', true, {WIDE.format('c')}")
    on.sql.execute("INSERT INTO tags VALUES (1, 'red', 1)")
    on.sql.execute("UPDATE clubs SET id = 9")
    on.wait()
    assert [t["tag"] for t in club(on, 9)["tags"]] == ["red"]  # type: ignore[attr-defined]
    assert len(on.all("clubs")) == 1


def test_an_array_is_ordered_as_postgresql_orders_nulls_and_nan_included(on: Pipeline) -> None:
    on.sql.execute("INSERT INTO clubs VALUES (1, 'one')")
    for n, rank in enumerate(["2", None, "NaN", "-Infinity", "2", None, "Infinity", "0", "-0", "NaN", "1"]):
        on.sql.execute("INSERT INTO members VALUES (%s, 1, %s::text::float8, %s)", [n, rank, str(n)])
    wanted = on.sql.execute("SELECT name FROM members ORDER BY rank, id").fetchall()
    on.wait()
    assert names(on, 1) == [row[0] for row in wanted]


def test_a_table_that_refers_to_itself(on: Pipeline) -> None:
    def labels(key: int) -> list[str]:
        found = on.one("tree", "public.tree", key)
        assert found is not None
        return [c["label"] for c in found["children"]]

    with on.sql.transaction():
        on.sql.execute("INSERT INTO tree VALUES (1, NULL, 'root'), (2, 1, 'b'), (3, 1, 'a'), (4, 2, 'leaf')")
    on.sql.execute("INSERT INTO tree VALUES (5, 5, 'its own parent')")
    on.wait()
    assert (labels(1), labels(2), labels(5)) == (["a", "b"], ["leaf"], ["its own parent"])
    on.sql.execute("UPDATE tree SET parent_id = 4, label = 'moved' WHERE id = 3")
    on.wait()
    assert (labels(1), labels(4)) == (["b"], ["moved"])
    on.sql.execute("DELETE FROM tree WHERE id = 2")
    on.wait()
    assert [d["id"] for d in on.all("tree")] == [1, 5]


def test_many_transactions_on_one_parent_from_two_sessions(on: Pipeline) -> None:
    on.sql.execute("INSERT INTO clubs VALUES (1, 'one'), (2, 'two')")

    def write(first: int) -> None:
        with on.session() as session:
            for n in range(60):
                key = first + 2 * n
                session.execute("INSERT INTO members VALUES (%s, %s, %s, 'm')", [key, 1 + n % 2, n])
                session.commit()
                session.execute("UPDATE members SET club_id = 3 - club_id WHERE id = %s", [key])
                session.execute("UPDATE clubs SET name = %s WHERE id = 1", [str(key)])
                session.commit()

    writers = [threading.Thread(target=write, args=(n,)) for n in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    on.wait()
    assert [len(names(on, n)) for n in (1, 2)] == [60, 60]


# -- truncates ---------------------------------------------------------------------------------------------------
@pytest.fixture
def filled(on: Pipeline) -> Pipeline:
    on.sql.execute("INSERT INTO clubs SELECT n, 'old' FROM generate_series(1, 8) AS n")
    on.sql.execute("INSERT INTO members SELECT n, 1 + n % 8, n, 'old' FROM generate_series(1, 40) AS n")
    on.sql.execute("INSERT INTO tags SELECT n, 'old', 1 FROM generate_series(1, 8) AS n")
    on.wait()
    return on


def test_a_truncated_child_leaves_parents_with_empty_arrays_and_takes_the_same_keys_again(
    filled: Pipeline,
) -> None:
    filled.sql.execute("TRUNCATE members")
    filled.sql.execute("INSERT INTO members VALUES (1, 2, 1, 'new')")
    filled.wait()
    assert [len(d["members"]) for d in filled.all("clubs")] == [0, 1, 0, 0, 0, 0, 0, 0]
    assert [(d["id"], d["name"]) for d in filled.all("people")] == [(1, "new")]
    assert {len(d["tags"]) for d in filled.all("clubs")} == {1}


def test_a_truncated_parent_goes_with_its_children_and_both_come_again(filled: Pipeline) -> None:
    filled.sql.execute("TRUNCATE clubs CASCADE")
    filled.sql.execute("INSERT INTO clubs VALUES (1, 'new'), (2, 'new')")
    filled.sql.execute("INSERT INTO members VALUES (1, 1, 1, 'new')")
    filled.wait()
    assert [(d["name"], len(d["members"]), len(d["tags"])) for d in filled.all("clubs")] == [
        ("new", 1, 0),
        ("new", 0, 0),
    ]


def test_rows_of_the_same_keys_written_before_and_after_a_truncate_in_its_transaction(
    filled: Pipeline,
) -> None:
    with filled.sql.transaction():
        filled.sql.execute("UPDATE clubs SET name = 'before'")
        filled.sql.execute("INSERT INTO clubs SELECT n, 'before' FROM generate_series(9, 12) AS n")
        filled.sql.execute("TRUNCATE tags, members, clubs")
        filled.sql.execute("INSERT INTO clubs SELECT n, 'after' FROM generate_series(1, 10) AS n")
        filled.sql.execute(
            "INSERT INTO members SELECT n, 1 + n % 2, n, 'after' FROM generate_series(1, 4) AS n"
        )
    filled.wait()
    assert [(d["name"], len(d["members"])) for d in filled.all("clubs")] == [("after", 2)] * 2 + [
        ("after", 0)
    ] * 8


def test_truncates_follow_each_other_and_one_that_is_rolled_back_does_nothing(filled: Pipeline) -> None:
    for n in range(6):
        with filled.sql.transaction():
            filled.sql.execute("TRUNCATE clubs CASCADE")
            filled.sql.execute("INSERT INTO clubs SELECT k, %s FROM generate_series(1, 5) AS k", [str(n)])
        filled.sql.execute("INSERT INTO members SELECT k, k, k, %s FROM generate_series(1, 5) AS k", [str(n)])
    with filled.sql.transaction(force_rollback=True):
        filled.sql.execute("TRUNCATE clubs CASCADE")
    filled.wait()
    assert [(d["name"], [m["name"] for m in d["members"]]) for d in filled.all("clubs")] == [("5", ["5"])] * 5
