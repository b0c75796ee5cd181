"""Documents that were not as their rows when they were looked at: they may be on their way. Pure."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from sync.verify.documents import Token, token
from sync.verify.expected import Key

#: A document: its collection, and its `_id`.
At = tuple[str, Token]


@dataclass
class Doubts:
    """Used by several threads. limit: no more are kept; each holds its key in memory. unchecked: were too many."""

    limit: int
    ids: dict[At, Any] = field(default_factory=dict)
    #: where they are known
    keys: dict[At, Key] = field(default_factory=dict)
    unchecked: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, collection: str, id_: Any, key: Key | None) -> None:
        """One more."""
        at = (collection, token(id_))
        with self._lock:
            if at not in self.ids and len(self.ids) >= self.limit:
                self.unchecked += 1
                return
            self.ids[at] = id_
            if key is not None:
                self.keys[at] = key

    @property
    def full(self) -> bool:
        """Whether more would only be counted."""
        return len(self.ids) >= self.limit
