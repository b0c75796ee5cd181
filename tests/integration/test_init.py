"""`tandem init` on a schema with the traits of many: the mapping runs as it is, and stays right under a writer.

And what it says of bad input."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg import conninfo, sql

from tests.foreign.__main__ import Case, run_case
from tests.support import warm
from tests.support.stack import Own

CASES = Path(__file__).parents[1] / "cases"


def test_a_schema_with_everything_runs_from_init_to_verify_and_under_a_writer(
    own: Own, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    seed = pytestconfig.getoption("--seed")
    seed = int.from_bytes(os.urandom(4), "big") if seed is None else seed
    print(f"--seed {seed}")
    case = Case("library", CASES / "library", seed, changes=300)
    run_case(case, own, tmp_path)
    assert not case.problems
    made = yaml.safe_load((tmp_path / "mapping.yaml").read_text(encoding="utf-8"))["collections"]
    assert set(made["books"]["embed"]) == {"authors", "chapters"}
    assert made["books"]["references"]["originalLanguage"] == {
        "column": "original_language",
        "to": "languages",
    }
    assert made["members"]["references"]["invitedBy"] == {"column": "invited_by", "to": "members"}
    assert made["members"]["rename"]["naïve.note"] == "naïveNote"
    assert made["members"]["validator"]["properties"]["status"] == {
        "enum": ["active", "barred", "it's complicated"]
    }
    assert made["KäseBrotFrisch"]["from"] == 'Ma"gasin d\'été.Käse & "Brot", frisch'


def init(folder: Path, dsn: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command with nothing but the source in its environment."""
    environ = {
        k: v for k, v in os.environ.items() if not k.startswith(("TANDEM_", "KAFKA_", "MONGODB_", "CONNECT_"))
    }
    environ.pop("POSTGRES_DSN", None)
    if dsn is not None:
        environ["POSTGRES_DSN"] = dsn
    return warm.run("sync.cli", ["init", *arguments], env=environ, cwd=folder, timeout=120)


@pytest.fixture
def source(own: Own) -> Iterator[str]:
    """The DSN of a database with one good table, one bad one, and an empty schema; a role that may see little."""
    dsn = own.addresses.postgres_dsn
    role = sql.Identifier(own.name)
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("CREATE SCHEMA nothing; CREATE SCHEMA poor; CREATE TABLE poor.t (v text)")
        session.execute("CREATE TABLE public.t (id int PRIMARY KEY); INSERT INTO public.t VALUES (1)")
        session.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
        try:
            yield dsn
        finally:
            session.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(role, role))


def refused(done: subprocess.CompletedProcess[str], code: int, error: str, *words: str) -> dict[str, Any]:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["error"] == error
    for word in words:
        assert word in told["what"] + told["remedy"]
    return told


def test_what_cannot_be_done_is_said_with_its_remedy_and_no_file_is_touched(
    source: str, own: Own, tmp_path: Path
) -> None:
    assert init(tmp_path, source, "--schema", "public").returncode == 0
    text = (tmp_path / "mapping.yaml").read_text(encoding="utf-8")
    assert "public.t" in text
    (tmp_path / "mapping.yaml").write_text("mine", encoding="utf-8")
    refused(init(tmp_path, source, "--json"), 1, "FileRefused", "mapping.yaml", "-o FILE")
    printed = init(tmp_path, source, "--schema", "public", "--dry-run")
    assert (printed.returncode, printed.stdout) == (0, text)
    assert "1 collections" in printed.stderr
    refused(
        init(tmp_path, source, "--json", "-o", "no/m.yaml"), 1, "FileRefused", "no/m.yaml", "No such file"
    )
    dry = ("--dry-run", "--json")
    refused(
        init(tmp_path, source, *dry, "--schema", "nix"),
        2,
        "SchemaUnknown",
        "nix",
        "nothing",
        "poor",
        "public",
    )
    refused(
        init(tmp_path, source, *dry, "--schema", "nothing"), 1, "NothingToMap", "nothing", "has no tables"
    )
    refused(
        init(tmp_path, source, *dry, "--schema", "poor"),
        1,
        "NothingToMap",
        "poor.t",
        "no primary key",
        "PRIMARY KEY",
    )
    nobody = conninfo.make_conninfo(source, host="127.0.0.1", port=1)
    refused(init(tmp_path, nobody, *dry), 1, "ServerGone")
    refused(init(tmp_path, None, *dry), 2, "SettingsInvalid", "POSTGRES_DSN")
    stranger = conninfo.make_conninfo(source, user=own.name)
    refused(
        init(tmp_path, stranger, *dry, "--schema", "public"),
        1,
        "NothingToMap",
        "public.t",
        "may not read",
        "GRANT",
    )
    assert (tmp_path / "mapping.yaml").read_text(encoding="utf-8") == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["mapping.yaml"]
    assert init(tmp_path, source, "--schema", "public", "--force").returncode == 0
    assert (tmp_path / "mapping.yaml").read_text(encoding="utf-8") == text
