"""The states of a rollback, what leads from one to the next, and where to go on after a crash. Pure.

Every step is journaled before it is taken, and once more when it is done; every act can be repeated. PostgreSQL's fence
stands since the cutover, and is lifted when all that MongoDB was told is in PostgreSQL.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Where a rollback is: what has been reached."""

    PLANNED = "planned"
    CHECKED = "checked"
    FENCED = "fenced"
    DRAINED = "drained"
    VERIFIED = "verified"
    FLAGS_FLIPPED = "flags_flipped"
    SETTLED = "settled"
    LIFTED = "lifted"
    FORWARD_ON = "forward_on"
    DONE = "done"
    ABORTED = "aborted"


ORDER: tuple[State, ...] = tuple(state for state in State if state is not State.ABORTED)
_TURNS = ORDER.index(State.FLAGS_FLIPPED)
MEANING: dict[State, str] = {
    State.PLANNED: "nothing has been done",
    State.CHECKED: "everything was in order; nothing has been changed",
    State.FENCED: "MongoDB refuses writes; nobody writes anywhere",
    State.DRAINED: "PostgreSQL holds everything that was written to MongoDB",
    State.VERIFIED: "every document that was changed since the cutover says what its rows say",
    State.FLAGS_FLIPPED: "the application looks to PostgreSQL, which still refuses writes",
    State.SETTLED: "what came late to MongoDB is in PostgreSQL too; nothing writes back any more",
    State.LIFTED: "the application writes to PostgreSQL",
    State.FORWARD_ON: "the pipeline to MongoDB goes on from where the cutover ended it",
    State.DONE: "the application runs on PostgreSQL; another cutover may begin",
    State.ABORTED: "the application runs on MongoDB, as before",
}


@dataclass(frozen=True, slots=True)
class At:
    """Where a journal says that a rollback is. intent: what was begun and is not known to be done."""

    state: State
    intent: State | None = None


@dataclass(frozen=True, slots=True)
class World:
    """fenced: MongoDB refuses writes. turned: the application's flags say PostgreSQL; None: they could not be read, or
    only some do."""

    fenced: bool
    turned: bool | None


def after(state: State) -> State | None:
    """What comes next; None: it has come to its end."""
    if state in (State.DONE, State.ABORTED):
        return None
    return ORDER[ORDER.index(state) + 1]


def writes_refused(state: State) -> bool:
    """Whether applications cannot write anywhere in this state."""
    return state in ORDER[ORDER.index(State.FENCED) : ORDER.index(State.LIFTED)]


def has_turned(at: At) -> bool:
    """Whether the application may already look to PostgreSQL."""
    reached = at.state in ORDER and ORDER.index(at.state) >= _TURNS
    return reached or at.intent is State.FLAGS_FLIPPED


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a rollback goes on. why: in words, where it is not simply where it was."""

    at: State
    why: str = ""


def resume(at: At, world: World) -> Resume | str:
    """Where to go on after a crash, or why that cannot be said."""
    if at.state in (State.DONE, State.ABORTED):
        return f"the last rollback is {at.state}: there is nothing to go on with"
    if at.intent is State.ABORTED:
        return "an abort was begun, and is not known to be done: end it with `tandem rollback abort`"
    if has_turned(at):
        return Resume(at.state)
    if writes_refused(at.state) and not world.fenced:
        return Resume(State.CHECKED, "MongoDB takes writes again: what was drained is no longer all there is")
    return Resume(at.state)


def abort(at: At, world: World) -> str | None:
    """Why a rollback cannot be given up; None: it can. Where the flags were about to be turned it can as long as none
    of them says PostgreSQL."""
    if at.state in (State.DONE, State.ABORTED):
        return f"the last rollback is {at.state}: there is nothing to abort"
    if at.state in ORDER and ORDER.index(at.state) >= _TURNS:
        return "the application looks to PostgreSQL: go on with `tandem rollback resume`"
    if at.intent is State.FLAGS_FLIPPED and world.turned is not False:
        return "the flags say PostgreSQL, or cannot be read: go on with `tandem rollback resume`"
    return None
