"""The settings part: asks each server and hands what it says to `assess`."""

from __future__ import annotations

from collections.abc import Iterator

from connectors.debezium import config
from connectors.debezium.connect import Connect
from connectors.kafka.admin import Admin
from connectors.mongo import probe
from connectors.mongo.client import Database
from connectors.postgres import facts, slots
from connectors.postgres.client import Session, effective, translated
from connectors.settings import ConnectEndpoint, KafkaEndpoint, SourceEndpoint
from consumers.mapping.plan import Plan, not_carried
from sync.preflight import assess
from sync.preflight.findings import Finding, Level


def of_source(session: Session, source: SourceEndpoint) -> Iterator[Finding]:
    """The server, the role, what the slot will live under."""
    with translated(source):
        server = slots.server_facts(session)
        slot = slots.slot_facts(session, source.slot)
        known = facts.source_facts(session, source.publication)
    yield from assess.assess_server(server, slot is not None, known.publication is not None, known)
    yield from assess.assess_retention(known)
    yield from assess.assess_timeouts(known, server.role)
    yield from assess.assess_waiting(known)


def of_tables(session: Session, source: SourceEndpoint, plan: Plan) -> Iterator[Finding]:
    """The mapped tables, and their columns."""
    mapped = {
        t: [n for n, c in plan.declared.collections.items() if t in c.tables] for t in plan.declared.tables
    }
    with translated(source):
        role = slots.server_facts(session).role
        known = facts.table_facts(session, list(plan.tables))
    yield from assess.assess_tables({n: t.table for n, t in plan.tables.items()}, mapped, known, role)
    yield from assess.assess_columns(plan)


def of_connect(
    session: Session, source: SourceEndpoint, kafka: KafkaEndpoint, connect: ConnectEndpoint, plan: Plan
) -> Iterator[Finding]:
    """Connect, its plugin, and whether it would take the connector."""
    left_out = [f"{n}.{c}" for n, t in plan.tables.items() for c in not_carried(t.table)]
    parameters = effective(source, session)
    wanted = config.wanted(source, kafka, connect, parameters, plan.declared.tables, left_out)
    with Connect(connect, timeout_s=30) as rest:
        plugins = rest.plugins()
        complaints = rest.complaints(wanted)
    yield from assess.assess_connect(plugins, complaints)


def of_kafka(kafka: KafkaEndpoint, plan: Plan) -> Iterator[Finding]:
    """Kafka, and topics that are there already."""
    wanted = {config.topic_of(kafka.topic_prefix, table): table for table in plan.declared.tables}
    with Admin(kafka) as admin:
        there = {
            name: admin.config(name, ["cleanup.policy", "min.compaction.lag.ms"])
            for name in admin.topics(wanted)
        }
    topics = {table: config.topic_of(kafka.topic_prefix, table) for table in plan.declared.tables}
    yield from assess.assess_topics(there, topics, kafka.compaction_lag_hours)
    if missing := len(wanted) - len(there):
        yield Finding(
            Level.OK,
            "Kafka",
            "topics",
            "topics",
            f"reachable; setup will make {missing} of {len(wanted)} topics",
        )


def of_target(db: Database, plan: Plan, needed_bytes: int | None) -> Iterator[Finding]:
    """MongoDB: version, rights, what is in the collections, disk. needed_bytes: None where nobody has counted."""
    found = probe.target_facts(db, [name for name, c in plan.declared.collections.items() if c.table])
    yield from assess.assess_target(found)
    if needed_bytes is not None:
        yield from assess.assess_disk(found.free_bytes, needed_bytes)
