"""The proposal as the text of a mapping file: YAML with comments, in a fixed order. Pure.

What stands in it, read as YAML, is `content(proposal)`: a test holds both together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from sync.init.proposal import ArrayProposal, CollectionProposal, Line, Proposal, Rows

#: longer than this, a mapping is written on lines of its own
_WIDTH = 110
_PLAIN = re.compile(r"^\$?[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*$")
#: what a YAML stream may hold unescaped on one line (YAML 1.1, c-printable without breaks)
_PRINTABLE = re.compile(r"[\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_STRINGS = yaml.SafeLoader.yaml_implicit_resolvers


def content(proposal: Proposal) -> dict[str, Any]:
    """What the file says, without its comments."""
    return {"version": 1, "collections": {c.name: _collection(c) for c in proposal.collections}}


def _rows(rows: Rows) -> dict[str, Any]:
    found: dict[str, Any] = {"from": rows.table}
    if rows.key is not None:
        found["key"] = rows.key.value
    if rows.renames:
        found["rename"] = {line.name: line.value for line in rows.renames}
    if rows.references:
        found["references"] = {line.name: line.value for line in rows.references}
    return found


def _array(array: ArrayProposal) -> dict[str, Any]:
    own = _rows(array.rows)
    inner = {"embed": {one.name: _array(one) for one in array.arrays}} if array.arrays else {}
    return {"from": own.pop("from"), "foreign_key": _one_or_list(array.foreign_key), **own, **inner}


def _collection(collection: CollectionProposal) -> dict[str, Any]:
    found = _rows(collection.rows)
    if collection.arrays:
        found["embed"] = {array.name: _array(array) for array in collection.arrays}
    if kept := [dict(line.index) for line in collection.indexes if line.index is not None]:
        found["indexes"] = kept
    validator: dict[str, Any] = {}
    if collection.validator.required:
        validator["required"] = list(collection.validator.required)
    if collection.validator.properties:
        validator["properties"] = {line.name: line.value for line in collection.validator.properties}
    if validator:
        found["validator"] = validator
    return found


def _one_or_list(columns: Sequence[str]) -> str | list[str]:
    return columns[0] if len(columns) == 1 else list(columns)


def render(proposal: Proposal, *, source: str = "") -> str:
    """The file's text. source: what it was read from, for the first line."""
    return "\n".join(_lines(proposal, source)) + "\n"


def _lines(proposal: Proposal, source: str) -> Iterator[str]:
    of = f" from {source}" if source else ""
    yield from comment(
        f"Proposed by `tandem init`{of}, of the schemas {', '.join(proposal.schemas)}. Every guess says why.",
        "Change what you like: docs/mapping.md has every option. Columns become fields in camelCase.",
        "Dates keep milliseconds; values that do not fit are parked, never changed: docs/types.md.",
    )
    yield "version: 1"
    yield "collections:"
    for number, collection in enumerate(proposal.collections):
        if number:
            yield ""
        yield from _collection_lines(collection)
    if proposal.left_out:
        yield ""
        yield from comment("Not mapped:", indent=2)
        for left in proposal.left_out:
            remedy = f"; to map it: {left.remedy}" if left.remedy else ""
            yield from comment(f"- {left.table}: {left.what}{remedy}", indent=2)


def _collection_lines(collection: CollectionProposal) -> Iterator[str]:
    yield from comment(*collection.about, indent=2)
    yield f"  {scalar(collection.name)}:"
    yield f"    from: {scalar(collection.rows.table)}"
    yield from _rows_lines(collection.rows, 4)
    yield from _array_lines(collection.arrays, 4)
    if any(line.index is not None for line in collection.indexes):
        yield "    indexes:"
    for line in collection.indexes:
        if line.index is not None:
            yield from _behind(f"      - {flow(line.index)}", line.why)
    yield from comment(*(f"index left out: {i.why}" for i in collection.indexes if i.index is None), indent=4)
    yield from _validator_lines(collection)


def _array_lines(arrays: Sequence[ArrayProposal], indent: int) -> Iterator[str]:
    pad = " " * indent
    if arrays:
        yield f"{pad}embed:"
    for array in arrays:
        yield from comment(f"{array.rows.table}: {array.why}", indent=indent + 2)
        yield f"{pad}  {scalar(array.name)}:"
        yield f"{pad}    from: {scalar(array.rows.table)}"
        yield f"{pad}    foreign_key: {flow(_one_or_list(array.foreign_key))}"
        yield from _rows_lines(array.rows, indent + 4)
        yield from _array_lines(array.arrays, indent + 4)


