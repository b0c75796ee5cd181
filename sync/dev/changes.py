"""What applications do to an ACP database: one function per kind of change, each with its own transactions.

A kind is a function of a `Play`, registered with its weight. It takes its choices from the play's dice, so
a seed repeats them. What it finds missing it answers with `NothingToDo`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from connectors.postgres import errors
from connectors.postgres.client import Session
from sync.dev.play import Play, parts, where

#: rows of a large transaction
MANY = 210
#: how long the second of two sessions is given to run into the first one's lock
WAIT_FOR_BLOCK_S = 2.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of change; it is drawn `weight` times in a round."""

    name: str
    weight: int
    act: Callable[[Play], None]


KINDS: list[Kind] = []
TRUNCATES: list[Kind] = []


def kind(
    weight: int, among: list[Kind] = KINDS
) -> Callable[[Callable[[Play], None]], Callable[[Play], None]]:
    """Put a function among the kinds, under its name."""

    def register(act: Callable[[Play], None]) -> Callable[[Play], None]:
        among.append(Kind(act.__name__, weight, act))
        return act

    return register


# -- rows that appear --


def _new_user(play: Play) -> int:
    name = play.unique("user")
    return int(
        play.insert(
            "users",
            username=name,
            email=f"{name}@example.org",
            full_name=play.text(),
            phone=play.text_or_null(),
            password_hash=f"{play.dice.getrandbits(128):032x}",
            nfs_workspace_path=None if play.chance(0.2) else f"/nfs/private/{name}",
            is_active=not play.chance(0.1),
        )
    )


def _new_team(play: Play, creator: int) -> int:
    return int(
        play.insert(
            "teams",
            team_name=play.unique("team"),
            specialization=play.text_or_null(),
            description=play.long_text() if play.chance(0.2) else play.text_or_null(),
            nfs_workspace_path=f"/nfs/shared/{play.dice.getrandbits(32)}",
            created_by=creator,
            is_active=not play.chance(0.1),
        )
    )


def _new_member(play: Play, team: int, user: int) -> None:
    status = "disabled" if play.chance(0.2) else "active"
    play.insert(
        "team_members",
        team_id=team,
        user_id=user,
        role=play.dice.choice(["owner", "member", ""]),
        status=status,
    )


def _new_key(play: Play, user: int) -> None:
    play.do(
        "INSERT INTO api_keys (user_id, api_key, expires_at, is_active)"
        " VALUES (%s, %s, now() + %s::interval, %s)",
        user,
        play.unique("key"),
        None if play.chance(0.4) else play.span(),
        not play.chance(0.2),
    )


def _new_session(play: Play, user: int) -> None:
    play.do(
        "INSERT INTO user_sessions (user_id, session_token, workspace_path, expires_at, last_activity)"
        " VALUES (%s, %s, %s, now() + %s::interval, now() - %s::interval)",
        user,
        play.unique("jwt"),
        play.text_or_null(),
        f"-{play.span()}" if play.chance(0.2) else play.span(),
        None if play.chance(0.4) else "2 minutes",
    )


def _new_embedding(play: Play, owner: int, team: int | None) -> None:
    path = play.unique("/nfs/private/notes")
    play.insert(
        "file_embeddings",
        id=play.uuid(),
        file_path=path,
        file_name=path.rsplit("/", 1)[-1],
        workspace_type="shared" if team else "private",
        owner_id=owner,
        team_id=team,
        content_hash=f"{play.dice.getrandbits(128):032x}",
        embedding=play.vector(),
        metadata=play.metadata(),
    )


@kind(8)
def insert_user(play: Play) -> None:
    with play.transaction():
        _new_user(play)


@kind(3)
def insert_team(play: Play) -> None:
    with play.transaction():
        _new_team(play, play.pick("users"))


@kind(6)
def insert_member(play: Play) -> None:
    with play.transaction():
        _new_member(play, play.pick("teams"), play.pick("users"))


@kind(6)
def insert_api_key(play: Play) -> None:
    with play.transaction():
        _new_key(play, play.pick("users"))


@kind(6)
def insert_session(play: Play) -> None:
    with play.transaction():
        _new_session(play, play.pick("users"))


@kind(4)
def insert_embedding(play: Play) -> None:
    with play.transaction():
        _new_embedding(play, play.pick("users"), play.pick("teams") if play.chance(0.5) else None)


