"""Records of a consumer group's partitions, from the offsets that the caller names."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import kafka.errors as kafka_errors
from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata, TopicPartition

from connectors.events import Record
from connectors.kafka import clients
from connectors.kafka.clients import made
from connectors.kafka.errors import connecting, translated
from connectors.positions import Partition
from connectors.settings import KafkaEndpoint

Partitions = frozenset[Partition]


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._changed()

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._changed()


class GroupConsumer:
    """One member of the consumer group. It never decides where to read: `seek` does, after each assignment.

    Records are of committed transactions only. `generation` rises with every change of the assignment; what
    was polled before belongs to the old one.
    """

    def __init__(self, endpoint: KafkaEndpoint, topics: Sequence[str], client_id: str) -> None:
        self.endpoint = endpoint
        self.generation = 0
        self._unplaced: set[TopicPartition] = set()
        with connecting(endpoint):
            self._consumer = made(
                KafkaConsumer,
                endpoint,
                group_id=endpoint.group_id,
                client_id=client_id,
                enable_auto_commit=False,
                auto_offset_reset="none",
                allow_auto_create_topics=False,
                isolation_level="read_committed",
                session_timeout_ms=endpoint.session_timeout_ms,
                heartbeat_interval_ms=max(300, endpoint.session_timeout_ms // 5),
                max_partition_fetch_bytes=4 << 20,
                fetch_max_wait_ms=100,
                bootstrap_timeout_ms=10_000,
                metrics_enabled=False,
            )
            self._consumer.subscribe(topics=list(topics), listener=_Listener(self._changed))
            self._know(topics)

    def _know(self, topics: Sequence[str]) -> None:
        """Have the topics' partitions known before the group is joined: a leader without them assigns none."""
        until = time.monotonic() + 10
        while not all(self._consumer.partitions_for_topic(topic) for topic in topics):
            if time.monotonic() > until:
                return  # one that is missing is told by whoever asks for the topics
            time.sleep(0.05)

    def _finish_joining(self) -> None:
        """Join again where a join has ended and kafka-python has forgotten that it waits for it.

        Its leader that rejoins because partitions were added, or first became known, forgets so when a poll's
        time-out falls between the assignment and its answer: it would be without partitions and heartbeats for
        good (kafka-python 3.0.12: `need_rejoin` is false once the snapshot of the assignment was taken).
        """
        coordinator = self._consumer._coordinator
        task = coordinator._join_task
        if task is not None and task.is_done and not coordinator.need_rejoin():
            coordinator.request_rejoin()

    def _changed(self) -> None:
        self.generation += 1

    def close(self) -> None:
        """Leave the group, so that others take over at once."""
        self._consumer.close(autocommit=False)

    def assigned(self) -> Partitions:
        """The partitions that are this member's now."""
        return frozenset(Partition(tp.topic, tp.partition) for tp in self._consumer.assignment())

    def place(self, offsets: Mapping[Partition, int | None]) -> None:
        """Go on at these offsets; None: do not read this partition for now."""
        with translated(self.endpoint):
            clients.place(self._consumer, offsets)

    def poll(self, timeout_ms: int, most: int) -> dict[Partition, list[Record]]:
        """Up to `most` records, per partition in their order; empty when none came in time. Raises Unavailable.

        A new assignment is joined in here: look at `generation` afterwards.
        """
        with translated(self.endpoint):
            try:
                self._finish_joining()
                found = self._consumer.poll(timeout_ms=timeout_ms, max_records=most)
            except (kafka_errors.NoOffsetForPartitionError, kafka_errors.IllegalStateError):
                # a partition that was just assigned and has not been placed: nothing is committed, on purpose
                self._changed()  # and whatever was fetched for others is read again from where MongoDB says
                return {}
        return clients.records_of(found)

    def position(self, partition: Partition) -> int:
        """The offset that would be read next; past markers of transactions, which are no records."""
        with translated(self.endpoint):
            return int(self._consumer.position(TopicPartition(*partition)))

    def tell(self, offsets: Mapping[Partition, int]) -> None:
        """Tell Kafka where this group is, for Kafka's own tools. Nothing here reads it back."""
        told = {TopicPartition(*p): OffsetAndMetadata(offset, "", -1) for p, offset in offsets.items()}
        self._consumer.commit_async(told, callback=lambda *_: None)
