"""The mapping as declared: what the YAML file says, checked for itself, with the line of each mistake."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from connectors.errors import MappingInvalid

Path_ = tuple[str | int, ...]


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Columns = Annotated[tuple[str, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
Named = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
FieldName = Annotated[str, Field(pattern=r"^[^.$\x00][^.\x00]*$")]
FieldNames = Annotated[tuple[FieldName, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
TableName = Annotated[str, Field(pattern=r"^[^.\x00]+\.[^.\x00]+$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Reference(_Part):
    """A foreign key that becomes the computed `_id` of the document it points to; null where any column is NULL."""

    #: The columns that hold the key of the collection pointed to, in that key's order.
    columns: Columns = Field(alias="column")
    #: The collection pointed to; its source table's ids are computed.
    to: str
    #: Also keep the PostgreSQL values, in these fields: one for each column.
    keep: FieldNames | tuple[()] = ()

    @model_validator(mode="after")
    def _each_is_kept(self) -> Reference:
        if self.keep and len(self.keep) != len(self.columns):
            raise ValueError(f"'keep' needs a field for each of the {len(self.columns)} columns")
        return self

    @property
    def kept(self) -> tuple[tuple[str, str], ...]:
        """(field, column) of what is kept besides."""
        return tuple(zip(self.keep, self.columns, strict=False))


class Prefix(_Part):
    """Paths that lie under one folder are moved to another. Whole parts only: `/old` is not in `/older`."""

    from_: Annotated[str, Field(alias="from", pattern=r"^/")]
    to: Annotated[str, Field(pattern=r"^/")]
    #: What is inside of FROM/private/USER/ moves to TO/private/USER/WORKSPACES/, where `tandem files` puts it.
    workspaces: Annotated[str, Field(pattern=r"^saved/migration_[A-Za-z0-9._-]+$")] | None = None

    @property
    def folders(self) -> tuple[str, str]:
        """Both without a slash at their end; the root is empty."""
        return self.from_.rstrip("/"), self.to.rstrip("/")


class Rewrite(_Part):
    """A conversion of a text."""

    prefix: Prefix


#: the name of a policy of the column's type (docs/types.md), or what is done to a text
Conversion = str | Rewrite


def _null_is_no_policy(value: Any) -> Any:
    if value is None:
        raise ValueError("this is YAML's null, not the name of a policy")
    return value


class Shape(_Part):
    """How the rows of one table become documents, or elements of an array."""

    table: TableName = Field(alias="from")
    #: What tells its rows apart, where that is not the primary key; the same wherever the table is used.
    key: Columns | None = None
    #: A condition in the SQL subset of `filters`; a row for which it is not true is not there.
    where: str | None = None
    rename: dict[str, FieldName] = {}
    omit: tuple[str, ...] = ()
    #: the columns that get a field; all others are omitted
    only: Columns | None = None
    #: field -> what is written instead of null, where the field's column is NULL
    defaults: dict[FieldName, Any] = {}
    constants: dict[FieldName, Any] = {}
    #: field -> expression in the SQL subset over the row's columns.
    computed: dict[FieldName, str] = {}
    references: dict[FieldName, Reference] = {}
    #: column -> how its values become BSON, where it is not the default of its type
    convert: dict[str, Annotated[Conversion, BeforeValidator(_null_is_no_policy)]] = {}
    #: columns whose values nobody is shown; what becomes of them is the same, so it is no part of the digest
    secret: Named = Field(default=(), exclude=True)

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Shape:
        _only_or_omit(self)
        return self


def _only_or_omit(shape: Shape | Collection) -> None:
    if shape.only is not None and shape.omit:
        raise ValueError("'only' and 'omit' say the same in two ways: give one of them")


class Embed(Shape):
    """Rows of a child table as an array in their parent's document."""

    #: The child's columns that hold the parent's primary key, in that key's order.
    foreign_key: Columns
    #: Columns of the child; its primary key is appended, so that the order is total.
    order_by: Columns | tuple[()] = ()
    #: Arrays inside of each element, of rows that belong to the element's row.
    embed: dict[FieldName, Embed] = {}

    @property
    def tables(self) -> tuple[str, ...]:
        """Its own and those inside of it."""
        return (self.table, *(t for inner in self.embed.values() for t in inner.tables))


class Copy(Shape):
    """One row of a parent table as an object in each document that points to it; null where it is not there."""

    #: The columns of the collection's own table that hold the parent's key, in that key's order.
    foreign_key: Columns