# -- values that change --

#: all tables of the schema
TABLES = ("users", "teams", "team_members", "api_keys", "file_embeddings", "user_sessions")


def _values(play: Play, table: str) -> dict[str, object]:
    """New values for some of the table's plain columns: odd texts, empty strings and NULLs among them."""
    match table:
        case "users":
            every: dict[str, object] = {
                "full_name": play.text(),
                "phone": play.text_or_null(),
                "nfs_workspace_path": play.text_or_null(),
                "email": play.unique("mail"),
                "username": play.unique("user"),
            }
        case "teams":
            every = {
                "specialization": play.text_or_null(),
                "description": play.text_or_null(),
                "nfs_workspace_path": play.text_or_null(),
                "team_name": play.unique("team"),
            }
        case "team_members":
            every = {"role": play.text()}
        case "api_keys":
            every = {"api_key": play.unique("key"), "expires_at": None}
        case "file_embeddings":
            every = {
                "file_name": play.text(),
                "content_hash": play.text(),
                "metadata": play.metadata(),
                "file_path": play.unique("/nfs/private/moved"),
            }
        case _:
            every = {"workspace_path": play.text_or_null(), "last_activity": None}
    names = play.dice.sample(sorted(every), k=play.dice.randint(1, min(3, len(every))))
    return {name: every[name] for name in names}


def _update(play: Play, *, table: str) -> None:
    with play.transaction():
        play.set(table, play.pick(table), **_values(play, table))


for _table, _weight in {
    "users": 10,
    "teams": 5,
    "team_members": 5,
    "api_keys": 5,
    "user_sessions": 5,
    "file_embeddings": 4,
}.items():
    KINDS.append(Kind(f"update_{_table}", _weight, partial(_update, table=_table)))


@kind(3)
def several_changes_of_one_row(play: Play) -> None:
    table = play.dice.choice(TABLES)
    with play.transaction():
        key = play.pick(table)
        for _ in range(play.dice.randint(2, 5)):
            play.set(table, key, **_values(play, table))
        if play.chance(0.2) and table in ("api_keys", "user_sessions"):
            play.delete(table, key)


@kind(3)
def touch_embedding(play: Play) -> None:
    """The vector is stored out of line and stays as it is: the event does not carry it."""
    with play.transaction():
        play.do("UPDATE file_embeddings SET updated_at = now() WHERE id = %s", play.pick("file_embeddings"))


@kind(3)
def change_vector(play: Play) -> None:
    with play.transaction():
        play.set("file_embeddings", play.pick("file_embeddings"), embedding=play.vector())


@kind(2)
def long_text_then_touch(play: Play) -> None:
    """A text stored out of line, and then a change of another column only."""
    table, column, other = play.dice.choice(
        [
            ("teams", "description", "specialization"),
            ("users", "full_name", "phone"),
            ("user_sessions", "workspace_path", "last_activity"),
        ]
    )
    with play.transaction():
        key = play.pick(table)
        play.set(table, key, **{column: play.long_text()})
    with play.transaction():
        play.set(table, key, **{other: None if other == "last_activity" else play.text_or_null()})


# -- rows that enter and leave a filter --


def _toggle(play: Play, table: str, to: bool) -> None:
    with play.transaction():
        play.set(table, play.pick(table, f"is_active = {not to}"), is_active=to)


@kind(6)
def deactivate(play: Play) -> None:
    _toggle(play, play.dice.choice(["users", "teams", "api_keys"]), False)


@kind(6)
def reactivate(play: Play) -> None:
    _toggle(play, play.dice.choice(["users", "teams", "api_keys"]), True)


@kind(1)
def deactivate_and_back(play: Play) -> None:
    """Out of the filter and in again, in one transaction, with other changes while it is out."""
    table = play.dice.choice(["users", "teams", "api_keys"])
    with play.transaction():
        key = play.pick(table, "is_active")
        play.set(table, key, is_active=False)
        play.set(table, key, **_values(play, table))
        play.set(table, key, is_active=True)


@kind(3)
def disable_member(play: Play) -> None:
    with play.transaction():
        play.set("team_members", play.pick("team_members", "status = 'active'"), status="disabled")


