"""Collections made again beside the live ones, under a writer, and swapped in (docs/rebuild.md)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from tests.integration.test_reload import DDL, writing
from tests.support.pipeline import Pipeline, consuming, pipeline
from tests.support.stack import Own
from tests.support.until import until

MAPPING = """
version: 1
collections:
  teams:
    from: public.teams
    where: is_active
    embed:
      members: {from: public.members, foreign_key: team_id, order_by: place}
    indexes: [{keys: {name: 1}, unique: true}]
    validator: {required: [name]}
  notes:
    from: public.notes
    references: {teamId: {column: team_id, to: teams}}
    copy: {team: {from: public.teams, foreign_key: team_id, only: [name]}}
"""
#: another form of teams; notes, which is fed by the same table, stays as it is
OTHER = MAPPING.replace("    where: is_active\n", "    where: is_active\n    rename: {name: title}\n").replace(
    "{name: 1}", "{title: 1}"
).replace("required: [name]", "required: [title]")  # fmt: skip


@contextmanager
def reading(on: Pipeline, collection: str) -> Iterator[set[int]]:
    """An application beside the test: how many documents it has seen, each time."""
    stop, seen = threading.Event(), set[int]()

    def read() -> None:
        with MongoClient[dict[str, Any]](on.own.addresses.mongodb_uri) as client:
            while not stop.is_set():
                seen.add(client[on.own.addresses.mongodb_database][collection].count_documents({}))
                time.sleep(0.005)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def shadows(on: Pipeline) -> list[str]:
    """What lies there of rebuilds."""
    return [name for name in on.db.list_collection_names() if name.startswith("_tandem_shadow_")]


def test_a_collection_is_rebuilt_in_another_form_swapped_in_and_taken_back_under_load(
    own: Own, tmp_path: Path
) -> None:
    with pipeline(own, tmp_path, DDL, MAPPING) as on:
        on.tandem.run("snapshot")
        with consuming(on, 2) as both, writing(on, ("teams", "members", "notes")) as written:
            until(lambda: all("consuming" in consumer.text() for consumer in both), within=60)
            until(lambda: written[0] > 20, within=60)
            on.tandem.mapping.write_text(OTHER, encoding="utf-8")
            with reading(on, "teams") as seen:
                report = on.tandem.json("rebuild", "teams")
                assert report["verified"]["ok"]
                assert not report["swapped"]
                teams = report["differences"]["teams"]
                assert set(teams["fields"]) == {"name", "title"}, teams
                assert teams["differing"] > 100
                assert teams["only_live"] == teams["only_shadow"] == 0
                assert on.db["teams"].find_one({"name": {"$exists": True}})
                report = on.tandem.json("rebuild", "--swap")
            print(report["held_s"], min(seen), max(seen))
            assert report["swapped"]
            assert min(seen) > 100
            assert on.db["teams"].find_one({"name": {"$exists": True}}) is None
            assert {"title_1", "_id_"} <= set(on.db["teams"].index_information())
            until(lambda: all("going on by the new one" in c.text() for c in both), within=60)
            more = written[0]
            until(lambda: written[0] > more + 20, within=60)
            on.agree(120)
            on.tandem.mapping.write_text(MAPPING, encoding="utf-8")
            report = on.tandem.json("rebuild", "--undo")
            assert report["undone"]
            assert on.db["teams"].find_one({"title": {"$exists": True}}) is None
        with consuming(on):
            on.agree(120)
        on.tandem.run("rebuild", "--drop-kept")
        assert not shadows(on)
