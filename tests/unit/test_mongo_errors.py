"""MongoDB's errors in the project's words: which of them park a row, and which are waited for."""

from __future__ import annotations

from typing import Any

import pytest
from bson.errors import InvalidDocument
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    DocumentTooLarge,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
    WriteError,
)

from connectors import errors as ours
from connectors.mongo.client import broken_rules, translate

#: of a real mongod, as its documentation has them ("View Schema Validation Output"), and of this stack's server
INFO: dict[str, Any] = {
    "failingDocumentId": 1,
    "details": {
        "operatorName": "$jsonSchema",
        "title": "people",
        "schemaRulesNotSatisfied": [
            {
                "operatorName": "properties",
                "propertiesNotSatisfied": [
                    {
                        "propertyName": "age",
                        "description": "years",
                        "details": [
                            {
                                "operatorName": "maximum",
                                "specifiedAs": {"maximum": 150},
                                "reason": "comparison failed",
                                "consideredValue": 200,
                            }
                        ],
                    },
                    {
                        "propertyName": "home",
                        "details": [
                            {
                                "operatorName": "properties",
                                "propertiesNotSatisfied": [
                                    {
                                        "propertyName": "city",
                                        "details": [{"operatorName": "enum", "consideredValue": "Nowhere"}],
                                    }
                                ],
                            }
                        ],
                    },
                ],
            },
            {"operatorName": "required", "specifiedAs": {"required": ["a", "z"]}, "missingProperties": ["z"]},
        ],
    },
}


def bulk(code: int, **more: Any) -> BulkWriteError:
    """As `bulk_write` raises it."""
    return BulkWriteError({"writeErrors": [{"index": 0, "code": code, "errmsg": "words", **more}]})


def single(code: int, **more: Any) -> WriteError:
    """As the other writes raise it."""
    return WriteError("words", code, {"index": 0, "code": code, "errmsg": "words", **more})


def test_a_validator_s_refusal_names_the_fields_and_keeps_the_values_apart() -> None:
    for error in (bulk(121, errInfo=INFO), single(121, errInfo=INFO)):
        found = translate(error)
        assert isinstance(found, ours.ValidatorRefused)
        assert found.what == "the validator refuses the document: age: maximum; home.city: enum; missing: z"
        assert "Nowhere" not in str(found.as_dict())
        assert found.details is not None
        assert found.details["errInfo"] == INFO


@pytest.mark.parametrize("info", [None, {}, {"details": {}}, {"details": "some text"}])
def test_a_server_that_says_less_of_a_refusal_is_understood_too(info: Any) -> None:
    found = translate(single(121, **({} if info is None else {"errInfo": info})))
    assert isinstance(found, ours.ValidatorRefused)
    assert found.what.endswith("it does not say why")
    assert broken_rules({"details": {"operatorName": "$expr"}}) == ["the document: $expr"]


PARKED = [
    (bulk(11000), ours.UniqueTaken),
    (bulk(17420), ours.TooLarge),
    (single(10334), ours.TooLarge),
    (DocumentTooLarge("x"), ours.TooLarge),
    (bulk(28, errmsg="Cannot create field 'x' in element {d: \"a secret\"}"), ours.WriteRefused),
    (bulk(2), ours.WriteRefused),
    (InvalidDocument("Invalid document: cannot encode object: 'a secret'"), ours.WriteRefused),
    (OverflowError("MongoDB can only handle up to 8-byte ints"), ours.WriteRefused),
    (UnicodeEncodeError("utf-8", "a secret \ud800", 9, 10, "surrogates not allowed"), ours.WriteRefused),
]


@pytest.mark.parametrize(("error", "kind"), PARKED, ids=lambda x: getattr(x, "__name__", ""))
def test_what_is_wrong_with_the_document_parks_it_and_says_no_value(
    error: Exception, kind: type[ours.SyncError]
) -> None:
    found = translate(error)
    assert type(found) is kind
    assert found.kind is ours.Kind.PARK
    assert "secret" not in str(found.as_dict())


def labelled(error: PyMongoError, label: str) -> PyMongoError:
    error._add_error_label(label)
    return error


WAITED_FOR = [
    (AutoReconnect("connection closed"), ours.ServerGone),
    (NotPrimaryError("not primary"), ours.ServerGone),
    (labelled(AutoReconnect("connection closed"), "TransientTransactionError"), ours.Contended),
    (labelled(OperationFailure("words", 112), "TransientTransactionError"), ours.Contended),
    (OperationFailure("no such transaction", 251), ours.Contended),
    (OperationFailure("cursor not found", 43), ours.Contended),
    (WriteConcernError("waiting for replication timed out", 64), ours.ServerGone),
    (
        BulkWriteError({"writeErrors": [], "writeConcernErrors": [{"code": 64, "errmsg": "w"}]}),
        ours.ServerGone,
    ),
    (bulk(10107), ours.ServerGone),
    (bulk(189), ours.ServerGone),
    (bulk(11602), ours.ServerGone),
    (bulk(13436), ours.ServerGone),
    (bulk(14031), ours.ServerGone),
    (single(14031), ours.ServerGone),
    (OperationFailure("words", 290), ours.TooMuchAtOnce),
    (labelled(OperationFailure("words", 290), "TransientTransactionError"), ours.TooMuchAtOnce),
    (OperationFailure("words", 388), ours.TooMuchAtOnce),
    (OperationFailure("words", 257), ours.TooMuchAtOnce),
]


@pytest.mark.parametrize(("error", "kind"), WAITED_FOR, ids=lambda x: getattr(x, "__name__", ""))
def test_what_is_wrong_with_the_server_parks_nothing(error: Exception, kind: type[ours.SyncError]) -> None:
    found = translate(error)
    assert type(found) is kind
    assert found.kind is ours.Kind.RETRY


def test_a_code_that_nobody_knows_stops_and_parks_nothing() -> None:
    assert translate(bulk(9_999_999)).kind is ours.Kind.REFUSED
