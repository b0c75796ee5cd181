"""`make test-foreign CASES=DIR`: schemas of others, from `tandem init` to `verify` unedited, then under a writer.

Each folder of SQL files in DIR is a case. Prints a line for each step; exit 1 when anything fails or disagrees.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import yaml

from tests.foreign import loading
from tests.foreign.writer import Writer
from tests.support import stack as servers
from tests.support.stack import Own, own_names
from tests.support.tandem import Tandem

_TABLES = """
SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname NOT LIKE 'pg\\_%'
  AND n.nspname <> 'information_schema'
ORDER BY 1, 2
"""


class CaseFailed(Exception):
    """A step that did not go through, or an answer that is not right."""


@dataclass
class Case:
    """One case on its way. problems: what makes it fail."""

    name: str
    folder: Path
    seed: int
    changes: int
    problems: list[str] = field(default_factory=list)

    def tell(self, step: str, what: str) -> None:
        """A line for a step."""
        print(f"{self.name:<16} {step:<9} {what}", flush=True)

    def wrong(self, what: str) -> None:
        """A line for what is not right, which fails the case."""
        self.problems.append(what)
        self.tell("WRONG", what)

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Tell what the block appends, with the time it took."""
        told: list[str] = []
        began = time.monotonic()
        yield told
        self.tell(name, f"{', '.join(told)}  ({time.monotonic() - began:.1f} s)")


def run_case(case: Case, own: Own, folder: Path) -> None:
    """All steps of one case, with these names; the mapping is written into the folder."""
    try:
        _run(case, own, folder)
    except (CaseFailed, AssertionError, psycopg.Error, subprocess.TimeoutExpired) as error:
        case.wrong(f"{type(error).__name__}: {error}")


def _run(case: Case, own: Own, folder: Path) -> None:
    dsn = own.addresses.postgres_dsn
    with case.step("load") as told:
        loaded = loading.load(case.folder, dsn)
        tables = _tables(dsn)
        told += [f"{len(loaded.files)} files ({', '.join(loaded.files)})", f"{len(tables)} tables"]
    for name, why in loaded.left_out.items():
        case.tell("left out", f"{name}: {why}")
    for name, why in loaded.failed.items():
        case.wrong(f"{name} does not load: {why}")
    tandem = Tandem(own, folder, mapping=folder / "mapping.yaml")
    mapped = _init(case, tandem, tables)
    with case.step("setup") as told:
        told.append(f"{len(tandem.json('setup', timeout_s=300)['made'])} things made")
    with case.step("snapshot") as told:
        report = tandem.json("snapshot", timeout_s=600)
        told += [f"{sum(c['rows'] for c in report['collections'].values()):,} documents"]
    with case.step("run") as told:
        told.append(f"{tandem.json('run', '--until-caught-up', timeout_s=300)['events']:,} events")
    _verify(case, tandem, "verify")
    with tandem.started("run") as consumer:
        _write(case, dsn, mapped)
        with case.step("wait") as told:
            done = tandem.run("wait-for", "now", "--timeout", "120", check=False, timeout_s=180)
            told.append(done.stdout.strip())
            if done.returncode:
                raise CaseFailed(f"not complete: {done.stderr.strip()}\n{consumer.text()[-1500:]}")
        _verify(case, tandem, "verify")
        if not consumer.alive:
            raise CaseFailed(f"the consumer has ended:\n{consumer.text()[-1500:]}")


def _tables(dsn: str) -> list[tuple[str, str]]:
    with psycopg.connect(dsn) as session:
        return session.execute(_TABLES).fetchall()


