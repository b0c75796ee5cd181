"""Whether the pipeline is still the one that was set up."""

from __future__ import annotations

from connectors.errors import MappingChanged, SourceReplaced
from connectors.mongo import ledger
from connectors.mongo.client import Database, Document
from connectors.postgres import slots
from consumers.mapping.plan import Plan


def check_pipeline(db: Database, plan: Plan, facts: slots.ServerFacts) -> None:
    """Refuse another mapping than the pipeline was set up with, and another source."""
    check_source(check_mapping(db, plan), facts)


def check_source(known: Document, facts: slots.ServerFacts) -> None:
    """Refuse another source than the pipeline was set up with."""
    if facts.in_recovery:
        raise SourceReplaced("POSTGRES_DSN leads to a standby", remedy="give the primary's address")
    if (facts.system_identifier, facts.database) != (known.get("system"), known.get("database")):
        raise SourceReplaced(
            "POSTGRES_DSN leads to another database than the one that the pipeline was set up with",
            remedy="correct POSTGRES_DSN",
            database=facts.database,
        )


def check_mapping(db: Database, plan: Plan) -> Document:
    """Refuse another mapping. Returns what is known of the pipeline."""
    known = ledger.state(db, "pipeline") or {}
    if known.get("mapping") != plan.digest:
        raise MappingChanged(
            "the mapping is not the one that the pipeline was set up with",
            remedy="run `tandem setup`, then start again; or give the mapping that it was set up with",
        )
    return known
