"""Flags, decided: who gets which variant, what the file becomes; and a file written by several at a time."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.errors import FlagMoved, FlagRefused, FlagUnknown, Misused, ServerGone
from connectors.flagd import file as flag_file
from connectors.flagd.file import FlagFile, with_flag
from connectors.flags import Kept
from sync.flags.rules import Cohort, Rollout, Wanted, changed, keys_of, rollout, targeting_of
from sync.flags.run import Flags

FLAG = {
    "state": "ENABLED",
    "variants": {"on": True, "off": False},
    "defaultVariant": "off",
    "x-of": ["others", 1.5],
}
BETA = Cohort("beta", ("u1", "u2"), "on")


def step(definition: Mapping[str, Any] | None, *wanted: Wanted) -> dict[str, Any]:
    for one in wanted:
        definition = changed("f", definition, one)
    return dict(definition or {})


def test_for_everybody_rules_go_and_what_tandem_does_not_know_stays() -> None:
    gradual = step(FLAG, Wanted("on", cohort=BETA), Wanted("on", percent=20))
    assert rollout(gradual) == Rollout("off", (BETA,), 20, "on")
    assert rollout(gradual) is not None
    assert rollout(gradual).in_words() == "cohort beta (2 keys): on; 20 %: on; the rest: off"  # type: ignore[union-attr]
    assert step(gradual, Wanted("on")) == {**FLAG, "defaultVariant": "on"}
    assert step(gradual, Wanted("off")) == FLAG
    assert gradual["x-of"] == FLAG["x-of"]


def test_a_percentage_leaves_cohorts_and_a_cohort_the_percentage() -> None:
    staff = Cohort("staff", ("s",), "off")
    found = step(
        FLAG,
        Wanted("on", percent=10),
        Wanted("on", cohort=BETA),
        Wanted("off", cohort=staff),
        Wanted("on", 50),
    )
    assert rollout(found) == Rollout("off", (BETA, staff), 50, "on")
    less = Cohort("beta", ("u9",), "on")
    assert rollout(step(found, Wanted("on", cohort=less))) == Rollout("off", (less, staff), 50, "on")
    assert rollout(step(found, Wanted("on", percent=0))) == Rollout("off", (BETA, staff))


@pytest.mark.parametrize(
    ("definition", "wanted", "error", "said"),
    [
        (None, Wanted("on"), FlagUnknown, "--create"),
        (FLAG, Wanted("maybe"), Misused, "on, off"),
        (FLAG, Wanted("off", percent=10), Misused, "gets off of the flag f already"),
        ({**FLAG, "targeting": {"if": [True, "on"]}}, Wanted("on"), FlagRefused, "did not write"),
        (
            {**FLAG, "targeting": {"fractional": [["on", 1], ["off", 1]]}},
            Wanted("on", 5),
            FlagRefused,
            "did not write",
        ),
        ({**FLAG, "variants": {"on": True, "off": "no"}}, Wanted("on"), FlagRefused, "several types"),
        ({**FLAG, "variants": {}}, Wanted("on"), FlagRefused, "no variants"),
        ({**FLAG, "state": "on"}, Wanted("on"), FlagRefused, "ENABLED, DISABLED"),
        ({**FLAG, "defaultVariant": "x"}, Wanted("on"), FlagRefused, "none of its variants"),
        ({**FLAG, "targeting": []}, Wanted("on"), FlagRefused, "no object"),
        ({**FLAG, "defaultVariant": None}, Wanted("on", 5), FlagRefused, "no defaultVariant"),
    ],
)
def test_what_cannot_be_is_refused(
    definition: dict[str, Any] | None, wanted: Wanted, error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as caught:
        changed("f", definition, wanted)
    assert said in f"{caught.value.what} {caught.value.remedy}"  # type: ignore[attr-defined]


def test_on_and_off_are_found_by_value_and_a_disabled_flag_is_enabled() -> None:
    named = {
        "state": "DISABLED",
        "variants": {"mongo": True, "postgres": False},
        "defaultVariant": "postgres",
    }
    assert step(named, Wanted("on")) == {**named, "state": "ENABLED", "defaultVariant": "mongo"}
    assert step(None, Wanted("on", create=True))["variants"] == {"on": True, "off": False}
    forced = step({**FLAG, "targeting": {"if": [True, "on"]}}, Wanted("on", over_foreign=True))
    assert forced == {**FLAG, "defaultVariant": "on"}


cohorts = st.builds(
    Cohort,
    name=st.text(alphabet="abc", min_size=1),
    keys=st.lists(st.text(min_size=1), max_size=3).map(tuple),
    variant=st.sampled_from(("on", "off", "x")),
)


@given(st.lists(cohorts, max_size=3, unique_by=lambda c: c.name), st.integers(0, 100), st.text(min_size=1))
def test_what_is_written_is_read_as_the_same(of: list[Cohort], percent: int, key: str) -> None:
    wanted = Rollout("off", tuple(of), percent, "on" if percent else None)
    definition = {**FLAG, "metadata": {"tandemCohorts": ",".join(c.name for c in of)}}
    if (targeting := targeting_of(wanted, key)) is not None:
        definition["targeting"] = json.loads(json.dumps(targeting))
    assert rollout(definition, key) == wanted


def test_a_cohorts_file() -> None:
    assert keys_of("b\n\n# not me\n a \r\nb\n") == ("b", "a")


# -- the file ----------------------------------------------------------------------------------------------------
LAYOUTS = [
    '{"flags": {}}',
    '{"flags":{"a":{"state":"ENABLED"}}}',
    '{\n  "$schema": "s",\n  "flags": {\n    "a": {"x": 1.0}, "f": {"state": "DISABLED"}\n  },\n  "z": 2e3\n}\n',
    '{\n\t"z": {"flags": {"f": 1}},\n\t"flags": {\n\t\t"f": {\n\t\t\t"y": "\\u00e9"\n\t\t}\n\t}\n}',
    '{"x": [{"flags": 1}], "flags" : { "f" : {} , "b":{"k":[1,2,{"f":{}}]} } , "y": "é"}\n\n',
]


@pytest.mark.parametrize("text", LAYOUTS)
@pytest.mark.parametrize("name", ["f", "new", 'q"uote\n', "é"])
def test_a_write_changes_one_flag_and_no_other_byte(text: str, name: str) -> None:
    before = json.loads(text)
    made = with_flag(text, name, FLAG)
    after = json.loads(made)
    assert after["flags"].pop(name) == FLAG
    was = before["flags"].pop(name, None)
    assert after == before
    assert list(json.loads(made)["flags"]) == list(dict.fromkeys([*json.loads(text)["flags"], name]))
    same = 0
    while same < min(len(text), len(made)) and text[same] == made[same]:
        same += 1
    tail = text[same + len(json.dumps(was)) + 2 :].lstrip(" }\n\t")
    assert made.endswith(tail)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "flags.json"
    made.write_text(
        json.dumps({"flags": {"f": FLAG, "n": {**FLAG, "variants": {"0": 0}, "defaultVariant": "0"}}})
    )
    return made


def test_mode_and_links_are_kept_and_the_time_grows(path: Path, tmp_path: Path) -> None:
    path.chmod(0o640)
    os.utime(path, ns=(2**62, 2**62))  # a clock that was far ahead
    link = tmp_path / "link.json"
    link.symlink_to(path.name)
    change = Flags(FlagFile(link)).set("f", Wanted("on"))
    assert change.written
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_mtime_ns > 2**62
    assert Flags(FlagFile(path)).says(["f"], "on") is True


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON at line 1"),
        ("# yaml\nflags:\n", "not JSON at line 1"),
        ('{"flags": {"f": {}, "f": {}}}', "has the name f twice"),
        ('{"flags": []}', "no object `flags`"),
        ('{"flags": {"f": 1}}', "no object `flags`"),
        ("[]", "no object `flags`"),
        ("[" * 100_000, "nested too deeply"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_a_file_that_is_none_is_left_as_it_is(path: Path, text: str | bytes, said: str) -> None:
    content = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(content)
    for act in (lambda: Flags(FlagFile(path)).all(), lambda: Flags(FlagFile(path)).set("f", Wanted("on"))):
        with pytest.raises(FlagRefused, match=said):
            act()
    assert path.read_bytes() == content
    path.unlink()
    with pytest.raises(FlagRefused, match="cannot be read"):
        Flags(FlagFile(path)).all()


def test_readers_see_a_whole_file_and_no_write_of_several_is_lost(path: Path) -> None:
    over, seen = threading.Event(), [0]

    def read() -> None:
        while not over.is_set():
            json.loads(path.read_text())
            seen[0] += 1

    def count() -> None:
        store = FlagFile(path)
        for _ in range(20):
            while True:
                kept = store.read("n")
                assert kept is not None
                (value,) = kept.definition["variants"].values()
                new = {**kept.definition, "variants": {"0": value + 1}}
                try:
                    store.write("n", new, kept.version)
                except FlagMoved:
                    continue
                break

    reader, writers = threading.Thread(target=read), [threading.Thread(target=count) for _ in range(4)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    over.set()
    reader.join()
    assert json.loads(path.read_text())["flags"]["n"]["variants"] == {"0": 80}
    assert seen[0]


def test_somebody_who_writes_without_the_lock_is_not_written_over(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, hits = flag_file.with_flag, [0]

    def meanwhile(text: str, name: str, definition: Mapping[str, Any]) -> str:
        hits[0] += 1
        if hits[0] == 1:
            content = json.loads(text)
            content["flags"]["theirs"] = FLAG
            path.write_text(json.dumps(content))
        return real(text, name, definition)

    monkeypatch.setattr(flag_file, "with_flag", meanwhile)
    Flags(FlagFile(path)).set("f", Wanted("on"))
    assert hits[0] == 2
    assert set(json.loads(path.read_text())["flags"]) == {"f", "n", "theirs"}
    assert [p.name for p in path.parent.iterdir() if p.name.endswith(".new")] == []


def test_a_folder_that_cannot_be_written_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = path.read_bytes()
    monkeypatch.setattr(flag_file.os, "fsync", full)
    with pytest.raises(FlagRefused, match="cannot be written: No space left"):
        Flags(FlagFile(path)).set("f", Wanted("on"))
    assert path.read_bytes() == before


# -- several flags, and a store that fails -----------------------------------------------------------------------
class Memory:
    """A store in memory. lost: so many answers to writes are lost, after the write, or before it."""

    where = "memory"

    def __init__(self, **flags: dict[str, Any]) -> None:
        self.flags, self.versions = flags, dict.fromkeys(flags, 0)
        self.lost_after = self.lost_before = self.moved = 0
        self.forgets = False

    def all(self) -> list[Kept]:
        return [Kept(name, flag, str(self.versions[name])) for name, flag in sorted(self.flags.items())]

    def read(self, name: str) -> Kept | None:
        return next((kept for kept in self.all() if kept.name == name), None)

    def write(self, name: str, definition: Mapping[str, Any], based_on: str | None) -> None:
        if self.moved:
            self.moved -= 1
            raise FlagMoved("moved", remedy="again")
        if self.lost_before:
            self.lost_before -= 1
            raise ServerGone("gone", remedy="again")
        assert based_on == (str(self.versions[name]) if name in self.versions else None)
        if not self.forgets:
            self.flags[name] = dict(definition)
        self.versions[name] = self.versions.get(name, 0) + 1
        if self.lost_after:
            self.lost_after -= 1
            raise ServerGone("gone", remedy="again")


def test_whether_a_write_was_done_is_read_from_the_store() -> None:
    store = Memory(f=FLAG)
    store.lost_after = 1
    assert Flags(store).set("f", Wanted("on")).written
    store.lost_before = 1
    with pytest.raises(ServerGone):
        Flags(store).set("f", Wanted("off"))
    store.moved = 3
    assert Flags(store).set("f", Wanted("off")).written
    store.moved = 5
    with pytest.raises(FlagMoved, match="all the time"):
        Flags(store).set("f", Wanted("on"))
    store.forgets, store.moved = True, 0
    with pytest.raises(FlagRefused, match="read back"):
        Flags(store).set("f", Wanted("on"))


def test_several_flags_are_looked_at_before_the_first_is_turned() -> None:
    store = Memory(a=FLAG, b=FLAG, c={**FLAG, "targeting": {"if": [True, "on"]}})
    flags = Flags(store)
    assert [change.same for change in flags.turn(["a", "b"], "on", rehearse=True)] == [False, False]
    assert store.versions == {"a": 0, "b": 0, "c": 0}
    for names, error in ((["a", "c"], FlagRefused), (["a", "d"], FlagUnknown)):
        with pytest.raises(error):
            flags.turn(names, "on")
    assert store.versions == {"a": 0, "b": 0, "c": 0}
    assert [change.written for change in flags.turn(["a", "b"], "on")] == [True, True]
    assert flags.says(["a", "b"], "on") is True
    assert flags.says(["a", "b"], "off") is False


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ((), False), ((Wanted("on"),), True), ((Wanted("on", 50),), None), ((Wanted("on", cohort=BETA),), None),
        ((Wanted("on", 100),), None), ((Wanted("on", 50), Wanted("off")), False),
    ],
)  # fmt: skip
def test_a_flag_says_on_only_when_everybody_gets_it(wanted: tuple[Wanted, ...], says: bool | None) -> None:
    store = Memory(f=step(FLAG, *wanted))
    assert Flags(store).says(["f"], "on") is says
    store.flags["f"]["state"] = "DISABLED"
    assert Flags(store).says(["f"], "on") is None
