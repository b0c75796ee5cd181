"""A live collection beside its shadow, while both are written: what differs is looked at again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from connectors.mongo import client as mongo
from connectors.mongo import rebuilds, schema
from connectors.mongo.client import Database, Shadow
from sync.rebuild.compare import DOUBTS, Difference, differing, how

_PAGE = 1_000
#: so often what differs is looked at again, when the shadow has caught up: what is written all the time needs luck
_ROUNDS, _BETWEEN_S = 4, 0.3


def differences(live: Database, shadow: Shadow, name: str, catch_up: Callable[[], object]) -> Difference:
    """Compare all documents of a collection. catch_up: returns when the shadow is where the live side was before."""
    found = Difference()
    there = name in schema.collection_names(live)
    doubts: list[Any] = []
    last: Any = None
    while there and (page := rebuilds.page(live, name, last, _PAGE)):
        last = page[-1]["_id"]
        mine = [d for d in page if "_sync" in d]
        beside = rebuilds.these(shadow, name, [d["_id"] for d in mine])
        doubts += [d["_id"] for d in mine if d["_id"] not in beside or differing(d, beside[d["_id"]])]
    last = None
    while page := rebuilds.page(shadow, name, last, _PAGE):
        last = page[-1]["_id"]
        ids = [d["_id"] for d in page]
        known = set(mongo.those_there(live, name, ids)) if there else set()
        doubts += [_id for _id in ids if _id not in known]
    found.unchecked = max(0, len(doubts) - DOUBTS)
    for _id, of in _settled(live, shadow, name, doubts[:DOUBTS], catch_up).items():
        found.add(_id, of)
    found.foreign = rebuilds.foreign(live, name) if there else 0
    found.live = rebuilds.count(live, name) if there else 0
    found.shadow = rebuilds.count(shadow, name)
    return found


def _settled(
    live: Database, shadow: Shadow, name: str, doubts: Sequence[Any], catch_up: Callable[[], object]
) -> dict[Any, frozenset[str]]:
    """How these documents differ: what does so at every look. Something in passing is gone at one of them."""
    left: dict[Any, frozenset[str]] = {}
    for number in range(_ROUNDS):
        catch_up()
        found = _look(live, shadow, name, list(dict.fromkeys(doubts)) if not number else list(left))
        left = {_id: of & left.get(_id, of) for _id, of in found.items()}
        left = {_id: of for _id, of in left.items() if of}
        if not left:
            break
        time.sleep(_BETWEEN_S)
    return left


def _look(live: Database, shadow: Shadow, name: str, ids: Sequence[Any]) -> dict[Any, frozenset[str]]:
    found = {}
    for start in range(0, len(ids), _PAGE):
        some = ids[start : start + _PAGE]
        mine, other = rebuilds.these(live, name, some), rebuilds.these(shadow, name, some)
        found.update({_id: how(mine.get(_id), other.get(_id)) for _id in some})
    return found
