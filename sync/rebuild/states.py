"""Where a rebuild stands, and what a command does then. Pure.

    begin -> preparing -> loading -> following -> holding -> renaming -> (none, with what was replaced kept)
                                        |   ^________|
                                        +-> reached (with --until: it ends here)

Each phase is in the journal before its first act. Killed in any, the next run goes on there: before `renaming` what was
held is let go, and the shadow follows again; from it on the swap is carried to its end, whatever was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from connectors.errors import Misused, Refused
from sync.rebuild.cut import Moment


class Phase(StrEnum):
    """The journal's `phase`."""

    NONE = "none"
    PREPARING = "preparing"
    LOADING = "loading"
    FOLLOWING = "following"
    REACHED = "reached"
    HOLDING = "holding"
    RENAMING = "renaming"
    DISCARDING = "discarding"


class Step(StrEnum):
    """What a command does first."""

    BEGIN = "begin"
    GO_ON = "go on"
    FINISH = "finish the swap"
    DISCARD = "discard"
    UNDO = "undo"
    DROP_KEPT = "drop what is kept"


SOURCES = ("snapshot", "topics", "archive")


@dataclass(frozen=True)
class Asked:
    """What `tandem rebuild` is asked for. source: None: as before, or the snapshot. keep: what a swap replaces."""

    collections: Sequence[str] = ()
    source: str | None = None
    until: str | None = None
    swap: bool = False
    undo: bool = False
    discard: bool = False
    drop_kept: bool = False
    keep: bool = True
    replace_existing: bool = False


def check(asked: Asked) -> None:
    """Raises Misused for what cannot be."""
    if asked.source is not None and asked.source not in SOURCES:
        raise Misused(f"--from {asked.source} is unknown", remedy=f"give one of: {', '.join(SOURCES)}")
    if sum((asked.discard, asked.undo, asked.drop_kept)) > 1:
        raise Misused("--undo, --discard and --drop-kept exclude each other", remedy="give one of them")
    if (asked.discard or asked.drop_kept) and (
        asked.swap or asked.collections or asked.until or asked.source
    ):
        raise Misused("--discard and --drop-kept stand alone", remedy="give nothing beside them")
    if asked.undo and (asked.collections or asked.until or asked.source):
        raise Misused(
            "--undo takes back the last swap, whole",
            remedy="give no collection, --from or --until beside it",
        )
    if asked.until is not None:
        Moment.parse(asked.until)
    if asked.until is not None and asked.swap:
        raise Misused(
            "--until and --swap exclude each other: the live collections would be sent back in time, and the"
            " consumers would go on from now",
            remedy="leave --swap out: the shadow holds the state as of then, to be read",
        )
    if asked.until is not None and asked.source in (None, "snapshot"):
        raise Misused(
            "--until wants a source that has the past: a snapshot shows the present",
            remedy="give --from archive, or --from topics",
        )


def decide(known: Mapping[str, Any] | None, asked: Asked) -> Step:
    """What comes first. known: the journal. Raises Misused, Refused."""
    check(asked)
    known = known or {}
    phase, kept = Phase(known.get("phase", Phase.NONE)), known.get("kept")
    if phase is Phase.RENAMING:
        if asked.discard:
            raise Refused(
                "the swap has begun to rename: it can only be carried to its end",
                remedy="run `tandem rebuild`, then `tandem rebuild --undo`",
            )
        return Step.FINISH
    if phase is Phase.DISCARDING or asked.discard:
        if phase is Phase.NONE:
            raise Refused(
                "there is no rebuild to discard", remedy="what a swap has kept goes with --drop-kept"
            )
        return Step.DISCARD
    if asked.drop_kept:
        if not kept:
            raise Refused("nothing is kept of a swap", remedy="nothing is to be done")
        return Step.DROP_KEPT
    if phase is Phase.NONE:
        return _begin(kept, asked)
    return _go_on(known, phase, asked)


def _begin(kept: Mapping[str, Any] | None, asked: Asked) -> Step:
    if asked.undo:
        if not kept:
            raise Refused(
                "there is no swap to undo: nothing is kept",
                remedy="rebuild with the mapping that you want, and swap",
            )
        return Step.UNDO
    if not asked.collections:
        raise Misused("no rebuild is under way", remedy="name the collections to rebuild")
    return Step.BEGIN


def _go_on(known: Mapping[str, Any], phase: Phase, asked: Asked) -> Step:
    mine = list(known["collections"])
    other = [
        *(["collections"] if asked.collections and sorted(asked.collections) != sorted(mine) else []),
        *(["--from"] if asked.source is not None and asked.source != known["source"] else []),
        *(["--until"] if asked.until is not None and asked.until != known.get("until") else []),
        *(["--undo"] if asked.undo and known["source"] != "kept" else []),
    ]
    if other:
        raise Refused(
            f"a rebuild of {', '.join(mine)} from {known['source']} is {phase}: it has other {', '.join(other)}",
            remedy="`tandem rebuild` goes on with it, `tandem rebuild --discard` throws it away",
        )
    if asked.swap and known.get("until"):
        raise Refused(
            f"the shadow is as of {known['until']}, and is not to be swapped in",
            remedy="`tandem rebuild --discard`, then rebuild without --until",
        )
    return Step.GO_ON


def moves(prefix: str, live: Sequence[str], shadow: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """What a swap renames, and what of the live side is dropped, as nothing takes its name. live: names of what it
    replaces, shadow: names without prefix that there are. Staged rows come first: an application reads none."""
    ordered = sorted(shadow, key=lambda name: (not name.startswith("_tandem_"), name))
    return [(prefix + name, name) for name in ordered], sorted(set(live) - set(shadow))
