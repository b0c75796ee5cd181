"""Rows that cannot be written, on real servers: why, shown to whom, and how each stops being parked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from connectors.debezium import config
from consumers.dead_letters import Fate
from sync import app
from sync.dev.state import Addresses
from tests.support import stack as servers
from tests.support.pipeline import Pipeline, consuming, pipeline
from tests.support.until import until

TABLES = """
CREATE TABLE people (id bigint PRIMARY KEY, name text, age integer, amount numeric, handle text, bio text);
ALTER TABLE people ALTER COLUMN bio SET STORAGE EXTERNAL;
CREATE TABLE pets (id bigint PRIMARY KEY, owner_id bigint, name text, weight numeric);
"""
MAPPING = """
version: 1
collections:
  people:
    from: public.people
    embed: {pets: {from: public.pets, foreign_key: owner_id, order_by: name}}
    indexes: [{keys: {handle: 1}, unique: true, partial: {handle: {$type: string}}}]
    validator:
      required: [name]
      properties: {age: {bsonType: [int, "null"], maximum: 150}}
"""
TOO_LONG = "1." + "1" * 40
WIDE = "(SELECT string_agg(md5(n::text || '{0}'), '') FROM generate_series(1, 200) AS n)"
SECRET = "Rumpelstilzchen"


@pytest.fixture
def on(stack: Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    folder = tmp_path_factory.mktemp("letters")
    with servers.own_names(stack) as own, pipeline(own, folder, TABLES, MAPPING) as running:
        running.tandem.run("snapshot")
        with consuming(running):
            until(lambda: "handle_1" in running.db["people"].index_information(), within=60)
            yield running


def key(number: int, table: str = "people") -> str:
    return f"public.{table} [{number}]"


def people(on: Pipeline) -> dict[int, dict[str, Any]]:
    return {d["id"]: d for d in on.all("people")}


def retry(on: Pipeline, *keys: str) -> dict[str, str]:
    report = app.retry_dead_letters(on.settings, keys or None)
    return {o.parked.id: o.fate.name for o in report.outcomes}


def write_by_hand(on: Pipeline, *records: tuple[bytes, bytes]) -> None:
    """Records that no connector has made, into the topic of people."""
    from kafka import KafkaProducer

    topic = config.topic_of(on.settings.kafka.topic_prefix, "public.people")
    producer = KafkaProducer(bootstrap_servers=on.settings.kafka.bootstrap_servers)
    try:
        for record_key, value in records:
            producer.send(topic, key=record_key, value=value).get(timeout=20)
    finally:
        producer.close()


def test_parked_rows_are_told_by_class_and_stop_being_parked(on: Pipeline) -> None:
    # -- each kind of trouble --------------------------------------------------------------------------------------
    with on.sql.transaction():
        on.sql.execute(f"INSERT INTO people VALUES (1, '{SECRET}', 200, 1, 'a', {WIDE.format('one')})")
        on.sql.execute("INSERT INTO people VALUES (2, 'two', 2, %s, 'b', NULL)", [TOO_LONG])
        on.sql.execute("INSERT INTO people VALUES (3, 'three', 3, 3, 'taken', NULL)")
        on.sql.execute("INSERT INTO people VALUES (4, 'four', 4, 4, 'taken', NULL)")
        on.sql.execute("INSERT INTO people VALUES (5, 'five', 5, 5, 'e', NULL), (6, 'six', 6, 6, 'f', NULL)")
        on.sql.execute("INSERT INTO pets VALUES (1, 5, 'rex', %s), (2, 5, 'tom', 4)", [TOO_LONG])
    write_by_hand(
        on,
        (b"no key at all", b"{}"),
        (b'{"k":{"id":6}}', b'{"op": "u", "before": null, "after": {"name": "an inve'),
        (b'{"k":{"id":6}}', b'{"op": "?"}'),
    )
    until(lambda: len(on.parked()) == 6 and len(on.parked()[key(6)]["events"]) == 2, within=60)
    parked = on.parked()
    (nobody,) = (one for one in parked if "@" in one)
    shared = next(one for one in (key(3), key(4)) if one in parked)
    assert {one: d["class"] for one, d in parked.items()} == {
        key(1): "validator",
        key(2): "data",
        shared: "unique",
        key(1, "pets"): "data",
        key(6): "decode",
        nobody: "decode",
    }
    assert sorted(people(on)) == sorted({3, 4, 5, 6} - {int(shared[-2])})  # all others went on

    # -- told ------------------------------------------------------------------------------------------------------
    listed = on.tandem.run("dead-letters", "list", "--json").stdout
    assert SECRET not in listed
    by_key = {one["key"]: one for one in json.loads(listed)["parked"]}
    assert by_key.keys() == parked.keys()
    assert by_key[key(1)]["collections"] == by_key[key(1, "pets")]["collections"] == ["people"]
    assert by_key[key(1)]["reason"] == "the validator refuses the document: age: maximum"
    of_class = app.dead_letters(on.settings, parked_class="decode")
    assert {one.parked.id for one in of_class} == {nobody, key(6)}

    shown = on.tandem.json("dead-letters", "show", key(1))
    assert "consideredValue" in shown["details"]
    assert shown["row_now"]["name"] == shown["parked_events"][0]["row"]["name"] == SECRET
    assert shown["retry_would"] == {"outcome": "still failing", "reason": by_key[key(1)]["reason"]}
    assert key(1) in on.parked()  # only rehearsed
    assert 1 not in people(on)

    status = app.status(on.settings)
    assert status.parked_classes == {"validator": 1, "data": 2, "unique": 1, "decode": 2}
    assert status.parked_oldest is not None
    refused = on.tandem.run("wait-for", "now", check=False)
    assert refused.returncode == 1
    assert "tandem dead-letters list" in refused.stderr

    # -- tried again by hand ---------------------------------------------------------------------------------------
    tried = on.tandem.run("dead-letters", "retry", "--all", "--json", check=False)
    assert tried.returncode == 1
    fates = {row["key"]: row["outcome"] for row in json.loads(tried.stdout)["rows"]}
    assert fates == {**dict.fromkeys(parked, "failing"), key(6): "healed"}
    assert on.parked()[key(1)]["tries"] == 1

    # -- by themselves, when their row changes ---------------------------------------------------------------------
    on.sql.execute("UPDATE people SET age = 151 WHERE id = 1")  # not yet; and without bio, which is not sent
    until(lambda: on.parked()[key(1)].get("tries") == 2, within=20)
    assert [e["code"] for e in on.parked()[key(1)]["events"]] == ["ValidatorRefused", "ParkedBehind"]
    with on.sql.transaction():
        on.sql.execute("UPDATE people SET age = 149 WHERE id = 1")
        on.sql.execute("UPDATE people SET age = 150, name = 'one' WHERE id = 1")
        on.sql.execute("DELETE FROM people WHERE id = 2")
        on.sql.execute("UPDATE pets SET weight = 7 WHERE id = 1")
    until(lambda: on.parked().keys() == {shared, nobody}, within=40)
    assert people(on)[1]["age"] == 150
    assert len(people(on)[1]["bio"]) == 6_400
    assert [pet["name"] for pet in people(on)[5]["pets"]] == ["rex", "tom"]

    # -- the other row was in the way: nothing comes behind, so a retry is needed ------------------------------------
    other = 7 - int(shared[-2])
    on.sql.execute("UPDATE people SET handle = 'free' WHERE id = %s", [other])
    until(lambda: people(on)[other]["handle"] == "free", within=30)
    assert retry(on, shared) == {shared: "HEALED"}
    assert people(on)[7 - other]["handle"] == "taken"

    # -- given up ----------------------------------------------------------------------------------------------------
    dry = on.tandem.json("dead-letters", "discard", nobody)
    assert dry["dry_run"]
    assert on.parked().keys() == {nobody}
    app.discard_dead_letters(on.settings, [nobody], yes=True)
    on.agree()

    # -- the mapping is mended -----------------------------------------------------------------------------------------
    on.sql.execute("UPDATE people SET age = 999 WHERE id = 5")
    until(lambda: on.parked().keys() == {key(5)}, within=30)
    before = on.consumers.pop()
    before.terminate()
    on.tandem.mapping.write_text(MAPPING.replace(", maximum: 150", ""), encoding="utf-8")
    on.tandem.run("setup")
    with consuming(on):
        assert retry(on) == {key(5): "HEALED"}
        on.agree()
        _retried_while_it_is_written(on)
    on.consumers.append(before)


def _retried_while_it_is_written(on: Pipeline) -> None:
    """The same rows by the application, by the consumer and by retries, all at once; in the end all agree."""
    done = threading.Event()
    fates: list[str] = []

    def write() -> None:
        n = 0
        while not done.wait(0.005):
            n += 1
            amount = TOO_LONG if n % 40 < 20 else str(n)
            on.sql.execute("UPDATE people SET amount = %s, age = %s WHERE id IN (5, 6)", [amount, n])

    writer = threading.Thread(target=write)
    writer.start()
    until_s = time.monotonic() + 6
    while time.monotonic() < until_s or not {"HEALED", "FAILING"} <= set(fates):
        fates += retry(on).values()
        assert time.monotonic() < until_s + 60, fates
    done.set()
    writer.join()
    print("retried beside the writer:", {fate: fates.count(fate) for fate in set(fates)})
    on.sql.execute("UPDATE people SET amount = 1 WHERE id IN (5, 6)")
    until(lambda: not on.parked() or set(retry(on).values()) <= {Fate.HEALED.name, Fate.BUSY.name}, within=60)
    on.agree()
