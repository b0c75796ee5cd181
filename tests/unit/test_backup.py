"""Backups without servers: which pg_dump is taken, what a manifest notices, which names there are."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.errors import BackupDamaged, BackupRefused, Misused, ProgramMissing, ProgramUnfit
from connectors.postgres import dump
from sync.backup import manifest
from sync.backup.manifest import Kept, Manifest, Tree
from sync.backup.store import Store, named


def programs_in(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True)
    for name in ("pg_dump", "pg_restore"):
        (folder / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
        (folder / name).chmod(0o755)
    return folder


def test_the_first_pg_dump_that_fits_the_server_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = programs_in(tmp_path / "old", "15.8 (Debian 15.8-0+deb12u1)")
    fits = programs_in(tmp_path / "fits", "18.1")
    monkeypatch.setattr(dump, "_places", lambda: iter([tmp_path / "none", old, fits]))
    assert dump.programs(18).dump == fits / "pg_dump"
    assert dump.programs(15).version == (15, 8)
    with pytest.raises(ProgramUnfit, match=r"is of version 18\.1, the server of 19"):
        dump.programs(19)
    with pytest.raises(ProgramUnfit, match=r"is of version 15\.8"):
        dump.programs(18, old)  # what is named is taken, or nothing
    with pytest.raises(ProgramMissing):
        dump.programs(15, tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A backup with a file and a tree."""
    place = tmp_path / "b1"
    tree = place / "files" / "0"
    (tree / "sub").mkdir(parents=True)
    (tree / os.fsdecode(b"odd \xff\n name")).write_text("x")
    (tree / "sub" / "link").symlink_to("../gone")
    (place / "postgres.dump").write_bytes(b"dump")
    listed = place / "files" / "0.list"
    entries, size = manifest.write_list(tree, listed, lambda _: None)
    assert (entries, size) == (3, 1)
    made = Manifest(
        "b1",
        "then",
        "now",
        ("postgres", "files"),
        source={"lsn": "0/1"},
        files=(manifest.kept(place, place / "postgres.dump"), manifest.kept(place, listed)),
        trees=(Tree("/nfs", "files/0", "files/0.list", entries, size),),
    )
    (place / manifest.NAME).write_text(made.as_text())
    assert manifest.read(place) == made
    return place


def problems(folder: Path, *, deep: bool) -> list[str]:
    return manifest.problems(folder, manifest.read(folder), deep=deep)


def test_a_whole_one_has_no_problem_and_each_change_is_one(folder: Path) -> None:
    assert problems(folder, deep=True) == []
    assert Store(folder.parent).look(folder).ok
    (folder / "postgres.dump").write_bytes(b"dumq")
    assert problems(folder, deep=False) == []
    assert problems(folder, deep=True) == ["postgres.dump has other contents than it was written with"]
    (folder / "postgres.dump").write_bytes(b"dump!")
    assert problems(folder, deep=False) == ["postgres.dump has 5 bytes, not 4"]
    (folder / "postgres.dump").unlink()
    assert problems(folder, deep=False) == ["postgres.dump: No such file or directory"]


def test_a_tree_is_held_against_its_list(folder: Path) -> None:
    tree = folder / "files" / "0"
    (tree / "sub" / "link").unlink()
    (tree / "sub" / "link").symlink_to("../elsewhere")
    (tree / "more").write_text("")
    (tree / os.fsdecode(b"odd \xff\n name")).unlink()
    assert sorted(problems(folder, deep=False)) == [
        "files/0/more was not there when it was made",
        "files/0/odd \\xff\\n name is missing",
        "files/0/sub/link has another to",
    ]


def test_a_manifest_that_was_changed_is_not_believed(folder: Path) -> None:
    content = json.loads((folder / manifest.NAME).read_text())
    content["source"]["lsn"] = "0/2"
    (folder / manifest.NAME).write_text(json.dumps(content))
    with pytest.raises(BackupDamaged, match="not as it was written"):
        manifest.read(folder)
    other = Manifest("b2", "then", "now", ())
    (folder / manifest.NAME).write_text(other.as_text())
    assert Store(folder.parent).look(folder).problems == ("it was made under the name b2",)
    newer = json.loads(replace(other, files=(Kept("a", 1, ""),)).as_text()) | {"version": 2}
    (folder / manifest.NAME).write_text(json.dumps(newer))
    with pytest.raises(BackupDamaged, match="is of form 2"):
        manifest.read(folder)


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a b", "x" * 101, "-x"])
def test_a_name_leads_nowhere_else(name: str, tmp_path: Path) -> None:
    with pytest.raises(Misused):
        named(name)
    with pytest.raises(Misused):
        Store(tmp_path).place(name)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BackupRefused, match="is not there"):
        Store(tmp_path / "none").check()
    (tmp_path / "file").write_text("")
    with pytest.raises(BackupRefused, match="is no folder"):
        Store(tmp_path / "file").check()
    with pytest.raises(BackupRefused, match="there is no backup b9"):
        Store(tmp_path).place("b9")
