"""The lock file fits the project, and is the same for everybody."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text()


def locked() -> dict[str, set[str]]:
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", LOCK, re.MULTILINE):
        versions.setdefault(canonicalize_name(name), set()).add(version)
    return versions


def test_every_requirement_is_locked_at_a_version_that_fits() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(r for extra in project["optional-dependencies"].values() for r in extra),
    ]
    found = locked()
    unfit = [
        text
        for text in wanted
        if not (versions := found.get(canonicalize_name((r := Requirement(text)).name)))
        or not all(r.specifier.contains(v, prereleases=True) for v in versions)
    ]
    assert unfit == [], "run `make lock`"


def test_every_package_has_hashes_and_no_host_is_named() -> None:
    for entry in re.split(r"\n(?=[a-zA-Z])", LOCK.strip()):
        assert "--hash=sha256:" in entry, entry
    assert "://" not in LOCK
    assert "index" not in LOCK
