"""Chunks cover every key that there is or may come, exactly once, and survive their documents."""

from __future__ import annotations

import bson
from hypothesis import given
from hypothesis import strategies as st

from sync.snapshot.chunks import Chunk, cut

Key = tuple[int, int]
KEYS = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), unique=True, max_size=40).map(sorted)


def boundaries(keys: list[Key], every: int) -> list[tuple[str, ...]]:
    """As the reader gives them: the first key of every `every` rows, less the very first."""
    return [tuple(map(str, key)) for key in keys[::every][1:]]


def holds(chunk: Chunk, key: Key) -> bool:
    low, high = (None if end is None else tuple(map(int, end)) for end in chunk.keys)
    return (low is None or key >= low) and (high is None or key < high)


@given(keys=KEYS, every=st.integers(1, 10))
def test_every_key_is_in_one_chunk(keys: list[Key], every: int) -> None:
    chunks = cut("c", "c", boundaries(keys, every), len(keys), every)
    for key in [(a, b) for a in range(-6, 7) for b in range(-6, 7)]:  # those that are not there yet, too
        assert sum(holds(chunk, key) for chunk in chunks) == 1
    for chunk in chunks:
        assert sum(holds(chunk, key) for key in keys) == chunk.rows <= every
    assert sum(chunk.rows for chunk in chunks) == len(keys)
    assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
    assert (chunks[0].keys.low, chunks[-1].keys.high) == (None, None)


def test_an_empty_table_is_one_chunk() -> None:
    [chunk] = cut("c", "c", [], 0, 100)
    assert (chunk.keys, chunk.rows, chunk.done, chunk.tries) == ((None, None), 0, False, 0)


@given(keys=KEYS, every=st.integers(1, 10))
def test_chunks_survive_their_documents(keys: list[Key], every: int) -> None:
    for chunk in cut("c", "c", boundaries(keys, every), len(keys), every):
        assert Chunk.of(bson.decode(bson.encode(chunk.document()))) == chunk
        assert chunk.document()["_id"] == f"c/{chunk.number}"
