"""Which rows are in each other's way by unique values, and which row a document was made from."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from bson import ObjectId
from bson.binary import Binary

from connectors.errors import UniqueTaken
from consumers.apply.untangle import key_of_document, parked_id, tied, unique_indexes
from consumers.mapping.ids import object_id
from consumers.mapping.plan import Key
from consumers.mapping.spec import Index
from tests.support.memory_mongo import Document, MemoryMongo, MemoryTransactions
from tests.support.simulation import FILES, TEAMS, plan_of

BY_NAME = Index(keys={"teamName": 1}, unique=True)
PARTIAL = Index(keys={"teamName": 1}, unique=True, partial={"teamName": {"$type": "string"}})
BY_TWO = Index(keys={"folder": 1, "name": 1}, unique=True)
USES = plan_of(False).documents


def found(
    collection: str, index: Index, there: dict[Key, Document], wanted: dict[Key, Document], *more: Key
) -> set[Key]:
    """The keys that are tied when these are to be written. more: rows of the batch that are to be removed."""
    use, store = USES[collection], MemoryMongo()
    for key, document in there.items():
        stamp: Document = {"at": 1, "lsn": 1, "key": [str(v) for v in key]}
        store.plain_write(collection, use.id_of(key), {"_id": use.id_of(key), **document, "_sync": stamp})
    keys = {use.id_of(key): key for key in (*wanted, *more)}
    documents = {use.id_of(key): document for key, document in wanted.items()}

    def work(tx: Any) -> dict[ObjectId, Key]:
        return tied(tx, use, [index], documents, keys)

    return set(MemoryTransactions(store.db).once(work).values())


def named(*names: tuple[int, Any]) -> dict[Key, Document]:
    return {(key,): {"teamName": name} for key, name in names}


def test_nobody_is_in_the_way() -> None:
    assert found("teams", BY_NAME, named((1, "a"), (2, "b")), named((1, "c"))) == set()


def test_who_holds_a_value_and_who_wants_it() -> None:
    assert found("teams", BY_NAME, named((1, "a"), (2, "b")), named((1, "b"), (3, "c"))) == {(1,), (2,)}


def test_two_of_the_batch_that_want_the_same() -> None:
    assert found("teams", BY_NAME, {}, named((1, "a"), (2, "a"), (3, "b"))) == {(1,), (2,)}


def test_a_value_that_a_row_of_the_batch_lets_go() -> None:
    """A swap within the batch, and a row that is removed: everything is let go before it is written."""
    assert found("teams", BY_NAME, named((1, "a"), (2, "b")), named((1, "b"), (2, "a"))) == set()
    assert found("teams", BY_NAME, named((1, "a")), named((2, "a")), (1,)) == set()


def test_nulls_are_equal_but_under_a_partial_index() -> None:
    """As MongoDB has it: several documents without the value are duplicates."""
    two = named((1, None), (2, None))
    assert found("teams", BY_NAME, {}, two) == {(1,), (2,)}
    assert found("teams", PARTIAL, {}, two) == set()
    assert found("teams", PARTIAL, {}, named((1, "a"), (2, "a"))) == {(1,), (2,)}


def test_an_index_over_two_fields_wants_both() -> None:
    one, other = (UUID(int=1),), (UUID(int=2),)
    there: dict[Key, Document] = {one: {"folder": "f", "name": "a"}}
    assert found("files", BY_TWO, there, {other: {"folder": "f", "name": "b"}}) == set()
    assert found("files", BY_TWO, there, {other: {"folder": "g", "name": "a"}}) == set()
    assert found("files", BY_TWO, there, {other: {"folder": "f", "name": "a"}}) == {one, other}


def test_a_uuid_is_read_as_one_and_written_as_binary() -> None:
    value = Binary.from_uuid(UUID(int=7))
    assert found("teams", BY_NAME, named((1, value)), named((2, value))) == {(1,), (2,)}


def test_only_unique_indexes_over_fields_of_the_document_itself() -> None:
    plain, inner = Index(keys={"teamName": 1}), Index(keys={"members.memberId": 1}, unique=True)
    assert unique_indexes([plain, BY_NAME, inner]) == [BY_NAME]


def test_the_key_of_the_row_that_a_document_was_made_from() -> None:
    teams, files = USES["teams"], USES["files"]
    assert key_of_document(teams, {"_id": object_id(TEAMS, (5,)), "_sync": {"at": 1, "lsn": 1}}) == (5,)
    key = (UUID(int=3),)
    stamp = {"at": 1, "lsn": 1, "key": [str(key[0])]}
    assert key_of_document(files, {"_id": object_id(FILES, key), "_sync": stamp}) == key
    for _id in (ObjectId(b"of somebody!"), 5, "text"):
        with pytest.raises(UniqueTaken, match="no row"):
            key_of_document(teams, {"_id": _id})


def test_what_is_parked_of_two_tables_is_apart() -> None:
    assert parked_id(TEAMS, (1,)) != parked_id(FILES, (1,))
    assert parked_id(TEAMS, (1,)) == "public.teams [1]"
