"""What the three steps are handed: who has sessions, ways to tell them, and what they call on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Roster(Protocol):
    """Who has sessions now."""

    #: the server that says so
    @property
    def place(self) -> str: ...

    def users(self) -> Mapping[str, int]:
        """User -> sessions in use. Raises ServerGone where that cannot be known now."""
        ...


class Channel(Protocol):
    """One way to tell users."""

    @property
    def name(self) -> str: ...

    def check(self) -> None:
        """Raise a named error where it would not work. Tells nobody anything."""
        ...

    def send(self, id_: str, notice: Mapping[str, object]) -> None:
        """Tell one user; the same id again changes nothing. Errors of kind RETRY may go through later."""
        ...

    def close(self) -> None:
        """End its connections."""
        ...


class Receipts(Protocol):
    """Which notices were taken, kept where a second run finds them."""

    def taken(self) -> set[str]:
        """`channel/user` of each."""
        ...

    def keep(self, to: str) -> None:
        """Note one more."""
        ...
