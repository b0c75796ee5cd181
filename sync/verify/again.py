"""A few documents looked at once more, while both sides may be written: each agrees, differs, or was never at rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from connectors.mongo import client as mongo
from connectors.positions import Lsn
from connectors.postgres import client as postgres
from connectors.postgres.client import Session
from connectors.settings import SourceEndpoint, TargetEndpoint
from consumers.mapping.spec import Mapping_
from sync.verify import documents, rows
from sync.verify.catalog import Catalog
from sync.verify.expected import Expected, Key, Reading, reading
from sync.verify.judge import judge
from sync.verify.report import Difference, Kind

_ROUNDS = 10
_AT_ONCE = 200


@dataclass(frozen=True)
class Document:
    """One to be looked at. key: its row's, None where no row has its `_id`."""

    collection: str
    id: Any
    key: Key | None


#: how its rows are: their versions, and what it has to be
_State = tuple[list[str], Expected | None]


def look_again(
    mapping: Mapping_,
    source: SourceEndpoint,
    target: TargetEndpoint,
    wanted: Sequence[Document],
    wait: Callable[[Lsn], object],
) -> list[list[Difference]]:
    """The differences of each of these documents, in their order; none where it agrees. Of the kind IN_FLUX where its
    row changed whenever it was looked at. wait: returns when the consumers have applied everything up to an LSN."""
    with (
        closing(mongo.connect(target, name="tandem verify").client) as client,
        closing(postgres.connect(source, name="tandem verify again")) as session,
    ):
        database = client.get_database(target.database, codec_options=mongo.CODEC)
        catalog = Catalog(session, mapping.keys())
        readings = {name: reading(name, mapping, catalog) for name in {one.collection for one in wanted}}
        return _Looks(readings, session, database, wait).at(wanted)


class _Looks:
    def __init__(
        self,
        readings: Mapping[str, Reading],
        session: Session,
        database: mongo.Database,
        wait: Callable[[Lsn], object],
    ) -> None:
        self.readings, self.session, self.database, self.wait = readings, session, database, wait

    def at(self, wanted: Sequence[Document]) -> list[list[Difference]]:
        """A difference counts when it was the same twice and its row at rest meanwhile, as in the walk over all."""
        settled: dict[int, list[Difference]] = {}
        suspects: dict[int, list[Difference]] = {}
        pause_s = 0.05
        for round_ in range(_ROUNDS):
            left = [n for n in range(len(wanted)) if n not in settled]
            for n, found, rested in self._round(left, wanted):
                if not found or (rested and suspects.get(n) == found):
                    settled[n] = found
                elif round_ == _ROUNDS - 1:
                    settled[n] = found if rested else [replace(d, kind=Kind.IN_FLUX) for d in found]
                suspects[n] = found if rested else []
            if len(settled) == len(wanted):
                break
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 2.0)
        return [settled[n] for n in range(len(wanted))]

    def _round(
        self, left: Sequence[int], wanted: Sequence[Document]
    ) -> Iterator[tuple[int, list[Difference], bool]]:
        before = self._rows(left, wanted)
        self.wait(rows.lsn(self.session))
        now_ms = rows.clock_ms(self.session)
        found = self._documents(left, wanted)
        after = self._rows(left, wanted)
        for n in left:
            one, its = wanted[n], self.readings[wanted[n].collection]
            was, is_ = before.get(n), after.get(n)
            differences = _judged(its, one, is_, found.get(n), now_ms)
            rested = (was and was[0]) == (is_ and is_[0])
            if not rested and not _judged(its, one, was, found.get(n), now_ms):
                differences = []  # as the row was a moment ago
            yield n, differences, rested

    def _documents(self, left: Sequence[int], wanted: Sequence[Document]) -> dict[int, mongo.Document]:
        there: dict[int, mongo.Document] = {}
        for name in self.readings:
            mine = [n for n in left if wanted[n].collection == name]
            found = documents.these(self.database, name, [wanted[n].id for n in mine])
            there.update(
                {n: found[at] for n in mine if (at := documents.token(wanted[n].id)) in found},
            )
        return there

    def _rows(self, left: Sequence[int], wanted: Sequence[Document]) -> dict[int, _State]:
        """Of each that has one: the row and all that its document is made from."""
        states: dict[int, _State] = {}
        for name, its in self.readings.items():
            mine = {wanted[n].id: n for n in left if wanted[n].collection == name and wanted[n].key}
            keys = [key for n in mine.values() if (key := wanted[n].key) is not None]
            for start in range(0, len(keys), _AT_ONCE):
                some = keys[start : start + _AT_ONCE]
                expected = {one.id: one for one in rows.look(self.session, its, some)}
                for key, versions in rows.versions(self.session, its, some).items():
                    id_ = its.id_of(key)
                    states[mine[id_]] = versions, expected.get(id_)
        return states


def _judged(
    its: Reading, one: Document, state: _State | None, document: mongo.Document | None, now_ms: int
) -> list[Difference]:
    expected = state[1] if state else None
    fields, copy = (expected.fields, expected.copy) if expected else (None, {})
    return judge(its, one.id, one.key, fields, document, now_ms, copy)
