"""A look at single records, in no group."""

from __future__ import annotations

import time
from collections.abc import Mapping
from enum import Enum

from kafka import TopicPartition

from connectors.events import Record
from connectors.kafka.clients import reader
from connectors.kafka.errors import translated
from connectors.positions import Partition
from connectors.settings import KafkaEndpoint


class Nothing(Enum):
    """Why a partition has no record to show. MARKERS: only markers of transactions come before its end. OPEN: the next
    record is of a transaction that is still open."""

    MARKERS = "markers"
    OPEN = "open"


class Peek:
    """Reads committed records at offsets. Connects when it is made. Raises ServerGone."""

    def __init__(self, endpoint: KafkaEndpoint, *, timeout_ms: int = 2_000) -> None:
        self.endpoint, self.timeout_ms = endpoint, timeout_ms
        # the first record comes whole, however small this is
        self._consumer = reader(endpoint, "tandem-peek", timeout_ms, max_partition_fetch_bytes=1_024)

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close(autocommit=False)

    def firsts(
        self, offsets: Mapping[Partition, int], ends: Mapping[Partition, int]
    ) -> dict[Partition, Record | Nothing]:
        """The first record at or after each offset. A partition is missing where it did not come in time.

        ends: beyond the last record, those of open transactions included. Raises ServerGone, EventsExpired.
        """
        found: dict[Partition, Record | Nothing] = {}
        until = time.monotonic() + self.timeout_ms / 1_000
        mine = {TopicPartition(*p): p for p in offsets}
        with translated(self.endpoint):
            # kafka-python keeps what was paused of partitions that are assigned again
            self._consumer.assign([])
            self._consumer.assign(list(mine))
            for tp, home in mine.items():
                self._consumer.seek(tp, offsets[home])
            while len(found) < len(mine) and time.monotonic() < until:
                for tp, records in self._consumer.poll(timeout_ms=100, max_records=len(mine) * 8).items():
                    r = records[0]
                    found.setdefault(mine[tp], Record(mine[tp], r.offset, r.key, r.value, r.timestamp))
                    self._consumer.pause(tp)
                for tp, home in mine.items():
                    if home not in found and self._consumer.position(tp) >= ends[home]:
                        found[home] = Nothing.MARKERS
            late = [tp for tp, home in mine.items() if home not in found]
            if late:  # what a reader of committed records could get to
                stable = self._consumer.end_offsets(late, timeout_ms=self.timeout_ms)
                for tp in late:
                    if self._consumer.position(tp) >= stable[tp]:
                        found[mine[tp]] = Nothing.OPEN
        return found
