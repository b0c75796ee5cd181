"""What the components are: their command lines and the texts of their configuration. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sync.dev.places import Home, Ports

#: Kafka wants an id of 22 characters; every embedded stack is its own cluster of one.
CLUSTER_ID = "dGFuZGVtLWVtYmVkZGVkLQ"
#: The database that the printed addresses name, in PostgreSQL and in MongoDB.
DATABASE = "acp"
SUPERUSER = "postgres"

#: Serial collection and the first compiler only: half the memory and a faster start on few cores.
_JVM = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "-Djava.net.preferIPv4Stack=true",
)


class Component(StrEnum):
    """The four servers, in the order in which they are shown."""

    POSTGRES = "postgres"
    KAFKA = "kafka"
    CONNECT = "connect"
    MONGO = "mongo"


#: Clean order: who writes to another one ends before it.
STOP_ORDER = (Component.CONNECT, Component.KAFKA, Component.MONGO, Component.POSTGRES)

#: Seconds to become ready. Generous: a slow disk, or recovery after a crash, is no failure.
READY_WITHIN_S = {Component.POSTGRES: 120, Component.KAFKA: 120, Component.CONNECT: 180, Component.MONGO: 90}


@dataclass(frozen=True)
class Layout:
    """Every place that a command line or a configuration text names."""

    home: Home
    ports: Ports
    pgdata: Path
    #: Folder of the PostgreSQL programs.
    pg_bin: Path
    java: str
    #: Folder with `jars/` and `plugins/`.
    kafka_home: Path
    python: str


def port_names(component: Component) -> tuple[str, ...]:
    """The names in `Ports` of what this component listens on; the one that clients use is first."""
    return ("kafka", "controller") if component is Component.KAFKA else (component.value,)


def command(component: Component, at: Layout) -> list[str]:
    """The command line that runs the component in the foreground."""
    match component:
        case Component.POSTGRES:
            return [str(at.pg_bin / "postgres"), "-D", str(at.pgdata), "-p", str(at.ports.postgres)]
        case Component.KAFKA:
            return _java(at, 384, "kafka.Kafka", str(at.home.conf / "kafka.properties"))
        case Component.CONNECT:
            main = "org.apache.kafka.connect.cli.ConnectDistributed"
            return _java(at, 512, main, str(at.home.conf / "connect.properties"))
        case Component.MONGO:
            listen = ["--host", "127.0.0.1", "--port", str(at.ports.mongo)]
            # An empty file of settings: else the server takes up one that lies in the user's home.
            settings = ["--config", str(at.home.conf / "mongo.toml")]
            store = ["--storage-path", str(at.home.mongo), "--cache-size", "256M", "--sync-on-commit"]
            return [at.python, "-P", "-m", "secantus", *settings, *listen, *store]


def _java(at: Layout, heap_mib: int, main: str, *arguments: str) -> list[str]:
    return [
        at.java,
        *_JVM,
        f"-Xmx{heap_mib}m",
        f"-Dlog4j2.configurationFile={at.home.conf / 'log4j2.properties'}",
        "-cp",
        str(at.kafka_home / "jars" / "*"),
        main,
        *arguments,
    ]


def initdb_command(pg_bin: Path, pgdata: Path) -> list[str]:
    """Make a new data folder. No passwords: the server listens on the loopback address only."""
    return [
        str(pg_bin / "initdb"),
        *("-D", str(pgdata), "-U", SUPERUSER, "--auth-local=trust", "--auth-host=trust"),
        *("--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"),
    ]


def first_database_command(pg_bin: Path, pgdata: Path) -> list[str]:
    """Run SQL from stdin on a data folder that no server has open: a failing statement ends it."""
    return [
        str(pg_bin / "postgres"),
        "--single",
        "-j",
        "-c",
        "exit_on_error=on",
        "-D",
        str(pgdata),
        "postgres",
    ]


def format_command(at: Layout, properties: Path) -> list[str]:
    """Make Kafka's folder of logs, the one that `properties` names."""
    return _java(at, 128, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(properties))


def postgresql_conf() -> str:
    """Added at the end of the file that initdb writes. The port is on the command line."""
    return """
# tandem: the embedded stack
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
wal_level = logical
max_wal_senders = 40
max_replication_slots = 40
max_connections = 100
shared_buffers = 128MB
log_line_prefix = '%m [%p] '
"""


def kafka_properties(at: Layout, logs: Path) -> str:
    """One node, broker and controller in one.

    The voter is named here and not in the formatted folder, so that the controller's port may change. The
    short broker session lets a broker that was killed come back at once, where its own old registration
    would keep it out for nine seconds by default.
    """
    return f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{at.ports.controller}
listeners=PLAINTEXT://127.0.0.1:{at.ports.kafka},CONTROLLER://127.0.0.1:{at.ports.controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{at.ports.kafka}
controller.listener.names=CONTROLLER
log.dirs={logs}
num.partitions=1
num.network.threads=2
num.io.threads=4
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=2000
log.cleaner.dedupe.buffer.size=8388608
"""


def connect_properties(at: Layout) -> str:
    """One worker, exactly-once support for sources; JSON without schemas as the default."""
    return f"""bootstrap.servers=127.0.0.1:{at.ports.kafka}
group.id=tandem-connect
listeners=http://127.0.0.1:{at.ports.connect}
rest.advertised.host.name=127.0.0.1
rest.advertised.port={at.ports.connect}
plugin.path={at.kafka_home / "plugins"}
plugin.discovery=service_load
exactly.once.source.support=enabled
key.converter=org.apache.kafka.connect.json.JsonConverter
value.converter=org.apache.kafka.connect.json.JsonConverter
key.converter.schemas.enable=false
value.converter.schemas.enable=false
config.storage.topic=_connect_configs
config.storage.replication.factor=1
offset.storage.topic=_connect_offsets
offset.storage.replication.factor=1
offset.storage.partitions=1
offset.flush.interval.ms=1000
status.storage.topic=_connect_status
status.storage.replication.factor=1
status.storage.partitions=1
topic.creation.enable=true
connector.client.config.override.policy=All
scheduled.rebalance.max.delay.ms=0
"""


def log4j_properties() -> str:
    """Warnings of all, and the course of Debezium, of the broker's start and of Connect's herder."""
    return """status = warn
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %-5p %c{1} %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
logger.debezium.name = io.debezium
logger.debezium.level = info
logger.broker.name = kafka.server.KafkaServer
logger.broker.level = info
logger.herder.name = org.apache.kafka.connect.runtime.distributed
logger.herder.level = info
"""


def configuration(at: Layout) -> dict[str, str]:
    """The files of `conf/`, by name."""
    return {
        "log4j2.properties": log4j_properties(),
        "kafka.properties": kafka_properties(at, at.home.kafka),
        "connect.properties": connect_properties(at),
        "mongo.toml": "",
    }
