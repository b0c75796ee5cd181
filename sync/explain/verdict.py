"""One line that a person understands, from what is known of a document. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sync.explain.facts import EventFact, Facts

_REMOVALS = ("delete", "tombstone", "truncate")


@dataclass(frozen=True, slots=True)
class Verdict:
    """ok: the document says what its row says, or is rightly not there. why: what may be the cause, or what to do."""

    ok: bool
    what: str
    why: tuple[str, ...] = ()


def verdict(facts: Facts) -> Verdict:
    """What to tell first."""
    row = row_name(facts)
    if not facts.key:
        if not facts.document_there:
            return Verdict(True, f"there is no such document, and no row of {facts.table} has this _id")
        cause = "" if facts.sync is not None else ": tandem did not write it"
        return Verdict(
            False,
            f"no row of {facts.table} has this _id{cause}",
            ("`tandem verify --repair` removes it, with --remove-foreign what tandem did not write",),
        )
    if facts.document_there and facts.expected_there:
        return _both(facts, row)
    if facts.expected_there:
        if facts.expired:
            return Verdict(True, f"not there: a TTL index lets go of {row} by now", ())
        return Verdict(False, f"missing: {row} is there, and has no document", _causes(facts))
    if facts.document_there:
        return Verdict(False, f"too much: {_no_document(facts, row)}, and there is one", _causes(facts))
    return Verdict(True, f"rightly not there: {_no_document(facts, row)}")


def row_name(facts: Facts) -> str:
    """`public.teams team_id=7`."""
    return " ".join([facts.table, *(f"{column}={value}" for column, value in facts.key.items())])


def _both(facts: Facts, row: str) -> Verdict:
    wrong = [one.name for one in facts.fields if one.differs is not None]
    if facts.sync_differs is not None:
        wrong.append("_sync")
    if not wrong:
        waiting = [p for p in facts.parked if p.own]
        note = ("an event of this row is parked all the same",) if waiting else ()
        return Verdict(True, f"agrees with {row} as of {facts.lsn}", note)
    number = f"{len(wrong)} field{'s' if len(wrong) > 1 else ''}"
    return Verdict(False, f"differs from {row} in {number}: {', '.join(wrong)}", _causes(facts))


def _no_document(facts: Facts, row: str) -> str:
    if facts.row is not None:
        truth = "unknown" if facts.passes is None else "false"
        return f"{row} does not pass its filter (`{facts.where}` is {truth})"
    gone = last_removal(facts)
    if gone is None:
        return f"there is no row {row}"
    when = f" at {moment(gone.committed_ms)}" if gone.committed_ms else ""
    return f"there is no row {row}: deleted{when} (LSN {gone.lsn}, {gone.partition} offset {gone.offset})"


def last_removal(facts: Facts) -> EventFact | None:
    """The event that removed the row, where nothing came after it."""
    own = [one for one in facts.events if one.own]
    if not own or own[-1].op not in _REMOVALS:
        return None
    removals = [one for one in own if one.op in _REMOVALS]
    return next((one for one in reversed(removals) if one.op != "tombstone"), removals[-1])


def _causes(facts: Facts) -> tuple[str, ...]:
    """What may be behind a difference, the likeliest first."""
    found: list[str] = []
    for one in facts.parked:
        whose = "an event of this row" if one.own else f"an event of {one.id}"
        found.append(f"{whose} is parked ({one.parked_class}): `tandem dead-letters retry '{one.id}'`")
    if facts.parked_unknown:
        found.append(
            f"{facts.parked_unknown} records are parked that nobody can read: `tandem dead-letters list`"
        )
    if facts.held:
        found.append(f"held by a load or a reload: {', '.join(facts.held)}")
    found += [f"a job is pending: {job}" for job in facts.jobs]
    late = [one for one in facts.events if not one.applied]
    if late:
        found.append(f"{len(late)} events that were found here are not applied yet: look again in a moment")
    elif facts.behind:
        found.append(f"{facts.behind:,} records of its tables are not applied yet: look again in a moment")
    if facts.document_there and facts.sync is None:
        found.append("somebody else wrote it: it has no _sync")
    if not found:
        found.append(
            "no event is on its way: somebody wrote into the document, or the row changed without an event."
            " `tandem verify --repair` makes it anew"
        )
    return tuple(found)


def moment(ms: int) -> str:
    """A time for people."""
    return datetime.fromtimestamp(ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
