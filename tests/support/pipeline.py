"""A whole pipeline of one test: its tables, its mapping, its consumers, and what MongoDB holds in the end."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bson
import psycopg
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import MongoClient
from pymongo.database import Database

from connectors.errors import NotComplete
from consumers.mapping.ids import KeyValue, object_id
from sync import settings
from tests.support.stack import Own
from tests.support.tandem import Process, Tandem

with warnings.catch_warnings():  # of kafka-python, on Python 3.11
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.partitioner.default import murmur2

    from sync import app

Doc = dict[str, Any]
#: as `limits` and settings have them by default
PARTITIONS = 4
#: BSON as it lies there: UUIDs as binaries, dates as milliseconds
RAW: CodecOptions[Doc] = CodecOptions(
    tz_aware=True,
    uuid_representation=UuidRepresentation.UNSPECIFIED,
    datetime_conversion=DatetimeConversion.DATETIME_MS,
)


@dataclass
class Pipeline:
    """Both ends of a running pipeline. consumers: the `tandem run` processes that live now."""

    own: Own
    tandem: Tandem
    sql: psycopg.Connection[Any]
    db: Database[Doc]
    consumers: list[Process] = field(default_factory=list)

    @property
    def settings(self) -> settings.Settings:
        """The command's own."""
        return settings.read(mapping=self.tandem.mapping, environ=self.tandem.environ)

    def session(self) -> psycopg.Connection[Any]:
        """Another session of the source database."""
        return psycopg.connect(self.own.addresses.postgres_dsn)

    def wait(self, timeout_s: float = 60) -> None:
        """Return when everything is applied that is committed now. Fails soon when a consumer has died."""
        until = time.monotonic() + timeout_s
        while True:
            try:
                app.wait_for(self.settings, "now", 2)
                return
            except NotComplete as error:
                dead = not all(c.alive for c in self.consumers)
                if dead or time.monotonic() > until or "parked" in error.what:
                    logs = "\n".join(c.text()[-1500:] for c in self.consumers)
                    parts = [f"{p.name}: {p.what}" for p in app.status(self.settings).parts]
                    raise AssertionError("\n".join([error.what, *parts, logs])) from error

    def agree(self, timeout_s: float = 60) -> None:
        """Everything is applied, and every field agrees."""
        self.wait(timeout_s)
        report = app.verify(self.settings)
        assert report.ok, report.as_dict()

    def all(self, collection: str, query: Mapping[str, Any] | None = None) -> list[Doc]:
        """Documents, less `_sync`, by `_id`."""
        found = self.db[collection].find(dict(query or {})).sort("_id", 1)
        return [{k: v for k, v in document.items() if k != "_sync"} for document in found]

    def one(self, collection: str, table: str, *key: KeyValue) -> Doc | None:
        """The document of the row with this key, `_sync` included."""
        return self.db[collection].find_one({"_id": object_id(table, key)})

    def parked(self) -> dict[str, Doc]:
        """What is parked, by its `_id`: table and key."""
        return {str(d["_id"]): d for d in self.db["_tandem_parked"].find({})}


@contextmanager
def pipeline(own: Own, folder: Path, ddl: str, mapping: str, **limits: str) -> Iterator[Pipeline]:
    """Both ends, with the tables made and the mapping written; nothing is set up yet."""
    file = folder / "mapping.yaml"
    file.write_text(mapping, encoding="utf-8")
    with (
        psycopg.connect(own.addresses.postgres_dsn, autocommit=True) as session,
        MongoClient[Doc](own.addresses.mongodb_uri) as client,
    ):
        session.execute("SET timezone = 'UTC'")
        session.execute(ddl.encode())
        db = client.get_database(own.addresses.mongodb_database, codec_options=RAW)
        yield Pipeline(own, Tandem(own, folder, mapping=file, **limits), session, db)


@contextmanager
def consuming(on: Pipeline, consumers: int = 1) -> Iterator[list[Process]]:
    """So many consumers beside the test."""
    with ExitStack() as stack:
        mine = [stack.enter_context(on.tandem.started("run")) for _ in range(consumers)]
        on.consumers += mine
        try:
            yield mine
        finally:
            for process in mine:
                on.consumers.remove(process)


def bare(document: Mapping[str, Any], *less: str) -> bytes:
    """A document's bytes without its `_id`, `_sync` and these fields: types and order of the rest count."""
    return bson.encode(
        {k: v for k, v in document.items() if k not in {"_id", "_sync", *less}}, codec_options=RAW
    )


def partition_of(key: int) -> int:
    """The topic partition of the row with this integer key in its column `id`."""
    wrapped = f'{{"k":{{"id":{key}}}}}'.encode()
    return int((murmur2(wrapped) & 0x7FFFFFFF) % PARTITIONS)


def apart(count: int, start: int = 1) -> list[int]:
    """So many integer keys, from start on, whose partitions all differ."""
    chosen: list[int] = []
    key = start
    while len(chosen) < count:
        if partition_of(key) not in {partition_of(k) for k in chosen}:
            chosen.append(key)
        key += 1
    return chosen
