"""A feature flag as a store keeps it, in flagd's form, whatever the store is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Kept:
    """definition: state, variants, defaultVariant, targeting, and what else is there. version: what a write is to be
    based on; opaque, and another one after each change of this flag."""

    name: str
    definition: Mapping[str, Any]
    version: str


class FlagStore(Protocol):
    """Where flags are kept."""

    @property
    def where(self) -> str:
        """For people, without secrets."""

    def all(self) -> list[Kept]:
        """All flags, by name. Raises ServerGone or FlagRefused."""

    def read(self, name: str) -> Kept | None:
        """One of them. None: there is none of this name."""

    def write(self, name: str, definition: Mapping[str, Any], based_on: str | None) -> None:
        """Write a flag that is still as it was read; based_on None: that is still not there.

        Raises FlagMoved where it is not; ServerGone where it is not known whether it was written.
        """
