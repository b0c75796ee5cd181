"""Chunks that cover every key once, hashes that add up, samples, and the census of `_id`s."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

from bson import Decimal128, Int64, ObjectId
from bson.datetime_ms import DatetimeMS
from hypothesis import given
from hypothesis import strategies as st

from connectors.positions import Lsn
from sync.verify.census import BUCKETS, Sums, without_row
from sync.verify.chunks import Chunk, KeyRange, Seen, drawn, encoded, gaps, hexed, plus, row_hash
from sync.verify.compare import first_difference
from sync.verify.progress import told_seconds

OID = ObjectId(b"\0" * 12)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 31), (1 << 31) - 1),
    st.integers(-(1 << 63), (1 << 63) - 1).map(Int64),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.binary(max_size=4),
    st.integers(-(1 << 40), 1 << 40).map(DatetimeMS),
    st.sampled_from(["1.0", "1.00", "NaN", "-0"]).map(Decimal128),
)
names = st.text("abc", min_size=1, max_size=2)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


def cut_at(bounds: list[int]) -> list[Chunk]:
    ends = [None, *(((str(b),)) for b in bounds), None]
    return [Chunk("t", n, KeyRange(low, high)) for n, (low, high) in enumerate(pairwise(ends))]


@given(st.sets(st.integers(0, 50), max_size=8), st.data())
def test_what_is_not_done_and_what_is_cover_every_key_once(bounds: set[int], data: st.DataObject) -> None:
    chunks = cut_at(sorted(bounds))
    done = [c for c in chunks if data.draw(st.booleans())]
    left = list(gaps("t", done))
    covered: list[KeyRange] = [c.keys for c in done] + [c.keys for c, _ in left]

    def holds(keys: KeyRange, key: int) -> bool:
        low, high = keys
        return (low is None or int(low[0]) <= key) and (high is None or key < int(high[0]))

    for key in range(-1, 52):
        assert sum(holds(keys, key) for keys in covered) == 1, (key, covered)
    taken = {c.number for c in done}
    for gap, follower in left:
        assert gap.number not in taken
        assert follower is None or (follower in taken and follower > gap.number)


@given(st.dictionaries(names, values, max_size=4), st.dictionaries(names, values, max_size=4))
def test_the_same_bytes_are_the_same_values(one: dict[str, Any], other: dict[str, Any]) -> None:
    order = sorted(one)
    mine, theirs = encoded(one, order), encoded(other, order)
    assert mine is not None
    assert (theirs is None) == (not set(order) <= set(other))
    if mine == theirs:
        assert all(first_difference(one[name], other[name], name) is None for name in order)


def test_types_of_equal_numbers_have_other_bytes() -> None:
    ways = [1, Int64(1), 1.0, True, Decimal128("1"), Decimal128("1.0"), "1", DatetimeMS(1)]
    assert len({encoded({"a": way}, ["a"]) for way in ways}) == len(ways)


@given(st.lists(st.binary(max_size=6), max_size=8), st.randoms())
def test_hashes_add_up_in_any_order(rows: list[bytes], draw: random.Random) -> None:
    hashes = [row_hash(OID, row) for row in rows]
    total = 0
    for one in hashes:
        total = plus(total, one)
    draw.shuffle(hashes)
    again = 0
    for one in hashes:
        again = plus(again, one)
    assert hexed(total) == hexed(again)
    if rows:
        assert plus(total, row_hash(OID, b"another")) != total
        assert row_hash(OID, rows[0]) != row_hash(ObjectId(b"\1" * 12), rows[0])


@given(st.integers(), st.floats(1, 99), st.integers(0, 1000))
def test_a_sample_is_drawn_by_its_seed(seed: int, percent: float, number: int) -> None:
    chunk = Chunk("t", number, KeyRange((str(number),), None))
    assert drawn(percent, seed, chunk) == drawn(percent, seed, Chunk("t", 7, chunk.keys))
    assert drawn(None, seed, chunk)
    if drawn(percent, seed, chunk):
        assert drawn(min(percent + 1, 100), seed, chunk)


def test_a_sample_has_about_its_size() -> None:
    chunks = [Chunk("t", n, KeyRange((str(n),), None)) for n in range(4_000)]
    share = sum(drawn(25, 1, chunk) for chunk in chunks) / len(chunks)
    assert 0.2 < share < 0.3
    assert all(drawn(100, 1, chunk) for chunk in chunks)


def test_a_chunk_is_kept_as_it_was() -> None:
    seen = Seen(
        Chunk("t", 3, KeyRange(("a", "1"), None)), Lsn(1 << 40), 9, 8, 7, 6, 5, 1 << 127, 3, [OID, "x"]
    )
    assert Seen.of(seen.document()) == seen


ids = st.integers(0, 400).map(lambda n: n.to_bytes(12, "big"))


@given(st.sets(ids), st.sets(ids), st.integers(1, 50))
def test_documents_without_a_row_are_found_and_no_others(
    rows: set[bytes], documents: set[bytes], batch: int
) -> None:
    here = [ObjectId(one) for one in sorted(documents)]
    counted: list[int] = []
    found = without_row(
        lambda: rows,
        lambda: [[*here[at : at + batch], "foreign"] for at in range(0, len(here) + 1, batch)],
        counted.append,
    )
    got = list(found)
    assert {one.binary for one in got if isinstance(one, ObjectId)} == documents - rows
    assert len([one for one in got if isinstance(one, ObjectId)]) == len(documents - rows)
    assert "foreign" in got
    assert sum(counted) == len(here) + len(range(0, len(here) + 1, batch))


def test_two_that_are_exchanged_for_two_others_are_noticed() -> None:
    """1 and 4 add up to what 2 and 3 do; their hashes don't."""
    one, other = Sums(), Sums()
    for n in (1, 4):
        one.add(n.to_bytes(12, "big"))
    for n in (2, 3):
        other.add(n.to_bytes(12, "big"))
    assert one.differing(other)
    assert not one.differing(one)
    assert max(one.differing(other)) < BUCKETS


def test_times_in_words() -> None:
    assert [told_seconds(s) for s in (0, 119, 120, 7_200, 36_000, 200_000, 864_000)] == [
        "0 s", "119 s", "2 min", "2.0 h", "10 h", "2.3 d", "10 d",
    ]  # fmt: skip
