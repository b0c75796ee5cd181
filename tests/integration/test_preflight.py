"""Preflight on real servers. Misfits of every kind planted among thousands of rows: preflight names these and no
others, and the load parks just what it said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import DuplicateKeyError

from sync import app, settings
from sync.preflight.findings import Level
from sync.preflight.run import Asked, PreflightReport
from sync.preflight.scan import Extent
from tests.support.pipeline import Pipeline, pipeline
from tests.support.stack import Own

ROWS = 3_000
DDL = f"""
CREATE TABLE p (
    id bigint PRIMARY KEY, name text NOT NULL, kind text, active boolean NOT NULL DEFAULT true,
    amount numeric, seen timestamptz NOT NULL UNIQUE, day date, doc json, tags numeric[], code text NOT NULL,
    realm int NOT NULL DEFAULT 0, data bytea, UNIQUE (code, realm));
CREATE TABLE c (
    id bigint PRIMARY KEY, p_id bigint, note json, data bytea, rank int);
CREATE TABLE k (code text PRIMARY KEY, open boolean NOT NULL DEFAULT true);
CREATE TABLE r (a text, b text, k text, p bigint, PRIMARY KEY (a, b));
CREATE TABLE big (id int PRIMARY KEY, data bytea);
INSERT INTO p SELECT g, 'n' || g, CASE g % 3 WHEN 0 THEN NULL WHEN 1 THEN 'x' ELSE 'y' END, g % 10 <> 0, g / 7.0,
    '2024-01-01'::timestamptz + g * interval '1 ms', '2024-01-01'::date + g,
    json_build_object('a', g, 'b', ARRAY[g, 1.5]), ARRAY[g, 0.1], 'code' || g FROM generate_series(1, {ROWS}) g;
INSERT INTO c SELECT g, 1 + g % {ROWS}, json_build_object('n', g), '\\x00', g FROM generate_series(1, {ROWS}) g;
INSERT INTO k SELECT 'key' || g, g % 10 <> 0 FROM generate_series(1, 100) g;
INSERT INTO r SELECT 'a' || g, 'b', 'key' || 1 + g % 9, 1 + g % 9 FROM generate_series(1, 500) g;
INSERT INTO big SELECT g, '\\x01' FROM generate_series(1, 10) g;
"""
PLANTED = """
UPDATE p SET amount = 1234567890123456789012345678901234.5 WHERE id IN (11, 2501);
UPDATE p SET amount = 'NaN' WHERE id = 12;  -- fits
UPDATE p SET seen = 'infinity' WHERE id = 13;
UPDATE p SET day = '-infinity' WHERE id = 14;
UPDATE p SET doc = '{"a": "\\ud800"}' WHERE id = 15;
UPDATE p SET doc = '{"a\\u0000b": 1}' WHERE id = 16;
UPDATE p SET tags = '{1,1234567890123456789012345678901234.5}' WHERE id = 17;
UPDATE p SET kind = 'z' WHERE id = 18;
UPDATE p SET name = repeat('ü', 21) WHERE id = 19;
UPDATE p SET amount = 1e7000, day = 'infinity' WHERE id = 20;  -- left out by the filter: fits
UPDATE p SET seen = (SELECT seen + interval '1 us' FROM p WHERE id = 21) WHERE id = 22;
UPDATE p SET code = 'code23', realm = 1 WHERE id = 24;
UPDATE p SET code = 'code25', realm = 1 WHERE id = 30;  -- left out by the filter: fits
UPDATE p SET amount = 1e40 WHERE id = 26;  -- fits
UPDATE c SET note = '{"a": "\\udc00"}' WHERE id = 101;
UPDATE c SET note = '{"a": "\\udc00"}' WHERE id = 19;  -- its parent (20) is left out; the row is staged all the same
UPDATE c SET note = '{"a\\u0000": 1}' WHERE id = 102;  -- its parent, 103, cannot be written either
UPDATE p SET data = decode(repeat('00', 12000000), 'hex') WHERE id = 104;  -- with its children too large
INSERT INTO c SELECT 10000 + g, 104, NULL, decode(repeat('00', 1000000), 'hex') FROM generate_series(1, 5) g;
INSERT INTO c SELECT 20000 + g, 105 FROM generate_series(1, 1200) g;
INSERT INTO c VALUES (30001, 999999), (30002, NULL);
UPDATE big SET data = decode(repeat('00', 17000000), 'hex') WHERE id = 2;
INSERT INTO r VALUES ('x', '1', 'KEY5', 5), ('x', '2', 'key50', 10), ('x', '3', NULL, 999999), ('x', '4', 'key1', NULL);
"""
MAPPING = """
version: 1
collections:
  p:
    from: public.p
    where: active
    embed:
      cs: {from: public.c, foreign_key: p_id, order_by: [rank]}
    indexes:
      - {keys: {code: 1}, unique: true}
      - {keys: {seen: 1}, unique: true, partial: {seen: {$type: date}}}
      - {keys: {code: 1, realm: 1}, unique: true}
      - {keys: {name: 1}}
    validator:
      required: [name, cs]
      properties:
        name: {bsonType: string, maxLength: 20}
        kind: {enum: [x, y, null]}
        cs: {bsonType: array, items: {bsonType: object, required: [id]}}
  k: {from: public.k, where: open}
  r:
    from: public.r
    references: {kRef: {column: k, to: k}, pRef: {column: p, to: p}}
  big: {from: public.big}
