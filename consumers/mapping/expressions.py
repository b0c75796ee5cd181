"""The SQL subset of the mapping file as a small tree of our own, and the PostgreSQL text of each node.

Both sides work from this tree and never from the raw text, so a difference between the parser's grammar and
PostgreSQL's cannot come between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Node:
    """One part of an expression."""

    def sql(self) -> str:
        """PostgreSQL text that means this node wherever it is put."""
        raise NotImplementedError

    def parts(self) -> Iterator[Node]:
        """The nodes directly below."""
        for field in fields(self):
            value = getattr(self, field.name)
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, Node):
                    yield part


@dataclass(frozen=True, slots=True)
class Column(Node):
    name: str

    def sql(self) -> str:
        return '"' + self.name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True)
class Null(Node):
    def sql(self) -> str:
        return "NULL"


@dataclass(frozen=True, slots=True)
class Text(Node):
    """A quoted literal: it takes the type of what it stands beside."""

    value: str

    def sql(self) -> str:
        return _quoted(self.value)


@dataclass(frozen=True, slots=True)
class Number(Node):
    text: str

    def sql(self) -> str:
        return f"({self.text})" if self.text.startswith("-") else self.text


@dataclass(frozen=True, slots=True)
class Boolean(Node):
    value: bool

    def sql(self) -> str:
        return "true" if self.value else "false"


@dataclass(frozen=True, slots=True)
class Typed(Node):
    """A literal with its type; text None is NULL."""

    type: str
    text: str | None

    def sql(self) -> str:
        return f"CAST({'NULL' if self.text is None else _quoted(self.text)} AS {self.type})"


@dataclass(frozen=True, slots=True)
class Interval(Node):
    us: int

    def sql(self) -> str:
        return f"INTERVAL '{self.us} microseconds'"


@dataclass(frozen=True, slots=True)
class Now(Node):
    def sql(self) -> str:
        return "now()"


@dataclass(frozen=True, slots=True)
class Not(Node):
    of: Node

    def sql(self) -> str:
        return f"(NOT {self.of.sql()})"


@dataclass(frozen=True, slots=True)
class Many(Node):
    """AND, OR and ||: as long as they like, without nesting."""

    word: str
    of: tuple[Node, ...]

    def sql(self) -> str:
        return "(" + f" {self.word} ".join(part.sql() for part in self.of) + ")"


@dataclass(frozen=True, slots=True)
class Is(Node):
    """IS TRUE, IS FALSE; with None IS NULL, which is IS UNKNOWN too."""

    of: Node
    value: bool | None

    def sql(self) -> str:
        if self.value is None:
            # IS NULL is also true for a composite value of nothing but NULLs; this is not.
            return f"({self.of.sql()} IS NOT DISTINCT FROM NULL)"
        return f"({self.of.sql()} IS {'TRUE' if self.value else 'FALSE'})"


@dataclass(frozen=True, slots=True)
class Binary(Node):
    """A comparison, also IS DISTINCT FROM, or arithmetic."""

    operator: str
    left: Node
    right: Node

    def sql(self) -> str:
        return f"({self.left.sql()} {self.operator} {self.right.sql()})"


@dataclass(frozen=True, slots=True)
class Negative(Node):
    of: Node

    def sql(self) -> str:
        return f"(- {self.of.sql()})"


@dataclass(frozen=True, slots=True)
class In(Node):
    of: Node
    items: tuple[Node, ...]

    def sql(self) -> str:
        return f"({self.of.sql()} IN ({', '.join(item.sql() for item in self.items)}))"


@dataclass(frozen=True, slots=True)
class Like(Node):
    of: Node
    pattern: str

    def sql(self) -> str:
        return f"({self.of.sql()} LIKE {_quoted(self.pattern)})"


@dataclass(frozen=True, slots=True)
class Call(Node):
    """coalesce, nullif."""

    name: str
    of: tuple[Node, ...]

    def sql(self) -> str:
        return f"{self.name}({', '.join(part.sql() for part in self.of)})"


@dataclass(frozen=True, slots=True)
class Case(Node):
    whens: tuple[Node, ...]
    thens: tuple[Node, ...]
    default: Node

    def sql(self) -> str:
        pairs = zip(self.whens, self.thens, strict=True)
        branches = " ".join(f"WHEN {when.sql()} THEN {then.sql()}" for when, then in pairs)
        return f"CASE {branches} ELSE {self.default.sql()} END"


def _quoted(text: str) -> str:
    plain = text.replace("'", "''")
    # the same whatever standard_conforming_strings is
    return "E'" + plain.replace("\\", "\\\\") + "'" if "\\" in plain else f"'{plain}'"


def walk(node: Node) -> Iterator[Node]:
    """The node and every node below it."""
    yield node
    for part in node.parts():
        yield from walk(part)
