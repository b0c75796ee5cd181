"""A cohort that reads from MongoDB before the cutover, while everybody writes to PostgreSQL: held so until told to go
on.

Two flags make that safe: one says where users read (`flags.reads`), another where they write (`flags.names`). With one
flag for both, what the cohort writes to MongoDB would be written over by the next change of the row in PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime

from connectors.errors import CutoverState, GateClosed, SettingsInvalid
from connectors.mongo import client as mongo
from connectors.mongo import cohort as kept
from connectors.mongo import journal
from sync import controller, steps
from sync.flags.rules import Wanted
from sync.flags.run import Change
from sync.passage import Condition
from sync.settings import Settings

Log = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Held:
    """A cohort and its flags. executed: they are turned; else it was a rehearsal, or the conditions are not met."""

    cohort: str
    keys: int
    conditions: tuple[Condition, ...]
    changes: tuple[Change, ...] = ()
    executed: bool = False
    refusals: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Nothing stands in the way."""
        return not self.refusals

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "cohort": self.cohort,
            "keys": self.keys,
            "executed": self.executed,
            "conditions": [{"name": c.name, "ok": c.ok, "why": c.why} for c in self.conditions],
            "flags": [change.as_dict() for change in self.changes],
            "refusals": list(self.refusals),
        }


def hold(settings: Settings, name: str, log: Log, *, execute: bool) -> Held:
    """Let a cohort of flags.cohorts read from MongoDB. Safe to repeat, also with keys that were added to its file.

    Raises SettingsInvalid without flags.reads, CutoverState while a cutover is under way, and what the flags raise.
    """
    wished = settings.flags
    if not wished.reads:
        raise SettingsInvalid(
            "no flag says where users read: with one flag for reading and writing, what a cohort writes to MongoDB"
            " would be written over by the next change in PostgreSQL",
            remedy="give the application a flag for reading and name it in flags.reads; or cut over everybody at once",
        )
    if both := set(wished.reads) & set(wished.names):
        raise SettingsInvalid(
            f"{', '.join(sorted(both))}: named in flags.reads and in flags.names",
            remedy="name each flag once: flags.reads says where users read, flags.names where they write",
        )
    cohort = steps.cohort_of(wished, name, None)
    with closing(mongo.connect(settings.target, name="tandem cutover").client) as client:
        db = client[settings.target.database]
        _no_cutover(journal.current(db))
        conditions = tuple(controller.ready(settings, log))
        refusals = tuple(f"{c.name}: {c.why}" for c in conditions if c.ok is not True)
        with steps.flags_of(settings) as flags:
            wanted = Wanted(wished.on, cohort=cohort, key=wished.key)
            planned = tuple(flags.set(flag, wanted, rehearse=True) for flag in wished.reads)
            if not execute or refusals:
                return Held(name, len(cohort.keys), conditions, planned, refusals=refusals)
            kept.hold(db, name, len(cohort.keys), wished.reads, datetime.now(UTC))
            done = tuple(flags.set(flag, wanted) for flag in wished.reads)
    return Held(name, len(cohort.keys), conditions, done, executed=True)


def _no_cutover(known: dict[str, object] | None) -> None:
    if known is not None and str(known["state"]) not in ("done", "aborted"):
        raise CutoverState(
            f"the cutover {known['run']} has not ended: it is {known['state']}",
            remedy="`tandem cutover resume`, or `tandem cutover abort`",
        )
    if known is not None and str(known["state"]) == "done":
        raise CutoverState("the application is cut over already", remedy="see `tandem cutover status`")


def let_go(settings: Settings) -> str | None:
    """Let the cohort read from PostgreSQL again. Returns its name; None where none was held. Safe to repeat."""
    with closing(mongo.connect(settings.target, name="tandem cutover").client) as client:
        db = client[settings.target.database]
        known = kept.held(db)
        if known is None:
            return None
        with steps.flags_of(settings) as flags:
            flags.turn(known["flags"], settings.flags.off)
            if flags.says(known["flags"], settings.flags.off) is not True:
                raise GateClosed(
                    "the flags do not all say PostgreSQL when they are read back",
                    remedy="see `tandem flags list`, then run it again",
                )
        kept.let_go(db)
        return str(known["cohort"])


__all__ = ["Held", "hold", "let_go"]
