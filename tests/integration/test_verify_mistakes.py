"""Verification knows the right documents by a way of its own: mistakes of the consumers' transform do not go by it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from pydantic import SecretStr

from connectors.mongo import client as mongo
from connectors.mongo.client import Database
from connectors.mongo.transaction import Transaction, Transactions
from connectors.postgres import catalog
from connectors.postgres.rows import CurrentRows
from connectors.settings import SourceEndpoint, TargetEndpoint
from consumers.apply.decide import Read
from consumers.apply.write import RowWriter
from consumers.mapping import spec
from consumers.mapping.plan import compile_plan
from sync.verify.report import VerifyReport
from sync.verify.run import verify
from tests.support.stack import Own
from tests.support.transforms import MAPPING, MISTAKES, SCHEMA, TABLES, made


class Sides:
    """A small database with many types, written by the consumers' own writer."""

    def __init__(self, own: Own) -> None:
        self.source = SourceEndpoint(dsn=SecretStr(own.addresses.postgres_dsn))
        self.target = TargetEndpoint(
            uri=SecretStr(own.addresses.mongodb_uri), database=own.addresses.mongodb_database
        )
        self.db: Database = mongo.connect(self.target)
        self.mapping = spec.parse(MAPPING)
        self.session = psycopg.connect(own.addresses.postgres_dsn, autocommit=True)
        self.session.execute(SCHEMA.encode())
        self.keys: dict[str, list[tuple[str]]] = {}
        for table in TABLES:
            key = "trim_scale(code)" if table == "prices" else "id"
            found = self.session.execute(f"SELECT {key}::text FROM {table}".encode())
            self.keys[f"public.{table}"] = found.fetchall()

    def write(self) -> None:
        """Every row, by a plan made now."""
        tables = catalog.tables(self.session, self.mapping.tables)
        plan = compile_plan(self.mapping, tables, spec.Lines(MAPPING, "mapping.yaml"))
        for name in self.db.list_collection_names():
            self.db[name].delete_many({})
        rows, transactions = CurrentRows(self.source), Transactions(self.db)
        writer = RowWriter(plan, rows, lambda: 1_700_000_000_000_000)

        def work(tx: Transaction) -> None:
            ops = {
                table: {
                    plan.tables[table].key_from_texts(key): Read(
                        plan.tables[table].key_from_texts(key), True, None, 0
                    )
                    for key in keys
                }
                for table, keys in self.keys.items()
            }
            writer.apply(tx, ops)

        try:
            transactions.repeat(work)
        finally:
            transactions.close()
            rows.close()

    def verify(self) -> VerifyReport:
        return verify(self.mapping, self.source, self.target)

    def close(self) -> None:
        self.session.close()
        self.db.client.close()


@pytest.fixture
def sides(own: Own) -> Iterator[Sides]:
    found = Sides(own)
    yield found
    found.close()


def test_a_mistake_of_the_transform_is_found(sides: Sides) -> None:
    sides.write()
    agreed = sides.verify()
    assert (agreed.total, sum(c.rows for c in agreed.collections.values())) == (0, 8), agreed.differences
    missed = []
    for mistake in MISTAKES:
        with made(mistake):
            sides.write()
        found = sides.verify()
        print(f"{found.total:3}  {mistake.name}")
        if not found.total:
            missed.append(mistake.name)
    assert not missed
