"""kafka-python's clients, made so that one which cannot be made leaves nothing behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from kafka import KafkaConsumer, TopicPartition

from connectors.events import Record
from connectors.kafka.errors import connecting
from connectors.positions import Partition
from connectors.settings import KafkaEndpoint

Client = TypeVar("Client")


def made(kind: type[Client], endpoint: KafkaEndpoint, **config: Any) -> Client:
    """A client of this kind. Raises ServerGone, SettingsInvalid.

    kafka-python 3.0.12 starts a thread and opens sockets before it asks the brokers, and does not end them where none
    answers: a process that asks again and again would run out of both.
    """
    client = kind.__new__(kind)
    try:
        with connecting(endpoint):
            client.__init__(bootstrap_servers=endpoint.bootstrap_servers, **config)  # type: ignore[misc]
    except BaseException:
        _end(client)
        raise
    return client


def reader(endpoint: KafkaEndpoint, name: str, timeout_ms: int, **config: Any) -> KafkaConsumer:
    """A consumer in no group, of committed records at offsets that it is told. Raises ServerGone, SettingsInvalid."""
    return made(
        KafkaConsumer,
        endpoint,
        client_id=name,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        allow_auto_create_topics=False,
        isolation_level="read_committed",
        request_timeout_ms=timeout_ms + 1_000,
        bootstrap_timeout_ms=timeout_ms,
        fetch_max_wait_ms=100,
        metrics_enabled=False,
        **config,
    )


def place(consumer: KafkaConsumer, offsets: Mapping[Partition, int | None]) -> None:
    """Go on at these offsets; None: do not read this partition for now."""
    for partition, offset in offsets.items():
        tp = TopicPartition(*partition)
        if offset is None:
            consumer.pause(tp)
            # a partition without any offset would make `position` and `poll` of all others fail
            consumer.seek(tp, 0)
        else:
            consumer.seek(tp, offset)
            consumer.resume(tp)


def records_of(found: Mapping[TopicPartition, Sequence[Any]]) -> dict[Partition, list[Record]]:
    """What a poll has brought, per partition in its order."""
    polled = {}
    for tp, records in found.items():
        home = Partition(tp.topic, tp.partition)
        polled[home] = [Record(home, r.offset, r.key, r.value, r.timestamp) for r in records]
    return polled


def _end(client: Any) -> None:
    for name, how in (("_client", "close"), ("_net", "stop"), ("_net", "close")):
        with suppress(Exception):
            getattr(getattr(client, name), how)()
