"""Records of partitions that are named, in no group: for one who alone reads them for a purpose of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kafka import TopicPartition

from connectors.events import Record
from connectors.kafka import clients
from connectors.kafka.clients import reader
from connectors.kafka.errors import translated
from connectors.positions import Partition
from connectors.settings import KafkaEndpoint


class AssignedConsumer:
    """The same as `GroupConsumer`, of partitions that never change. Connects when it is made. Raises ServerGone."""

    def __init__(self, endpoint: KafkaEndpoint, partitions: Iterable[Partition], name: str) -> None:
        self.endpoint, self.generation = endpoint, 0
        self._mine = frozenset(partitions)
        self._consumer = reader(endpoint, name, 10_000, max_partition_fetch_bytes=4 << 20)
        with translated(endpoint):
            self._consumer.assign([TopicPartition(*p) for p in sorted(self._mine)])
            clients.place(self._consumer, dict.fromkeys(self._mine))  # nothing is read before it is placed

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close(autocommit=False)

    def assigned(self) -> frozenset[Partition]:
        """All of them."""
        return self._mine

    def place(self, offsets: Mapping[Partition, int | None]) -> None:
        """Go on at these offsets; None: do not read this partition for now."""
        with translated(self.endpoint):
            clients.place(self._consumer, offsets)

    def poll(self, timeout_ms: int, most: int) -> dict[Partition, list[Record]]:
        """Up to `most` records, per partition in their order. Raises Unavailable, EventsExpired."""
        with translated(self.endpoint):
            found = self._consumer.poll(timeout_ms=timeout_ms, max_records=most)
        return clients.records_of(found)

    def position(self, partition: Partition) -> int:
        """The offset that would be read next; past markers of transactions, which are no records."""
        with translated(self.endpoint):
            return int(self._consumer.position(TopicPartition(*partition)))

    def tell(self, offsets: Mapping[Partition, int]) -> None:
        """Nothing: there is no group that Kafka knows of."""
