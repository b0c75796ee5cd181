"""A look at single records, in no group."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from kafka import KafkaConsumer, TopicPartition

from connectors.events import Record
from connectors.kafka.errors import connecting, translated
from connectors.positions import Partition
from connectors.settings import KafkaEndpoint


class Peek:
    """Reads committed records at offsets. Connects when it is made."""

    def __init__(self, endpoint: KafkaEndpoint, *, timeout_ms: int = 2_000) -> None:
        self.endpoint, self.timeout_ms = endpoint, timeout_ms
        with connecting(endpoint):
            self._consumer = KafkaConsumer(
                bootstrap_servers=endpoint.bootstrap_servers,
                client_id="tandem-peek",
                group_id=None,
                enable_auto_commit=False,
                allow_auto_create_topics=False,
                isolation_level="read_committed",
                # the first record comes whole, however small this is
                max_partition_fetch_bytes=1_024,
                request_timeout_ms=timeout_ms + 1_000,
                bootstrap_timeout_ms=timeout_ms,
                fetch_max_wait_ms=100,
                metrics_enabled=False,
            )

    def __enter__(self) -> Peek:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close(autocommit=False)

    def firsts(
        self, offsets: Mapping[Partition, int], ends: Mapping[Partition, int]
    ) -> dict[Partition, Record | None]:
        """The first record at or after each offset, None where only markers of transactions come before its end. One
        is missing where a transaction is still open, or where it did not come in time. Raises ServerGone."""
        found: dict[Partition, Record | None] = {}
        until = time.monotonic() + self.timeout_ms / 1_000
        with translated(self.endpoint):
            self._consumer.assign([TopicPartition(*p) for p in offsets])
            for partition, offset in offsets.items():
                self._consumer.seek(TopicPartition(*partition), offset)
            while len(found) < len(offsets) and time.monotonic() < until:
                for tp, records in self._consumer.poll(timeout_ms=100, max_records=len(offsets) * 8).items():
                    home, r = Partition(tp.topic, tp.partition), records[0]
                    found.setdefault(home, Record(home, r.offset, r.key, r.value, r.timestamp))
                    self._consumer.pause(tp)
                for home in [p for p in offsets if p not in found]:
                    if self._consumer.position(TopicPartition(*home)) >= ends[home]:
                        found[home] = None
        return found
