"""What a rebuild decides, without servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.debezium.envelope import Origin
from connectors.errors import Misused, Refused
from connectors.events import Record
from connectors.positions import Lsn, Partition
from consumers.capped import Capped
from consumers.joined import Joined
from sync.rebuild.compare import ONLY_LIVE, ONLY_SHADOW, SAMPLES, Difference, differing, how
from sync.rebuild.cut import Cut, Moment
from sync.rebuild.states import Asked, Phase, Step, decide, moves

MINE: dict[str, Any] = {"collections": ["teams"], "source": "snapshot"}


@pytest.mark.parametrize(
    ("known", "asked", "step"),
    [
        (None, Asked(("teams",)), Step.BEGIN),
        ({"phase": "none"}, Asked(("teams",), swap=True), Step.BEGIN),
        ({"phase": "none", "kept": {"id": "x"}}, Asked(undo=True), Step.UNDO),
        ({"phase": "none", "kept": {"id": "x"}}, Asked(drop_kept=True), Step.DROP_KEPT),
        *(
            ({**MINE, "phase": phase}, Asked(), Step.GO_ON)
            for phase in ("preparing", "loading", "following", "reached", "holding")
        ),
        ({**MINE, "phase": "following"}, Asked(("teams",), source="snapshot", swap=True), Step.GO_ON),
        ({**MINE, "phase": "following", "source": "kept"}, Asked(undo=True), Step.GO_ON),
        ({**MINE, "phase": "renaming"}, Asked(), Step.FINISH),
        ({**MINE, "phase": "renaming"}, Asked(undo=True), Step.FINISH),
        ({**MINE, "phase": "loading"}, Asked(discard=True), Step.DISCARD),
        ({**MINE, "phase": "discarding"}, Asked(("teams",)), Step.DISCARD),
    ],
)
def test_what_comes_first(known: Mapping[str, Any] | None, asked: Asked, step: Step) -> None:
    assert decide(known, asked) is step


@pytest.mark.parametrize(
    ("known", "asked", "error"),
    [
        (None, Asked(), Misused),
        (None, Asked(swap=True), Misused),
        (None, Asked(undo=True), Refused),
        (None, Asked(discard=True), Refused),
        (None, Asked(drop_kept=True), Refused),
        (None, Asked(("teams",), source="backup"), Misused),
        (None, Asked(("teams",), until="0/1"), Misused),
        (None, Asked(("teams",), until="yesterday", source="topics"), Misused),
        (None, Asked(("teams",), until="0/1", source="snapshot"), Misused),
        (None, Asked(("teams",), until="0/1", source="archive", swap=True), Misused),
        (None, Asked(undo=True, discard=True), Misused),
        (None, Asked(("teams",), undo=True), Misused),
        (None, Asked(("teams",), discard=True), Misused),
        ({**MINE, "phase": "following"}, Asked(("users",)), Refused),
        ({**MINE, "phase": "following"}, Asked(("teams",), source="topics"), Refused),
        ({**MINE, "phase": "following"}, Asked(undo=True), Refused),
        ({**MINE, "phase": "reached", "source": "topics", "until": "0/1"}, Asked(swap=True), Refused),
        ({**MINE, "phase": "renaming"}, Asked(discard=True), Refused),
    ],
)
def test_what_is_refused(
    known: Mapping[str, Any] | None, asked: Asked, error: type[Misused] | type[Refused]
) -> None:
    with pytest.raises(error):
        decide(known, asked)


def test_every_phase_leads_somewhere() -> None:
    for phase in Phase:
        assert decide({**MINE, "phase": phase}, Asked(("teams",)))


def test_staged_rows_take_their_names_before_documents_and_what_nothing_replaces_goes() -> None:
    live = ["_tandem_rows_teams_members", "_tandem_rows_teams_old", "teams"]
    renames, drops = moves("p_", live, ["teams", "_tandem_rows_teams_members", "_tandem_copies_teams_owner"])
    assert renames == [
        ("p__tandem_copies_teams_owner", "_tandem_copies_teams_owner"),
        ("p__tandem_rows_teams_members", "_tandem_rows_teams_members"),
        ("p_teams", "teams"),
    ]
    assert drops == ["_tandem_rows_teams_old"]


# -- differences -------------------------------------------------------------------------------------------------
def test_types_and_the_order_of_fields_inside_differ_and_sync_does_not() -> None:
    one = {"_id": 1, "a": 1, "b": {"x": 1, "y": 2}, "c": None, "_sync": {"lsn": 1}}
    other = {"_id": 1, "b": {"y": 2, "x": 1}, "a": 1.0, "_sync": {"lsn": 2}}
    assert differing(one, other) == ["a", "b", "c"]
    assert differing(one, {**one, "_sync": 5}) == []
    assert (how(one, None), how(None, one), how(None, None)) == (ONLY_LIVE, ONLY_SHADOW, frozenset())


@given(st.lists(st.sampled_from(["same", "a", "b", "ab", "live", "shadow"]), max_size=30))
def test_counts_are_those_of_the_documents_and_samples_are_few(kinds: list[str]) -> None:
    found = Difference()
    for number, kind in enumerate(kinds):
        of = {"same": frozenset[str](), "live": ONLY_LIVE, "shadow": ONLY_SHADOW}.get(kind, frozenset(kind))
        found.add(number, of)
    assert found.only_live == kinds.count("live")
    assert found.only_shadow == kinds.count("shadow")
    assert found.differing == sum(kind in ("a", "b", "ab") for kind in kinds)
    assert found.fields.get("a", 0) == sum(kind in ("a", "ab") for kind in kinds)
    assert len(found.samples) == min(SAMPLES, sum(kind != "same" for kind in kinds))
    assert found.same == all(kind == "same" for kind in kinds)


# -- until -------------------------------------------------------------------------------------------------------
#: transactions in commit order: how long each was, and to which partitions its rows go
HISTORY = st.lists(
    st.tuples(st.integers(1, 60), st.lists(st.integers(0, 2), min_size=0, max_size=4)), max_size=14
)


@given(HISTORY, st.integers(0, 200), st.booleans())
def test_a_cut_keeps_just_the_transactions_that_were_committed_by_then(
    history: list[tuple[int, list[int]]], at: int, by_time: bool
) -> None:
    """Rows lie anywhere before their commit, also before the commits of others."""
    homes = [Partition("t", n) for n in range(3)]
    cut = Cut(Moment(us=at) if by_time else Moment(lsn=Lsn(at)))
    offsets = dict.fromkeys(homes, 0)
    expected = dict.fromkeys(homes, 0)
    commit = before = 1
    for length, rows in history:
        commit += 10
        for home in (homes[n] for n in rows):
            origin = Origin(None if before == 1 else before, max(1, commit - length), commit)
            cut.add(home, offsets[home], origin)
            cut.add(home, offsets[home] + 1, None)  # its tombstone
            offsets[home] += 3
            if commit <= at:
                expected[home] = offsets[home]
        if rows:
            before = commit
    beat = Partition("t.message", 0)
    after = max(commit, at) + 1
    cut.add(beat, 0, Origin(None if before == 1 else before, after, after))
    found = cut.offsets(offsets)
    kept = {home: found[home] if found[home] == offsets[home] else -(-found[home] // 3) * 3 for home in homes}
    assert kept == expected


@pytest.mark.parametrize("text", ["yesterday", "16/", "0/1/2", ""])
def test_a_moment_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Misused):
        Moment.parse(text)


def test_a_moment_is_an_lsn_or_a_time() -> None:
    assert Moment.parse("16/B374D848") == Moment(lsn=Lsn.parse("16/B374D848"))
    assert Moment.parse("1970-01-01T00:00:01.000002Z") == Moment(us=1_000_002)
    assert Moment.parse("1970-01-01 02:00:00+01:00") == Moment(us=3_600_000_000)


# -- streams -----------------------------------------------------------------------------------------------------
class Topic:
    """A broker's partitions: offsets with holes, where markers are."""

    generation = 0

    def __init__(self, offsets: Mapping[Partition, Sequence[int]]) -> None:
        self.records = {
            home: [Record(home, offset, None, None, 0) for offset in of] for home, of in offsets.items()
        }
        self.at: dict[Partition, int | None] = dict.fromkeys(offsets)

    def assigned(self) -> frozenset[Partition]:
        return frozenset(self.records)

    def place(self, offsets: Mapping[Partition, int | None]) -> None:
        self.at.update(offsets)

    def poll(self, timeout_ms: int, most: int) -> Mapping[Partition, Sequence[Record]]:
        polled: dict[Partition, Sequence[Record]] = {}
        for home, at in self.at.items():
            if at is None:
                continue
            found = [r for r in self.records[home] if r.offset >= at][: max(1, most // 2)]
            if found:
                polled[home] = found
                self.at[home] = found[-1].offset + 1
            else:
                self.at[home] = self.end(home)
        return polled

    def end(self, home: Partition) -> int:
        of = self.records[home]
        return max(self.at[home] or 0, of[-1].offset + 2 if of else 0)

    def position(self, partition: Partition) -> int:
        return self.at[partition] or 0

    def tell(self, offsets: Mapping[Partition, int]) -> None:
        raise AssertionError("nobody is told")


OFFSETS = st.lists(st.integers(0, 40), unique=True, max_size=15).map(sorted)


@given(OFFSETS, OFFSETS, st.lists(st.tuples(st.integers(0, 45), st.integers(0, 45)), min_size=1, max_size=8))
def test_a_capped_stream_hands_on_all_before_its_caps_once_and_nothing_behind(
    one: list[int], two: list[int], rising: list[tuple[int, int]]
) -> None:
    homes = Partition("t", 0), Partition("t", 1)
    topic = Topic(dict(zip(homes, (one, two), strict=True)))
    caps = dict.fromkeys(homes, 0)
    capped = Capped(topic, lambda: dict(caps))
    capped.place(dict.fromkeys(homes, 0))
    seen: dict[Partition, list[int]] = {home: [] for home in homes}
    for step in [*rising, (100, 100)]:
        for home, cap in zip(homes, step, strict=True):
            caps[home] = max(caps[home], cap)
        for _ in range(40):
            for home, records in capped.poll(0, 4).items():
                seen[home] += [r.offset for r in records]
        for home, offsets in zip(homes, (one, two), strict=True):
            assert seen[home] == [o for o in offsets if o < caps[home]]
            assert capped.position(home) <= caps[home]
            assert not seen[home] or capped.position(home) > seen[home][-1]
            behind = [o for o in offsets if o >= caps[home]]
            if behind:  # as far as the other side can be, markers included
                assert capped.position(home) == caps[home]


@given(OFFSETS, st.integers(0, 45), st.integers(0, 45))
def test_a_joined_stream_is_the_tail_and_then_the_topic(offsets: list[int], until: int, start: int) -> None:
    home = Partition("t", 0)
    topic = Topic({home: [o for o in offsets if o >= until]})
    kept = [Record(home, o, None, None, 0) for o in offsets if o < until]
    joined = Joined(topic, lambda _, at: (iter([r for r in kept if r.offset >= at]), until))
    joined.place({home: start})
    seen: list[int] = []
    for _ in range(60):
        for records in joined.poll(0, 3).values():
            seen += [r.offset for r in records]
            assert joined.position(home) > seen[-1]
    assert seen == [o for o in offsets if o >= start]
