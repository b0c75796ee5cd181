"""The walk over both sides, while both may be written.

First every row of a snapshot is compared with its document, then every document without a row is looked for.
What differs is only in doubt: the consumers may be on their way. Each doubt is looked at again, as often as
its row changes meanwhile: row, LSN, wait until MongoDB holds everything up to it, document, row. A row that
is the same before and after has no excuse.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from bson import ObjectId

from connectors.errors import MappingInvalid, NotComplete
from connectors.mongo import client as mongo
from connectors.positions import Lsn
from connectors.postgres import client as postgres
from connectors.settings import SourceEndpoint, TargetEndpoint
from consumers.mapping.ids import integer_key
from consumers.mapping.spec import Mapping_
from sync.verify import documents, rows
from sync.verify.catalog import Catalog
from sync.verify.causes import explained
from sync.verify.documents import Token, token
from sync.verify.expected import Expected, Key, Reading, reading
from sync.verify.expiry import may_be_gone
from sync.verify.judge import judge
from sync.verify.report import Counts, Difference, Kind, VerifyReport

Wait = Callable[[Lsn], None]
#: Called with a collection and how many of its rows have been compared.
Progress = Callable[[str, int], None]
#: A document: its collection, and its `_id`.
At = tuple[str, Token]
Fields = dict[str, Any]
#: The versions of the row and its children, and those of them that pass the filters.
State = tuple[list[str] | None, tuple[str, ...] | None]


@dataclass(frozen=True)
class Limits:
    """How much at once, and how often."""

    batch: int = 500
    rounds: int = 10
    samples: int = 100
    #: Documents that are looked at again; each holds its key in memory.
    doubts: int = 100_000


def verify(
    mapping: Mapping_,
    source: SourceEndpoint,
    target: TargetEndpoint,
    *,
    collections: Sequence[str] | None = None,
    wait: Wait | None = None,
    progress: Progress | None = None,
    limits: Limits | None = None,
) -> VerifyReport:
    """Compare every field of every document with PostgreSQL.

    wait: returns when the consumers have applied everything up to an LSN, or raises NotComplete. Without it
    there is one comparison, which is right only while nothing is written.
    Raises MappingInvalid, TableUnfit, and errors of kind RETRY when a server goes away.
    """
    with _sessions(source, target) as (walking, looking, database):
        catalog = Catalog(looking, mapping.keys())
        readings = {name: reading(name, mapping, catalog) for name in _wanted(mapping, collections)}
        walk = _Walk(
            readings, walking, looking, database, wait, progress or (lambda _, __: None), limits or Limits()
        )
        return walk.run()


def _wanted(mapping: Mapping_, collections: Sequence[str] | None) -> list[str]:
    fed = [name for name, collection in mapping.collections.items() if collection.table is not None]
    unknown = [name for name in collections or () if name not in fed]
    if unknown:
        raise MappingInvalid(
            f"no table feeds a collection {', '.join(unknown)}", remedy=f"choose among {', '.join(fed)}"
        )
    return [name for name in fed if collections is None or name in collections]


@contextmanager
def _sessions(
    source: SourceEndpoint, target: TargetEndpoint
) -> Iterator[tuple[postgres.Session, postgres.Session, mongo.Database]]:
    database = mongo.connect(target, name="tandem verify")
    with (
        closing(database.client),
        closing(postgres.connect(source, name="tandem verify")) as walking,
        closing(postgres.connect(source, name="tandem verify again")) as looking,
    ):
        yield walking, looking, database


class _Walk:
    def __init__(
        self,
        readings: Mapping[str, Reading],
        walking: postgres.Session,
        looking: postgres.Session,
        database: mongo.Database,
        wait: Wait | None,
        progress: Progress,
        limits: Limits,
    ) -> None:
        self.readings = readings
        self.walking = walking
        self.looking = looking
        self.database = database
        self.wait = wait
        self.progress = progress
        self.limits = limits
        started = rows.lsn(looking)
        self.report = VerifyReport(lsn=started, at=datetime.now(UTC), until=started)
        #: Documents that were not as their rows, once, with their `_id`s.
        self.doubts: dict[At, Any] = {}
        #: The keys of documents in doubt or in a sample, where they are known.
        self.keys: dict[At, Key] = {}
        self.sampled: list[At] = []
        self._clock_ms = rows.clock_ms(looking)
        self._clock_read = time.monotonic()

    def run(self) -> VerifyReport:
        report = self.report
        report.waited = self._waited(report.lsn)
        for name, its in self.readings.items():
            report.collections[name] = Counts(its.table.name)
            seen = self._rows(its)
            self._extras(its, seen)
        self._settle()
        if self.wait is None:
            self._find_keys(self.sampled)
        report.differences = [
            explained(found, self.keys.get(at), self.readings[at[0]], self.looking, self.database)
            for found, at in zip(report.differences, self.sampled, strict=True)
        ]
        report.until = rows.lsn(self.looking)
        report.took_s = time.monotonic() - self._clock_read
        return report

    # the first look

    def _rows(self, its: Reading) -> set[bytes]:
        """Compare every row. Returns their `_id`s, 12 bytes each, where an `_id` does not tell its key."""
        name, counts = its.collection, self.report.collections[its.collection]
        seen: set[bytes] = set()
        for batch in rows.stream(self.walking, its, self.limits.batch):
            found = documents.these(self.database, name, [expected.id for expected in batch])
            for expected in batch:
                document = found.get(expected.id)
                if document is not None:
                    counts.compared += 1
                    counts.fields += len(expected.fields)
                elif may_be_gone(its.ttl, expected.fields, self._now_ms()):
                    counts.expiring += 1
                self._first_look(its, expected.id, expected.key, expected, document)
            if not its.has_integer_key:
                seen.update(expected.id.binary for expected in batch)
            counts.rows += len(batch)
            self.progress(name, counts.rows)
        return seen

    def _extras(self, its: Reading, seen: set[bytes]) -> None:
        """Look for documents that no row of the filter stands behind."""
        name, counts = its.collection, self.report.collections[its.collection]
        for batch in documents.ids(self.database, name, self.limits.batch):
            counts.documents += len(batch)
            keys = {token(id_): _key_in(its, id_) for id_ in batch}
            if its.has_integer_key:
                known = {key for key in keys.values() if key is not None}
                there = rows.present(self.looking, its, known, filtered=True)
                extra = [id_ for id_ in batch if keys[token(id_)] not in there]
            else:
                extra = [id_ for id_ in batch if not isinstance(id_, ObjectId) or id_.binary not in seen]
            for at, found in documents.these(self.database, name, extra).items():
                if may_be_gone(its.ttl, found, self._now_ms()):
                    counts.expiring += 1
                self._first_look(its, found["_id"], keys[at], None, found)

    def _first_look(
        self,
        its: Reading,
        id_: Any,
        key: Key | None,
        expected: Expected | None,
        document: mongo.Document | None,
    ) -> None:
        fields, copy = (expected.fields, expected.copy) if expected else (None, {})
        differences = judge(its, id_, key, fields, document, self._now_ms(), copy)
        at = (its.collection, token(id_))
        if not differences:
            return
        if self.wait is not None and len(self.doubts) >= self.limits.doubts:
            self.report.unchecked += 1
            return
        if self.wait is None:
            self._record(at, differences)
        else:
            self.doubts[at] = id_
        if key is not None and (at in self.doubts or at in self.sampled[-1:]):
            self.keys[at] = key

    # looking again

    def _settle(self) -> None:
        """Look again until every doubt is settled, or confirmed.

        Confirmed: the same differences in two rounds, in each of which the row stayed as it was. One round
        might have met the document of a child that came and went meanwhile: PostgreSQL keeps no trace of it.
        """
        pause_s = 0.05
        suspects: dict[At, list[Difference]] = {}
        while self.doubts:
            self.report.rounds += 1
            last = self.report.rounds >= self.limits.rounds
            self._find_keys(self.doubts)
            before = self._before()
            self.report.waited = self._waited(rows.lsn(self.looking))
            seen = [look for chunk in self._chunks() for look in self._look_again(chunk, before)]
            self.doubts = {at: self.doubts[at] for at, _, _ in seen}
            for at, differences, rested in seen:
                if rested and (last or not self.report.waited or suspects.get(at) == differences):
                    self._record(at, differences)
                    del self.doubts[at]
                elif last:
                    self._record(at, [replace(found, kind=Kind.IN_FLUX) for found in differences])
                    del self.doubts[at]
            suspects = {at: differences for at, differences, rested in seen if rested}
            if self.doubts:
                time.sleep(pause_s)
                pause_s = min(pause_s * 2, 2.0)

    def _find_keys(self, ats: Iterable[At]) -> None:
        """The keys of documents whose `_id` is a hash, where they have a row by now."""
        for name, its in self.readings.items():
            hashed = [at for at in ats if at[0] == name and at not in self.keys and not its.has_integer_key]
            unknown = [id_ for _, id_ in hashed if isinstance(id_, ObjectId)]
            if unknown:
                found = rows.keys_of(self.looking, its, unknown)
                self.keys.update({(name, id_): key for id_, key in found.items()})

    def _now(self, chunk: Sequence[At]) -> Iterator[tuple[At, Expected | None, State]]:
        """The rows as they are now, where keys are known. The state is another one after any change."""
        its = self.readings[chunk[0][0]]
        keys = {at: self.keys[at] for at in chunk if at in self.keys}
        expected = {found.key: found for found in rows.look(self.looking, its, keys.values())}
        versions = rows.versions(self.looking, its, keys.values())
        for at, key in keys.items():
            found = expected.get(key)
            yield at, found, (versions.get(key), found.version if found else None)

    def _before(self) -> dict[At, tuple[Fields | None, State]]:
        """The rows now. Fields are kept while they are few: documents of restless rows agree with these."""
        few = len(self.doubts) <= self.limits.batch
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
        found = documents.these(self.database, name, [self.doubts[at] for at in chunk])
        now = {at: (expected, state) for at, expected, state in self._now(chunk)}
        for at in chunk:
            expected, state = now.get(at, (None, None))
            was, old = before.get(at, (None, None))
            id_, key, document = self.doubts[at], self.keys.get(at), found.get(at[1])
            fields, copy = (expected.fields, expected.copy) if expected else (None, {})
            differences = judge(its, id_, key, fields, document, self._now_ms(), copy)
            if state != old and was is not None and not judge(its, id_, key, was, document, self._now_ms()):
                continue
            if differences:
                yield at, differences, state == old

    def _chunks(self) -> Iterator[list[At]]:
        """The documents in doubt, each chunk of one collection."""
        for name in self.readings:
            ats = [at for at in self.doubts if at[0] == name]
            for start in range(0, len(ats), self.limits.batch):
                yield ats[start : start + self.limits.batch]

    def _waited(self, lsn: Lsn) -> bool:
        """Wait, unless that was refused before: then it would only be refused again."""
        if self.wait is None or self.report.not_waited is not None:
            return False
        try:
            self.wait(lsn)
        except NotComplete as error:
            self.report.not_waited = error.what
            return False
        return True

    def _record(self, at: At, differences: Sequence[Difference]) -> None:
        report = self.report
        report.total += len(differences)
        report.in_flux += sum(difference.kind is Kind.IN_FLUX for difference in differences)
        report.collections[at[0]].differing += 1
        for difference in islice(differences, max(self.limits.samples - len(report.differences), 0)):
            report.differences.append(difference)
            self.sampled.append(at)

    def _now_ms(self) -> int:
        """PostgreSQL's clock, run on by ours."""
        return self._clock_ms + int((time.monotonic() - self._clock_read) * 1000)


def _key_in(its: Reading, id_: Any) -> Key | None:
    if not its.has_integer_key or not isinstance(id_, ObjectId):
        return None
    key = integer_key(its.table.name, id_)
    return None if key is None else (key,)
