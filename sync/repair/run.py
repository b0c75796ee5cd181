"""From differences to documents made anew, and verified again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from consumers.mapping.plan import Key, Plan
from consumers.repair import Act, Repaired, Repairer, Wanted
from sync.repair.report import Found, Line, RepairReport, Suspect, ids_meant, line_of, suspects

_BY_HAND = "remove it by hand, if nobody needs it"


class _Shown(Found):
    """A difference with what is told of it."""

    expected: str | None
    found: str | None


class Repair:
    """Repairs what differs. again: the differences that these documents have now, the kinds of which say whether their
    rows were at rest. there: those of these `_id`s that a collection has. masked: fields of a collection whose values
    are not shown."""

    def __init__(
        self,
        plan: Plan,
        repairer: Repairer,
        again: Callable[[Sequence[Wanted]], Sequence[Sequence[Any]]],
        there: Callable[[str, Sequence[Any]], Sequence[Any]],
        masked: Callable[[str, str], bool] = lambda collection, path: False,
    ) -> None:
        self._plan, self._repairer, self._again, self._there = plan, repairer, again, there
        self._masked = masked

    def run(
        self, found: Sequence[Found], lsn: str, *, execute: bool, tell: Callable[[str], None] = lambda _: None
    ) -> RepairReport:
        """Make the documents of these differences anew, or only say what each would become. Killed, it is run again:
        what was done by then is no longer found."""
        report = RepairReport(execute, lsn)
        todo: list[tuple[Suspect, Wanted]] = []
        for suspect in suspects(found):
            wanted = None if suspect.in_flux else self._wanted(suspect)
            if wanted is not None:
                todo.append((suspect, wanted))
            else:
                report.lines.append(_untouched(suspect))
        of = {(wanted.collection, wanted.id): suspect for suspect, wanted in todo}
        acted: list[tuple[Line, Wanted]] = []
        for done in self._repairer.repair([wanted for _, wanted in todo], keep=execute):
            line = self._line(of[done.wanted.collection, done.wanted.id], done)
            report.lines.append(line)
            if done.act in (Act.WRITTEN, Act.REMOVED, Act.ABSENT):
                acted.append((line, done.wanted))
            tell(f"{len(report.lines)} of {len(todo)} documents")
        if execute and acted:
            tell("verifying them again")
            for (line, _), still in zip(acted, self._again([wanted for _, wanted in acted]), strict=True):
                _judge(line, still)
        return report

    def _wanted(self, suspect: Suspect) -> Wanted | None:
        """The document itself, by its `_id`. None where it is not found."""
        use = self._plan.documents[suspect.collection]
        if suspect.key is not None:
            key = _key(use.table.key_from_texts, suspect.key)
            if key is not None and str(use.id_of(key)) == suspect.id:
                return Wanted(suspect.collection, use.id_of(key), key)
        there = [i for i in self._there(suspect.collection, ids_meant(suspect.id)) if str(i) == suspect.id]
        return Wanted(suspect.collection, there[0]) if len(there) == 1 else None

    def _line(self, suspect: Suspect, done: Repaired) -> Line:
        return line_of(suspect, done, lambda path: self._masked(suspect.collection, path))


def _key(read: Callable[[Sequence[str]], Key], text: str) -> Key | None:
    try:
        return read([str(value) for value in orjson.loads(text)])
    except ValueError:
        return None


def _untouched(suspect: Suspect) -> Line:
    if suspect.in_flux:
        reason = "its row changed whenever it was looked at"
        return Line(suspect, str(Act.BUSY), reason=reason, remedy="run it again", verdict="in flux")
    return Line(
        suspect,
        str(Act.FOREIGN),
        reason="it is no longer there, or has an _id of a type that tandem never writes",
        remedy=_BY_HAND,
    )


def _judge(line: Line, still: Sequence[_Shown]) -> None:
    if not still:
        line.verdict = "mended"
    elif all(one.kind == "in flux" for one in still):
        line.verdict = "in flux"
    else:
        line.verdict = "still differs"
    line.still = tuple(
        f"{one.field}: expected {one.expected}, found {one.found}" if one.field else str(one.kind)
        for one in still
    )