@kind(3)
def enable_member(play: Play) -> None:
    with play.transaction():
        play.set("team_members", play.pick("team_members", "status = 'disabled'"), status="active")


def _expiry(play: Play, having: str, sign: str) -> None:
    with play.transaction():
        play.do(
            "UPDATE user_sessions SET expires_at = now() + %s::interval, last_activity = now() WHERE id = %s",
            sign + play.span(),
            play.pick("user_sessions", having),
        )


@kind(3)
def extend_session(play: Play) -> None:
    _expiry(play, "expires_at <= now()" if play.chance(0.6) else "true", "")


@kind(3)
def expire_session(play: Play) -> None:
    _expiry(play, "expires_at > now()", "-")


# -- keys that change --

_NOT_THERE = "NOT EXISTS (SELECT FROM team_members m WHERE m.team_id = teams.id AND m.user_id = {user})"


@kind(3)
def move_member_by_update(play: Play) -> None:
    with play.transaction():
        team, user = play.pick("team_members")
        target = play.pick("teams", _NOT_THERE.format(user=user))
        play.set("team_members", (team, user), team_id=target)


@kind(2)
def move_member_by_delete_and_insert(play: Play) -> None:
    with play.transaction():
        team, user = play.pick("team_members")
        target = play.pick("teams", _NOT_THERE.format(user=user))
        play.delete("team_members", (team, user))
        _new_member(play, target, user)


@kind(2)
def change_embedding_key(play: Play) -> None:
    """The row under its new key has a vector that the event does not carry."""
    with play.transaction():
        play.set("file_embeddings", play.pick("file_embeddings"), id=play.uuid())


@kind(2)
def change_number_key(play: Play) -> None:
    table = play.dice.choice(["api_keys", "user_sessions"])
    with play.transaction():
        play.do(
            f"UPDATE {table} SET id = nextval(pg_get_serial_sequence(%s, 'id')) WHERE id = %s",
            table,
            play.pick(table),
        )


# -- unique values that change hands --

UNIQUES = (("users", "username"), ("users", "email"), ("teams", "team_name"), ("api_keys", "api_key"))


def _rotate(play: Play, table: str, column: str, count: int) -> None:
    """Each of the rows gets the value of the one before it, through a temporary value of the first."""
    with play.transaction():
        keys = play.several(table, count)
        held = [play.row(f"SELECT {column} FROM {table} WHERE id = %s FOR UPDATE", key)[0] for key in keys]
        play.set(table, keys[0], **{column: play.unique("swap")})
        for key, value in zip(
            keys[1:], held[:-1], strict=True
        ):  # whoever held the value has let go of it by now
            play.set(table, key, **{column: value})
        play.set(table, keys[0], **{column: held[-1]})


@kind(2)
def swap_usernames(play: Play) -> None:
    _rotate(play, "users", "username", 2)


@kind(2)
def swap_team_names(play: Play) -> None:
    _rotate(play, "teams", "team_name", 2)


@kind(1)
def rotate_three(play: Play) -> None:
    table, column = play.dice.choice(UNIQUES)
    _rotate(play, table, column, 3)


@kind(2)
def hand_over_unique(play: Play) -> None:
    """One transaction frees a unique value, the next gives it to another row."""
    table, column = play.dice.choice(UNIQUES)
    with play.transaction():
        one, two = play.several(table, 2)
        (value,) = play.row(f"SELECT {column} FROM {table} WHERE id = %s", one)
        play.set(table, one, **{column: play.unique("freed")})
    with play.transaction():
        play.set(table, two, **{column: value})


@kind(2)
def replace_under_another_key(play: Play) -> None:
    """A row goes and one with the same unique value and a new key comes, in one transaction."""
    with play.transaction():
        key = play.pick("api_keys")
        user, value = play.row("SELECT user_id, api_key FROM api_keys WHERE id = %s", key)
        play.delete("api_keys", key)
        play.insert("api_keys", user_id=user, api_key=value)


# -- rows that go --


#: what a row must not have for PostgreSQL to let it go; the rest goes with it by ON DELETE CASCADE
FREE = {
    "users": "NOT EXISTS (SELECT FROM teams t WHERE t.created_by = users.id)"
    " AND NOT EXISTS (SELECT FROM file_embeddings e WHERE e.owner_id = users.id)",
    "teams": "NOT EXISTS (SELECT FROM file_embeddings e WHERE e.team_id = teams.id)",
}


