"""Records as events of the plan's tables, and which row a record is of."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from connectors.debezium.envelope import decode, decode_key
from connectors.errors import DecodeFailed
from connectors.events import ChangeEvent, Operation, Record
from consumers.mapping.plan import Key, Plan


@dataclass
class Decoder:
    """tables: what table each topic is of, filled in by whoever reads positions."""

    plan: Plan
    placeholder: str
    tables: dict[str, str] = field(default_factory=dict)

    def event(self, record: Record) -> ChangeEvent:
        """The event, of a table of the plan. Raises DecodeFailed."""
        event = decode(record, self.placeholder)
        if event.op is Operation.TOMBSTONE:
            event = replace(event, table=self.tables.get(record.home.topic, ""))
        if event.table not in self.plan.tables:
            raise DecodeFailed(
                f"{record.home.id} offset {record.offset} is of {event.table or 'no table'}, which is not mapped",
                remedy="only this pipeline's connector may write to its topics",
            )
        return event

    def row_of(self, record: Record) -> tuple[str, Key]:
        """Table and key of the row that a record is of, also where its value cannot be read. Raises DecodeFailed."""
        table = self.tables.get(record.home.topic, "")
        try:
            table = self.event(record).table
        except DecodeFailed:
            if table not in self.plan.tables:
                raise
        plan = self.plan.tables[table]
        return table, plan.key_of_event(decode_key(record))
