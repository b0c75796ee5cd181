"""All documents, and all rows, compared: what differs is written, as a change of the document would have been."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from connectors.mongo.changes import as_text, ids_after
from connectors.mongo.client import Database, those_there
from connectors.postgres.reverse import Reverse
from consumers.reverse.invert import Back
from consumers.reverse.worker import Applier, Wanted

_TOGETHER = 200


@dataclass
class Walked:
    """documents: that were looked at. rows: that were written, or would be. differing: documents of which something
    differs, the first of them by name. parked: that could not be written."""

    documents: int = 0
    rows: int = 0
    parked: int = 0
    differing: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "documents": self.documents,
            "rows": self.rows,
            "parked": self.parked,
            "differing": list(self.differing),
        }


class Walker:
    """One walk. dry_run: everything is undone that was written."""

    def __init__(
        self,
        backs: Mapping[str, Back],
        db: Database,
        applier: Applier,
        reverse: Reverse,
        token: str,
        watch: Callable[[str, int], None],
        *,
        dry_run: bool,
    ) -> None:
        self._backs, self._db, self._applier, self._reverse = backs, db, applier, reverse
        self._token, self._watch, self._dry = token, watch, dry_run
        self.walked = Walked()

    def run(self, keys: Callable[[Back], Iterator[tuple[Any, ...]]]) -> Walked:
        """Every document of every collection, then every row whose document is not there. keys: of all rows."""
        known: dict[str, dict[tuple[str, ...], str]] = {}
        for (collection, text), key in self._reverse.keys().items():
            known.setdefault(collection, {})[key] = text
        for collection in self._backs:
            for ids in self._pages(collection):
                self._apply([Wanted(collection, id_) for id_ in ids], collection)
        for collection, back in self._backs.items():
            for wanted in _chunks(self._gone(back, keys(back), known.get(collection, {}))):
                self._apply(wanted, collection)
        return self.walked

    def _pages(self, collection: str) -> Iterator[Sequence[Any]]:
        last: Any = None
        while ids := ids_after(self._db, collection, last, _TOGETHER):
            yield ids
            last = ids[-1]

    def _gone(
        self, back: Back, keys: Iterable[tuple[Any, ...]], known: Mapping[tuple[str, ...], str]
    ) -> Iterator[Wanted]:
        """Rows without a document."""
        collection = back.use.collection
        for some in _chunks(keys):
            ids = {back.use.id_of(key): tuple(str(v) for v in key) for key in some}
            there = {as_text(id_) for id_ in self._there(collection, list(ids))}
            for id_, texts in ids.items():
                if as_text(id_) not in there and texts not in known:
                    yield Wanted(collection, id_, None, texts)

    def _there(self, collection: str, ids: Sequence[Any]) -> list[Any]:
        return those_there(self._db, collection, ids)

    def _apply(self, wanted: Sequence[Wanted], collection: str) -> None:
        rows, parked = self._applier.tally.rows, self._applier.tally.parked
        names = self._applier.apply(wanted, self._move, undone=self._dry)
        self.walked.documents += len(wanted)
        self.walked.rows += self._applier.tally.rows - rows
        self.walked.parked += self._applier.tally.parked - parked
        if len(self.walked.differing) < _TOGETHER:
            self.walked.differing += [f"{c} {text}" for c, text in names]
        self._watch(collection, self.walked.documents)

    def _move(self) -> None:
        if not self._dry:
            self._reverse.move(self._token, self._token, 0, 0, None)


def _chunks(items: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(items)
    while some := list(islice(iterator, _TOGETHER)):
        yield some
