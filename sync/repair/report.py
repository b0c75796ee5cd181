"""What a repair does, or did, for people and for `--json`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from bson import ObjectId
from rich.console import Console
from rich.markup import escape

from connectors.mongo.shown import short, shown
from consumers.repair import Act, Repaired

#: so many lines of a document's changes are shown
_LINES = 8
MASKED = "***"


class Found(Protocol):
    """A difference, as verification has it."""

    @property
    def kind(self) -> str:
        """`missing`, `extra`, `differs`, or `in flux`."""

    @property
    def collection(self) -> str:
        """Of the document."""

    @property
    def id(self) -> str:
        """Its `_id`, as text."""

    @property
    def key(self) -> str | None:
        """Of its row, as parked events write it; None where the `_id` tells none."""

    @property
    def field(self) -> str | None:
        """What differs; None: the whole document."""


@dataclass(slots=True)
class Suspect:
    """One document with all that differs in it. key: of its row, as parked events write it. in_flux: nothing of it is
    confirmed, since its row changed whenever it was looked at."""

    collection: str
    id: str
    key: str | None
    differs: list[str]
    in_flux: bool


def suspects(found: Iterable[Found]) -> list[Suspect]:
    """The documents of these differences, each once, in their order."""
    by_place: dict[tuple[str, str], Suspect] = {}
    for one in found:
        flux = one.kind == "in flux"
        of = by_place.setdefault(
            (one.collection, one.id), Suspect(one.collection, one.id, one.key, [], in_flux=True)
        )
        of.key = of.key or one.key
        of.differs.append(one.field or str(one.kind))
        of.in_flux = of.in_flux and flux
    return list(by_place.values())


def ids_meant(text: str) -> list[Any]:
    """The `_id`s that a difference may mean by this text, where no key tells it."""
    meant: list[Any] = [text]
    if ObjectId.is_valid(text):
        meant.insert(0, ObjectId(text))
    if text.removeprefix("-").isdigit() and len(text) < 19:
        meant.append(int(text))
    return meant


@dataclass(slots=True)
class Line:
    """One document. would, or did: act. verdict: of the verification afterwards, `mended`, `still differs`, `in flux`;
    None where nothing was done. changes: what it becomes, first lines."""

    suspect: Suspect
    act: str
    rows: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    reason: str = ""
    remedy: str = ""
    verdict: str | None = None
    still: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        of = self.suspect
        return {
            "collection": of.collection,
            "id": of.id,
            "key": of.key,
            "differs": of.differs,
            "act": self.act,
            "read": list(self.rows),
            "changes": list(self.changes),
            "reason": self.reason or None,
            "remedy": self.remedy or None,
            "verdict": self.verdict,
            "still": list(self.still),
        }


@dataclass(slots=True)
class RepairReport:
    """A repair. left: differences that were too many to be listed, so nothing was done about them."""

    execute: bool
    lsn: str
    lines: list[Line] = field(default_factory=list)
    left: int = 0

    @property
    def ok(self) -> bool:
        """Nothing differs, any more."""
        return not self.left and all(line.verdict == "mended" for line in self.lines)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "ok": self.ok,
            "dry_run": not self.execute,
            "lsn": self.lsn,
            "documents": [line.as_dict() for line in self.lines],
            "left": self.left,
        }


def line_of(suspect: Suspect, done: Repaired, masked: Callable[[str], bool]) -> Line:
    """What became of one, or would. masked: fields, by their path without indices, whose values are not shown."""
    changes: tuple[str, ...] = ()
    if done.act in (Act.WRITTEN, Act.REMOVED):
        changes = tuple(changed(done.before, done.after, masked))
    return Line(suspect, str(done.act), done.rows, changes, done.reason, done.remedy)


def changed(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, masked: Callable[[str], bool]
) -> list[str]:
    """A document's changes: `- ` what goes, `+ ` what comes. `_sync`, which says when it was written, is left out but
    for the form that it had."""
    if before is None or after is None:
        whole = before if after is None else after
        sign = "-" if after is None else "+"
        lines = [
            f"{sign} {name}: {_shown(name, value, masked)}"
            for name, value in (whole or {}).items()
            if name not in ("_id", "_sync")
        ]
        return _first(lines or [f"{sign} a document without fields"])
    lines = []
    for name in dict.fromkeys((*after, *before)):
        if name in ("_id", "_sync"):
            continue
        lines += _parted(name, before, after, masked)
    if not isinstance(before.get("_sync"), dict):
        lines.append(f"+ _sync: {shown(after.get('_sync'))}")
    return _first(lines or ["nothing but _sync: it was as its rows say by then"])


def _parted(
    name: str, before: Mapping[str, Any], after: Mapping[str, Any], masked: Callable[[str], bool]
) -> list[str]:
    if name in before and name in after:
        old, new = before[name], after[name]
        if shown(old) == shown(new):
            return []
        if isinstance(old, list) and isinstance(new, list) and _all_objects(old) and _all_objects(new):
            return _elements(name, old, new, masked)
    lines = [f"- {name}: {_shown(name, before[name], masked)}"] if name in before else []
    return lines + ([f"+ {name}: {_shown(name, after[name], masked)}"] if name in after else [])


def _all_objects(values: list[Any]) -> bool:
    return all(isinstance(value, dict) for value in values)


def _elements(name: str, old: list[Any], new: list[Any], masked: Callable[[str], bool]) -> list[str]:
    lines = [f"  {name}: {len(old)} elements, then {len(new)}"]
    for at in range(max(len(old), len(new))):
        one, other = (values[at] if at < len(values) else None for values in (old, new))
        if shown(one) == shown(other):
            continue
        lines += [f"- {name}[{at}]: {_shown(name, one, masked)}"] if at < len(old) else []
        lines += [f"+ {name}[{at}]: {_shown(name, other, masked)}"] if at < len(new) else []
    return lines


def _first(lines: list[str]) -> list[str]:
    return lines if len(lines) <= _LINES else [*lines[:_LINES], f"… and {len(lines) - _LINES} more lines"]


def _shown(path: str, value: Any, masked: Callable[[str], bool]) -> str:
    return short(_mask(path, value, masked))


def _mask(path: str, value: Any, masked: Callable[[str], bool]) -> Any:
    if masked(path):
        return MASKED
    if isinstance(value, dict):
        return {name: _mask(f"{path}.{name}", inner, masked) for name, inner in value.items()}
    if isinstance(value, list):
        return [_mask(path, inner, masked) for inner in value]
    return value


# -- for people --------------------------------------------------------------------------------------------------
_COLORS = {"mended": "green", "still differs": "red", "in flux": "yellow"}


def render(report: RepairReport, console: Console) -> None:
    """Print a report."""
    for line in report.lines:
        _print_line(line, console, report.execute)
    if report.left:
        console.print(f"{report.left:,} more differences are left: run it again")
    if not report.lines:
        console.print(f"[green]nothing differs[/] as of {report.lsn}")
    elif not report.execute:
        console.print("nothing is changed yet: repeat with --execute")
    else:
        told = [
            f"{sum(line.verdict == verdict for line in report.lines)} {verdict}"
            for verdict in _COLORS
            if any(line.verdict == verdict for line in report.lines)
        ]
        left = sum(line.verdict is None for line in report.lines)
        console.print(", ".join([*told, *([f"{left} not repaired"] if left else [])]))


def _print_line(line: Line, console: Console, execute: bool) -> None:
    of = line.suspect
    key = f" key {of.key}" if of.key else ""
    head = f"[{_COLORS[line.verdict]}]{line.verdict}[/] " if line.verdict else ""
    act = line.act if execute or line.reason else f"would be {line.act}"
    console.print(
        f"{head}[bold]{escape(f'{of.collection} {of.id}')}[/]{escape(key)}: {act}"
        + (escape(f": {line.reason}") if line.reason else ""),
        soft_wrap=True,
    )
    if line.remedy:
        console.print(f"  what to do: {escape(line.remedy)}", soft_wrap=True)
    if line.rows:
        more = f" and {len(line.rows) - 6} more" if len(line.rows) > 6 else ""
        console.print(f"  [dim]read: {escape(', '.join(line.rows[:6]))}{more}[/]", soft_wrap=True)
    for change in line.changes:
        console.print(f"    {escape(change)}", soft_wrap=True)
    for still in line.still:
        console.print(f"  still: {escape(still)}", soft_wrap=True)
