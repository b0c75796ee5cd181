"""What is installed for the embedded stack, and how it is found."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from connectors.errors import StackFailed
from sync.dev import install
from sync.dev.progress import Silent

ROOT = Path(__file__).parents[2]


def test_the_pins_are_those_of_the_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert sorted(extras["embedded"]) == sorted(
        f"{name}=={version}" for name, version in install.PACKAGES.items()
    )


def test_nothing_is_missing_here() -> None:
    assert install.missing_packages() == []


@pytest.mark.parametrize(
    ("text", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "21" 2023-09-19', 21),
        ('java version "1.8.0_412"', 8),
        ('IMPLEMENTOR="Debian"\nJAVA_VERSION="17.0.15"\n', 17),
        ("no java here", 0),
    ],
)
def test_the_java_version_is_read(text: str, major: int) -> None:
    assert install.java_major(text) == major


def test_other_versions_are_another_folder() -> None:
    assert install.kafka_home_name(b"a") != install.kafka_home_name(b"b")


def test_without_java_the_remedy_is_a_command_to_type(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(install, "_java", lambda: None)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(StackFailed, match="Java runtime") as raised:
        install.java(tmp_path, Silent())
    assert "sudo apt-get install -y default-jre-headless maven" in raised.value.remedy


def fake_maven(folder: Path, script: str) -> str:
    program = folder / "mvn"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program)


#: A Maven that makes what is expected of it in the folder that -Dinto= names.
GOOD = """jar() { printf 'PK\\005\\006%18s' '' | tr ' ' '\\000'; }
for a; do case $a in -Dinto=*) d=${a#-Dinto=};; -Ddest=*) jar > "${a#-Ddest=}"; exit;; esac; done
p=$d/plugins/debezium-connector-postgres; mkdir -p "$d/jars" "$p"; jar > "$p/debezium-connector-postgres-3.jar"
touch "$d/jars/kafka_2.13-4.jar" "$d/jars/connect-runtime-4.jar\""""


@pytest.mark.parametrize(
    "broken",
    [
        "exit 1",
        "true",
        "kill -9 $$",
        GOOD.replace("connect-runtime", "other"),
        GOOD.replace('jar > "${a#-Ddest=}"', "true"),
    ],
)
def test_a_fetch_that_broke_off_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    monkeypatch.setattr(install, "_maven", lambda: str(tmp_path / "mvn"))
    fake_maven(tmp_path, broken)
    with pytest.raises(StackFailed):
        install.kafka_home(tmp_path / "cache", Silent())
    fake_maven(tmp_path, GOOD)
    home = install.kafka_home(tmp_path / "cache", Silent())
    assert (home / "jars").is_dir()
    assert sorted(p.name for p in home.parent.iterdir()) == [".lock", home.name]


def test_what_is_there_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "_maven", lambda: fake_maven(tmp_path, GOOD))
    first = install.kafka_home(tmp_path / "cache", Silent())
    monkeypatch.setattr(install, "_maven", lambda: pytest.fail("asked for Maven"))
    assert install.kafka_home(tmp_path / "cache", Silent()) == first
