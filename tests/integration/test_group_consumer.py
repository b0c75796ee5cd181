"""Members of a consumer group on the real broker: whoever joins gets its partitions, however short the polls are."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence

import pytest

from connectors.kafka.admin import Admin
from connectors.kafka.consumer import GroupConsumer
from connectors.settings import KafkaEndpoint
from sync.dev.state import Addresses

TOPICS, PARTITIONS = 4, 3


class Unprepared(GroupConsumer):
    """Joins before it knows its topics, so that it joins again, as its own leader, when it does."""

    def _know(self, topics: Sequence[str]) -> None:
        pass


@pytest.fixture
def topics(stack: Addresses) -> Iterator[list[str]]:
    names = [f"group_{uuid.uuid4().hex[:8]}_{n}" for n in range(TOPICS)]
    with Admin(endpoint(stack)) as admin:
        for name in names:
            admin.create(name, PARTITIONS, {})
        yield names
        admin.delete(names)


def endpoint(stack: Addresses) -> KafkaEndpoint:
    return KafkaEndpoint(
        bootstrap_servers=stack.kafka_bootstrap_servers,
        topic_prefix="group",
        group_id=f"group_{uuid.uuid4().hex[:8]}",
        session_timeout_ms=6_000,
    )


@pytest.mark.parametrize("kind", [GroupConsumer, Unprepared])
def test_a_member_whose_polls_end_while_it_joins_gets_its_partitions(
    stack: Addresses, topics: list[str], kind: type[GroupConsumer]
) -> None:
    for _ in range(8):
        consumer = kind(endpoint(stack), topics, "member")
        try:
            until = time.monotonic() + 20
            while len(consumer.assigned()) < TOPICS * PARTITIONS:
                consumer.poll(1, 10)
                assert time.monotonic() < until, "it has joined without partitions, for good"
        finally:
            consumer.close()
