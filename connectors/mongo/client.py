"""Connections to MongoDB, and its errors in the project's words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from bson import CodecOptions
from bson.binary import UuidRepresentation
from bson.codec_options import DatetimeConversion
from bson.errors import BSONError
from pymongo import MongoClient
from pymongo.database import Database as PymongoDatabase
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConfigurationError,
    DocumentTooLarge,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from connectors.errors import (
    Contended,
    ServerGone,
    SettingsInvalid,
    SyncError,
    TargetNotReady,
    TooLarge,
    TooMuchAtOnce,
    UniqueTaken,
    ValidatorRefused,
    WriteRefused,
)
from connectors.settings import ShadowTarget, TargetEndpoint

Document = dict[str, Any]
Database = PymongoDatabase[Document]

#: dates come back as DatetimeMS, so that one outside Python's range can be read too; UUIDs as subtype 4
CODEC: CodecOptions[Document] = CodecOptions(
    document_class=dict,
    tz_aware=True,
    uuid_representation=UuidRepresentation.STANDARD,
    datetime_conversion=DatetimeConversion.DATETIME_MS,
)
#: what is known of a code says who acts next; labels of transactions come before it
#: TransactionTooLarge, TransactionExceededLifetimeLimitSeconds, TransactionTooLargeForCache
_TOO_MUCH = {257, 290, 388}
#: LockTimeout, CursorNotFound, LockBusy, WriteConflict, ConflictingOperationInProgress, QueryPlanKilled,
#: TransactionTooOld, CursorKilled, TransactionAborted, SnapshotUnavailable, NoSuchTransaction, ExceededTimeLimit,
#: Interrupted, BackgroundOperationInProgress
_TRANSIENT = {24, 43, 46, 112, 117, 175, 225, 237, 244, 246, 251, 262, 11601, 12586, 12587}
#: HostUnreachable, HostNotFound, MaxTimeMSExpired, WriteConcernFailed (or timed out), NetworkTimeout,
#: ShutdownInProgress, FailedToSatisfyReadPreference, ReadConcernMajorityNotAvailableYet, PrimarySteppedDown,
#: NetworkInterfaceExceededTimeLimit, SocketException, NotWritablePrimary by its old and new codes,
#: InterruptedAtShutdown, InterruptedDueToReplStateChange, NotPrimaryNoSecondaryOk, NotPrimaryOrSecondary
_AWAY = {6, 7, 50, 64, 89, 91, 133, 134, 189, 202, 9001, 10058, 10107, 11600, 11602, 13435, 13436}
#: OutOfDiskSpace
_NO_ROOM = {14031}
#: documents over 16 MB: BSONObjectTooLarge, of an update, of an upsert
_TOO_LARGE = {10334, 17280, 17419, 17420}
#: BadValue, Overflow, InvalidBSON, PathNotViable, ConflictingUpdateOperators, DollarPrefixedFieldName, InvalidIdField,
#: InvalidDBRef, EmptyFieldName, DottedFieldName, ImmutableField, CannotIndexParallelArrays, keys of geo indexes
_UNFIT = {2, 15, 22, 28, 40, 52, 53, 54, 55, 56, 57, 66, 171, 16755, 16766}
_VALIDATOR = 121
_DUPLICATE = {11000, 11001, 12582}
_LOGIN = {13, 18, 8000}
#: InternalError, UnknownError: whether it was done is for MongoDB's positions to say
_UNSURE = {1, 8}


def connect(target: TargetEndpoint, *, timeout_ms: int = 10_000, name: str = "tandem") -> Database:
    """The target database: majority reads and writes. Raises ServerGone, SettingsInvalid or TargetNotReady.

    The client is its `.client`; closing that is the caller's.
    """
    uri = target.uri.get_secret_value()
    try:
        if "://" not in uri:  # pymongo takes it for the name of a host
            raise InvalidURI("it has no scheme")
        client: MongoClient[Document] = MongoClient(uri, serverSelectionTimeoutMS=timeout_ms, appname=name)
    except (InvalidURI, ConfigurationError, ValueError) as error:
        if type(error) is ConfigurationError and error.__cause__ is not None:  # DNS, of a mongodb+srv address
            raise _gone(str(error)) from None
        raise SettingsInvalid(
            "the MongoDB URI cannot be read (it is not shown here: it may hold a password)",
            remedy="use the form mongodb://host:port/?options in MONGODB_URI",
        ) from None
    try:
        with translated():
            hello = client.admin.command("hello")
    except SyncError:
        client.close()
        raise
    if not hello.get("setName") and hello.get("msg") != "isdbgrid":
        client.close()
        raise TargetNotReady(
            "MongoDB is a standalone server: it has no transactions and no change streams",
            remedy="run it as a replica set (one member is enough): start mongod with --replSet and rs.initiate()",
        )
    found = client.get_database(
        target.database,
        codec_options=CODEC,
        write_concern=WriteConcern("majority"),
        read_concern=ReadConcern("majority"),
    )
    return Shadow(found, target.prefix) if isinstance(target, ShadowTarget) else found


class Shadow(PymongoDatabase[Document]):
    """A part of a database: the collections whose names begin with a prefix, under names without it.

    Whoever works with a database works with this one as well, and neither sees nor writes what lies beside it. Only
    what is done to a database by name goes through here: `db[name]`, making, listing and dropping, and `collMod`.
    """

    def __init__(self, db: Database, prefix: str) -> None:
        super().__init__(
            db.client, db.name, db.codec_options, db.read_preference, db.write_concern, db.read_concern
        )
        self._prefix = prefix

    @property
    def beside(self) -> Database:
        """The whole database, under its own names."""
        return PymongoDatabase(
            self.client,
            self.name,
            self.codec_options,
            self.read_preference,
            self.write_concern,
            self.read_concern,
        )

    def full(self, name: str) -> str:
        """A collection's name in the whole database. What begins with `$` is no collection: pymongo's own."""
        return name if name.startswith("$") else self._prefix + name

    def __getitem__(self, name: str) -> Any:
        return super().__getitem__(self.full(name))

    def get_collection(self, name: str, *args: Any, **options: Any) -> Any:
        """As of any database."""
        return super().get_collection(self.full(name), *args, **options)

    def create_collection(self, name: str, *args: Any, **options: Any) -> Any:
        """As of any database."""
        return super().create_collection(self.full(name), *args, **options)

    def drop_collection(self, name_or_collection: Any, *args: Any, **options: Any) -> Any:
        """As of any database."""
        named = isinstance(name_or_collection, str)
        whole = self.full(name_or_collection) if named else name_or_collection
        return super().drop_collection(whole, *args, **options)

    def list_collection_names(self, *args: Any, **options: Any) -> list[str]:
        """Those of this part, without the prefix."""
        found = super().list_collection_names(*args, **options)
        return [name.removeprefix(self._prefix) for name in found if name.startswith(self._prefix)]

    def command(self, command: Any, value: Any = 1, *args: Any, **options: Any) -> Any:
        """As of any database; of those that name a collection, only `collMod` is asked for."""
        return super().command(command, self.full(value) if command == "collMod" else value, *args, **options)


@contextmanager
def translated() -> Iterator[None]:
    """Let pymongo's errors out as errors of this project, by code and label."""
    try:
        yield
    except (PyMongoError, BSONError, OverflowError, UnicodeError, RecursionError) as error:
        raise translate(error) from error


