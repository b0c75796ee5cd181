"""kafka-python's errors in the project's words."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import kafka.errors as kafka_errors

from connectors.errors import EventsExpired, ServerGone, SettingsInvalid, SyncError, TopicMissing
from connectors.settings import KafkaEndpoint

# kafka-python warns of a coroutine that a closed client leaves behind; it is done with by then
warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"kafka\.")


@contextmanager
def translated(endpoint: KafkaEndpoint) -> Iterator[None]:
    """Let kafka-python's errors out as errors of this project, by class."""
    try:
        yield
    except (kafka_errors.KafkaError, OSError) as error:
        raise translate(error, endpoint) from error


@contextmanager
def connecting(endpoint: KafkaEndpoint) -> Iterator[None]:
    """The same for a client that is being made, which reads the addresses. Raises SettingsInvalid."""
    try:
        with translated(endpoint):
            yield
    except ValueError as error:
        raise SettingsInvalid(
            f"kafka.bootstrap_servers cannot be read: {error}",
            remedy="give host:port, or several with commas between them, in KAFKA_BOOTSTRAP_SERVERS",
            bootstrap_servers=endpoint.bootstrap_servers,
        ) from None


def translate(error: Exception, endpoint: KafkaEndpoint) -> SyncError:
    """The error of this project that one of kafka-python's stands for."""
    place = {"bootstrap_servers": endpoint.bootstrap_servers}
    name = type(error).__name__
    what = f"{name}: {str(error).removeprefix(f'{name}: ')}".split("\n")[0]
    if isinstance(error, kafka_errors.OffsetOutOfRangeError | kafka_errors.NoOffsetForPartitionError):
        return EventsExpired(
            f"Kafka no longer has the events that come next ({what})",
            remedy="they were removed by retention, or the topic was made anew: run `tandem teardown`, `tandem setup`"
            " and `tandem snapshot`",
            **place,
        )
    if isinstance(error, kafka_errors.UnknownTopicOrPartitionError):
        return TopicMissing(
            f"Kafka has no such topic ({what})", remedy="run `tandem setup`: it makes the topics", **place
        )
    return ServerGone(
        f"Kafka cannot be reached: {what}", remedy="start Kafka, or correct KAFKA_BOOTSTRAP_SERVERS", **place
    )
