"""LSNs as PostgreSQL prints them; which transactions a snapshot shows, 32-bit ids over the wrap included."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.positions import Lsn, Partition, Snapshot

EPOCH = 1 << 32


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0/0", 0),
        ("16/B374D848", 0x16B374D848),
        ("FFFFFFFF/FFFFFFFF", (1 << 64) - 1),
        ("1/0", EPOCH),
        ("0/a", 10),
    ],
)
def test_an_lsn_is_read_and_printed(text: str, value: int) -> None:
    assert Lsn.parse(text) == value
    assert str(Lsn(value)) == text.upper()
    assert f"{Lsn(value)}" == repr(Lsn(value)) == text.upper()


@pytest.mark.parametrize(
    "text", ["", "0", "/", "0/", "x/0", "100000000/0", "0/100000000", "-1/0", "0/-1", "now"]
)
def test_what_is_no_lsn(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        Lsn.parse(text)


@given(st.integers(0, (1 << 64) - 1))
def test_an_lsn_survives_its_text(value: int) -> None:
    assert Lsn.parse(str(Lsn(value))) == value


def test_a_partition_names_its_position() -> None:
    assert Partition("p.public.t", 3).id == "p.public.t/3"


@pytest.mark.parametrize("text", ["10:20:", "10:20:12,15", "5:5:"])
def test_a_snapshot_is_read(text: str) -> None:
    xmin, xmax, running = text.split(":")
    assert Snapshot.parse(text) == (
        int(xmin),
        int(xmax),
        frozenset(map(int, filter(None, running.split(",")))),
    )


def test_what_a_snapshot_shows() -> None:
    snapshot = Snapshot.parse("10:20:12,15")
    assert [xid for xid in range(8, 23) if snapshot.shows(xid)] == [8, 9, 10, 11, 13, 14, 16, 17, 18, 19]


@pytest.mark.parametrize("end", [EPOCH - 1, EPOCH, EPOCH + 1, 3 * EPOCH, 3 * EPOCH + 7])
def test_ids_on_both_sides_of_a_wrap(end: int) -> None:
    snapshot = Snapshot(end - 10, end, frozenset({end - 3}))
    for full in range(end - 30, end + 30):
        assert snapshot.full_id(full % EPOCH) == full
        assert snapshot.shows(full % EPOCH) == (full < end and full != end - 3)


@given(
    xmax=st.integers(3, 1 << 40),
    span=st.integers(0, 1000),
    running=st.sets(st.integers(1, 1000)),
    away=st.integers(-(1 << 31) + 1, (1 << 31) - 1),
)
def test_against_a_naive_oracle(xmax: int, span: int, running: set[int], away: int) -> None:
    """Ids of 64 bits at most half an epoch from xmax, as PostgreSQL guarantees for rows that are not frozen."""
    full = max(xmax + away, 0)
    xmin = max(xmax - span, 0)
    in_progress = frozenset(xmax - n for n in running if xmin <= xmax - n < xmax)
    naive = full < xmin or (full < xmax and full not in in_progress)
    assert Snapshot(xmin, xmax, in_progress).shows(full % EPOCH) == naive
