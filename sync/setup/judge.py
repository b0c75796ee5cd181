"""Complaints of `sync.requirements` as refusals: all of one kind at once. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from connectors.errors import SourceNotReady, TableUnfit
from connectors.postgres.catalog import Table
from connectors.postgres.slots import ServerFacts
from sync import requirements

_MORE = "`tandem preflight` shows all that is not in order"


def judge_server(facts: ServerFacts, slot_exists: bool, publication_exists: bool = False) -> None:
    """Raise SourceNotReady, with all that is not in order."""
    if wrong := requirements.of_server(facts, slot_exists, publication_exists):
        raise SourceNotReady(
            "PostgreSQL is not ready: " + "; ".join(c.what for c in wrong),
            remedy="; ".join([*(c.remedy for c in wrong), _MORE]),
            database=facts.database,
        )


def judge_tables(tables: Mapping[str, Table], collections: Mapping[str, Sequence[str]]) -> None:
    """Raise TableUnfit with every table that cannot be replicated as it is. collections: table -> who maps it."""
    wrong = [c for of in requirements.of_tables(tables, collections).values() for c in of]
    if wrong:
        raise TableUnfit(
            "tables cannot be replicated as they are: " + "; ".join(c.what for c in wrong),
            remedy="; ".join([*(c.remedy for c in wrong), _MORE]),
        )
