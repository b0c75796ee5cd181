"""Records of partitions that the caller names, from offsets that it names, with headers and all."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import kafka.errors as kafka_errors
from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition

from connectors.events import Entry, Record
from connectors.kafka.clients import made
from connectors.kafka.errors import connecting, translated
from connectors.positions import Partition
from connectors.settings import KafkaEndpoint


class Follower:
    """Reads committed records of the partitions that it is given. group: under which it tells Kafka's tools where
    it is; it joins no group. Raises ServerGone, EventsExpired."""

    def __init__(self, endpoint: KafkaEndpoint, group: str, *, timeout_ms: int = 10_000) -> None:
        self.endpoint, self.timeout_ms = endpoint, timeout_ms
        with connecting(endpoint):
            self._consumer = made(
                KafkaConsumer,
                endpoint,
                group_id=group,
                client_id="tandem-archive",
                enable_auto_commit=False,
                auto_offset_reset="none",
                allow_auto_create_topics=False,
                isolation_level="read_committed",
                max_partition_fetch_bytes=4 << 20,
                fetch_max_wait_ms=100,
                bootstrap_timeout_ms=timeout_ms,
                metrics_enabled=False,
            )

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close(autocommit=False)

    def place(self, offsets: Mapping[Partition, int]) -> None:
        """Read these partitions and no others, each from its offset on."""
        with translated(self.endpoint):
            self._consumer.assign([])
            self._consumer.assign([TopicPartition(*home) for home in offsets])
            for home, offset in offsets.items():
                self._consumer.seek(TopicPartition(*home), offset)

    def poll(self, timeout_ms: int, most: int) -> dict[Partition, list[Entry]]:
        """Up to so many records, per partition in their order; empty when none came in time."""
        if not self._consumer.assignment():
            time.sleep(timeout_ms / 1_000)
            return {}
        with translated(self.endpoint):
            found = self._consumer.poll(timeout_ms=timeout_ms, max_records=most)
        polled = {}
        for tp, records in found.items():
            home = Partition(tp.topic, tp.partition)
            polled[home] = [
                Entry(
                    Record(home, r.offset, r.key, r.value, r.timestamp),
                    tuple((name, None if held is None else bytes(held)) for name, held in r.headers),
                    r.timestamp_type,
                )
                for r in records
            ]
        return polled

    def position(self, home: Partition) -> int:
        """The offset that would be read next; past markers of transactions, which are no records."""
        with translated(self.endpoint):
            return int(self._consumer.position(TopicPartition(*home)))

    def begins(self, homes: Sequence[Partition]) -> dict[Partition, int]:
        """The first offset of each that the topic still has."""
        wanted = [TopicPartition(*home) for home in homes]
        until = time.monotonic() + self.timeout_ms / 1_000
        with translated(self.endpoint):
            while True:
                try:
                    found = (
                        self._consumer.beginning_offsets(wanted, timeout_ms=self.timeout_ms) if wanted else {}
                    )
                    return {Partition(tp.topic, tp.partition): offset for tp, offset in found.items()}
                except KeyError as error:  # kafka-python's, of a topic that it does not know yet
                    if time.monotonic() > until:
                        raise kafka_errors.KafkaTimeoutError("where partitions begin is not known") from error
                    time.sleep(0.1)

    def since(self, homes: Sequence[Partition], at_ms: int) -> dict[Partition, int]:
        """The first offset of each whose timestamp is not before this time; its end, where there is none."""
        wanted = [TopicPartition(*home) for home in homes]
        with translated(self.endpoint):
            found = self._consumer.offsets_for_times(dict.fromkeys(wanted, at_ms), timeout_ms=self.timeout_ms)
            ends = self._consumer.end_offsets(wanted, timeout_ms=self.timeout_ms)
        return {
            Partition(tp.topic, tp.partition): ends[tp] if found.get(tp) is None else int(found[tp].offset)
            for tp in wanted
        }

    def tell(self, offsets: Mapping[Partition, int], note: str, *, wait: bool = False) -> None:
        """Tell Kafka where this is, with a note, for Kafka's own tools and for `status`. Nothing is read from there."""
        told = {TopicPartition(*p): OffsetAndMetadata(offset, note, -1) for p, offset in offsets.items()}
        if not told:
            return
        if not wait:
            self._consumer.commit_async(told, callback=lambda *_: None)
            return
        with suppress(kafka_errors.KafkaError, OSError):  # it is only told
            self._consumer.commit(told, timeout_ms=3_000)