class Index(_Part):
    """One index of a collection. keys: field -> 1, -1, or a kind such as `text` or `2dsphere`."""

    keys: dict[str, int | str] = Field(min_length=1)
    unique: bool = False
    #: A TTL index: seconds after the date in the one key field.
    expire_after_s: int | None = Field(default=None, ge=0)
    partial: dict[str, Any] | None = None
    name: str | None = None

    @property
    def wire_name(self) -> str:
        """The name given, or MongoDB's default one: `a_1_b_-1`."""
        return self.name or "_".join(f"{field}_{kind}" for field, kind in self.keys.items())


class VectorSearch(_Part):
    """An Atlas vector search index."""

    name: str
    path: str
    dimensions: int = Field(ge=1, le=8192)
    similarity: Literal["cosine", "euclidean", "dotProduct"] = "cosine"


class Validator(_Part):
    """The collection's $jsonSchema, less its `bsonType: object`."""

    required: tuple[str, ...] = ()
    properties: dict[str, Any] = {}


OnSchemaChange = Literal["ignore", "apply", "stop"]


class Collection(_Part):
    """One MongoDB collection. Without `from` only its indexes and validator are made."""

    table: TableName | None = Field(default=None, alias="from")
    id: Literal["objectid"] = "objectid"
    key: Columns | None = None
    where: str | None = None
    rename: dict[str, FieldName] = {}
    omit: tuple[str, ...] = ()
    only: Columns | None = None
    defaults: dict[FieldName, Any] = {}
    constants: dict[FieldName, Any] = {}
    computed: dict[FieldName, str] = {}
    references: dict[FieldName, Reference] = {}
    convert: dict[str, Annotated[Conversion, BeforeValidator(_null_is_no_policy)]] = {}
    secret: Named = Field(default=(), exclude=True)
    embed: dict[FieldName, Embed] = {}
    copies: dict[FieldName, Copy] = Field(default={}, alias="copy")
    indexes: tuple[Index, ...] = ()
    vector_search: tuple[VectorSearch, ...] = ()
    validator: Validator | None = None
    #: What is done when a table of it changes; the file's own where not given.
    on_schema_change: OnSchemaChange | None = None

    @model_validator(mode="after")
    def _rows_need_a_table(self) -> Collection:
        options = (
            "key",
            "where",
            "rename",
            "omit",
            "only",
            "defaults",
            "constants",
            "computed",
            "references",
            "convert",
            "secret",
        )
        for name, option in (*zip(options, options, strict=True), ("embed", "embed"), ("copies", "copy")):
            if self.table is None and getattr(self, name):
                raise ValueError(f"'{option}' needs 'from': the table whose rows it is about")
        _only_or_omit(self)
        return self

    @property
    def shape(self) -> Shape | None:
        """How its table's rows become documents; None for a collection that no table feeds."""
        if self.table is None:
            return None
        return Shape.model_construct(**{name: getattr(self, name) for name in Shape.model_fields})

    @property
    def tables(self) -> tuple[str, ...]:
        """Every table that feeds it, its own first, without repetition."""
        own = (self.table,) if self.table else ()
        embedded = (table for embed in self.embed.values() for table in embed.tables)
        return tuple(dict.fromkeys((*own, *embedded, *(copy.table for copy in self.copies.values()))))


class Mapping_(_Part):
    """The whole file."""

    version: Literal[1]
    #: ignore: new columns are left out. apply: they are taken in, rows are read again. stop: the consumers stop.
    on_schema_change: OnSchemaChange = "stop"
    collections: dict[Annotated[str, Field(pattern=r"^[^$\x00.][^$\x00]*$")], Collection] = Field(
        min_length=1
    )

    def _references(self) -> Iterator[tuple[Path_, Reference]]:
        for path, shape in self.shapes():
            for field, reference in shape.references.items():
                yield (*path, "references", field), reference

    def dangling(self) -> list[tuple[Path_, str]]:
        """References that lead nowhere, with where they stand."""
        known = [name for name, collection in self.collections.items() if collection.table]
        return [
            (path, f"'{reference.to}' is no collection with a table (there are: {', '.join(known)})")
            for path, reference in self._references()
            if reference.to not in known
        ]

    def shapes(self) -> Iterator[tuple[Path_, Shape]]:
        """Every use of a table, with where it stands."""
        for name, collection in self.collections.items():
            shape = collection.shape
            if shape is not None:
                yield ("collections", name), shape
            yield from _embedded(("collections", name), collection.embed)
            for field, copy in collection.copies.items():
                yield ("collections", name, "copy", field), copy

    def keys(self) -> dict[str, tuple[str, ...]]:
        """The keys that are declared, by table."""
        return {shape.table: shape.key for _, shape in self.shapes() if shape.key is not None}

    def torn_keys(self) -> Iterator[tuple[Path_, str]]:
        """Keys that differ between uses of a table, with where they stand."""
        declared = self.keys()
        for path, shape in self.shapes():
            if shape.key is not None and shape.key != declared[shape.table]:
                yield (*path, "key"), f"{shape.table} has another key elsewhere in this file"
            elif shape.key is not None and len(set(shape.key)) < len(shape.key):
                yield (*path, "key"), "a column stands here twice"

    @property
    def tables(self) -> tuple[str, ...]:
        """Every source table, without repetition, in the order of the file."""
        return tuple(dict.fromkeys(t for c in self.collections.values() for t in c.tables))

    def load_groups(self) -> list[tuple[str, ...]]:
        """Names of collections that share tables, so are held and let go together, in the order of the file."""
        groups: list[tuple[set[str], list[str]]] = []
        for name, collection in self.collections.items():
            if collection.table is None:
                continue
            tables = set(collection.tables)
            mine = [group for group in groups if group[0] & tables]
            merged = tables.union(*(group[0] for group in mine))
            order = list(self.collections)
            names = sorted([*(member for group in mine for member in group[1]), name], key=order.index)
            groups = [*(group for group in groups if group not in mine), (merged, names)]
        return [tuple(names) for _, names in groups]


