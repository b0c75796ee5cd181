"""What has to be so before a step, from what was seen. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sync.passage import Condition

#: tables that are named
_SHOWN = 4


def fence_is(standing: str, wanted: Sequence[str], open_: Sequence[str]) -> Condition:
    """The fence, as far as this step needs it. open: tables that have lost it."""
    name = f"the fence is {' or '.join(wanted)}"
    if open_ and wanted != ("none", "lapsed"):
        return Condition(name, False, f"tables without it: {', '.join(open_[:_SHOWN])}")
    return Condition(name, standing in wanted, f"it is {standing}")


def flags_are(names: Sequence[str], says: Mapping[str, bool | None], trouble: str) -> Condition:
    """The flags can be read, and all of them say PostgreSQL. says: for `on` and `off`, whether all flags say that."""
    name = "the flags can be read, and say PostgreSQL"
    if not names:
        return Condition(name, False, "no flag is named that the cutover turns: set flags.names")
    if trouble:
        return Condition(name, None, trouble)
    if says.get("off"):
        return Condition(name, True, ", ".join(names))
    if says.get("on"):
        return Condition(name, False, f"they say MongoDB already: {', '.join(names)}")
    return Condition(name, False, f"some say MongoDB, or a part of the users: {', '.join(names)}")


def way_back_is(wanted: str, trouble: Sequence[str]) -> Condition:
    """There is one, or it is gone without. trouble: what stands in its way, where one is wanted."""
    name = "there is a way back"
    if wanted == "none":
        return Condition(
            name,
            True,
            "none, as cutover.way_back says: what is written after the flags turn stays in MongoDB",
        )
    if trouble:
        more = "; what is written after the flags turn would be lost by going back. Without: cutover.way_back: none"
        return Condition(name, False, "; ".join(trouble) + more)
    return Condition(
        name, True, "the reverse path is ready: what is written to MongoDB will reach PostgreSQL"
    )


def agrees(differences: int, complete: bool, told: str) -> Condition:
    """A verification."""
    return Condition("both databases say the same", complete and differences == 0, told)