"""
#: (table, key) -> the error that it is parked with
PARKED = {
    **{("public.p", f"[{n}]"): "MappingFailed" for n in (11, 13, 14, 15, 17, 2501)},
    **{("public.p", f"[{n}]"): "WriteRefused" for n in (16, 103)},
    **{("public.p", f"[{n}]"): "ValidatorRefused" for n in (18, 19)},
    ("public.p", "[104]"): "TooLarge",
    **{("public.c", f"[{n}]"): "MappingFailed" for n in (19, 101)},
    ("public.c", "[102]"): "WriteRefused",
    ("public.big", "[2]"): "TooLarge",
}


def _said(report: dict[str, Any], *kinds: str) -> dict[tuple[str, str], str]:
    """(table, key) -> code of every example of these kinds."""
    found = {}
    for finding in report["findings"]:
        if finding["kind"] in kinds:
            assert finding["count"] == len(finding["examples"]), finding
            for example in finding["examples"]:
                key = json.dumps([int(k) if k.isdigit() else k for k in example["key"]])
                found[finding["facts"]["table"], key] = finding["facts"]["code"]
    return found


def _one(report: dict[str, Any], kind: str, subject: str) -> dict[str, Any]:
    [found] = [f for f in report["findings"] if f["kind"] == kind and f["subject"] == subject]
    return dict(found)


def _keys(finding: dict[str, Any]) -> set[str]:
    return {"/".join(example["key"]) for example in finding["examples"]}


@pytest.fixture
def on(own: Own, tmp_path: Path) -> Any:
    with pipeline(own, tmp_path, DDL, MAPPING, TANDEM_LIMITS__CHUNK_ROWS="700") as both:
        yield both


def test_what_preflight_names_is_what_the_load_parks(on: Pipeline) -> None:
    clean = on.tandem.json("preflight", "--full", "--only-data")
    assert {f["kind"] for f in clean["findings"] if f["level"] == "error"} == set()
    assert clean["data"]["rows_read"] == 2 * ROWS * 0.9 // 2 + ROWS + 90 + 500 + 10

    on.sql.execute(PLANTED.encode())
    done = on.tandem.run("preflight", "--full", "--json", "--examples", "10000", check=False)
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert "1234567890123456789" not in done.stdout + done.stderr
    said = _said(report, "value", "not-bson", "too-large", "validator")
    assert said == PARKED
    _links_and_duplicates(report)
    event = _one(report, "event-too-large", "big")
    assert _keys(event) == {"2"}
    assert _one(report, "long-array", "p.cs")["facts"]["max"] == 1_201
    errors = {f["kind"] for f in report["findings"] if f["level"] == "error"}
    assert errors == {"value", "not-bson", "too-large", "validator", "duplicate", "event-too-large"}

    on.tandem.run("snapshot")
    parked = {(d["table"], json.dumps(json.loads(d["key"]))): d["code"] for d in on.parked().values()}
    assert parked == said
    # the indexes that it said cannot be built, and no others
    on.db["p"].create_index({"code": 1, "realm": 1}, unique=True)
    for keys in ({"code": 1}, {"seen": 1}):
        with pytest.raises(DuplicateKeyError):
            on.db["p"].create_index(keys, unique=True, name="try")
    kept = on.db["_tandem_state"].find_one({"_id": "preflight"})
    assert kept is not None
    assert (kept["ok"], kept["data"]["mode"]) == (False, "full")


def _links_and_duplicates(report: dict[str, Any]) -> None:
    """What leads nowhere, and what is one for MongoDB."""
    k = _one(report, "dangling-reference", "r.kRef")
    assert (_keys(k), k["facts"]["missing"], k["facts"]["filtered"]) == ({"x/1", "x/2"}, 1, 1)
    p = _one(report, "dangling-reference", "r.pRef")
    assert (_keys(p), p["facts"]["missing"], p["facts"]["filtered"]) == ({"x/2", "x/3"}, 1, 1)
    orphans = _one(report, "orphan", "p.cs")
    assert (orphans["facts"]["missing"], orphans["facts"]["filtered"]) == (1, ROWS // 10)
    duplicates = {f["subject"]: f for f in report["findings"] if f["kind"] == "duplicate"}
    assert set(duplicates) == {"p.code_1", "p.seen_1"}
    assert [e["key"] for e in duplicates["p.code_1"]["examples"]] == [["23"]]
    assert duplicates["p.code_1"]["count"] == 2
    assert [e["key"] for e in duplicates["p.seen_1"]["examples"]] == [["21"]]


# -- settings, samples -------------------------------------------------------------------------------------------
UNREADY = """
CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
CREATE UNLOGGED TABLE fast (id int PRIMARY KEY);
CREATE TABLE hidden (id int PRIMARY KEY, size char(4), v interval);
ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
CREATE TABLE wide (id int PRIMARY KEY, v text, n numeric);
INSERT INTO wide SELECT g, repeat(md5(g::text), 100), g FROM generate_series(1, 8000) g;
ALTER TABLE wide ALTER v SET STORAGE PLAIN;
UPDATE wide SET v = v || 'x';
ANALYZE wide;
"""
UNREADY_MAPPING = """
version: 1
collections:
  parts: {from: public.parts}
  fast: {from: public.fast}
  hidden: {from: public.hidden}
