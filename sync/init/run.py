"""`tandem init`: read the facts, propose, hold the proposal against the compiler, write the file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from connectors.errors import Broken, FileRefused, MappingInvalid, NothingToMap, SchemaUnknown
from connectors.postgres import schema_facts
from connectors.postgres.client import connect, translated, where
from connectors.postgres.schema_facts import TableFacts
from connectors.settings import SourceEndpoint
from consumers.mapping import spec
from consumers.mapping.plan import compile_plan
from sync.init.proposal import Proposal
from sync.init.propose import propose, to_measure
from sync.init.text import render, summary


@dataclass(frozen=True, slots=True)
class InitReport:
    """What was proposed. path: the file that was written, None for a dry run."""

    proposal: Proposal
    text: str
    path: Path | None = None

    def as_dict(self) -> dict[str, object]:
        """For `--json`; the text where it stands in no file."""
        left_out = [
            {"table": left.table, "what": left.what, "remedy": left.remedy} for left in self.proposal.left_out
        ]
        content: dict[str, object] = {
            "written": str(self.path) if self.path else None,
            "schemas": list(self.proposal.schemas),
            "proposed": self.proposal.counts(),
            "collections": {c.name: c.rows.table for c in self.proposal.collections},
            "left_out": left_out,
        }
        return content if self.path else {**content, "mapping": self.text}

    def summary(self) -> list[str]:
        """For a person, a line each."""
        return list(summary(self.proposal))


def check_free(path: Path) -> None:
    """Refuse a file that is there, before any work is done for it. Raises FileRefused."""
    if path.exists():
        raise FileRefused(
            f"{path} is there already and is not overwritten",
            remedy="give another file with -o FILE, or --force to overwrite it; --dry-run only prints",
        )


def infer(source: SourceEndpoint, schemas: Sequence[str]) -> InitReport:
    """Propose a mapping of these schemas; of all that are not the system's where none is named.

    Raises SchemaUnknown, NothingToMap, and what the connection raises.
    """
    with connect(source, name="tandem init") as session, translated(source):
        there = schema_facts.schemas(session)
        if unknown := [name for name in dict.fromkeys(schemas) if name not in there]:
            raise SchemaUnknown(
                f"there is no schema {', '.join(unknown)} in {where(source)}",
                remedy=f"name one of: {', '.join(there) or 'there is none'}",
            )
        names = list(dict.fromkeys(schemas)) or there
        tables = schema_facts.read(session, names)
        fanouts = {
            (facts.name, key.columns): schema_facts.rows_per_parent(session, facts, key.columns)
            for facts, key in to_measure(tables)
        }
    proposal = propose(names, tables, fanouts)
    if not proposal.collections:
        raise _nothing(names, proposal)
    text = render(proposal)
    _check(text, tables)
    return InitReport(proposal, text)


def _nothing(names: Sequence[str], proposal: Proposal) -> NothingToMap:
    place = f"the schema{'s' if len(names) > 1 else ''} {', '.join(names)}"
    if not proposal.left_out:
        return NothingToMap(
            f"{place} has no tables" if len(names) == 1 else f"{place} have no tables",
            remedy="name another with --schema, or correct dbname in POSTGRES_DSN",
        )
    return NothingToMap(
        f"no table of {place} can be mapped as it is: "
        + "; ".join(f"{left.table}: {left.what}" for left in proposal.left_out),
        remedy="; ".join(dict.fromkeys(left.remedy for left in proposal.left_out if left.remedy))
        or "name another schema with --schema",
    )


def _check(text: str, tables: Sequence[TableFacts]) -> None:
    """What is written has to load: a refusal is a fault of the proposer's."""
    try:
        compile_plan(
            spec.parse(text), {facts.name: facts.table for facts in tables}, spec.Lines(text, "mapping.yaml")
        )
    except MappingInvalid as error:
        raise Broken(
            f"the proposed mapping is not valid: {error.what}",
            remedy="report it, with the tables' definitions; --schema leaves other schemas out meanwhile",
        ) from error


def write(report: InitReport, path: Path, *, force: bool = False) -> InitReport:
    """Write the file, all or nothing. Raises FileRefused for one that is there (unless force), or can't be written."""
    if not force:
        check_free(path)
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_text(report.text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise FileRefused(
            f"{path} cannot be written: {error.strerror or type(error).__name__}",
            remedy="give another file with -o FILE",
        ) from None
    return InitReport(report.proposal, report.text, path)
