"""What a flag's definition says of who gets which variant, and the definition that says what is wanted. Pure.

In flagd's form. A rollout is what tandem itself writes: cohorts first, in their order, then a percentage, then
everybody. Targeting of any other shape is somebody else's, and is never written over in silence.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from connectors.errors import FlagRefused, FlagUnknown, Misused

#: the names of the cohorts, in their order; flagd's metadata takes texts, numbers and booleans
NAMES = "tandemCohorts"
_STATES = ("ENABLED", "DISABLED")
_LISTED = 20


@dataclass(frozen=True, slots=True)
class Cohort:
    """Keys that get a variant."""

    name: str
    keys: tuple[str, ...]
    variant: str


@dataclass(frozen=True, slots=True)
class Rollout:
    """default: of everybody whom no rule names. percent: so many of a hundred get `share`, always the same ones, and
    more of them when it grows. enabled: without, an application takes its own default."""

    default: str | None
    cohorts: tuple[Cohort, ...] = ()
    percent: int = 0
    share: str | None = None
    enabled: bool = True

    @property
    def whole(self) -> bool:
        """Everybody gets the same."""
        return self.enabled and not self.cohorts and not self.percent

    def in_words(self) -> str:
        """For people."""
        if not self.enabled:
            return "disabled"
        parts = [f"cohort {c.name} ({len(c.keys):,} keys): {c.variant}" for c in self.cohorts]
        parts += [f"{self.percent} %: {self.share}"] if self.percent else []
        rest = "the rest" if parts else "everybody"
        return "; ".join((*parts, f"{rest}: {self.default or 'what the application has as default'}"))


@dataclass(frozen=True, slots=True)
class Wanted:
    """variant: as it is called, or on/off for a boolean flag. Without percent and cohort: for everybody."""

    variant: str
    percent: int | None = None
    cohort: Cohort | None = None
    #: targeting that tandem did not write may be replaced
    over_foreign: bool = False
    #: the flag is made, as a boolean one that is off, where there is none
    create: bool = False
    key: str = "targetingKey"


def changed(name: str, definition: Mapping[str, Any] | None, wanted: Wanted) -> dict[str, Any]:
    """The definition that does what is wanted. What tandem knows nothing of stays as it is.

    Raises FlagUnknown, FlagRefused or Misused.
    """
    if definition is None:
        if not wanted.create:
            raise FlagUnknown(f"there is no flag {name}", remedy="see `tandem flags list`; --create makes it")
        definition = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"}
    check(name, definition)
    variant = variant_of(name, definition, wanted.variant)
    now = rollout(definition, wanted.key)
    if now is None:
        if not wanted.over_foreign:
            raise FlagRefused(
                f"the flag {name} has targeting that tandem did not write",
                remedy="change it by hand, or give --replace-targeting",
            )
        now = Rollout(definition.get("defaultVariant"))
    return _written(definition, _after(name, now, variant, wanted), wanted.key)


def _after(name: str, now: Rollout, variant: str, wanted: Wanted) -> Rollout:
    if wanted.percent is None and wanted.cohort is None:
        return Rollout(variant)
    now = replace(now, enabled=True)
    if wanted.percent is not None:
        if now.default == variant and wanted.percent:
            raise Misused(
                f"everybody gets {variant} of the flag {name} already: {wanted.percent} % of it would change nothing",
                remedy=f"give the variant that {wanted.percent} % are to get, or set the flag to another one first",
            )
        if wanted.percent and now.default is None:
            raise FlagRefused(
                f"the flag {name} has no defaultVariant for the others",
                remedy="set the flag for everybody first",
            )
        now = replace(now, percent=wanted.percent, share=variant if wanted.percent else None)
    if wanted.cohort is not None:
        cohort = replace(wanted.cohort, variant=variant)
        kept = tuple(cohort if c.name == cohort.name else c for c in now.cohorts)
        now = replace(now, cohorts=kept if cohort in kept else (*kept, cohort))
    return now


def _written(definition: Mapping[str, Any], wanted: Rollout, key: str) -> dict[str, Any]:
    new = dict(definition)
    new["state"] = "ENABLED" if wanted.enabled else "DISABLED"
    if wanted.default is not None:
        new["defaultVariant"] = wanted.default
    targeting = targeting_of(wanted, key)
    if targeting is None:
        new.pop("targeting", None)
    else:
        new["targeting"] = targeting
    metadata = {k: v for k, v in dict(new.get("metadata") or {}).items() if k != NAMES}
    if wanted.cohorts:
        metadata[NAMES] = ",".join(cohort.name for cohort in wanted.cohorts)
    if metadata:
        new["metadata"] = metadata
    elif "metadata" in new and NAMES in (definition.get("metadata") or {}):
        del new["metadata"]
    return new


def targeting_of(wanted: Rollout, key: str) -> dict[str, Any] | None:
    """flagd's rule. None: none is needed."""
    steps: list[Any] = []
    for cohort in wanted.cohorts:
        steps += [{"in": [{"var": key}, list(cohort.keys)]}, cohort.variant]
    if wanted.percent:
        # the share first: who is in it stays in it when it grows. Who gives no key would all be in one bucket
        bucket = {"cat": [{"var": "$flagd.flagKey"}, {"var": key}]}
        shares = [[wanted.share, wanted.percent], [wanted.default, 100 - wanted.percent]]
        steps += [{"var": key}, {"fractional": [bucket, *shares]}]
    return {"if": steps} if steps else None