def _init(case: Case, tandem: Tandem, tables: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Every table is in the mapping, or named with the reason. Returns those in the mapping."""
    with case.step("init") as told:
        report = tandem.json("init")
        told += [f"{count} {what.replace('_', ' ')}" for what, count in report["proposed"].items()]
    for left in report["left_out"]:
        case.tell("not mapped", f"{left['table']}: {left['what']}")
    text = tandem.mapping.read_text(encoding="utf-8")
    for line in text.splitlines():
        if any(word in line for word in ("carried as", "does not fit", "read again", "left out:")):
            case.tell("policy", line.strip().removeprefix("# "))
    used = set(_froms(yaml.safe_load(text)))
    named = {left["table"] for left in report["left_out"]}
    for schema, relation in tables:
        if f"{schema}.{relation}" not in used | named:
            case.wrong(f"{schema}.{relation} is neither mapped nor named")
    return [table for table in tables if ".".join(table) in used]


def _froms(content: Any) -> Iterator[str]:
    """Every `from`, however deep."""
    for name, inner in content.items():
        if name == "from":
            yield inner
        elif isinstance(inner, dict):
            yield from _froms(inner)


def _verify(case: Case, tandem: Tandem, step: str) -> None:
    with case.step(step) as told:
        done = tandem.run("verify", "--json", check=False, timeout_s=600)
        report = json.loads(done.stdout)
        parked = tandem.json("status", check=False)["lag"]["parked"]
        fields = sum(c["fields"] for c in report.get("collections", {}).values())
        told.append(f"{'DISAGREES' if done.returncode else 'agrees'}: {fields:,} fields, {parked} parked")
    if done.returncode or parked:
        case.wrong(f"verify, {parked} parked: {done.stdout[:3000]}")


def _write(case: Case, dsn: str, tables: list[tuple[str, str]]) -> None:
    with case.step("write") as told:
        writer = Writer(dsn, tables, case.seed)
        try:
            written = writer.write(case.changes)
        finally:
            writer.close()
        told += [f"{count} {what}s" for what, count in sorted(written.done.items())]
        told.append(f"{written.transactions} transactions, {written.rolled_back} rolled back")
        told.append(f"{sum(written.refused.values())} writes refused by constraints, seed {case.seed}")
    for table in written.untouched:
        case.tell("note", f"{table}: no row could be written: {_why(written.refused, table)}")


def _why(refused: Any, table: str) -> str:
    return (
        ", ".join(what for what in refused if f" {table}: " in what)
        or "a value of some type is not known here"
    )


def main() -> int:
    """Exit 1 when a case failed."""
    parser = argparse.ArgumentParser(prog="make test-foreign", description=__doc__)
    parser.add_argument("cases", type=Path, help="a folder of folders of SQL files")
    parser.add_argument("--stack", choices=("embedded", "containers", "external"), default="embedded")
    parser.add_argument("--seed", type=int, default=None, help="of the writer [default: random, printed]")
    parser.add_argument("--changes", type=int, default=600, help="row changes in each case, at least")
    parser.add_argument("-k", dest="only", default="", help="only cases with this in their name")
    options = parser.parse_args()
    if not options.cases.is_dir():
        parser.error(f"{options.cases} is no folder")
    seed = options.seed if options.seed is not None else random.randrange(2**32)
    folders = [f for f in sorted(options.cases.iterdir()) if f.is_dir() and loading.sql_files(f)]
    cases = [Case(f.name, f, seed, options.changes) for f in folders if options.only in f.name]
    if not cases:
        parser.error(f"{options.cases} has no folder with SQL files")
    print(f"{len(cases)} cases, --seed {seed}", flush=True)
    with servers.started(options.stack) as stack:
        for case in cases:
            with own_names(stack) as own, tempfile.TemporaryDirectory(prefix="tandem-foreign-") as folder:
                run_case(case, own, Path(folder))
    for case in cases:
        verdict = (
            f"FAILED: {'; '.join(p.splitlines()[0][:200] for p in case.problems)}"
            if case.problems
            else "went through"
        )
        print(f"{case.name}: {verdict}")
    return 1 if any(case.problems for case in cases) else 0


if __name__ == "__main__":
    sys.exit(main())
