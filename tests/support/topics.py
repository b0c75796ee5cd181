"""Topics of one test, removed and made behind the back of the commands."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from connectors.settings import KafkaEndpoint
from tests.support.stack import Own

if TYPE_CHECKING:
    from connectors.kafka.admin import Admin


def topics(own: Own) -> Admin:
    """To be used as a context manager."""
    with (
        warnings.catch_warnings()
    ):  # kafka-python reads its schemas in a way that Python 3.11 calls deprecated
        warnings.simplefilter("ignore", DeprecationWarning)
        from connectors.kafka.admin import Admin

        return Admin(KafkaEndpoint(bootstrap_servers=own.addresses.kafka_bootstrap_servers))