def rollout(definition: Mapping[str, Any], key: str = "targetingKey") -> Rollout | None:
    """What a definition says. None: its targeting is not of tandem's shape."""
    found = Rollout(
        definition.get("defaultVariant") or None, enabled=definition.get("state", "ENABLED") == "ENABLED"
    )
    targeting = definition.get("targeting")
    if targeting in (None, {}):
        return found
    names = str((definition.get("metadata") or {}).get(NAMES, "")).split(",")
    try:
        cohorts, steps = [], targeting["if"]
        for number, (rule, variant) in enumerate(zip(steps[::2], steps[1::2], strict=True)):
            if rule == {"var": key}:
                (_, (share, percent), _) = variant["fractional"]
                found = replace(found, percent=percent, share=share)
                continue
            name = names[number] if number < len(names) and names[number] else str(number + 1)
            cohorts.append(Cohort(name, tuple(rule["in"][1]), variant))
        found = replace(found, cohorts=tuple(cohorts))
        same = targeting_of(found, key) == targeting
    except (TypeError, KeyError, ValueError, IndexError, AttributeError):
        return None
    return found if same else None


def variant_of(name: str, definition: Mapping[str, Any], said: str) -> str:
    """The variant that is meant: by its name; or on, off, true, false by its value in a boolean flag."""
    variants = definition["variants"]
    if said in variants:
        return said
    value = {"on": True, "true": True, "off": False, "false": False}.get(said.lower())
    meant = [variant for variant, of in variants.items() if value is not None and of is value]
    if len(meant) == 1:
        return str(meant[0])
    raise Misused(
        f"the flag {name} has no variant '{said}'",
        remedy=f"it has: {', '.join(map(str, list(variants)[:_LISTED]))}",
    )


def check(name: str, definition: Mapping[str, Any]) -> None:
    """Raise FlagRefused where this is no definition that flagd takes."""
    wrong = None
    variants = definition.get("variants")
    if not isinstance(variants, Mapping) or not variants:
        wrong = "has no variants"
    elif len({_type(value) for value in variants.values()}) > 1:
        wrong = "has variants of several types"
    elif definition.get("state") not in _STATES:
        wrong = f"has a state that is none of {', '.join(_STATES)}"
    elif definition.get("defaultVariant") not in (None, "", *variants):
        wrong = f"has a defaultVariant '{definition['defaultVariant']}' that is none of its variants"
    elif not isinstance(definition.get("targeting", {}), Mapping):
        wrong = "has targeting that is no object"
    elif not isinstance(definition.get("metadata", {}), Mapping):
        wrong = "has metadata that is no object"
    if wrong:
        raise FlagRefused(
            f"the flag {name} {wrong}", remedy="mend it by hand: flagd would not take it either"
        )


def _type(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else type(value).__name__


def difference(name: str, before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> list[str]:
    """What changes, line by line. Long lists of keys are cut."""

    def lines(of: Mapping[str, Any] | None) -> list[str]:
        return [] if of is None else json.dumps(of, indent=2, ensure_ascii=False).splitlines()

    found = difflib.unified_diff(lines(before), lines(after), f"{name} now", f"{name} then", n=2, lineterm="")
    told = list(found)
    return told if len(told) <= 200 else [*told[:200], f"… {len(told) - 200:,} more lines"]


def keys_of(text: str) -> tuple[str, ...]:
    """The keys of a cohort's file, in their order: one a line; empty lines and those that begin with # do not count."""
    found = [line.strip() for line in text.splitlines()]
    return tuple(dict.fromkeys(key for key in found if key and not key.startswith("#")))


def near(name: str, names: Sequence[str]) -> str:
    """A hint for a name that is not there."""
    found = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {found[0]}?" if found else ""
