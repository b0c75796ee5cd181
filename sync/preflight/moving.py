"""What the cutover will need besides the databases: folders, room, programs, clocks, sessions. Facts judged. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sync.preflight.findings import Finding, Level

_CLOCKS, _FILES, _SESSIONS, _BACKUP = "clocks", "files", "sessions", "backup"


@dataclass(frozen=True, slots=True)
class Root:
    """A folder as it was found. trouble: why it could not be looked at, and what to do; the rest is unknown then.

    mount: what it lies on.
    """

    setting: str
    path: str
    trouble: tuple[str, str] | None = None
    readable: bool = True
    writable: bool = True
    free_bytes: int = 0
    mount: str = "/"


@dataclass(frozen=True, slots=True)
class Program:
    """A program that will be run. found: its version; trouble: what is wrong with it, and what to do."""

    name: str
    found: str = ""
    trouble: tuple[str, str] | None = None


def assess_root(root: Root, needed_bytes: int, writes: bool, mounts: Sequence[str]) -> Iterator[Finding]:
    """One folder. needed_bytes: 0 where nothing will be written. mounts: where it has to lie, if that is said."""
    check = _BACKUP if root.setting.startswith("backup") else _FILES
    if root.trouble is not None:
        what, remedy = root.trouble
        yield Finding(Level.ERROR, check, "root", root.setting, what, remedy)
        return
    if not root.readable or (writes and not root.writable):
        right = "written" if root.readable else "read"
        yield Finding(
            Level.ERROR,
            check,
            "root-denied",
            root.setting,
            f"{root.path} may not be {right} by this user",
            "give this user the right, or mount it so that it may; the files of all users have to be reached",
        )
    if mounts and root.mount not in mounts:
        yield Finding(
            Level.ERROR,
            check,
            "mount",
            root.setting,
            f"{root.path} lies on the mount {root.mount}, not on {' or '.join(mounts)}",
            "mount it, or correct files.mounts: on an unmounted path the files would go to the wrong disk",
        )
    if root.free_bytes < needed_bytes:
        yield Finding(
            Level.ERROR,
            check,
            "room",
            root.setting,
            f"{root.path} has {root.free_bytes / 1e9:,.1f} GB free, and {needed_bytes / 1e9:,.1f} are wanted",
            f"make room, or set {check}.min_free_bytes",
            facts={"free_bytes": root.free_bytes, "wanted_bytes": needed_bytes},
        )


def assess_program(program: Program, check: str) -> Iterator[Finding]:
    """A program that is missing, or too old."""
    if program.trouble is not None:
        what, remedy = program.trouble
        yield Finding(Level.ERROR, check, "program", program.name, what, remedy)


def assess_clocks(ahead_s: Mapping[str, float | None], most_s: float) -> Iterator[Finding]:
    """How far the servers' clocks are from this machine's. None: the server could not be asked."""
    for name, ahead in ahead_s.items():
        if ahead is not None and abs(ahead) > most_s:
            way = "ahead of" if ahead > 0 else "behind"
            yield Finding(
                Level.ERROR if abs(ahead) > 5 * most_s else Level.WARNING,
                _CLOCKS,
                "skew",
                name,
                f"the clock of {name} is {abs(ahead):,.1f} s {way} this machine's",
                "set it by NTP: lag in seconds, expiries and notices are told by these clocks",
                facts={"ahead_s": round(ahead, 3)},
            )


def assess_sessions(users: Mapping[str, int] | None, agent: bool) -> Iterator[Finding]:
    """Sessions that are open now. None: the mapping has none."""
    if users is None:
        return
    if count := sum(users.values()):
        yield Finding(
            Level.WARNING,
            _SESSIONS,
            "active",
            "sessions",
            f"{count:,} sessions of {len(users):,} users are open now",
            "tell their users (`tandem sessions notify`) and wait for them (`tandem sessions wait`), or move them live",
            count=count,
            facts={"users": len(users)},
        )
    if not agent:
        yield Finding(
            Level.NOTE,
            _SESSIONS,
            "agent",
            "sessions.agent_url",
            "no agent is named that sessions are moved to",
            "give ACP_AGENT_URL, or leave sessions where they are",
        )
