"""Rows of a base: a column is what a binary COPY gives for it, in an Avro field of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from uuid import UUID

import fastavro
from fastavro.write import Writer

from connectors.archive import forms, segment
from connectors.archive.manifest import BaseColumn, BaseFile

#: the type that a column's bytes are -> Avro's; any other is refused when the base is made
WIRES = {
    "int2": "int",
    "int4": "int",
    "int8": "long",
    "oid": "long",
    "bool": "boolean",
    "float4": "double",
    "float8": "double",
    "text": "string",
    "varchar": "string",
    "bpchar": "string",
    "name": "string",
    "bytea": "bytes",
    "uuid": "uuid",
}
_UUID = {"type": "fixed", "name": "Uuid", "size": 16}
_BLOCK_BYTES = 256 << 10


def schema(table: str, columns: Sequence[BaseColumn]) -> dict[str, Any]:
    """The Avro schema of a table's rows."""
    taken: set[str] = set()
    fields, seen = [], False
    for column in columns:
        avro = forms.avro_name(column.name, taken)
        taken.add(avro)
        kind: Any = WIRES[column.wire]
        if kind == "uuid":
            kind, seen = (_UUID if not seen else f"{forms.NAMESPACE}.Uuid"), True
        about = {"column": column.name, "sql": column.sql, "select": column.select, "wire": column.wire}
        fields.append({"name": avro, "type": ["null", kind], **about})
    return {"type": "record", "name": "Row", "namespace": forms.NAMESPACE, "doc": table, "fields": fields}


class BaseWriter:
    """A file of rows that is being written."""

    def __init__(self, file: Path, table: str, columns: Sequence[BaseColumn], lsn: int, codec: str) -> None:
        self.file, self.rows = file, 0
        made = schema(table, columns)
        self._names = [field["name"] for field in made["fields"]]
        self._out = file.open("w+b")
        self._writer = Writer(
            self._out,
            fastavro.parse_schema(made),
            codec=segment.CODECS[codec],
            sync_interval=_BLOCK_BYTES,
            metadata={"tandem.table": table, "tandem.lsn": str(lsn)},
        )

    @property
    def bytes(self) -> int:
        """Of what is in the file; up to a block more is to come."""
        return self._out.tell()

    def add(self, row: Sequence[Any]) -> None:
        """One more row, in the order of the columns."""
        self._writer.write(
            {
                name: value.bytes if isinstance(value, UUID) else value
                for name, value in zip(self._names, row, strict=True)
            }
        )
        self.rows += 1

    def finish(self, path: str) -> BaseFile:
        """End the file and have it on the disk. path: what it will be named below its base."""
        self._writer.flush()
        self._out.flush()
        os.fsync(self._out.fileno())
        size = self._out.tell()
        self._out.seek(0)
        digest = segment.digest_of(self._out)
        self._out.close()
        return BaseFile(path, self.rows, size, digest)

    def abandon(self) -> None:
        """Leave it."""
        with suppress(OSError):
            self._out.close()
        self.file.unlink(missing_ok=True)


def read(file: IO[bytes], name: str) -> Iterator[Mapping[str, Any]]:
    """The rows of a file, by column. Raises ArchiveDamaged."""
    try:
        reader = fastavro.reader(file)
        fields = json.loads(reader.metadata["avro.schema"])["fields"]
        names = [(field["name"], field["column"], field["wire"] == "uuid") for field in fields]
        for datum in reader:
            row: Any = datum
            yield {
                column: UUID(bytes=row[avro]) if uuid and row[avro] is not None else row[avro]
                for avro, column, uuid in names
            }
    except Exception as error:  # fastavro lets out whatever the bytes lead to
        raise segment.damaged(name, f"{type(error).__name__}: {error}".splitlines()[0][:200]) from error
