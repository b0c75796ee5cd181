"""The last records of partitions, read backwards in windows, in no group."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import kafka.errors as kafka_errors
from kafka import TopicPartition

from connectors.events import Record
from connectors.kafka.clients import reader
from connectors.kafka.errors import translated
from connectors.positions import Partition
from connectors.settings import KafkaEndpoint

#: the first window; each further one is twice as long
_WINDOW = 500


class Stopped(StrEnum):
    """Why no earlier records were looked for."""

    ENOUGH = "enough were found"
    BEGIN = "the topic begins there"
    LOOK_BACK = "no more records were to be looked at"
    SLOW = "it took too long"


@dataclass(slots=True)
class Tail:
    """What was found of a partition. records: the newest last. since: the first offset that was looked at. kept_from:
    the first that the topic still has; above 0 what lay before is gone by its retention."""

    stopped: Stopped
    since: int
    kept_from: int
    end: int
    records: list[Record] = field(default_factory=list)


class Tails:
    """Reads committed records from the end of partitions. Connects when it is made. Raises ServerGone."""

    def __init__(self, endpoint: KafkaEndpoint, *, timeout_ms: int = 5_000) -> None:
        self.endpoint, self.timeout_ms = endpoint, timeout_ms
        self._extents: dict[Partition, tuple[int, int]] = {}
        self._consumer = reader(endpoint, "tandem-tail", timeout_ms)

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close(autocommit=False)

    def last(
        self,
        home: Partition,
        wanted: Callable[[Record], bool],
        most: int,
        look_back: int,
        within_s: float = 10.0,
    ) -> Tail:
        """The last records of a partition that are wanted, at most so many, among its last look_back ones."""
        tp, until = TopicPartition(*home), time.monotonic() + within_s
        begin, end = self.extents([home])[home]
        tail = Tail(Stopped.BEGIN, end, begin, end)
        if begin == end:
            return tail
        with translated(self.endpoint):
            self._consumer.assign([])
            self._consumer.assign([tp])
            window = _WINDOW
            while tail.since > begin:
                if len(tail.records) >= most:
                    tail.stopped = Stopped.ENOUGH
                elif end - tail.since >= look_back:
                    tail.stopped = Stopped.LOOK_BACK
                elif time.monotonic() > until:
                    tail.stopped = Stopped.SLOW
                else:
                    low = max(begin, tail.since - window, end - look_back)
                    found = self._between(tp, home, low, tail.since, until)
                    if found is not None:
                        tail.records[:0] = [record for record in found if wanted(record)]
                        tail.since, window = low, window * 2
                    continue
                break
        tail.records = tail.records[-most:] if most else []
        return tail

    def _between(
        self, tp: TopicPartition, home: Partition, low: int, high: int, until: float
    ) -> list[Record] | None:
        """The records from low up to high, less this one; None where they do not come in time."""
        found: list[Record] = []
        self._consumer.seek(tp, low)
        while self._consumer.position(tp) < high:
            if time.monotonic() > until:
                return None
            for r in self._consumer.poll(timeout_ms=100, max_records=_WINDOW).get(tp, ()):
                if r.offset >= high:
                    return found
                found.append(Record(home, r.offset, r.key, r.value, r.timestamp))
        return found

    def extents(self, homes: Sequence[Partition]) -> dict[Partition, tuple[int, int]]:
        """The first offset of each that the topic still has, and the one after its last committed record; as they were
        when they were first asked for. Raises ServerGone."""
        unknown = [TopicPartition(*home) for home in homes if home not in self._extents]
        until = time.monotonic() + self.timeout_ms / 1_000
        with translated(self.endpoint):
            while unknown:
                try:
                    begins = self._consumer.beginning_offsets(unknown, timeout_ms=self.timeout_ms)
                    ends = self._consumer.end_offsets(unknown, timeout_ms=self.timeout_ms)
                except KeyError as error:  # kafka-python's, of a topic that it does not know yet
                    if time.monotonic() > until:
                        raise kafka_errors.KafkaTimeoutError(
                            "the ends of partitions are not known"
                        ) from error
                    time.sleep(0.1)
                    continue
                self._extents.update(
                    {Partition(tp.topic, tp.partition): (begins[tp], ends[tp]) for tp in unknown}
                )
                break
        return {home: self._extents[home] for home in homes}

    def at(self, home: Partition, offset: int, within_s: float = 2.0) -> Record | None:
        """The record at an offset; None where the topic has it no more, or has none there."""
        tp, until = TopicPartition(*home), time.monotonic() + within_s
        begin, end = self.extents([home])[home]
        if not begin <= offset < end:
            return None
        with translated(self.endpoint):
            self._consumer.assign([])
            self._consumer.assign([tp])
            found = self._between(tp, home, offset, offset + 1, until)
        return found[0] if found else None
