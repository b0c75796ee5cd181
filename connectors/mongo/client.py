"""Connections to MongoDB, and its errors in the project's words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bson import CodecOptions
from bson.binary import UuidRepresentation
from bson.codec_options import DatetimeConversion
from bson.errors import InvalidDocument
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
    UniqueTaken,
    WriteRefused,
)
from connectors.settings import TargetEndpoint

Document = dict[str, Any]
Database = PymongoDatabase[Document]

#: dates come back as DatetimeMS, so that one outside Python's range can be read too; UUIDs as subtype 4
CODEC: CodecOptions[Document] = CodecOptions(
    document_class=dict,
    tz_aware=True,
    uuid_representation=UuidRepresentation.STANDARD,
    datetime_conversion=DatetimeConversion.DATETIME_MS,
)
#: TransactionTooLarge, TransactionTooLargeForCache
_TOO_LARGE = {257, 388}
#: WriteConflict, NoSuchTransaction, LockTimeout, SnapshotUnavailable, interrupted and the like
_TRANSIENT = {24, 112, 225, 244, 246, 251, 262, 290, 11601}


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
    return client.get_database(
        target.database,
        codec_options=CODEC,
        write_concern=WriteConcern("majority"),
        read_concern=ReadConcern("majority"),
    )


@contextmanager
def translated() -> Iterator[None]:
    """Let pymongo's errors out as errors of this project, by code and label."""
    try:
        yield
    except (PyMongoError, InvalidDocument, OverflowError) as error:
        raise translate(error) from error


def translate(error: Exception) -> SyncError:
    """The error of this project that a pymongo error stands for."""
    if isinstance(error, BulkWriteError):
        details = error.details
        first = (details.get("writeErrors") or details.get("writeConcernErrors") or [{}])[0]
        code, message = first.get("code"), str(first.get("errmsg", error))
    else:
        code, message = getattr(error, "code", None), str(error)
    message = message.split(", full error:")[0]
    if code in _TOO_LARGE:
        return WriteRefused(f"MongoDB: {message}", remedy="it is written in smaller parts", mongo_code=code)
    if isinstance(error, ServerSelectionTimeoutError):  # labelled transient too, in a transaction
        return _gone(message)
    if isinstance(error, PyMongoError) and error.has_error_label("TransientTransactionError"):
        return Contended(f"MongoDB: {message}", remedy="the transaction is run again", mongo_code=code)
    if isinstance(error, DocumentTooLarge | InvalidDocument | OverflowError) or code in (
        2,
        52,
        54,
        55,
        57,
        121,
        15,
        10334,
        17280,
        17419,
        17420,
    ):
        return WriteRefused(
            f"MongoDB does not take the document: {message}",
            remedy="mend the row, the mapping or the validator, then retry the parked event",
            mongo_code=code,
        )
    if code in (11000, 11001, 12582):
        return UniqueTaken(
            "MongoDB: another document holds a value that has to be unique",
            remedy="see the parked event for its key, and mend the row in PostgreSQL",
            mongo_code=code,
        )
    if code in _TRANSIENT:
        return Contended(f"MongoDB: {message}", remedy="the transaction is run again", mongo_code=code)
    if code in (13, 18, 8000):
        return TargetNotReady(
            f"MongoDB refuses the login or the right: {message}",
            remedy="correct user, password and roles",
            mongo_code=code,
        )
    if isinstance(error, AutoReconnect) or (
        isinstance(error, OperationFailure) and code in (50, 64, 91, 189, 10107, 11600, 11602, 13435)
    ):
        return _gone(message)
    if isinstance(error, PyMongoError) and not isinstance(error, OperationFailure):
        return ServerGone(
            f"MongoDB: {type(error).__name__}: {message}", remedy="see the message; a retry may help"
        )
    return TargetNotReady(f"MongoDB: {message}", remedy="see the message", mongo_code=code)


def _gone(message: str) -> ServerGone:
    return ServerGone(
        f"MongoDB cannot be reached: {re.sub(r' [(]configured timeouts:.*?[)]', '', message.split(', Timeout:')[0])}",
        remedy="start the server, or correct host and port in MONGODB_URI",
    )
