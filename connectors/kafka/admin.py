"""Topics: made, looked at, removed; and where they end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import kafka.errors as kafka_errors
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from connectors.errors import Refused, TopicMissing
from connectors.kafka.clients import made
from connectors.kafka.errors import translated
from connectors.positions import Partition
from connectors.settings import KafkaEndpoint


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """One topic. id: Kafka's own; a topic made anew under the same name has another."""

    name: str
    partitions: int
    id: str


class Admin:
    """What may be done to topics. Connects on first use."""

    def __init__(self, endpoint: KafkaEndpoint, *, timeout_ms: int = 10_000) -> None:
        self.endpoint, self.timeout_ms = endpoint, timeout_ms
        self._admin = made(
            KafkaAdminClient,
            endpoint,
            client_id="tandem-admin",
            request_timeout_ms=timeout_ms,
            bootstrap_timeout_ms=timeout_ms,
        )
        self._reader: KafkaConsumer | None = None

    def __enter__(self) -> Admin:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._reader is not None:
            self._reader.close(autocommit=False)
        self._admin.close()

    def topics(self, names: Iterable[str]) -> dict[str, TopicFacts]:
        """Those of these topics that exist."""
        with translated(self.endpoint):
            wanted = set(names) & set(self._admin.list_topics())
            if not wanted:
                return {}
            found = self._admin.describe_topics(sorted(wanted))
        return {
            t["name"]: TopicFacts(t["name"], len(t["partitions"]), str(t.get("topic_id", "")))
            for t in found
            if not t.get("error_code")
        }

    def create(self, name: str, partitions: int, configs: Mapping[str, str]) -> None:
        """Make a topic; one that exists is left as it is."""
        wanted = {
            name: {
                "num_partitions": partitions,
                "replication_factor": self.endpoint.replication_factor,
                "configs": dict(configs),
            }
        }
        try:
            with translated(self.endpoint):
                try:
                    self._admin.create_topics(wanted, wait_for_metadata=True)
                except kafka_errors.TopicAlreadyExistsError:
                    return
        except kafka_errors.BrokerResponseError as error:  # pragma: no cover - translated above
            raise Refused(
                f"Kafka does not make the topic {name}: {error}", remedy="see the message"
            ) from error

    def config(self, name: str, keys: Sequence[str]) -> dict[str, str]:
        """These settings of a topic."""
        with translated(self.endpoint):
            found = self._admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
        settings: dict[str, str] = {}
        for values in found.get("topic", {}).values() if isinstance(found, dict) else []:
            for key, value in values.items():
                settings[key] = str(value.get("value") if isinstance(value, dict) else value)
        return {key: settings[key] for key in keys if key in settings}

    def delete(self, names: Iterable[str]) -> list[str]:
        """Delete those that exist. Returns their names."""
        there = sorted(self.topics(names))
        if there:
            with translated(self.endpoint):
                self._admin.delete_topics(there)
        return there

    def ends(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """The offset after the last record of each, those of transactions still open included.

        A reader of committed records comes there only when these transactions are over: so a position that
        has reached it has seen everything that was acknowledged before. Raises TopicMissing.
        """
        with translated(self.endpoint):
            if self._reader is None:
                self._reader = made(
                    KafkaConsumer,
                    self.endpoint,
                    client_id="tandem-ends",
                    group_id=None,
                    enable_auto_commit=False,
                    allow_auto_create_topics=False,
                    request_timeout_ms=self.timeout_ms,
                    bootstrap_timeout_ms=self.timeout_ms,
                    isolation_level="read_uncommitted",
                )
            wanted = [TopicPartition(*p) for p in partitions]
            try:
                found = self._reader.end_offsets(wanted, timeout_ms=self.timeout_ms)
            except (
                kafka_errors.KafkaTimeoutError,
                KeyError,
            ) as error:  # KeyError: kafka-python's, of a missing topic
                self.demand({p.topic for p in partitions})
                raise kafka_errors.KafkaTimeoutError("the ends of partitions are not known") from error
        return {Partition(tp.topic, tp.partition): end for tp, end in found.items()}

    def told(self, group: str) -> dict[Partition, tuple[int, str]]:
        """What a group has told Kafka: where it is in each partition, and its note."""
        with translated(self.endpoint):
            found = self._admin.list_group_offsets({group: None}).get(group, {})
        return {
            Partition(tp.topic, tp.partition): (int(of.offset), str(of.metadata or ""))
            for tp, of in found.items()
        }

    def demand(self, names: Iterable[str]) -> dict[str, TopicFacts]:
        """These topics. Raises TopicMissing, with all that are not there."""
        wanted = set(names)
        there = self.topics(wanted)
        if missing := sorted(wanted - set(there)):
            raise TopicMissing(
                f"Kafka has no topic {', '.join(missing)}",
                remedy="what a topic held is gone with it: run `tandem teardown`, `tandem setup` and `tandem snapshot`"
                " (before the first snapshot, `tandem setup` is enough)",
                bootstrap_servers=self.endpoint.bootstrap_servers,
            )
        return there
