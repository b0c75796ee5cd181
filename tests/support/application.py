"""An application that writes to PostgreSQL until its flag says MongoDB, and knows what it was told is written."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
from pymongo import MongoClient
from pymongo.errors import WriteError
from pymongo.write_concern import WriteConcern

from consumers.mapping.ids import object_id

#: DocumentValidationFailure: MongoDB's fence
_FENCED = 121


class Application:
    """Several threads, each with users of its own.

    file, flag: flagd's flag file, and the flag in it. users: ids to write. rate: writes a second of all threads
    together. written: user -> the last name that a database has acknowledged. strange: what should not have happened.
    """

    def __init__(
        self,
        dsn: str,
        mongodb_uri: str,
        database: str,
        file: Path,
        flag: str,
        users: Sequence[int],
        *,
        rate: float,
        threads: int = 2,
    ) -> None:
        self.dsn, self.file, self.flag = dsn, file, flag
        self._said = False
        self.uri, self.database = mongodb_uri, database
        self.client: MongoClient[dict[str, Any]] = MongoClient(mongodb_uri)
        self.users = self.client.get_database(database, write_concern=WriteConcern("majority"))["users"]
        self.written: dict[int, str] = {}
        self.refused: list[float] = []
        self.counts = {"postgres": 0, "mongo": 0}
        self.strange: list[str] = []
        self._pause_s = threads / rate
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(n, users[n::threads]), daemon=True)
            for n in range(threads)
        ]

    def __enter__(self) -> Application:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No more writes."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        self.client.close()

    @property
    def blocked_s(self) -> float:
        """From the first write that was refused to the last."""
        return self.refused[-1] - self.refused[0] if self.refused else 0.0

    @property
    def on_mongo(self) -> bool:
        """As the flag file says now; while it is not there, as it said last, which is what flagd does."""
        with suppress(FileNotFoundError):
            found = json.loads(self.file.read_text(encoding="utf-8"))["flags"][self.flag]
            self._said = bool(found["variants"][found["defaultVariant"]])
        return self._said

    def lost(self) -> list[str]:
        """Writes that were acknowledged and are not where the application looks now."""
        if self.on_mongo:
            ids = {object_id("public.users", (user,)): user for user in self.written}
            with MongoClient[dict[str, Any]](self.uri) as client:
                found = client[self.database]["users"].find({"_id": {"$in": list(ids)}}, {"fullName": 1})
                there = {ids[d["_id"]]: d["fullName"] for d in found}
        else:
            with psycopg.connect(self.dsn) as session:
                there = dict(session.execute("SELECT id, full_name FROM users").fetchall())
        return [
            f"user {user}: {name} was written, {there.get(user)} is there"
            for user, name in sorted(self.written.items())
            if there.get(user) != name
        ]

    def _work(self, number: int, users: Sequence[int]) -> None:
        session: psycopg.Connection[Any] | None = None
        turn = 0
        while not self._stop.wait(self._pause_s):
            user, name = users[turn % len(users)], f"{number}/{turn}"
            turn += 1
            try:
                if self.on_mongo:
                    self._to_mongo(user, name)
                    continue
                if session is None or session.closed:
                    session = psycopg.connect(self.dsn, autocommit=True)
                session.execute("UPDATE users SET full_name = %s WHERE id = %s", [name, user])
                self._wrote("postgres", user, name)
            except psycopg.errors.ReadOnlySqlTransaction:
                self.refused.append(time.monotonic())
            except WriteError as error:
                if error.code != _FENCED:
                    self.strange.append(f"{type(error).__name__}: {error}")
                self.refused.append(time.monotonic())
            except psycopg.OperationalError:
                session = None
            except Exception as error:
                self.strange.append(f"{type(error).__name__}: {error}")
        if session is not None:
            session.close()

    def _to_mongo(self, user: int, name: str) -> None:
        there = self.users.find_one({"_id": object_id("public.users", (user,))})
        known = self.written.get(user)
        if there is None or (known is not None and there["fullName"] != known):
            self.strange.append(f"user {user}: {there and there['fullName']} is read, {known} was written")
        self.users.update_one({"_id": object_id("public.users", (user,))}, {"$set": {"fullName": name}})
        self._wrote("mongo", user, name)

    def _wrote(self, where: str, user: int, name: str) -> None:
        self.written[user] = name
        self.counts[where] += 1
