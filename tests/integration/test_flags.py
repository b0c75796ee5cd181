"""Flags as applications see them: an OpenFeature client on the very file; a collection; a service."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.evaluation_context import EvaluationContext
from pymongo import MongoClient

from connectors.errors import FlagMoved, FlagRefused, FlagUnknown, ServerGone
from connectors.flagd.file import FlagFile
from connectors.flagd.service import FlagService
from connectors.flags import FlagStore
from connectors.mongo.flags import FlagCollection
from sync.flags.rules import Cohort, Wanted
from sync.flags.run import Flags
from sync.settings import read_local
from sync.steps import flags_of
from tests.support.stack import Own
from tests.support.until import until

FLAG = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"}
COLORS = {"state": "ENABLED", "variants": {"r": "red", "g": "green"}, "defaultVariant": "r"}
KEYS = [f"user-{n}" for n in range(2_000)]


def test_an_openfeature_client_reads_from_the_file_what_was_set(tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    path.write_text(json.dumps({"flags": {"use-mongodb": FLAG, "color": COLORS}}, indent=2))
    flags = Flags(FlagFile(path))
    provider = FlagdProvider(
        resolver_type=ResolverType.FILE, offline_flag_source_path=str(path), deadline_ms=20
    )
    api.set_provider(provider)
    try:
        client = api.get_client()

        def on(key: str | None) -> bool:
            return client.get_boolean_value("use-mongodb", False, EvaluationContext(key))

        def who() -> set[str]:
            return {key for key in KEYS if on(key)}

        def more_than(size: int) -> bool:
            return len(who()) > size

        assert who() == set()
        flags.set("use-mongodb", Wanted("on", cohort=Cohort("beta", ("user-1", "user-3", "é\n"), "")))
        until(lambda: on("user-1"), within=10)
        assert who() == {"user-1", "user-3"}
        assert on("é\n")
        before = {"user-1", "user-3"}
        for percent in (10, 11, 50, 99):
            flags.set("use-mongodb", Wanted("on", percent=percent))
            until(partial(more_than, len(before)), within=10)
            found = who()
            assert before <= found, "who was in stays in"
            assert abs(len(found) / len(KEYS) - percent / 100) < 0.04
            assert not on(None)
            before = found
        flags.set("use-mongodb", Wanted("on"))
        until(lambda: on(None), within=10)
        assert who() == set(KEYS)
        flags.set("use-mongodb", Wanted("off"))
        until(lambda: not on("user-1"), within=10)
        assert who() == set()
        flags.set("color", Wanted("g", cohort=Cohort("beta", ("user-1",), "")))
        until(
            lambda: client.get_string_value("color", "?", EvaluationContext("user-1")) == "green", within=10
        )
        assert client.get_string_value("color", "?", EvaluationContext("user-2")) == "red"
    finally:
        api.shutdown()


class _Service(BaseHTTPRequestHandler):
    """The contract of docs/flags.md, in memory; and some that break it."""

    flags: dict[str, Any]
    token = "s3cret-t0ken"
    mode = ""

    def _answer(self, status: int, content: object = None, **headers: str) -> None:
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _tag(self, name: str) -> str | None:
        flag = self.flags.get(name)
        return None if flag is None else f'"{hashlib.sha256(json.dumps(flag).encode()).hexdigest()}"'

    def _allowed(self) -> bool:
        if self.mode == "500":
            self._answer(500)
        elif self.mode == "redirect":
            self._answer(302, None, Location="http://127.0.0.1:1/")
        elif self.mode == "text":
            self._answer(200, None, ETag="x")
        elif self.headers.get("Authorization") != f"Bearer {self.token}":
            self._answer(401)
        else:
            return True
        return False

    def do_GET(self) -> None:
        if not self._allowed():
            return None
        if self.path == "/base/flags":
            return self._answer(200, {"flags": self.flags})
        name = self.path.removeprefix("/base/flags/").replace("%20", " ").replace("%2F", "/")
        if name not in self.flags:
            return self._answer(404)
        tag = {} if self.mode == "no-etag" else {"ETag": self._tag(name) or ""}
        return self._answer(200, self.flags[name], **tag)

    def do_PUT(self) -> None:
        if not self._allowed():
            return None
        name = self.path.removeprefix("/base/flags/").replace("%20", " ").replace("%2F", "/")
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        wanted, tag = self.headers.get("If-Match"), self._tag(name)
        if (tag is None and self.headers.get("If-None-Match") != "*") or (tag is not None and wanted != tag):
            return self._answer(412)
        self.flags[name] = content
        if self.mode == "lost":
            self.close_connection = True
            return self.connection.close()
        return self._answer(204)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def service() -> Iterator[tuple[type[_Service], str]]:
    handler = type("Service", (_Service,), {"flags": {"f": dict(FLAG), "a b/c": dict(FLAG)}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield handler, f"http://127.0.0.1:{server.server_port}/base"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _contract(store: FlagStore) -> None:
    """What every store does: f is there."""
    flags = Flags(store)
    assert "f" in [one.name for one in flags.all()]
    assert flags.set("f", Wanted("on", percent=30)).written
    assert not flags.set("f", Wanted("on", percent=30)).written
    seen = store.read("f")
    assert seen is not None
    assert flags.set("f", Wanted("on")).written
    with pytest.raises(FlagMoved):
        store.write("f", FLAG, seen.version)
    assert flags.says(["f"], "on") is True
    with pytest.raises(FlagUnknown, match="did you mean f"):
        flags.set("ff", Wanted("on"))
    assert flags.set("new flag/é", Wanted("on", create=True)).written
    with pytest.raises(FlagMoved):
        store.write("new flag/é", FLAG, None)
    assert store.read("none") is None


def test_a_file_and_a_collection_keep_flags_alike(own: Own, tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    path.write_text(json.dumps({"flags": {"f": FLAG}}))
    _contract(FlagFile(path))
    addresses = own.addresses
    with MongoClient[dict[str, Any]](addresses.mongodb_uri) as client:
        collection = client[addresses.mongodb_database]["featureFlags"]
        collection.insert_one({"_id": "f", "definition": FLAG, "version": 1, "ours": "stays"})
        environ = {"MONGODB_URI": addresses.mongodb_uri, "MONGODB_DATABASE": addresses.mongodb_database}
        with flags_of(read_local(environ=environ)) as flags:
            assert isinstance(flags.store, FlagCollection)
            _contract(flags.store)
            found = collection.find_one({"_id": "f"})
            assert found is not None
            assert (found["ours"], found["version"], found["definition"]["defaultVariant"]) == (
                "stays",
                3,
                "on",
            )
            collection.insert_one({"_id": "broken"})
            with pytest.raises(FlagRefused, match="broken"):
                flags.all()


def test_a_service_keeps_flags_alike_and_its_faults_have_names(service: tuple[type[_Service], str]) -> None:
    handler, url = service
    environ = {"TANDEM_FLAGS__URL": url, "TANDEM_FLAGS__TOKEN": handler.token}
    with flags_of(read_local(environ=environ)) as flags:
        handler.flags["new flag/é"] = None
        del handler.flags["new flag/é"]
        store = flags.store
        assert isinstance(store, FlagService)
        assert flags.set("f", Wanted("on", percent=30)).written
        seen = store.read("f")
        assert seen is not None
        assert flags.set("f", Wanted("on")).written
        with pytest.raises(FlagMoved):
            store.write("f", FLAG, seen.version)
        assert flags.set("a b/c", Wanted("on")).written
        assert flags.set("new", Wanted("on", create=True)).written
        assert [one.name for one in flags.all()] == ["a b/c", "f", "new"]
        handler.mode = "lost"  # it is written, and nobody hears of it
        assert flags.set("f", Wanted("off")).written
        for mode, error in (
            ("500", ServerGone),
            ("redirect", FlagRefused),
            ("text", FlagRefused),
            ("no-etag", FlagRefused),
        ):
            handler.mode = mode
            with pytest.raises(error):
                flags.read("f")
        handler.mode, handler.token = "", "another"
        with pytest.raises(FlagRefused, match="401") as caught:
            flags.read("f")
        told = f"{caught.value.what} {caught.value.remedy} {caught.value.facts} {flags.store.where} {environ!r:.0}"
        assert "s3cret" not in told
    gone = FlagService("http://user:s3cret@127.0.0.1:1/s3cret?token=s3cret")
    with pytest.raises(ServerGone) as refused:
        gone.all()
    assert "s3cret" not in refused.value.what
    gone.close()
