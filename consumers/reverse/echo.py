"""Which changes of documents are tandem's own. Pure: `_sync` says it; every write of the way forward changes that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def own(kind: str, set_: Sequence[str], sync: Any, before: Any) -> bool:
    """Whether the way forward has made this change. A deletion is never taken for that: its row has gone, or does not
    pass its filter, so that nothing comes of it.

    set: the fields that an update has set. sync, before: `_sync` behind and before it; None where there is none, or
    nobody knows. An application that writes back a document with the `_sync` that it has read changes nothing of that.
    """
    if kind == "update":
        return any(name == "_sync" or name.startswith("_sync.") for name in set_)
    if kind not in ("insert", "replace") or not isinstance(sync, Mapping) or "lsn" not in sync:
        return False
    return kind == "insert" or (before is not None and before != sync)
