"""The tree as the rules want it: one reader of the environment, nothing that points outside the project. Sizes are
printed, never judged (`pytest -s`)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("connectors", "consumers", "sync")
#: who may look at the environment, besides the one reader of settings
READERS = ("sync/settings.py", "sync/dev/", "sync/cli/")
#: written so that this file does not match itself
OUTSIDE = re.compile(r"\.\./sha" r"red|/wo" r"rk/|/ho" r"me/[a-z]|/Us" r"ers/|/ro" r"ot/")
_LEFT = {
    ".git",
    ".venv",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".hypothesis",
    ".import_linter_cache",
    "__pycache__",
    "dist",
}


def sources() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def files() -> Iterator[Path]:
    """Every file of the project, what is built or cached left out."""
    for path in sorted(ROOT.rglob("*")):
        if path.is_file() and not _LEFT & set(path.relative_to(ROOT).parts):
            yield path


def test_sizes_are_shown() -> None:
    for name, text in sources():
        lines = text.count("\n")
        if lines > 400:
            print(f"{name}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > 50:
                    print(f"{name}:{node.lineno}: {node.name} has {length} lines")


def test_only_one_file_reads_the_environment() -> None:
    found = []
    for name, text in sources():
        for node in ast.walk(ast.parse(text)):
            at_os = (
                isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
            )
            imported = isinstance(node, ast.ImportFrom) and node.module == "os"
            names = {node.attr} if isinstance(node, ast.Attribute) and at_os else set()
            names |= (
                {alias.name for alias in node.names}
                if isinstance(node, ast.ImportFrom) and imported
                else set()
            )
            if names & {"environ", "getenv", "environb", "putenv"} and not name.startswith(READERS):
                found.append(f"{name}:{node.lineno}")
    assert not found


def test_nothing_points_outside_the_project() -> None:
    found = []
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {m.group()}" for m in OUTSIDE.finditer(text)]
    assert not found


def test_drivers_are_imported_by_connectors_only() -> None:
    found = []
    for name, text in sources():
        for node in ast.walk(ast.parse(text)):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            drivers = {m for m in modules if m.split(".")[0] in ("psycopg", "pymongo", "kafka")}
            if drivers and not name.startswith("connectors/"):
                found.append(f"{name}: {', '.join(drivers)}")
    assert not found


def test_every_module_says_what_it_is() -> None:
    found = [name for name, text in sources() if text.strip() and not ast.get_docstring(ast.parse(text))]
    assert not found
