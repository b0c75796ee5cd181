"""What one event asks of its row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from connectors.errors import DecodeFailed
from connectors.events import ChangeEvent, Operation
from connectors.positions import Partition
from consumers.apply.decide import Gone, Put, Read, decide, unknown_columns
from consumers.mapping.plan import TablePlan
from tests.support.simulation import FILES, TEAMS, plan_of

TEAM: TablePlan = plan_of(False).tables[TEAMS]
ROW: dict[str, Any] = {
    "id": 7,
    "team_name": "a",
    "description": "long",
    "is_active": True,
    "score": "1.5",
}


def event(
    op: Operation, row: dict[str, Any] | None, *unsent: str, key: dict[str, Any] | None = None
) -> ChangeEvent:
    home = Partition("tandem.public.teams", 0)
    sent = None if row is None else {name: value for name, value in row.items() if name not in unsent}
    return ChangeEvent(home, 3, TEAMS, op, key or {"id": 7}, sent, frozenset(unsent), 50, 700, 0)


@pytest.mark.parametrize("op", [Operation.CREATE, Operation.READ])
def test_a_create_begins_a_life(op: Operation) -> None:
    found = decide(event(op, ROW), TEAM)
    assert isinstance(found, Put)
    assert (found.key, found.whole, found.create, found.at, found.lsn) == ((7,), True, True, 3, 50)


def test_an_update_goes_on_with_one() -> None:
    found = decide(event(Operation.UPDATE, ROW), TEAM)
    assert isinstance(found, Put)
    assert (found.whole, found.create) == (True, False)


def test_what_was_not_sent_is_absent_and_the_row_is_not_whole() -> None:
    found = decide(event(Operation.UPDATE, ROW, "description"), TEAM)
    assert isinstance(found, Put)
    assert not found.whole
    assert set(found.natives) == set(ROW) - {"description"}


def test_a_create_that_lacks_a_value_is_read() -> None:
    """The second half of a key change."""
    assert decide(event(Operation.CREATE, ROW, "description"), TEAM) == Read((7,), True, 3, 50)


def test_an_update_that_lacks_what_its_filter_needs_is_read() -> None:
    """A filter, a foreign key or an order over a column that was not sent cannot be judged."""
    assert decide(event(Operation.UPDATE, ROW, "is_active"), TEAM) == Read((7,), False, 3, 50)


def test_a_row_with_a_column_that_no_event_carries_is_read() -> None:
    files = plan_of(True).tables[FILES]
    row = {"id": "00000000-0000-0000-0000-000000000001", "folder": "f", "name": "n", "team_id": 1}
    sent = event(Operation.UPDATE, {**row, "body": "b", "meta": "{}"}, key={"id": row["id"]})
    assert isinstance(decide(replace(sent, table=FILES), files), Read)


@pytest.mark.parametrize("op", [Operation.DELETE, Operation.TOMBSTONE])
def test_a_delete_and_what_compaction_leaves_of_one(op: Operation) -> None:
    assert decide(event(op, None), TEAM) == Gone((7,), 3, 50)


def test_an_event_of_other_columns_is_read() -> None:
    """From before or after a change of the table: as the row is now is always right."""
    added = {**ROW, "new": 1}
    dropped = {name: value for name, value in ROW.items() if name != "score"}
    for row in (added, dropped):
        assert decide(event(Operation.UPDATE, row), TEAM) == Read((7,), False, 3, 50)
        assert decide(event(Operation.CREATE, row), TEAM) == Read((7,), True, 3, 50)
    unsent = event(Operation.UPDATE, added, "new")
    assert decide(unsent, TEAM) == Read((7,), False, 3, 50)
    assert unknown_columns(unsent, TEAM) == unknown_columns(event(Operation.UPDATE, added), TEAM) == {"new"}
    assert unknown_columns(event(Operation.DELETE, None), TEAM) == frozenset()


def test_a_key_of_other_columns_is_no_key() -> None:
    with pytest.raises(DecodeFailed, match="lacks a column"):
        decide(event(Operation.UPDATE, ROW, key={"other": 7}), TEAM)