def translate(error: Exception) -> SyncError:
    """The error of this project that a pymongo error stands for."""
    first: Mapping[str, Any]
    if isinstance(error, BulkWriteError):
        details = error.details
        first = (details.get("writeErrors") or details.get("writeConcernErrors") or [{}])[0]
        code, message = first.get("code"), str(first.get("errmsg", error))
    else:
        first = getattr(error, "details", None) or {}
        code, message = getattr(error, "code", None), str(error)
    message = message.split(", full error:")[0]
    if code in _TOO_MUCH:
        return TooMuchAtOnce(f"MongoDB: {message}", remedy="fewer rows are tried at once", mongo_code=code)
    if isinstance(error, ServerSelectionTimeoutError):  # labelled transient too, in a transaction
        return _gone(message)
    if isinstance(error, PyMongoError) and error.has_error_label("TransientTransactionError"):
        return Contended(f"MongoDB: {message}", remedy="the transaction is run again", mongo_code=code)
    if isinstance(error, BSONError | OverflowError | UnicodeError | RecursionError) or code in {
        *_TOO_LARGE,
        *_UNFIT,
        _VALIDATOR,
    }:
        return _refused(error, code, message, first.get("errInfo"))
    if code in _DUPLICATE:
        return UniqueTaken(
            "MongoDB: another document holds a value that has to be unique",
            remedy="see the parked event for its key, and mend the row in PostgreSQL",
            details={"message": message},
            mongo_code=code,
        )
    if code in _TRANSIENT:
        return Contended(f"MongoDB: {message}", remedy="the transaction is run again", mongo_code=code)
    if code in _UNSURE:
        return ServerGone(
            f"MongoDB has met an error of its own: {message}", remedy="see the server's log; a retry may help"
        )
    if code in _LOGIN:
        return TargetNotReady(
            f"MongoDB refuses the login or the right: {message}",
            remedy="correct user, password and roles",
            mongo_code=code,
        )
    if code in _NO_ROOM:
        return ServerGone(
            f"MongoDB has no room left: {message}", remedy="give the server more disk space", mongo_code=code
        )
    if isinstance(error, AutoReconnect) or (isinstance(error, OperationFailure) and code in _AWAY):
        return _gone(message)
    if isinstance(error, PyMongoError) and not isinstance(error, OperationFailure):
        return ServerGone(
            f"MongoDB: {type(error).__name__}: {message}", remedy="see the message; a retry may help"
        )
    return TargetNotReady(f"MongoDB: {message}", remedy="see the message", mongo_code=code)


