"""A database's collections as BSON files and back, in the layout of mongodump: `COLLECTION.bson` with the documents as
they lie there, `COLLECTION.metadata.json` with options and indexes as extended JSON.

Source: MongoDB Database Tools, "mongodump", "Output"; the tools' common/util and common/archive.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import quote, unquote

from bson import CodecOptions, json_util
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database as PymongoDatabase
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from connectors.errors import Contended, DumpFailed, Stopped, SyncError, TooMuchAtOnce
from connectors.mongo.client import Database, Document, translated

_RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
_PROBE = "_tandem_backup_probe"
#: where collections are restored to before they take their names
RESTORING = "_tandem_restoring_"
#: what Go's url.PathEscape leaves as it is besides letters and digits
_PLAIN = "$&+:=@-_.~"
#: longer file names are shortened by mongodump in a way of its own
_LONGEST = 200
_BATCH_BYTES, _BATCH = 8_000_000, 1_000
_TELL_EVERY = 1_000
_SNAPSHOT_TOO_OLD = 239

Tell = Callable[[int], None]


class Consistency(StrEnum):
    """As of when the documents of a dump are."""

    #: all at one time, by a snapshot session
    SNAPSHOT = "snapshot"
    #: all at one time, by a transaction
    TRANSACTION = "transaction"
    #: each as it was when it was read: the server can do no better, or not for so long
    MOVING = "moving"


@dataclass(slots=True)
class Dumped:
    """One collection, or view, of a dump. file: its name there, without the endings."""

    name: str
    file: str
    kind: str
    documents: int = 0
    bytes: int = 0
    #: of `.bson` and `.metadata.json`
    digests: dict[str, str] = field(default_factory=dict)


def dump(
    db: Database, folder: Path, tell: Tell, stopped: Callable[[], bool]
) -> tuple[Consistency, list[Dumped]]:
    """Every collection of the database, all at one time where the server can. tell: bytes so far.

    Raises DumpFailed for what mongodump's layout, or tandem, has no form for; and Stopped.
    """
    listed = _listed(db)
    for kind in _kinds(db):
        try:
            with _reading(db, kind) as session:
                return kind, _all(db, folder, listed, session, tell, stopped)
        except SyncError as error:
            if kind is Consistency.MOVING or not _too_old(error):
                raise
    raise AssertionError("the last kind either returns or raises")


def _too_old(error: SyncError) -> bool:
    """The server has no longer what was there when the reading began, or has ended the transaction for its age."""
    return isinstance(error, Contended | TooMuchAtOnce) or error.facts.get("mongo_code") == _SNAPSHOT_TOO_OLD


def _listed(db: Database) -> list[Document]:
    with translated():
        found = sorted(db.list_collections(), key=lambda c: str(c["name"]))
    listed = [dict(c) for c in found if not str(c["name"]).startswith(("system.", RESTORING, _PROBE))]
    for collection in listed:
        if collection.get("type") == "timeseries":
            raise DumpFailed(
                f"{collection['name']} is a time series collection, which tandem does not back up",
                remedy="back the database up with mongodump, and leave it out here (--only)",
            )
        if len(quote(str(collection["name"]), safe=_PLAIN)) > _LONGEST:
            raise DumpFailed(
                f"the name of the collection {str(collection['name'])[:60]}… is too long for a file",
                remedy="back the database up with mongodump, and leave it out here (--only)",
            )
    return listed


def _kinds(db: Database) -> Iterator[Consistency]:
    """From the best that this server keeps its promise of to the one that promises nothing."""
    for kind in (Consistency.SNAPSHOT, Consistency.TRANSACTION):
        if _keeps(db, kind):
            yield kind
    yield Consistency.MOVING


def _keeps(db: Database, kind: Consistency) -> bool:
    """Try it out: a document that is written after the first read may not be seen by the second."""
    try:
        db[_PROBE].insert_one({"_id": 1})
        with _reading(db, kind) as session:
            first = len(list(db[_PROBE].find({}, session=session)))
            db[_PROBE].insert_one({"_id": 2})
            return first == len(list(db[_PROBE].find({}, session=session)))
    except (PyMongoError, SyncError):
        return False
    finally:
        with suppress(PyMongoError):
            db.drop_collection(_PROBE)


@contextmanager
def _reading(db: Database, kind: Consistency) -> Iterator[ClientSession | None]:
    if kind is Consistency.MOVING:
        yield None
        return
    with db.client.start_session(snapshot=kind is Consistency.SNAPSHOT or None) as session:
        if kind is Consistency.SNAPSHOT:
            yield session
            return
        session.start_transaction(read_concern=ReadConcern("snapshot"))
        try:
            yield session
        finally:
            with suppress(PyMongoError):
                session.abort_transaction()


def _all(
    db: Database,
    folder: Path,
    listed: list[Document],
    session: ClientSession | None,
    tell: Tell,
    stopped: Callable[[], bool],
) -> list[Dumped]:
    done, before = [], 0
    for collection in listed:
        base = before
        one = _collection(db, folder, collection, session, lambda b, base=base: tell(base + b), stopped)  # type: ignore[misc]
        before += one.bytes
        done.append(one)
    return done


def _collection(
    db: Database,
    folder: Path,
    listed: Document,
    session: ClientSession | None,
    tell: Tell,
    stopped: Callable[[], bool],
) -> Dumped:
    name, kind = str(listed["name"]), str(listed.get("type", "collection"))
    one = Dumped(name, quote(name, safe=_PLAIN), kind)
    if kind != "view":
        capped = bool(listed.get("options", {}).get("capped"))
        with (folder / f"{one.file}.bson").open("wb") as file:
            one.digests[".bson"] = _documents(db, one, file, session, tell, stopped, in_order=not capped)
    with translated():
        indexes = [] if kind == "view" else list(db[name].list_indexes())
    metadata = {
        "options": listed.get("options", {}),
        "indexes": [{k: v for k, v in index.items() if k != "ns"} for index in indexes],
        "uuid": bytes(listed.get("info", {}).get("uuid", b"")).hex(),
        "collectionName": name,
        "type": kind,
    }
    text = json_util.dumps(metadata, json_options=json_util.CANONICAL_JSON_OPTIONS).encode()
    (folder / f"{one.file}.metadata.json").write_bytes(text)
    one.digests[".metadata.json"] = blake2b(text, digest_size=32).hexdigest()
    return one


def _documents(
    db: Database,
    one: Dumped,
    file: IO[bytes],
    session: ClientSession | None,
    tell: Tell,
    stopped: Callable[[], bool],
    *,
    in_order: bool,
) -> str:
    digest = blake2b(digest_size=32)
    one.documents = one.bytes = 0
    with translated():
        raw = _raw(db, one.name)
        found = raw.find({}, session=session)
        if (
            in_order
        ):  # by an index that does not change under the reader; a capped one has no other order than its own
            found = found.sort("_id", 1)
        with found:
            for document in found:
                file.write(document.raw)
                digest.update(document.raw)
                one.documents += 1
                one.bytes += len(document.raw)
                if one.documents % _TELL_EVERY == 0:
                    tell(one.bytes)
                    _end_if(stopped)
    tell(one.bytes)
    _end_if(stopped)
    return digest.hexdigest()


def _raw(db: Database, name: str) -> Collection[RawBSONDocument]:
    """A collection whose documents are bytes as they lie there."""
    raw: PymongoDatabase[RawBSONDocument] = PymongoDatabase(
        cast("MongoClient[RawBSONDocument]", db.client),
        db.name,
        _RAW,
        None,
        db.write_concern,
        db.read_concern,
    )
    return raw[name]


def _end_if(stopped: Callable[[], bool]) -> None:
    if stopped():
        raise Stopped("told to stop", remedy="run it again: it begins anew")


def size_of(db: Database) -> int:
    """Bytes of the documents of the database."""
    with translated():
        return int(db.command("dbStats").get("dataSize", 0))


# -- back --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Metadata:
    """What a `.metadata.json` says."""

    name: str
    kind: str
    options: Mapping[str, Any]
    indexes: tuple[Mapping[str, Any], ...]


def metadata(file: Path) -> Metadata:
    """Read one. Raises DumpFailed where it is none."""
    try:
        found = json_util.loads(
            file.read_text(encoding="utf-8"), json_options=json_util.CANONICAL_JSON_OPTIONS
        )
        name = found.get("collectionName") or unquote(file.name.removesuffix(".metadata.json"))
        return Metadata(
            name, found.get("type", "collection"), found.get("options", {}), tuple(found["indexes"])
        )
    except (OSError, ValueError, KeyError, AttributeError, json.JSONDecodeError) as error:
        raise DumpFailed(f"{file} is no metadata of a collection", remedy="take another backup") from error


def restore(
    db: Database, folder: Path, tell: Tell, stopped: Callable[[], bool], *, replace: bool
) -> dict[str, int]:
    """Every collection of a dump into a database. Returns documents by collection.

    Each is made whole under a name of its own first, with its options and indexes; only when all are, they take their
    names, one after the other, and what has them in the database goes. replace: collections that the dump does not have
    go too. Killed before the names are taken, nothing in the database has changed; killed later, run it again.
    """
    wanted = [metadata(file) for file in sorted(folder.glob("*.metadata.json"))]
    with translated():
        for left in [n for n in db.list_collection_names() if n.startswith(RESTORING)]:
            db.drop_collection(left)
    counts: dict[str, int] = {}
    before = 0
    plain = [w for w in wanted if w.kind != "view"]
    for number, collection in enumerate(plain):
        file = folder / f"{quote(collection.name, safe=_PLAIN)}.bson"
        base = before
        counts[collection.name] = _fill(
            db,
            f"{RESTORING}{number}",
            collection,
            file,
            lambda b, base=base: tell(base + b),  # type: ignore[misc]
            stopped,
        )
        before += file.stat().st_size
    _end_if(stopped)
    with translated():
        for number, collection in enumerate(plain):
            db[f"{RESTORING}{number}"].rename(collection.name, dropTarget=True)
            _demand_same(db, collection)
        there = set(db.list_collection_names()) - {w.name for w in plain}
        if replace:
            for name in sorted(n for n in there if not n.startswith("system.")):
                db.drop_collection(name)
        for view in (w for w in wanted if w.kind == "view"):
            db.drop_collection(view.name)
            db.command({"create": view.name, **view.options})
    return counts


def _demand_same(db: Database, wanted: Metadata) -> None:
    """Options are those of the dump, also where a server loses some when a collection gets its name. Raises DumpFailed
    where they can't be set then."""
    (found,) = db.list_collections(filter={"name": wanted.name})
    options = {n: v for n, v in wanted.options.items() if found.get("options", {}).get(n) != v}
    if options:
        if set(options) - {"validator", "validationLevel", "validationAction"}:
            raise DumpFailed(
                f"MongoDB has not kept these options of {wanted.name}: {', '.join(sorted(options))}",
                remedy="restore with mongorestore: the folder has its layout",
            )
        db.command({"collMod": wanted.name, **options})


