"""The story of a document: what is told first, for which facts; where fields come from; how keys are given."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from connectors.errors import Misused
from consumers.mapping import spec
from sync.cli.explain import _key
from sync.explain.facts import EventFact, Facts, FieldFact, ParkedFact
from sync.explain.origins import numbered, origins
from sync.explain.render import render
from sync.explain.verdict import verdict
from tests.support.simulation import MAPPING, plan_of

SAME = FieldFact("teamName", "column team_name", 6, "string 'a'", "string 'a'")
OTHER = replace(SAME, found="string 'b'", differs=("teamName", "string 'a'", "string 'b'"))
DELETED = EventFact(
    "public.teams", "[7]", "delete", "0/2A", 9, 1_700_000_000_000, "t/1", 40, applied=True, own=True
)


def facts(*fields: FieldFact, there: bool = True, wanted: bool = True, **more: object) -> Facts:
    made = Facts("teams", "66f0", "public.teams", "0/1A2B", key={"id": "7"})
    made.document_there, made.expected_there = there, wanted
    made.row = {"id": "7", "team_name": "a"} if wanted else None
    made.sync, made.fields = {"at": 3, "lsn": "0/10"}, list(fields)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def test_it_agrees() -> None:
    told = verdict(facts(SAME))
    assert (told.ok, told.what, told.why) == (True, "agrees with public.teams id=7 as of 0/1A2B", ())


def test_it_differs_and_the_likeliest_cause_is_told() -> None:
    nothing = verdict(facts(SAME, OTHER))
    assert not nothing.ok
    assert nothing.what == "differs from public.teams id=7 in 1 field: teamName"
    assert "--repair" in nothing.why[0]
    parked = ParkedFact("public.teams [7]", "validator", "x", 2, own=True)
    told = verdict(facts(OTHER, parked=[parked], held=["public.teams"], behind=3, sync=None))
    assert [why.split(":")[0].split(" (")[0] for why in told.why] == [
        "an event of this row is parked",
        "held by a load or a reload",
        "3 records of its tables are not applied yet",
        "somebody else wrote it",
    ]
    late = verdict(facts(OTHER, events=[replace(DELETED, op="update", applied=False)]))
    assert late.why == ("1 events that were found here are not applied yet: look again in a moment",)


def test_a_wrong_sync_is_a_difference() -> None:
    told = verdict(facts(SAME, sync=None, sync_differs=("_sync", "{at, lsn}", "no such field")))
    assert told.what.endswith("in 1 field: _sync")


def test_it_is_missing_or_too_much() -> None:
    assert verdict(facts(there=False)).what == "missing: public.teams id=7 is there, and has no document"
    assert verdict(facts(there=False, expired=True)).ok
    gone = verdict(facts(wanted=False, events=[DELETED]))
    assert not gone.ok
    assert gone.what == (
        "too much: there is no row public.teams id=7: deleted at 2023-11-14T22:13:20.000Z"
        " (LSN 0/2A, t/1 offset 40), and there is one"
    )
    filtered = facts(there=False, wanted=False, row={"id": "7"}, where="is_active", passes=None)
    assert verdict(filtered).ok
    assert "`is_active` is unknown" in verdict(filtered).what


def test_a_row_that_came_back_was_not_deleted() -> None:
    back = replace(DELETED, op="insert", offset=41)
    assert "deleted" not in verdict(facts(wanted=False, events=[DELETED, back])).what
    tombstone = replace(DELETED, op="tombstone", offset=41, lsn="-", committed_ms=0)
    assert "offset 40" in verdict(facts(wanted=False, events=[DELETED, tombstone])).what


def test_an_id_that_no_row_has() -> None:
    assert "tandem did not write it" in verdict(facts(key={}, sync=None, wanted=False)).what
    assert verdict(facts(key={}, there=False, wanted=False)).ok


def test_each_field_has_the_line_that_says_it() -> None:
    plan = plan_of(False)
    found = numbered(
        origins("teams", plan.declared.collections["teams"], plan.documents["teams"]),
        spec.Lines(MAPPING, "m"),
    )
    lines = MAPPING.splitlines()
    assert "members:" in lines[found["members"][1] - 1]
    assert "from:" in lines[found["teamName"][1] - 1]
    assert found["teamName"][0] == "column team_name"


def test_all_of_it_is_printed() -> None:
    console = Console(record=True, width=160, file=io.StringIO())
    it = facts(
        SAME, OTHER, events=[DELETED], where="is_active", where_line=6, passes=True, reach=["t/1: all"]
    )
    it.expires_ms, it.jobs = 1_700_000_000_000, ["truncate of public.teams up to 0/9"]
    render(it, verdict(it), console, "mapping.yaml")
    text = console.export_text()
    assert text.startswith("differs from public.teams id=7 in 1 field: teamName\n")
    for part in (
        "mapping.yaml:6",
        "expected string 'a'",
        "delete",
        "0/2A",
        "offset 3",
        "2023-11-14",
        "truncate of",
    ):
        assert part in text


def test_a_key_is_given_in_several_ways() -> None:
    assert _key(["team_id=7"]) == {"team_id": "7"}
    assert _key(["team_id=7,nr=2"]) == _key(["team_id=7", "nr=2"]) == {"team_id": "7", "nr": "2"}
    assert _key(["name=a,b=, c"]) == {"name": "a", "b": ", c"}
    assert _key(["name=x, y"]) == {"name": "x, y"}
    for wrong in (["7"], ["a=1", "a=2"], ["=1"]):
        with pytest.raises(Misused):
            _key(wrong)