def _rows_lines(rows: Rows, indent: int) -> Iterator[str]:
    """rename and references; and the notes."""
    pad = " " * indent
    if rows.key is not None:
        yield from _behind(f"{pad}key: {flow(rows.key.value)}", rows.key.why)
    yield from comment(*rows.notes, indent=indent)
    for option, lines in (("rename", rows.renames), ("references", rows.references)):
        if lines:
            yield f"{pad}{option}:"
            for line in lines:
                yield from _behind(f"{pad}  {scalar(line.name)}: {flow(line.value)}", line.why)


def _validator_lines(collection: CollectionProposal) -> Iterator[str]:
    validator = collection.validator
    if validator.required or validator.properties:
        yield "    validator:"
    if validator.required:
        yield from _long("required", list(validator.required), 6)
    if validator.properties:
        yield "      properties:"
    for line in validator.properties:
        yield from _property(line)


def _property(line: Line) -> Iterator[str]:
    text = f"        {scalar(line.name)}: {flow(line.value)}"
    if len(text) <= _WIDTH or not isinstance(line.value, Mapping):
        yield from _behind(text, line.why)
        return
    yield from _behind(f"        {scalar(line.name)}:", line.why)
    yield from _block(line.value, 10)


def _block(value: Mapping[str, Any], indent: int) -> Iterator[str]:
    """A mapping on lines of its own, as deep as it has to be."""
    pad = " " * indent
    for key, inner in value.items():
        if isinstance(inner, Mapping) and len(f"{pad}{scalar(key)}: {flow(inner)}") > _WIDTH:
            yield f"{pad}{scalar(key)}:"
            yield from _block(inner, indent + 2)
        else:
            yield from _long(key, inner, indent)


def _long(key: str, value: Any, indent: int) -> Iterator[str]:
    """`key: value` on one line, or a list's members on lines of their own."""
    pad = " " * indent
    text = f"{pad}{scalar(key)}: {flow(value)}"
    if len(text) <= _WIDTH or not isinstance(value, list):
        yield text
        return
    yield f"{pad}{scalar(key)}:"
    yield from (f"{pad}  - {flow(member)}" for member in value)


def _behind(text: str, why: str) -> Iterator[str]:
    """A line with its reason behind it, or above where there is no room."""
    said = one_line(why)
    if not said:
        yield text
    elif len(text) + len(said) + 3 <= _WIDTH + 20:
        yield f"{text} # {said}"
    else:
        yield f"{' ' * (len(text) - len(text.lstrip()))}# {said}"
        yield text


def comment(*lines: str, indent: int = 0) -> Iterator[str]:
    """Comment lines; a text of several lines becomes several."""
    for text in lines:
        for part in text.splitlines() or [""]:
            if said := one_line(part):
                yield f"{' ' * indent}# {said}"


def one_line(text: str) -> str:
    """The text on one line, with an escape for what a YAML stream may not hold."""
    return "".join(c if _PRINTABLE.match(c) else _escaped(c) for c in " ".join(text.split()))


def _escaped(char: str) -> str:
    number = ord(char)
    return (
        f"\\x{number:02X}"
        if number < 0x100
        else f"\\u{number:04X}"
        if number < 0x10000
        else f"\\U{number:08X}"
    )


def scalar(value: Any) -> str:
    """One value that is no collection, as YAML on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    text = str(value)
    return text if _PLAIN.fullmatch(text) and not _means_else(text) else f'"{_quoted(text)}"'


def _means_else(text: str) -> bool:
    """Whether YAML would read a plain text as something that is no string (yes, null, 1e3)."""
    return any(pattern.match(text) for _, pattern in _STRINGS.get(text[0], ()))


def _quoted(text: str) -> str:
    return "".join(f"\\{c}" if c in '"\\' else c if _PRINTABLE.match(c) else _escaped(c) for c in text)


def flow(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(k)}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(flow(v) for v in value) + "]"
    return scalar(value)


def summary(proposal: Proposal) -> Iterable[str]:
    """What was proposed, for a person, a line each."""
    counts = proposal.counts()
    yield (
        f"{counts['collections']} collections, {counts['embedded']} tables embedded, {counts['references']} references,"
        f" {counts['indexes']} indexes ({counts['indexes_left_out']} left out), {counts['renames']} renames"
    )
    for collection in proposal.collections:
        for array in collection.arrays:
            yield from _told(array, collection.name)
    for left in proposal.left_out:
        yield f"not mapped: {left.table}: {left.what}" + (f"; {left.remedy}" if left.remedy else "")


def _told(array: ArrayProposal, place: str) -> Iterator[str]:
    yield f"embedded: {array.rows.table} in {place}.{array.name}: {array.why}"
    for inner in array.arrays:
        yield from _told(inner, f"{place}.{array.name}")