def _delete(play: Play, *, table: str) -> None:
    with play.transaction():
        play.delete(table, play.pick(table, FREE.get(table, "true")))


for _table, _weight in {
    "users": 2,
    "teams": 1,
    "team_members": 3,
    "api_keys": 3,
    "user_sessions": 3,
    "file_embeddings": 2,
}.items():
    KINDS.append(Kind(f"delete_{_table}", _weight, partial(_delete, table=_table)))


@kind(1)
def delete_user_in_use(play: Play) -> None:
    """Refused by the foreign keys when the user has teams or files, which is as good a result."""
    try:
        with play.transaction():
            play.delete("users", play.pick("users"))
    except errors.DatabaseError as error:
        if not errors.is_conflict(error):
            raise


# -- rows that go and come back under their key --

#: columns that a row is put back with, out of its own
_KEPT = {
    "team_members": "team_id, user_id, role, status, joined_at",
    "api_keys": "id, user_id, api_key, created_at, expires_at, is_active",
    "user_sessions": "id, user_id, session_token, workspace_path, created_at, expires_at, last_activity",
    "teams": "id, team_name, specialization, description, nfs_workspace_path, created_by, is_active",
    "file_embeddings": "id, file_path, file_name, workspace_type, owner_id, team_id, content_hash,"
    " embedding::text, metadata::text",
}
#: one that gets another value on the way, so that the old and the new row can be told apart
_MARKED = {
    "team_members": "role",
    "api_keys": "api_key",
    "user_sessions": "workspace_path",
    "teams": "specialization",
    "file_embeddings": "file_name",
}


def _put_back(play: Play, table: str, old: tuple[Any, ...]) -> tuple[str, tuple[object, ...]]:
    """The INSERT that brings a deleted row back, with one value changed."""
    names = [name.strip().removesuffix("::text") for name in _KEPT[table].split(",")]
    row = dict(zip(names, old, strict=True))
    row[_MARKED[table]] = play.unique("again")
    marks = ", ".join(["%s"] * len(row))
    return f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values())


def _pick_for_return(play: Play, tables: list[str]) -> tuple[str, Any, tuple[Any, ...]]:
    table = play.dice.choice(tables)
    key = play.pick(table, FREE.get(table, "true"))
    return (
        table,
        key,
        play.row(f"SELECT {_KEPT[table]} FROM {table} WHERE {where(table)} FOR UPDATE", *parts(key)),
    )


@kind(3)
def delete_and_reinsert_in_one_transaction(play: Play) -> None:
    with play.transaction():
        table, key, old = _pick_for_return(play, list(_KEPT))
        if play.chance(0.5):
            play.set(table, key, **_values(play, table))
        play.delete(table, key)
        sql, values = _put_back(play, table, old)
        play.do(sql, *values)
        if table == "teams":
            _new_member(play, key, play.pick("users"))


@kind(3)
def delete_and_reinsert_in_two_transactions(play: Play) -> None:
    with play.transaction():
        table, key, old = _pick_for_return(play, list(_KEPT))
        play.delete(table, key)
    with play.transaction():
        sql, values = _put_back(play, table, old)
        play.do(sql, *values)


@kind(2)
def insert_waits_for_delete(play: Play) -> None:
    """A second session inserts a key that this one is about to delete, and waits for its COMMIT.

    The insert has written its WAL record before it waits, so it comes later and carries the lower LSN.
    """
    rival, failed, rows = play.rival(), list[BaseException](), list[int]()
    waiting: threading.Thread | None = None
    try:
        with play.transaction():
            table, key, old = _pick_for_return(play, ["api_keys", "user_sessions", "team_members"])
            sql, values = _put_back(play, table, old)
            late_delete = play.chance(0.7)
            play.set(table, key, **_values(play, table))
            if not late_delete:
                play.delete(table, key)

            def insert() -> None:
                try:
                    rows.append(rival.execute(sql, values).rowcount)
                except Exception as error:
                    failed.append(error)

            waiting = threading.Thread(target=insert, name="rival")
            waiting.start()
            _until_blocked(play, rival, waiting)
            if late_delete:
                play.delete(table, key)
    finally:
        if waiting is not None:
            waiting.join()
    play.committed(sum(rows))
    if failed:
        raise failed[0]


