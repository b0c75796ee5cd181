"""Complete or not: every reason for which it is not, and the token when it is."""

from __future__ import annotations

import warnings

import pytest

from connectors.errors import SettingsInvalid
from connectors.mongo.ledger import Position
from connectors.positions import Lsn, Partition

with warnings.catch_warnings():  # of kafka-python, on Python 3.11
    warnings.simplefilter("ignore", DeprecationWarning)
    from sync.lag.token import Ledger, judge, parse_target

P0, P1, Q0 = Partition("p.s.t", 0), Partition("p.s.t", 1), Partition("p.s.u", 0)
ENDS = {P0: 10, P1: 0, Q0: 5}


def ledger(
    at: dict[Partition, int] | None = None,
    held: dict[Partition, str] | None = None,
    jobs: int = 0,
    parked: int = 0,
) -> Ledger:
    reached = {P0: 10, P1: 0, Q0: 5} if at is None else at
    positions = {
        p: Position(p, "s.t" if p != Q0 else "s.u", n, (held or {}).get(p), Lsn(0), "")
        for p, n in reached.items()
    }
    return Ledger(positions, jobs, parked)


def test_complete() -> None:
    standing = judge(Lsn(77), ENDS, ledger())
    assert standing.missing == []
    assert standing.token is not None
    assert standing.token.as_dict() == {
        "lsn": "0/4D", "at": standing.token.at, "positions": {"p.s.t/0": 10, "p.s.t/1": 0, "p.s.u/0": 5},
    }  # fmt: skip


def test_positions_beyond_the_ends_are_complete_too() -> None:
    assert judge(Lsn(77), ENDS, ledger({P0: 12, P1: 3, Q0: 6})).token is not None


@pytest.mark.parametrize(
    ("found", "missing"),
    [
        (ledger({P0: 9, P1: 0, Q0: 5}), ["1 records are not yet applied"]),
        (ledger({P0: 99, P1: 0, Q0: 1}), ["4 records are not yet applied"]),
        (ledger({P1: 0, Q0: 5}), ["10 records are not yet applied"]),
        (ledger({}), ["15 records are not yet applied"]),
        (ledger(held={P1: "load:none", P0: "load:x", Q0: "load:y"}), ["not loaded yet, or held: s.t, s.u"]),
        (ledger(jobs=2), ["2 jobs are still being carried out (truncates, copies of a parent)"]),
        (ledger(parked=3), ["3 rows are parked"]),
        (
            ledger({P0: 0, P1: 0, Q0: 5}, {Q0: "load:x"}, 1, 1),
            [
                "10 records are not yet applied",
                "not loaded yet, or held: s.u",
                "1 jobs are still being carried out (truncates, copies of a parent)",
                "1 rows are parked",
            ],
        ),
    ],
)
def test_every_reason(found: Ledger, missing: list[str]) -> None:
    standing = judge(Lsn(77), ENDS, found)
    assert standing.missing == missing
    assert standing.token is None
    assert standing.parked == found.parked


def test_an_empty_partition_whose_position_is_gone_is_missing() -> None:
    assert judge(Lsn(77), ENDS, ledger({P0: 10, Q0: 5})).token is None


def test_what_is_waited_for() -> None:
    assert parse_target("now", lambda: Lsn(5)) == 5
    assert parse_target("16/B374D848", lambda: Lsn(5)) == 0x16B374D848
    with pytest.raises(SettingsInvalid, match="'soon' is no LSN"):
        parse_target("soon", lambda: Lsn(5))
