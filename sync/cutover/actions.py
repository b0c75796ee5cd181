"""What a cutover does to the world, as a contract: `live` does it, `rehearsal` says what it would be."""

from __future__ import annotations

from typing import Protocol

from sync.cutover.budget import Numbers
from sync.cutover.health import Pulse
from sync.cutover.states import State, World
from sync.passage import Condition, Facts, Stop


class Actions(Protocol):
    """All of them can be repeated: a controller that dies in the middle is followed by one that does it again."""

    def conditions(self, goal: State) -> list[Condition]:
        """What has to be so before this step, as it is now."""

    def numbers(self) -> Numbers:
        """What the time that writes are refused is predicted from."""

    def pulse(self) -> Pulse:
        """How the machines are."""

    def world(self) -> World:
        """How fence and flags are."""

    def act(self, goal: State, stop: Stop) -> Facts:
        """Take this step. Raises named errors; of kind RETRY where it may be tried again at once."""

    def renew(self) -> None:
        """Let the fence stand for another lease. Raises FenceLapsed."""

    def open(self, *, flags: bool) -> None:
        """Let writes into PostgreSQL, and the forward consumers go on: back to before the fence. flags: they may have
        been turned, so that they are turned to PostgreSQL first, and read back. Raises where they cannot be."""

    def go_back(self, had: State, stop: Stop) -> Facts:
        """Turn the flags to PostgreSQL, let writes in, and undo what else was done up to this state."""
