"""The connector's configuration, built from settings. Pure.

Source of each name: Debezium documentation, connector for PostgreSQL, "Connector properties", and Apache Kafka
documentation, Kafka Connect, "Source Connector Configs".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from connectors.debezium.envelope import KEY_FIELD
from connectors.settings import ConnectEndpoint, KafkaEndpoint, SourceEndpoint

CONVERTER = "org.apache.kafka.connect.json.JsonConverter"
HEARTBEAT_INTERVAL_MS = 1_000
#: as setup gives it to the topics: Connect's producer would refuse more than 1 MB of its own accord
LONGEST_RECORD_BYTES = 20 << 20
HEARTBEAT_PREFIX = "__debezium-heartbeat"


def placeholder(source: SourceEndpoint, kafka: KafkaEndpoint) -> str:
    """What stands for a TOASTed value that was not sent: this pipeline's own, so that no real value equals it."""
    digest = hashlib.blake2b(f"{source.slot}/{kafka.topic_prefix}".encode(), digest_size=12).hexdigest()
    return f"__tandem_unsent_{digest}"


def topic_of(prefix: str, table: str) -> str:
    """The topic of `schema.table`: what Kafka does not take is replaced as Debezium does, by UTF-16 units."""
    return re.sub(
        r"[^A-Za-z0-9._-]", lambda found: "_" * (1 + (ord(found.group()) > 0xFFFF)), f"{prefix}.{table}"
    )


def own_topics(prefix: str) -> tuple[str, str]:
    """The topics that carry no rows: heartbeats, and the messages that the heartbeat query writes."""
    return f"{HEARTBEAT_PREFIX}.{prefix}", f"{prefix}.message"


def wanted(
    source: SourceEndpoint,
    kafka: KafkaEndpoint,
    connect: ConnectEndpoint,
    parameters: Mapping[str, Any],
    tables: Sequence[str],
    left_out: Sequence[str],
    keys: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, str]:
    """The whole configuration. tables: `schema.table`. left_out: `schema.table.column`, not to be sent.
    keys: the columns of each key that is not the table's primary key.

    It keeps every value (decimals and intervals as text, microseconds, unknown types included, a failed
    conversion stops the task), sends truncates, and delivers exactly once. It reads no snapshot: the slot
    is ours, and the loader has read what was before it.
    """
    return {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        "plugin.name": "pgoutput",
        "database.hostname": str(connect.database_hostname or parameters.get("host", "localhost")).split(",")[
            0
        ],
        "database.port": str(connect.database_port or parameters.get("port", 5432)).split(",")[0],
        "database.user": str(parameters.get("user", "postgres")),
        "database.password": str(parameters.get("password", "")),
        "database.dbname": str(parameters.get("dbname", parameters.get("user", "postgres"))),
        "database.sslmode": str(parameters.get("sslmode", "prefer")),
        "topic.prefix": kafka.topic_prefix,
        "slot.name": source.slot,
        "slot.drop.on.stop": "false",
        "publication.name": source.publication,
        "publication.autocreate.mode": "disabled",
        "snapshot.mode": "no_data",
        "table.include.list": ",".join(_exactly(table) for table in tables),
        **({"column.exclude.list": ",".join(_exactly(column) for column in left_out)} if left_out else {}),
        **({"message.key.columns": message_keys(keys)} if keys else {}),
        "exactly.once.support": "required",
        "transaction.boundary": "poll",
        "skipped.operations": "none",
        "tombstones.on.delete": "true",
        "decimal.handling.mode": "string",
        "interval.handling.mode": "string",
        "time.precision.mode": "microseconds",
        # as text it has no stand-in for a TOASTed bytea: null, or a task that fails (Debezium 3.6.3, measured)
        "binary.handling.mode": "bytes",
        "hstore.handling.mode": "json",
        "include.unknown.datatypes": "true",
        "event.converting.failure.handling.mode": "fail",
        "unavailable.value.placeholder": placeholder(source, kafka),
        "heartbeat.interval.ms": str(HEARTBEAT_INTERVAL_MS),
        "heartbeat.action.query": "SELECT pg_logical_emit_message(false, 'tandem.heartbeat', '')",
        "topic.heartbeat.prefix": HEARTBEAT_PREFIX,
        "retriable.restart.connector.wait.ms": "2000",
        "poll.interval.ms": "50",
        "producer.override.max.request.size": str(LONGEST_RECORD_BYTES),
        "key.converter": CONVERTER,
        "key.converter.schemas.enable": "false",
        # true by default: a NULL in a column with a DEFAULT would arrive as that default (now() as 1970)
        "key.converter.replace.null.with.default": "false",
        "value.converter": CONVERTER,
        "value.converter.schemas.enable": "false",
        "value.converter.replace.null.with.default": "false",
        "transforms": "wrap",
        "transforms.wrap.type": "org.apache.kafka.connect.transforms.HoistField$Key",
        "transforms.wrap.field": KEY_FIELD,
    }


def message_keys(keys: Mapping[str, Sequence[str]]) -> str:
    """What makes Debezium key the records of these tables by these columns.

    It joins each table's expression and each of its columns' to one, tells case only when it is made to, and
    takes no blank, colon or semicolon in them (Debezium, io.debezium.relational.Key).
    """
    return ";".join(
        f"(?-i){_spelled(table)}:{','.join(_spelled(column) for column in columns)}"
        for table, columns in keys.items()
    )


def _spelled(name: str) -> str:
    """A regular expression for just this name, of letters, digits, `_`, `.` and escapes."""
    return re.sub(r"[^A-Za-z0-9_]", lambda found: f"\\x{{{ord(found.group()):x}}}", name)


def _exactly(name: str) -> str:
    """A regular expression for just this name; Debezium anchors it, splits its lists at commas, and may trim them."""
    return re.sub(r"([\\^$.|?*+()\[\]{}])", r"\\\1", name).replace(",", r"\x2C").replace(" ", r"\x20")
