"""What a MongoDB server has to be, decided from its hello; and what is told of one that cannot be reached."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr
from pymongo.errors import OperationFailure

from connectors.errors import ServerGone, SettingsInvalid, TargetNotReady, WriteRefused
from connectors.mongo import client as mongo
from connectors.settings import TargetEndpoint


class _Server:
    """A client whose server says this hello."""

    def __init__(self, hello: dict[str, Any]) -> None:
        self.hello, self.closed, self.admin = hello, False, self

    def command(self, name: str) -> dict[str, Any]:
        assert name == "hello"
        return self.hello

    def get_database(self, name: str, **_: object) -> str:
        return name

    def close(self) -> None:
        self.closed = True


def target(uri: str = "mongodb://x/") -> TargetEndpoint:
    return TargetEndpoint(uri=SecretStr(uri), database="app")


def test_a_standalone_server_is_refused_with_the_way_to_make_it_a_replica_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = _Server({"isWritablePrimary": True})
    monkeypatch.setattr(mongo, "MongoClient", lambda *_, **__: server)
    with pytest.raises(TargetNotReady, match="standalone") as caught:
        mongo.connect(target())
    assert "--replSet" in caught.value.remedy
    assert server.closed


@pytest.mark.parametrize("hello", [{"setName": "rs0"}, {"msg": "isdbgrid"}], ids=["replica set", "mongos"])
def test_a_server_with_transactions_is_taken(monkeypatch: pytest.MonkeyPatch, hello: dict[str, Any]) -> None:
    monkeypatch.setattr(mongo, "MongoClient", lambda *_, **__: _Server(hello))
    assert mongo.connect(target()) == "app"


def test_a_server_that_is_away_is_told_without_pymongo_s_settings() -> None:
    with pytest.raises(ServerGone) as caught:
        mongo.connect(target("mongodb://u:hidden@127.0.0.1:1/"), timeout_ms=50)
    assert "127.0.0.1:1: [Errno 111] Connection refused" in caught.value.what
    assert "imeout" not in caught.value.what
    assert "hidden" not in str(caught.value.as_dict())


@pytest.mark.parametrize("uri", ["hidden", "mongodb://u:hid@den:x/", "http://hidden", "mongodb://", ""])
def test_a_uri_that_cannot_be_read_is_not_shown(uri: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        mongo.connect(target(uri))
    assert "hid" not in str(caught.value.as_dict()).replace("it is not shown", "")


@pytest.mark.parametrize("code", [1, 8])
def test_a_server_s_own_error_is_no_reason_to_end(code: int) -> None:
    """Whether a commit that ends so was done is not known: a consumer goes on at MongoDB's positions."""
    told = mongo.translate(OperationFailure("internal server error", code))
    assert isinstance(told, ServerGone)


def test_a_document_nested_too_deep_to_be_encoded_is_refused_not_a_crash() -> None:
    with pytest.raises(WriteRefused), mongo.translated():
        raise RecursionError("maximum recursion depth exceeded while encoding an object to BSON")
