"""Whether everything is ready for a cutover, of one document. Pure: what is not known is said to be unknown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sync.passage import Condition

Part = Mapping[str, Any]
#: numbers older than this say nothing about now
FRESH_S = 10.0
#: a slot that is full sooner than this is no slot to begin a cutover on
_SLOT_LASTS_S = 3_600.0
_NAMED = 4
_SLOT_KEEPS = ("reserved", "extended")


@dataclass(frozen=True, slots=True)
class Verdict:
    """All conditions."""

    conditions: tuple[Condition, ...]

    @property
    def ready(self) -> bool:
        """Every condition is met; one that is unknown is not met."""
        return all(one.ok for one in self.conditions)

    def as_dict(self) -> dict[str, object]:
        """For the document."""
        return {"ready": self.ready, "conditions": [one.as_dict() for one in self.conditions]}


@dataclass(frozen=True, slots=True)
class Seen:
    """What is judged. ages: seconds since the lag and the status were asked, None: they were not yet."""

    lag: Part | None
    status: Part | None
    control: Part | None
    lag_age_s: float | None
    status_age_s: float | None


def judge(seen: Seen, lag_below_s: float, verified_within_s: float) -> Verdict:
    """The verdict on what was seen."""
    found = [_fresh(seen), _components(seen.status), _lag(seen.lag, lag_below_s), _parked(seen.lag)]
    found += [_loading(seen), _slot(seen.lag), _verified(seen.status, verified_within_s)]
    if seen.control is not None:
        found.append(_running(seen.control))
    return Verdict(tuple(Condition(name, ok, why) for name, ok, why in found))


Judged = tuple[str, bool | None, str]


def _fresh(seen: Seen) -> Judged:
    name = "the numbers are fresh"
    ages = {"lag": seen.lag_age_s, "status": seen.status_age_s}
    if missing := [what for what, age in ages.items() if age is None]:
        return name, None, f"not asked yet: {' and '.join(missing)}"
    old = [
        f"the {what} is {age:.0f} s old" for what, age in ages.items() if age is not None and age > FRESH_S
    ]
    return (name, False, "; ".join(old)) if old else (name, True, "asked within the last seconds")


def _components(status: Part | None) -> Judged:
    name = "all components are in order"
    parts = (status or {}).get("components") or []
    if not parts:
        return name, None, "no component was asked yet"
    bad = [p for p in parts if p["ok"] is False]
    unknown = [p for p in parts if p["ok"] is None]
    if bad or unknown:
        why = _listed(bad + unknown, lambda p: f"{p['name']}: {p['what']}")
        return name, False if bad else None, why
    return name, True, ", ".join(p["name"] for p in parts)


def _lag(lag: Part | None, below_s: float) -> Judged:
    name = f"less than {below_s:g} s behind"
    seconds = (lag or {}).get("seconds")
    if lag is None or seconds is None:
        return name, None, _unknown(lag, "seconds")
    state = (lag.get("catch_up") or {}).get("state", "unknown")
    told = f"{seconds:.1f} s behind"
    if seconds >= below_s:
        return name, False, told + _STATES.get(state, "")
    if state in ("falling_behind", "stalled"):
        return name, False, told + _STATES[state]
    return name, True, told


_STATES = {
    "falling_behind": ", and falling further behind",
    "stalled": ", and nothing is being applied",
    "catching_up": ", and catching up",
}


def _parked(lag: Part | None) -> Judged:
    name = "nothing is parked"
    parked = (lag or {}).get("parked")
    if parked is None:
        return name, None, _unknown(lag, "parked")
    if parked:
        return name, False, f"{parked:,} {'row waits' if parked == 1 else 'rows wait'} for a retry"
    return name, True, "no row waits for a retry"


def _loading(seen: Seen) -> Judged:
    name = "nothing is loading"
    found = (seen.lag or {}).get("collections") or (seen.status or {}).get("collections") or []
    if not found:
        return name, None, "no collection was asked yet"
    busy = [c for c in found if c.get("phase") in ("unloaded", "loading", "reloading")]
    unknown = [c for c in found if c.get("phase") not in ("streaming", "unloaded", "loading", "reloading")]
    if busy:
        return name, False, _listed(busy, lambda c: f"{c['name']} is {c['phase']}")
    if unknown:
        return name, None, _listed(unknown, lambda c: f"{c['name']} is unknown")
    return name, True, f"{_count(len(found), 'collection')} streaming"


def _slot(lag: Part | None) -> Judged:
    name = "the slot is healthy"
    slot = (lag or {}).get("slot")
    if not slot:
        return name, None, _unknown(lag, "slot", "wal_bytes")
    status = slot.get("wal_status")
    if status not in _SLOT_KEEPS:
        return name, False, f"PostgreSQL says that its WAL is {status}"
    if not slot.get("active"):
        return name, False, "nobody streams from it"
    left = slot.get("full_in_seconds")
    if left is not None and left < _SLOT_LASTS_S:
        return name, False, f"it is full in {left / 60:.0f} min at this rate"
    return name, True, "streams, and its WAL is kept"


def _verified(status: Part | None, within_s: float) -> Judged:
    """By the last verification, and by the last one of the whole: a sample in between changes nothing if it agrees."""
    name = f"verified within {within_s / 3_600:g} h"
    found = (status or {}).get("verification")
    if found is None:
        return name, None, "it could not be found out"
    last, whole = found.get("last"), found.get("whole")
    if last is None:
        return name, False, "nothing was verified yet: run `tandem verify`"
    if not last["ok"]:
        return (
            name,
            False,
            f"{_count(last['differences'], 'difference')}, {_ago(last)}: `tandem verify --last`",
        )
    if whole is None:
        return name, False, "only a part was verified yet: run `tandem verify`"
    if not whole["ok"]:
        return (
            name,
            False,
            f"the whole had {_count(whole['differences'], 'difference')}, {_ago(whole)}: verify again",
        )
    if not whole["mapping"]:
        return name, False, f"{_ago(whole)}, under another mapping: verify again"
    if whole["age_s"] > within_s:
        return name, False, f"the whole agreed {_ago(whole)}: verify again"
    return name, True, f"the whole agreed {_ago(whole)}"


def _ago(one: Part) -> str:
    minutes = one["age_s"] / 60
    return f"{minutes:.0f} min ago" if minutes < 120 else f"{minutes / 60:.0f} h ago"


def _running(control: Part) -> Judged:
    name = "nothing is paused or throttled"
    if paused := control.get("paused"):
        return name, False, f"paused: {', '.join(paused)}"
    if control.get("max_ops") is not None:
        return name, False, f"limited to {control['max_ops']:,} operations a second"
    if throttled := control.get("throttled"):
        return name, False, _listed(throttled, lambda t: f"{t.get('who')}: {t.get('why')}")
    return name, True, "everything runs at full speed"


def _unknown(lag: Part | None, *keys: str) -> str:
    if lag is None:
        return "not asked yet"
    reasons = lag.get("unknown") or {}
    return next((str(reasons[key]) for key in keys if reasons.get(key)), "it could not be found out")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _listed(found: Iterable[Part], told: Callable[[Part], str]) -> str:
    texts = [told(one) for one in found]
    more = f"; and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    return "; ".join(texts[:_NAMED]) + more
