"""What differs between a live collection and its shadow, as much of it as a person reads. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import bson

from connectors.mongo.client import CODEC

SAMPLES = 5
#: so many differing documents are looked at again, and named at most
DOUBTS = 10_000
#: no field is named so: `$` is left out of names by the mapping
ONLY_LIVE, ONLY_SHADOW = frozenset({"$only live"}), frozenset({"$only in the shadow"})


@dataclass(slots=True)
class Difference:
    """Of one collection. fields: how many documents differ in each. samples: of documents, `_id` and fields. foreign:
    live documents that tandem did not write. unchecked: documents that differed at the first look, of which there were
    too many to look at again."""

    live: int = 0
    shadow: int = 0
    only_live: int = 0
    only_shadow: int = 0
    differing: int = 0
    foreign: int = 0
    unchecked: int = 0
    fields: dict[str, int] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether both hold the same."""
        return not (self.only_live or self.only_shadow or self.differing or self.unchecked)

    def add(self, _id: Any, how: frozenset[str]) -> None:
        """Count one document: ONLY_LIVE, ONLY_SHADOW, or the fields that differ."""
        if how == ONLY_SHADOW:
            self.only_shadow += 1
        elif how == ONLY_LIVE:
            self.only_live += 1
        elif how:
            self.differing += 1
            for name in how:
                self.fields[name] = self.fields.get(name, 0) + 1
        if how:
            self._sample(_id, sorted(how))

    def _sample(self, _id: Any, names: list[str]) -> None:
        if len(self.samples) < SAMPLES:
            self.samples.append({"_id": str(_id), "fields": names})

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        names = ("live", "shadow", "only_live", "only_shadow", "differing", "foreign", "unchecked")
        most = sorted(self.fields.items(), key=lambda pair: (-pair[1], pair[0]))[:50]
        return {**{n: getattr(self, n) for n in names}, "fields": dict(most), "samples": self.samples}


def how(live: Mapping[str, Any] | None, shadow: Mapping[str, Any] | None) -> frozenset[str]:
    """ONLY_LIVE, ONLY_SHADOW, or the fields that differ; empty where nothing does. None: it is not there."""
    if live is None or shadow is None:
        return frozenset() if live is shadow else ONLY_SHADOW if live is None else ONLY_LIVE
    return frozenset(differing(live, shadow))


def differing(live: Mapping[str, Any], shadow: Mapping[str, Any]) -> list[str]:
    """Fields, in the live one's order, that one has and the other has not, or that differ in value or type. What
    tandem keeps for itself does not count."""
    names = [name for name in dict.fromkeys((*live, *shadow)) if name != "_sync"]
    return [
        name
        for name in names
        if (name in live) != (name in shadow) or not _equal(live.get(name), shadow.get(name))
    ]


def _equal(one: Any, other: Any) -> bool:
    """As they lie there: 1 is not 1.0, and a document's fields have an order."""
    return one is other or bson.encode({"": one}, codec_options=CODEC) == bson.encode(
        {"": other}, codec_options=CODEC
    )