def _embedded(path: Path_, embeds: Mapping[str, Embed]) -> Iterator[tuple[Path_, Shape]]:
    for array, embed in embeds.items():
        yield (*path, "embed", array), embed
        yield from _embedded((*path, "embed", array), embed.embed)


def camel_case(column: str) -> str:
    """`nfs_workspace_path` -> `nfsWorkspacePath`. A name without an inner underscore stays as it is."""
    head, *rest = column.split("_") if column.strip("_") else [column]
    return head + "".join(part[:1].upper() + part[1:] for part in rest)


def load(path: Path) -> Mapping_:
    """Read and check a mapping file. Raises MappingInvalid with file and line of every mistake."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MappingInvalid(
            f"there is no mapping file {path}",
            remedy="give its path with --mapping FILE, or write one: docs/mapping.md",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise MappingInvalid(
            f"{path} cannot be read: {error}", remedy="give a readable UTF-8 file"
        ) from error
    return parse(text, str(path))


def parse(text: str, name: str = "mapping") -> Mapping_:
    """Check the text of a mapping file. Raises MappingInvalid with the line of every mistake."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = (error.problem_mark.line + 1) if error.problem_mark else 1
        raise invalid(name, [(line, str(error.problem))]) from None
    except yaml.YAMLError as error:
        raise invalid(name, [(1, str(error))]) from None
    if node is None or not isinstance(content, dict):
        raise invalid(name, [(1, "the file is not a mapping with 'version' and 'collections'")])
    try:
        mapping = Mapping_.model_validate(content)
    except ValidationError as error:
        found = [(line_of(node, tuple(e["loc"])), _plain(e)) for e in error.errors(include_url=False)]
        raise invalid(name, found) from None
    if wrong := [*mapping.dangling(), *mapping.torn_keys()]:
        raise invalid(name, [(line_of(node, path), what) for path, what in wrong])
    return mapping


class _UniqueKeys(yaml.SafeLoader):
    """YAML says that keys are unique; its loaders keep the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"'{key}' stands here twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def invalid(name: str, found: Sequence[tuple[int, str]]) -> MappingInvalid:
    """The error for mistakes at these lines (1-based)."""
    lines = [f"{name}:{line}: {what}" for line, what in sorted(set(found))]
    return MappingInvalid(
        "\n".join(lines), remedy="correct the mapping file; docs/mapping.md lists every option"
    )


def line_of(node: yaml.Node | None, path: Path_) -> int:
    """The 1-based line of the deepest part of path that the file has."""
    line = 1
    for step in path:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(step):
                    line, node = key.start_mark.line + 1, value
                    break
            else:
                continue  # a name of pydantic's own, or a key that is missing
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
    return line


class Lines:
    """Where things stand in a mapping file, for mistakes that show only against the source."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self._node = yaml.compose(text, Loader=yaml.SafeLoader)

    @classmethod
    def of(cls, path: Path) -> Lines:
        """Of a file that `load` has read."""
        return cls(path.read_text(encoding="utf-8"), str(path))

    def line(self, *path: str | int) -> int:
        """The line of a place such as ("collections", "teams", "embed", "members", "where")."""
        return line_of(self._node, path)

    def invalid(self, found: Sequence[tuple[Path_, str]]) -> MappingInvalid:
        """The error for mistakes at these places."""
        return invalid(self.name, [(self.line(*path), what) for path, what in found])


def _plain(error: Mapping[str, Any]) -> str:
    place = ".".join(str(step) for step in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown option '{error['loc'][-1]}' (at {place})"
    if error["type"] == "missing":
        return f"'{error['loc'][-1]}' is missing (at {place})"
    message = re.sub(r"^Value error, ", "", str(error["msg"]))
    return f"{message} (at {place})" if place else message
