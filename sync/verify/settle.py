"""What was in doubt is looked at again, as often as its row changes meanwhile: row, LSN, wait until MongoDB holds
everything up to it, document, row. A row that is the same before and after has no excuse."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from bson import ObjectId

from connectors.errors import NotComplete
from connectors.mongo import client as mongo
from connectors.positions import Lsn
from connectors.postgres import client as postgres
from sync.verify import documents, rows
from sync.verify.causes import explained
from sync.verify.doubts import At, Doubts
from sync.verify.expected import Expected, Reading
from sync.verify.judge import judge
from sync.verify.report import Difference, Kind, VerifyReport

Wait = Callable[[Lsn], None]
Fields = dict[str, Any]
#: The versions of the row and its children, and those of them that pass the filters.
State = tuple[list[str] | None, tuple[str, ...] | None]


class Settling:
    """Settles doubts, and records what is confirmed in the report. batch: documents at once. samples: differences that
    the report tells."""

    def __init__(
        self,
        readings: Mapping[str, Reading],
        looking: postgres.Session,
        database: mongo.Database,
        report: VerifyReport,
        doubts: Doubts,
        wait: Wait | None,
        now_ms: Callable[[], int],
        *,
        batch: int,
        rounds: int,
        samples: int,
    ) -> None:
        self.readings, self.looking, self.database = readings, looking, database
        self.report, self.doubts, self.wait, self.now_ms = report, doubts, wait, now_ms
        self.batch, self.rounds, self.samples = batch, rounds, samples
        self.sampled: list[At] = []

    def settle(self) -> None:
        """Look again until every doubt is settled, or confirmed.

        Confirmed: the same differences in two rounds, in each of which the row stayed as it was. One round
        might have met the document of a child that came and went meanwhile: PostgreSQL keeps no trace of it.
        """
        doubts, report = self.doubts, self.report
        pause_s = 0.05
        suspects: dict[At, list[Difference]] = {}
        while doubts.ids:
            report.rounds += 1
            last = report.rounds >= self.rounds
            self._find_keys(doubts.ids)
            before = self._before()
            report.waited = self.waited(rows.lsn(self.looking))
            seen = [look for chunk in self._chunks() for look in self._look_again(chunk, before)]
            doubts.ids = {at: doubts.ids[at] for at, _, _ in seen}
            for at, differences, rested in seen:
                if rested and (last or not report.waited or suspects.get(at) == differences):
                    self._record(at, differences)
                    del doubts.ids[at]
                elif last or self.wait is None:
                    self._record(at, [replace(found, kind=Kind.IN_FLUX) for found in differences])
                    del doubts.ids[at]
            suspects = {at: differences for at, differences, rested in seen if rested}
            if doubts.ids:
                time.sleep(pause_s)
                pause_s = min(pause_s * 2, 2.0)
        report.unchecked = doubts.unchecked
        report.differences = [
            explained(found, doubts.keys.get(at), self.readings[at[0]], self.looking, self.database)
            for found, at in zip(report.differences, self.sampled, strict=True)
        ]

    def waited(self, lsn: Lsn) -> bool:
        """Wait, unless that was refused before: then it would only be refused again."""
        if self.wait is None or self.report.not_waited is not None:
            return False
        try:
            self.wait(lsn)
        except NotComplete as error:
            self.report.not_waited = error.what
            return False
        return True

    def _find_keys(self, ats: Iterable[At]) -> None:
        """The keys of documents whose `_id` is a hash, where they have a row by now."""
        keys = self.doubts.keys
        for name, its in self.readings.items():
            hashed = [at for at in ats if at[0] == name and at not in keys and not its.has_integer_key]
            unknown = [id_ for _, id_ in hashed if isinstance(id_, ObjectId)]
            if unknown:
                found = rows.keys_of(self.looking, its, unknown)
                keys.update({(name, id_): key for id_, key in found.items()})

    def _now(self, chunk: Sequence[At]) -> Iterator[tuple[At, Expected | None, State]]:
        """The rows as they are now, where keys are known. The state is another one after any change."""
        its = self.readings[chunk[0][0]]
        keys = {at: self.doubts.keys[at] for at in chunk if at in self.doubts.keys}
        expected = {found.key: found for found in rows.look(self.looking, its, keys.values())}
        versions = rows.versions(self.looking, its, keys.values())
        for at, key in keys.items():
            found = expected.get(key)
            yield at, found, (versions.get(key), found.version if found else None)

    def _before(self) -> dict[At, tuple[Fields | None, State]]:
        """The rows now. Fields are kept while they are few: documents of restless rows agree with these."""
        few = len(self.doubts.ids) <= self.batch
        return {
            at: (expected.fields if expected and few else None, state)
            for chunk in self._chunks()
            for at, expected, state in self._now(chunk)
        }

    def _look_again(
        self, chunk: Sequence[At], before: Mapping[At, tuple[Fields | None, State]]
    ) -> Iterator[tuple[At, list[Difference], bool]]:
        """Documents that still differ, and whether their rows are as before. The rows are read last."""
        name = chunk[0][0]
        its = self.readings[name]
        found = documents.these(self.database, name, [self.doubts.ids[at] for at in chunk])
        now = {at: (expected, state) for at, expected, state in self._now(chunk)}
        for at in chunk:
            expected, state = now.get(at, (None, None))
            was, old = before.get(at, (None, None))
            id_, key, document = self.doubts.ids[at], self.doubts.keys.get(at), found.get(at[1])
            fields, copy = (expected.fields, expected.copy) if expected else (None, {})
            differences = judge(its, id_, key, fields, document, self.now_ms(), copy)
            if state != old and was is not None and not judge(its, id_, key, was, document, self.now_ms()):
                continue
            if differences:
                yield at, differences, state == old

    def _chunks(self) -> Iterator[list[At]]:
        """The documents in doubt, each chunk of one collection."""
        for name in self.readings:
            ats = [at for at in self.doubts.ids if at[0] == name]
            for start in range(0, len(ats), self.batch):
                yield ats[start : start + self.batch]

    def _record(self, at: At, differences: Sequence[Difference]) -> None:
        report = self.report
        report.total += len(differences)
        report.in_flux += sum(difference.kind is Kind.IN_FLUX for difference in differences)
        report.collections[at[0]].differing += 1
        for difference in islice(differences, max(self.samples - len(report.differences), 0)):
            report.differences.append(difference)
            self.sampled.append(at)