def _fill(
    db: Database, name: str, wanted: Metadata, file: Path, tell: Tell, stopped: Callable[[], bool]
) -> int:
    raw = _raw(db, name)
    count = done = 0
    with translated():
        db.command({"create": name, **wanted.options})
        for batch, read in _batches(file):
            raw.insert_many(batch, ordered=True, bypass_document_validation=True)
            count += len(batch)
            done += read
            tell(done)
            _end_if(stopped)
        indexes = [dict(index) for index in wanted.indexes if index.get("name") != "_id_"]
        if indexes:
            db.command({"createIndexes": name, "indexes": indexes})
    return count


def _batches(file: Path) -> Iterator[tuple[list[RawBSONDocument], int]]:
    batch: list[RawBSONDocument] = []
    size = 0
    with file.open("rb") as source:
        while head := source.read(4):
            (length,) = struct.unpack("<i", head) if len(head) == 4 else (0,)
            body = source.read(length - 4) if length > 4 else b""
            if length < 5 or len(body) != length - 4:
                raise DumpFailed(f"{file} ends in the middle of a document", remedy="take another backup")
            if batch and (size + length > _BATCH_BYTES or len(batch) >= _BATCH):
                yield batch, size
                batch, size = [], 0
            batch.append(RawBSONDocument(head + body))
            size += length
    if batch:
        yield batch, size
