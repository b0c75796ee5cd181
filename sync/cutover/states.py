"""The states of a cutover, what leads from one to the next, and where to go on after a crash. Pure.

Every step is journaled before it is taken, and once more when it is done; every act can be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Where a cutover is: what has been reached."""

    PLANNED = "planned"
    CHECKED = "checked"
    BACKED_UP = "backed_up"
    NOTIFIED = "notified"
    FILES_COPIED = "files_copied"
    SESSIONS_WAITED = "sessions_waited"
    FENCED = "fenced"
    DRAINED = "drained"
    FILES_FINAL = "files_final"
    SESSIONS_MOVED = "sessions_moved"
    VERIFIED = "verified"
    REVERSE_ON = "reverse_on"
    SEALED = "sealed"
    FLAGS_FLIPPED = "flags_flipped"
    OBSERVING = "observing"
    DONE = "done"
    ABORTED = "aborted"


ORDER: tuple[State, ...] = tuple(state for state in State if state is not State.ABORTED)
#: applications cannot write to PostgreSQL: from the first of them, to the last, and the flags are not turned
_FENCED = ORDER[ORDER.index(State.FENCED) : ORDER.index(State.SEALED)]
#: what each is for people, and what may be done in it (docs/runbook.md has the whole)
MEANING: dict[State, str] = {
    State.PLANNED: "nothing has been done",
    State.CHECKED: "everything was in order; nothing has been changed",
    State.BACKED_UP: "there is a backup from before",
    State.NOTIFIED: "users have been told",
    State.FILES_COPIED: "files are copied while they are in use; the old ones are as they were",
    State.SESSIONS_WAITED: "no session is active, or it was waited long enough",
    State.FENCED: "PostgreSQL refuses writes; nobody writes anywhere",
    State.DRAINED: "MongoDB holds everything that PostgreSQL ever held",
    State.FILES_FINAL: "what has changed in files since is copied",
    State.SESSIONS_MOVED: "live sessions are with the new agent",
    State.VERIFIED: "both databases say the same",
    State.REVERSE_ON: "the way back is open, as far as there is one",
    State.SEALED: "the fence no longer lapses; the forward consumers have ended for good",
    State.FLAGS_FLIPPED: "the application writes to MongoDB",
    State.OBSERVING: "the application runs on MongoDB, and is watched",
    State.DONE: "the application runs on MongoDB",
    State.ABORTED: "the application runs on PostgreSQL, as before",
}


@dataclass(frozen=True, slots=True)
class At:
    """Where a journal says that a cutover is. intent: what was begun and is not known to be done."""

    state: State
    intent: State | None = None


@dataclass(frozen=True, slots=True)
class World:
    """What is asked of the outside before a crashed cutover goes on.

    fence: none, lapsed, up, sealed. turned: whether the application's flags say MongoDB; None: they could not be read,
    or only some do.
    """

    fence: str
    turned: bool | None


def after(state: State) -> State | None:
    """What comes next; None: it has come to its end."""
    if state in (State.DONE, State.ABORTED):
        return None
    return ORDER[ORDER.index(state) + 1]


def writes_refused(state: State) -> bool:
    """Whether applications cannot write anywhere in this state."""
    return state in _FENCED or state is State.SEALED


def has_turned(at: At) -> bool:
    """Whether the application may already write to MongoDB: the flags are turned, or were about to be."""
    return State.FLAGS_FLIPPED in (at.state, at.intent) or at.state in (State.OBSERVING, State.DONE)


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a cutover goes on. why: in words, where it is not simply where it was."""

    at: State
    why: str = ""


def resume(at: At, world: World) -> Resume | str:
    """Where to go on after a crash, or why that cannot be said."""
    if at.state is State.ABORTED or at.state is State.DONE:
        return f"the last cutover is {at.state}: there is nothing to go on with"
    if at.intent is State.ABORTED:
        return "an abort was begun, and is not known to be done: end it with `tandem cutover abort`"
    if has_turned(at):
        if at.state is State.SEALED and world.turned is False and world.fence != "sealed":
            return _from_the_fence("the fence is not sealed any more, and the flags are not turned")
        return Resume(at.state)
    if at.state is State.SEALED:
        if world.fence == "sealed":
            return Resume(at.state)
        if world.turned is False:
            return _from_the_fence("somebody has lifted the fence: applications have written since")
        return "the fence is gone and the flags cannot be read, or are turned by somebody: find out who writes where"
    if at.state in _FENCED or at.intent is State.SEALED:
        if world.fence in ("up", "sealed"):
            return Resume(at.state)
        return _from_the_fence("the fence has lapsed: applications have written since")
    return Resume(at.state)


def _from_the_fence(why: str) -> Resume:
    return Resume(State.SESSIONS_WAITED, why)


def abort(at: At, world: World) -> str | None:
    """Why a cutover cannot go back to PostgreSQL; None: it can.

    Where the flags were about to be turned it can as long as all of them say PostgreSQL: nobody has written to MongoDB.
    """
    if at.state in (State.DONE, State.ABORTED):
        return f"the last cutover is {at.state}: there is nothing to abort"
    if at.state in (State.FLAGS_FLIPPED, State.OBSERVING):
        return "the application writes to MongoDB: going back is a rollback, not an abort"
    if at.intent is State.FLAGS_FLIPPED:
        if world.turned is None:
            return "the flags cannot be read, or only some are turned: the application may write to MongoDB"
        if world.turned:
            return "the flags are turned: the application writes to MongoDB"
    return None


#: a phase of the customer's words, and the state that ends it
PHASES: dict[str, State] = {
    "check": State.CHECKED,
    "backup": State.BACKED_UP,
    "notify": State.NOTIFIED,
    "files": State.FILES_COPIED,
    "sessions": State.SESSIONS_WAITED,
}