"""


def _asked(**extent: Any) -> Asked:
    return Asked(Extent(**{"percent": None, **extent}))


def _run(on: Pipeline, asked: Asked, without: tuple[str, ...] = ()) -> PreflightReport:
    """A run in this process, without these addresses."""
    environ = {k: v for k, v in on.tandem.environ.items() if not k.startswith(without or ("none",))}
    return app.preflight(settings.read_known(mapping=on.tandem.mapping, environ=environ), asked)


def _levels(report: PreflightReport) -> dict[tuple[str, str], Level]:
    return {(f.kind, f.subject): f.level for f in report.findings}


def test_settings_that_are_not_in_order_are_told(own: Own, tmp_path: Path) -> None:
    with pipeline(own, tmp_path, UNREADY, UNREADY_MAPPING) as on, on.session() as other:
        on.sql.execute(f'CREATE PUBLICATION "{own.name}" FOR ALL TABLES'.encode())
        on.sql.execute(f"ALTER DATABASE \"{own.name}\" SET statement_timeout = '59s'".encode())
        on.db["parts"].insert_one({"of": "somebody else"})
        other.execute("SELECT pg_current_xact_id()")
        found = _levels(_run(on, _asked()))
        expected = {
            ("publication", "publication"): Level.ERROR,
            ("timeout", "statement_timeout"): Level.WARNING,
            ("partition-truncate", "public.parts"): Level.WARNING,
            ("table", "public.fast"): Level.ERROR,
            ("reread", "public.hidden"): Level.NOTE,
            ("padded", "public.hidden"): Level.NOTE,
            ("foreign-documents", "parts"): Level.ERROR,
        }
        assert {place: found.get(place) for place in expected} == expected
        bare = _run(on, _asked(), ("KAFKA", "CONNECT", "MONGODB"))
        assert [f.check for f in bare.findings if f.kind == "not-asked"] == ["Kafka", "Connect", "MongoDB"]
        assert not bare.kept
        # a role that may not, and rows that it would not see
        role = f"{own.name}_r"
        on.sql.execute(f'CREATE ROLE "{role}" LOGIN'.encode())
        try:
            on.sql.execute(f'GRANT SELECT ON hidden TO "{role}"'.encode())
            dsn = own.addresses.postgres_dsn.replace("user=postgres", f"user={role}")
            on.tandem.environ["POSTGRES_DSN"] = dsn
            small = _levels(_run(on, Asked(Extent(None), data=False)))
            assert small["rights", "public.parts"] is Level.ERROR
            assert small["row-security", "public.hidden"] is Level.ERROR
            assert any(kind == "server" for kind, _ in small)
        finally:
            on.sql.execute(f'DROP OWNED BY "{role}"'.encode())
            on.sql.execute(f'DROP ROLE "{role}"'.encode())


def test_a_sample_reads_a_part_the_same_one_again_and_the_largest_rows(own: Own, tmp_path: Path) -> None:
    mapping = "version: 1\ncollections:\n  wide: {from: public.wide, omit: [v]}\n"
    with pipeline(own, tmp_path, UNREADY, mapping) as on:
        on.sql.execute("UPDATE wide SET n = 1e130000 + 1 WHERE id = 4711")
        reports = [_run(on, Asked(Extent(10.0, seed=5), settings=False)).as_dict() for _ in range(2)]
        data: list[Any] = [r["data"] for r in reports]
        assert data[0]["collections"] == data[1]["collections"]
        wide = data[0]["collections"]["wide"]
        assert 0 < wide["rows_read"] < 4_000
        assert not wide["whole"]
        found: Any = reports[0]["findings"]
        [value] = [f for f in found if f["kind"] == "value"]
        assert (value["count"], value["examples"][0]["key"]) == (1, ["4711"])
        assert "sampled" in {f["kind"] for f in found}