def _until_blocked(play: Play, rival: Session, waiting: threading.Thread) -> None:
    """Return once the rival waits for this session; also when it does not come to that."""
    end = time.monotonic() + WAIT_FOR_BLOCK_S
    while time.monotonic() < end and waiting.is_alive():
        (blocked,) = play.row("SELECT pg_backend_pid() = ANY (pg_blocking_pids(%s))", rival.info.backend_pid)
        if blocked:
            return
        time.sleep(0.002)


# -- transactions of other shapes --


@kind(3)
def several_tables(play: Play) -> None:
    """A new user with all that belongs to one, some of it changed at once."""
    with play.transaction():
        user = _new_user(play)
        team = _new_team(play, user)
        _new_member(play, team, user)
        _new_member(play, play.pick("teams", f"id <> {team}"), user)
        _new_key(play, user)
        _new_session(play, user)
        _new_embedding(play, user, team)
        play.set("teams", team, description=play.text_or_null())
        play.set("users", user, **_values(play, "users"))


@kind(3)
def rolled_back(play: Play) -> None:
    with play.undone():
        user = _new_user(play)
        _new_key(play, user)
        play.set("users", play.pick("users"), **_values(play, "users"))
        play.delete("user_sessions", play.pick("user_sessions"))


@kind(3)
def savepoint_rolled_back(play: Play) -> None:
    with play.transaction():
        play.set("users", play.pick("users"), **_values(play, "users"))
        with play.undone():
            play.set("teams", play.pick("teams"), **_values(play, "teams"))
            _new_key(play, play.pick("users"))
        _new_session(play, play.pick("users"))


@kind(3)
def upsert(play: Play) -> None:
    with play.transaction():
        if play.chance(0.5):
            team, user = (
                play.pick("team_members") if play.chance(0.6) else (play.pick("teams"), play.pick("users"))
            )
            play.do(
                "INSERT INTO team_members (team_id, user_id, role) VALUES (%s, %s, %s)"
                " ON CONFLICT (team_id, user_id) DO UPDATE SET role = excluded.role, status = 'active'",
                team,
                user,
                play.text(),
            )
        else:
            (name,) = play.row("SELECT username FROM users WHERE id = %s", play.pick("users"))
            name = name if play.chance(0.6) else play.unique("user")
            play.do(
                "INSERT INTO users (username, email, full_name, password_hash) VALUES (%s, %s, %s, 'x')"
                " ON CONFLICT (username) DO UPDATE SET full_name = excluded.full_name, updated_at = now()",
                name,
                play.unique("mail"),
                play.text(),
            )


@kind(1)
def many_rows(play: Play) -> None:
    """Over 200 rows in one transaction: new ones while there are few, else changed or deleted ones."""
    with play.transaction():
        (keys,) = play.row("SELECT count(*) FROM api_keys")
        if keys < 2 * MANY or (keys < 8 * MANY and play.chance(0.4)):
            users = [play.pick("users") for _ in range(20)]
            play.do(
                "INSERT INTO api_keys (user_id, api_key, is_active)"
                " SELECT * FROM unnest(%s::bigint[], %s::text[], %s::boolean[])",
                play.dice.choices(users, k=MANY),
                [play.unique("many") for _ in range(MANY)],
                [not play.chance(0.2) for _ in range(MANY)],
            )
            return
        some = "SELECT id FROM api_keys WHERE id >= %s ORDER BY id LIMIT %s"
        if keys < 8 * MANY or play.chance(0.5):
            play.do(
                f"UPDATE api_keys SET is_active = NOT is_active WHERE id IN ({some})",
                play.pick("api_keys"),
                MANY,
            )
        else:
            play.do(f"DELETE FROM api_keys WHERE id IN ({some})", play.pick("api_keys"), MANY)


@kind(1, TRUNCATES)
def truncate_api_keys(play: Play) -> None:
    with play.transaction():
        play.truncate("api_keys")
        if play.chance(0.5):
            _new_key(play, play.pick("users"))


@kind(1, TRUNCATES)
def truncate_sessions(play: Play) -> None:
    with play.transaction():
        if play.chance(0.5):
            _new_session(play, play.pick("users"))
        play.truncate("user_sessions")
