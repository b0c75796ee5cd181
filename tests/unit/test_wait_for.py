"""Waiting for an LSN while more and more is written: only what lies before it is waited for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import pytest

from connectors.errors import NotComplete
from connectors.mongo import ledger
from connectors.positions import Lsn, Partition
from sync.lag import token
from sync.lag.token import Completeness, Ledger

HOME = Partition("tandem.public.teams", 0)


class _Kafka:
    """A topic that grows by ten records whenever somebody looks."""

    end = 100

    def ends(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        self.end += 10
        return dict.fromkeys(partitions, self.end)


def waiting(monkeypatch: pytest.MonkeyPatch, *, behind: int) -> Completeness:
    """The consumer is always so many records behind the newest."""
    kafka = _Kafka()

    def position() -> ledger.Position:
        return ledger.Position(HOME, "public.teams", kafka.end - behind, None, Lsn(0), "id")

    made: Any = Completeness.__new__(Completeness)
    made.source, made.db, made.admin, made.slot, made.transactions = None, None, kafka, "s", None
    made._asked, made._checked, made._open = None, 0.0, None
    monkeypatch.setattr(token, "translated", lambda *_: nullcontext())
    monkeypatch.setattr(made, "_slot_facts", lambda: _slot(500))
    monkeypatch.setattr(made, "_changed_tables", lambda _: [])
    monkeypatch.setattr(made, "_check_topics", lambda _: None)
    monkeypatch.setattr(made, "_positions", lambda: {HOME: position()})

    def read(_: object) -> Ledger:
        kafka.end += 10
        return Ledger({HOME: position()}, 0, 0)

    monkeypatch.setattr(token, "read_ledger", read)
    found: Completeness = made
    return found


def _slot(confirmed: int) -> Any:
    return type("Slot", (), {"confirmed": Lsn(confirmed), "active": True})()


def test_what_comes_after_it_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    found = waiting(monkeypatch, behind=25).wait(Lsn(400), 5)
    assert found.lsn == Lsn(400)
    assert found.positions[HOME.id] >= 110  # the end when Kafka had confirmed it


def test_what_lies_before_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotComplete, match="records are not yet applied"):
        waiting(monkeypatch, behind=10**6).wait(Lsn(400), 0.2)
