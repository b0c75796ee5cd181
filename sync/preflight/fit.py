"""What a scan has counted, judged into findings. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from connectors.postgres.facts import TableFacts
from consumers.mapping.plan import Plan
from sync.preflight import schema
from sync.preflight.equality import unknown_in
from sync.preflight.findings import Example, Finding, Level
from sync.preflight.inspect import MOST_BYTES
from sync.preflight.links import Broken
from sync.preflight.scan import Group, ScanReport
from sync.preflight.tally import Kind, Misfits, Tally

CHECK = "data"
#: a document from half of what MongoDB takes on, an array from this many elements on, is told
LARGE_BYTES = MOST_BYTES // 2
LONG_ARRAY = 1_000

_WHAT = {
    "value": "a value without a faithful form",
    "too-large": f"documents over MongoDB's {MOST_BYTES >> 20} MB",
    "validator": "the validator refuses them",
    "not-bson": "BSON cannot hold them",
    "deep": "nested deeper than MongoDB allows",
    "event-too-large": "their events are larger than the topics take, and would stop the connector",
}
_REMEDY = {
    "value": "mend the rows, give the column a policy, or omit it in the mapping",
    "too-large": "embed less: make the child table a collection of its own with a reference, or omit a column",
    "validator": 'mend the rows, or let the validator allow them ([string, "null"] for a column that may be NULL)',
    "not-bson": "mend the rows, or omit the column in the mapping",
    "deep": "store it flatter, or omit the column in the mapping",
    "event-too-large": "set REPLICA IDENTITY DEFAULT, or keep such values out of the table",
}


def assess(report: ScanReport, plan: Plan, facts: Mapping[str, TableFacts]) -> Iterator[Finding]:
    """Every finding about the data."""
    for place, error in report.failed.items():
        yield Finding(
            Level.ERROR,
            CHECK,
            "unreadable",
            place,
            f"its rows cannot be read as the mapping wants them: {error.what}",
            "mend the row, or the condition in the mapping: the load would end with this too",
        )
    for name, tally in report.tallies.items():
        for kind, of in sorted(tally.misfits.items(), key=lambda pair: -pair[1].count):
            yield _misfit(kind, of)
        yield from _sizes(name, tally)
        yield from _arrays(name, tally, plan, facts)
        yield from _not_evaluated(name, plan)
        if not report.reading[name].whole:
            yield Finding(
                Level.UNKNOWN,
                CHECK,
                "sampled",
                name,
                f"read by sample ({report.extent.percent:g} %, seed {report.extent.seed}): what is rare, and"
                " duplicates, may be in the rest",
                "read every row with --full",
            )
    for group in sorted(report.groups, key=lambda g: (g.collection, g.index)):
        yield _repeated(group)
    for place, why in sorted(report.never.items()):
        yield Finding(
            Level.ERROR,
            CHECK,
            "reference-type",
            place,
            f"ids on both sides are computed from different types and never meet: {why}",
            "give both columns the same type",
        )
    for broken in sorted(report.broken, key=lambda b: b.link.place):
        yield from _broken(broken)


def _misfit(kind: Kind, of: Misfits) -> Finding:
    where = f"{kind.table}.{kind.column}" if kind.name == "value" else kind.column
    what = _WHAT[kind.name] if not kind.what else kind.what
    reason = (
        what
        if kind.name not in ("validator", "not-bson", "deep") or not kind.what
        else (f"{_WHAT[kind.name]}: {kind.what}")
    )
    parked = "" if kind.name == "event-too-large" else " would be parked"
    return Finding(
        Level.ERROR,
        CHECK,
        kind.name,
        f"{kind.place}" + (f" ({where})" if where else ""),
        f"{of.count:,} row{'s' if of.count != 1 else ''}{parked}: {reason}",
        _REMEDY[kind.name],
        of.count,
        tuple(of.examples),
        {
            "place": kind.place,
            "table": kind.table,
            "column": kind.column,
            "code": kind.code,
            "reason": kind.what,
        },
    )


def _sizes(name: str, tally: Tally) -> Iterator[Finding]:
    largest = tally.largest.all()
    if largest and MOST_BYTES >= largest[0][0] > LARGE_BYTES:
        yield Finding(
            Level.WARNING,
            CHECK,
            "large-document",
            name,
            f"the largest document has {largest[0][0]:,} bytes; MongoDB takes {MOST_BYTES:,}",
            "embed less, or keep large values elsewhere",
            examples=tuple(Example(key, f"{size:,} bytes") for size, key in largest if size > LARGE_BYTES),
            facts=dict(tally.sizes.as_dict()),
        )


def _arrays(name: str, tally: Tally, plan: Plan, facts: Mapping[str, TableFacts]) -> Iterator[Finding]:
    for array, lengths in tally.arrays.items():
        if lengths.most <= LONG_ARRAY:
            continue
        use = next(use for use in plan.staged(name) if use.array and ".".join(use.path) == array)
        of = facts.get(use.table.name)
        growth = of.inserts_per_day if of else None
        grows = f"; its table gains about {growth:,.0f} rows a day" if growth else ""
        known = lengths.as_dict()
        yield Finding(
            Level.WARNING,
            CHECK,
            "long-array",
            f"{name}.{array}",
            f"the longest array has {lengths.most:,} elements (half of all at most {known['p50']:,}, 99 of 100 at most"
            f" {known['p99']:,}){grows}: every change of one rewrites it whole, and it may outgrow 16 MB",
            "make the child table a collection of its own with a reference",
            examples=tuple(
                Example(key, f"{count:,} elements")
                for count, key in tally.longest[array].all()
                if count > LONG_ARRAY
            ),
            facts={**known, "inserts_per_day": growth},
        )


def _not_evaluated(name: str, plan: Plan) -> Iterator[Finding]:
    declared = plan.declared.collections[name]
    words = schema.unsupported({"properties": declared.validator.properties}) if declared.validator else set()
    if words:
        yield Finding(
            Level.UNKNOWN,
            CHECK,
            "validator",
            name,
            f"its validator uses {', '.join(sorted(words))}, which is not evaluated here",
            "rows that it refuses are parked by the load, with the reason",
        )
    for index in declared.indexes:
        if index.unique and index.partial and (operators := unknown_in(index.partial)):
            yield Finding(
                Level.UNKNOWN,
                CHECK,
                "partial-filter",
                f"{name}.{index.wire_name}",
                f"its partial filter uses {', '.join(sorted(operators))}, which is not evaluated here",
                "duplicates show when the index is built",
            )


def _repeated(group: Group) -> Finding:
    examples = tuple(
        Example(_key(keys[0]), "the same as " + ", ".join("/".join(_key(k)) for k in keys[1:]))
        for keys in group.keys
    )
    if group.index == "_id":
        what = f"{group.rows:,} rows would share {group.groups:,} `_id`s: only one of each would be there"
        remedy = "report this: give one of them another key"
    else:
        what = (
            f"{group.rows:,} rows share {group.groups:,} values that are one for MongoDB's unique index {group.index}:"
            " it cannot be built"
        )
        remedy = "mend the rows, give the index a `partial` filter, or make it not unique"
    kind = "id-collision" if group.index == "_id" else "duplicate"
    return Finding(
        Level.ERROR,
        CHECK,
        kind,
        f"{group.collection}.{group.index}",
        what,
        remedy,
        group.rows,
        examples,
        {"groups": group.groups},
    )


def _key(text: str) -> tuple[str, ...]:
    return tuple(str(part) for part in json.loads(text))


def _broken(broken: Broken) -> Iterator[Finding]:
    link, count = broken.link, broken.missing + broken.filtered
    if not count:
        return
    to = link.to.table.name
    parts = [f"{broken.missing:,} of them to a row that is not there"] if broken.missing else []
    parts += [f"{broken.filtered:,} to one that its filter leaves out"] if broken.filtered else []
    if link.embeds:
        what = f"{count:,} rows of {link.use.table.name} are in no document: {' and '.join(parts)} ({to})"
        remedy = (
            "see that nothing is lost that is needed: they are in no other collection unless it is mapped"
        )
    else:
        what = (
            f"{count:,} references lead to no document of {link.to.collection}: {' and '.join(parts)} ({to})"
        )
        remedy = "see that the application can live with them, or change the filter"
    yield Finding(
        Level.WARNING,
        CHECK,
        "orphan" if link.embeds else "dangling-reference",
        link.place,
        what,
        remedy,
        count,
        tuple(Example(key) for key in broken.examples),
        {"missing": broken.missing, "filtered": broken.filtered, "to": to},
    )
