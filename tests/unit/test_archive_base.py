"""Rows of a base come back as a COPY gave them; what retention may take never breaks what is left."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import fastavro
from hypothesis import given
from hypothesis import strategies as st

from connectors.archive import basefile
from connectors.archive.manifest import Base, BaseColumn, BaseFile, BaseTable, Chain, Segment
from connectors.positions import Partition
from connectors.postgres.types import Type, TypeKind
from consumers.mapping.codecs import CODECS, OTHER
from consumers.mapping.composed import OTHERS, codec_of
from sync.archive.prune import Going, plan
from sync.settings import Archive as ArchiveSettings

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "boolean": st.booleans(),
    "double": st.floats(),
    "string": st.text(),
    "bytes": st.binary(),
    "uuid": st.uuids(),
}


def test_every_codec_reads_a_type_that_a_base_can_hold() -> None:
    made = [
        codec_of(Type("text[]", TypeKind.ARRAY, Type("text"))),
        codec_of(Type("c", TypeKind.COMPOSITE, None, (("a", Type("integer")),))),
    ]
    wires = {codec.wire for codec in (*CODECS.values(), *OTHERS.values(), OTHER, *made)}
    assert wires <= basefile.WIRES.keys()


@given(st.data())
def test_a_row_comes_back_as_it_was_read(data: st.DataObject) -> None:
    wires = data.draw(st.lists(st.sampled_from(sorted(basefile.WIRES)), min_size=1, max_size=6))
    names = data.draw(st.lists(st.text(max_size=4), min_size=len(wires), max_size=len(wires), unique=True))
    columns = tuple(BaseColumn(name, "t", "plain", wire) for name, wire in zip(names, wires, strict=True))
    rows = data.draw(st.lists(st.tuples(*(st.none() | VALUES[basefile.WIRES[w]] for w in wires)), max_size=4))
    file = io.BytesIO()
    schema = basefile.schema("public.t", columns)
    fields = [field["name"] for field in schema["fields"]]
    told = [
        {f: v.bytes if isinstance(v, UUID) else v for f, v in zip(fields, row, strict=True)} for row in rows
    ]
    fastavro.writer(file, fastavro.parse_schema(schema), told, codec="zstandard")
    file.seek(0)
    found = [tuple(row[name] for name in names) for row in basefile.read(file, "x")]
    assert repr(found) == repr(rows)


def test_a_writer_writes_what_the_reader_reads(tmp_path: Path) -> None:
    columns = (BaseColumn("id", "uuid", "plain", "uuid"), BaseColumn("other", "uuid", "plain", "uuid"))
    writer = basefile.BaseWriter(tmp_path / "x", "public.t", columns, 7, "zstd")
    writer.add((UUID(int=1), None))
    made = writer.finish("x.avro")
    assert (made.rows, made.path) == (1, "x.avro")
    with (tmp_path / "x").open("rb") as file:
        assert list(basefile.read(file, "x")) == [{"id": UUID(int=1), "other": None}]


# -- retention ---------------------------------------------------------------------------------------------------
NOW = datetime(2026, 1, 31, tzinfo=UTC)
HOMES = [Partition("a", 0), Partition("b", 0)]


def segment(start: int, next_: int) -> Segment:
    """Of 99 days ago, less a day for each offset."""
    at = int((NOW - timedelta(days=99 - start)).timestamp() * 1_000)
    return Segment(start, next_, 1, start, start, 0, at, at, None, None, 10, "", "")


def base(days_ago: float, at: dict[str, int], lsn: int) -> Base:
    ended = (NOW - timedelta(days=days_ago)).isoformat()
    return Base(f"b{lsn}", lsn, ended, ended, at, {"t": BaseTable((), (), (BaseFile("f", 1, 100, ""),))})


@st.composite
def archives(draw: st.DrawFn) -> tuple[list[Chain], list[Base]]:
    """Chains of segments of ten offsets, and bases that know one of the two partitions, or both."""
    chains = [
        Chain(
            h.topic,
            0,
            "id",
            "t",
            0,
            tuple(segment(n * 10, n * 10 + 10) for n in range(draw(st.integers(0, 9)))),
        )
        for h in HOMES
    ]
    days = sorted(draw(st.lists(st.floats(0, 60), max_size=4)), reverse=True)
    positions = sorted(draw(st.lists(st.integers(0, 95), min_size=len(days), max_size=len(days))))
    known = draw(st.sampled_from([HOMES, HOMES[:1]]))
    return chains, [
        base(d, {h.id: p for h in known}, n) for n, (d, p) in enumerate(zip(days, positions, strict=True))
    ]


@given(
    archives(),
    st.none() | st.floats(0.1, 60),
    st.none() | st.integers(1, 1_000),
)
def test_what_is_left_is_a_base_and_all_of_the_tail_behind_it(
    found: tuple[list[Chain], list[Base]], days: float | None, most: int | None
) -> None:
    chains, bases = found
    going = plan(chains, bases, ArchiveSettings(retention_days=days, retention_bytes=most), NOW)
    left = [b for b in bases if b.name not in going.bases]
    assert bool(left) == bool(bases)
    assert left == bases[len(bases) - len(left) :]
    for chain in chains:
        gone = going.segments.get(chain.home.id, ())
        assert gone == chain.segments[: len(gone)]  # from the beginning, and without a hole
        for one in left:
            assert all(s.next <= one.positions.get(chain.home.id, 0) for s in gone)
    if days is not None and most is None and bases:  # any state of these days has a base before it
        since = NOW - timedelta(days=days)
        before = [b for b in bases if datetime.fromisoformat(b.ended) <= since]
        assert not before or before[-1] in left
        assert all(s.to_ms < since.timestamp() * 1_000 for of in going.segments.values() for s in of)
    if days is None and most is None:
        assert going == Going()


def test_a_newer_base_lets_segments_go() -> None:
    chain = Chain("a", 0, "id", "t", 0, tuple(segment(n * 10, n * 10 + 10) for n in range(5)))
    bases = [base(20, {"a/0": 12}, 1), base(10, {"a/0": 30}, 2), base(1, {"a/0": 50}, 3)]
    going = plan([chain], bases, ArchiveSettings(retention_days=7), NOW)
    assert going.bases == ("b1",)
    assert [s.start for s in going.segments["a/0"]] == [0, 10, 20]
    tight = plan([chain], bases, ArchiveSettings(retention_bytes=50), NOW)
    assert (tight.bases, tight.over) == (("b1", "b2"), 50)
