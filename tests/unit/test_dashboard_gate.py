"""The readiness gate: met, not met, unknown, each with its reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sync.dashboard.gate import Seen, Verdict, judge
from tests.support.dashboard import lag, status, verified

GOOD = Seen(lag(), status(), {"paused": [], "max_ops": None, "throttled": []}, 0.5, 2.0)
FRESH, PARTS, BEHIND, PARKED, LOADING, SLOT, PROVED, RUNS = range(8)


def verdict(**changed: Any) -> Verdict:
    return judge(replace(GOOD, **changed), 10.0, 86_400.0)


def test_all_in_order_is_ready() -> None:
    found = verdict()
    assert found.ready
    assert [c.ok for c in found.conditions] == [True] * 8
    assert all(c.why for c in found.conditions)


def test_without_control_there_is_one_condition_less() -> None:
    assert len(verdict(control=None).conditions) == 7
    assert verdict(control=None).ready


def test_nothing_seen_is_unknown_and_not_ready() -> None:
    found = judge(Seen(None, None, None, None, None), 10.0, 86_400.0)
    assert {c.ok for c in found.conditions} == {None}
    assert not found.ready


def both(**changed: Any) -> dict[str, Any]:
    """The last verification was one of the whole."""
    return {"last": verified(**changed), "whole": verified(**changed)}


SLOT_OF = lag()["slot"]
PARTS_OF = status()["components"]
CASES = [
    (FRESH, {"lag_age_s": 30.0}, False, "the lag is 30 s old"),
    (FRESH, {"status_age_s": None}, None, "not asked yet: status"),
    (PARTS, {"status": status(components=[])}, None, "no component was asked yet"),
    (
        PARTS,
        {"status": status(components=[*PARTS_OF, {"name": "Kafka", "ok": False, "what": "away"}])},
        False,
        "Kafka: away",
    ),
    (
        PARTS,
        {"status": status(components=[*PARTS_OF, {"name": "MongoDB", "ok": None, "what": "silent"}])},
        None,
        "MongoDB: silent",
    ),
    (
        BEHIND,
        {"lag": lag(seconds=None, unknown={"seconds": "PostgreSQL is away"})},
        None,
        "PostgreSQL is away",
    ),
    (
        BEHIND,
        {"lag": lag(seconds=10.0, catch_up={"state": "catching_up", "seconds": 60})},
        False,
        "and catching up",
    ),
    (
        BEHIND,
        {"lag": lag(seconds=4.0, catch_up={"state": "stalled", "seconds": None})},
        False,
        "nothing is being applied",
    ),
    (PARKED, {"lag": lag(parked=1)}, False, "1 row waits"),
    (PARKED, {"lag": lag(parked=1_200)}, False, "1,200 rows wait"),
    (PARKED, {"lag": lag(parked=None, unknown={"parked": "MongoDB is away"})}, None, "MongoDB is away"),
    (LOADING, {"lag": lag(collections=[{"name": "users", "phase": "loading"}])}, False, "users is loading"),
    (LOADING, {"lag": lag(collections=[{"name": "users", "phase": "unknown"}])}, None, "users is unknown"),
    (LOADING, {"lag": lag(collections=[]), "status": status(collections=[])}, None, "no collection"),
    (
        SLOT,
        {"lag": lag(slot=None, unknown={"wal_bytes": "there is no replication slot"})},
        None,
        "there is no",
    ),
    (SLOT, {"lag": lag(slot={**SLOT_OF, "wal_status": "lost"})}, False, "lost"),
    (SLOT, {"lag": lag(slot={**SLOT_OF, "wal_status": "unreserved"})}, False, "unreserved"),
    (SLOT, {"lag": lag(slot={**SLOT_OF, "active": False})}, False, "nobody streams"),
    (SLOT, {"lag": lag(slot={**SLOT_OF, "full_in_seconds": 600.0})}, False, "full in 10 min"),
    (PROVED, {"status": status(verification=None)}, None, "could not be found out"),
    (PROVED, {"status": status(verification={"last": None, "whole": None})}, False, "run `tandem verify`"),
    (
        PROVED,
        {"status": status(verification={"last": verified(coverage=0.05), "whole": None})},
        False,
        "only a part",
    ),
    (PROVED, {"status": status(verification=both(age_s=90_000.0))}, False, "agreed 25 h ago"),
    (PROVED, {"status": status(verification=both(mapping=False))}, False, "another mapping"),
    (PROVED, {"status": status(verification=both(ok=False, differences=3))}, False, "3 differences"),
    (
        PROVED,
        {"status": status(verification={"last": verified(ok=False, differences=1), "whole": verified()})},
        False,
        "1 difference,",
    ),
    (
        PROVED,
        {"status": status(verification={"last": verified(coverage=0.1), "whole": verified(ok=False)})},
        False,
        "verify again",
    ),
    (RUNS, {"control": {"paused": ["consumers"]}}, False, "paused: consumers"),
    (RUNS, {"control": {"paused": [], "max_ops": 1_000}}, False, "1,000 operations"),
    (
        RUNS,
        {"control": {"throttled": [{"who": "load", "why": "PostgreSQL is slow"}]}},
        False,
        "PostgreSQL is slow",
    ),
]


@pytest.mark.parametrize(("which", "changed", "ok", "why"), CASES, ids=lambda value: str(value)[:40])
def test_one_condition_closes_the_gate(
    which: int, changed: dict[str, Any], ok: bool | None, why: str
) -> None:
    found = verdict(**changed)
    assert not found.ready
    assert found.conditions[which].ok is ok
    assert why in found.conditions[which].why
    others = [c.ok for n, c in enumerate(found.conditions) if n != which]
    assert all(others)


def test_many_reasons_are_cut_short() -> None:
    parts = [{"name": f"part {n}", "ok": False, "what": "away"} for n in range(9)]
    assert verdict(status=status(components=parts)).conditions[PARTS].why.endswith("; and 5 more")