def _refused(
    error: Exception, code: int | None, message: str, info: Mapping[str, Any] | None
) -> WriteRefused:
    """Of a document that MongoDB, or its driver, does not take. The words may have values in them: kept apart."""
    details: Document = {"message": message, **({"errInfo": info} if info else {})}
    mend = "mend the row, the mapping or the validator, then retry the parked event"
    if code == _VALIDATOR:
        broken = "; ".join(broken_rules(info or {})) or "it does not say why"
        what = f"the validator refuses the document: {broken}"
        return ValidatorRefused(what, remedy=mend, details=details, mongo_code=code)
    if code in _TOO_LARGE or isinstance(error, DocumentTooLarge):
        return TooLarge(
            "the document is larger than the 16 MB that MongoDB takes",
            remedy="omit a column, or do not embed so many rows; then retry the parked event",
            details=details,
            mongo_code=code,
        )
    why = f"code {code}" if code else type(error).__name__
    return WriteRefused(
        f"MongoDB does not take the document ({why})", remedy=mend, details=details, mongo_code=code
    )


def broken_rules(info: Mapping[str, Any]) -> list[str]:
    """What a validator's `errInfo` says, in short and without values: `name: bsonType`, `missing: age`.

    Source: MongoDB documentation, "View Schema Validation Output"; a server that gives less gives less here.
    """
    found: list[str] = []
    details = info.get("details")
    if isinstance(details, Mapping):
        _walk(details, "", found)
    return list(dict.fromkeys(found))


def _walk(rule: Mapping[str, Any], path: str, found: list[str]) -> None:
    """A rule that is not satisfied, and those inside it that make it so."""
    before, name = len(found), str(rule.get("propertyName", ""))
    here = f"{path}.{name}".strip(".") if name else path
    for word, listed in rule.items():
        if word == "specifiedAs" or word.startswith("considered"):
            continue
        for inner in listed if isinstance(listed, list) else ():
            if isinstance(inner, Mapping):
                _walk(inner, here, found)
    missing = [str(p) for p in rule.get("missingProperties", ())]
    found += [f"missing: {f'{here}.{p}'.strip('.')}" for p in missing]
    if len(found) == before and rule.get("operatorName"):
        found.append(f"{here or 'the document'}: {rule['operatorName']}")


def _gone(message: str) -> ServerGone:
    return ServerGone(
        f"MongoDB cannot be reached: {re.sub(r' [(]configured timeouts:.*?[)]', '', message.split(', Timeout:')[0])}",
        remedy="start the server, or correct host and port in MONGODB_URI",
    )


def those_there(db: Database, collection: str, ids: Sequence[Any]) -> list[Any]:
    """Those of these `_id`s that a collection has."""
    with translated():
        return [d["_id"] for d in db[collection].find({"_id": {"$in": list(ids)}}, {"_id": 1})]
