"""One segment, written and read: an Avro Object Container File (Apache Avro 1.12 specification, "Object Container
Files").

Any reader of such files reads it; its header names partition and offset too, so a file without its manifest is of use.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import IO, Any

import fastavro
from fastavro.write import Writer

from connectors.archive import forms
from connectors.archive.forms import Form
from connectors.archive.manifest import Segment
from connectors.errors import ArchiveDamaged, ArchiveRefused
from connectors.events import Entry
from connectors.positions import Partition

#: Avro's names of the codecs
CODECS = {"zstd": "zstandard", "deflate": "deflate"}
#: of records before they are compressed
_BLOCK_BYTES = 256 << 10
_META = "tandem."
DIGEST_BYTES = 32


@contextmanager
def written(file: Path) -> Iterator[None]:
    """The system's troubles with a file that is being written. Raises ArchiveRefused."""
    try:
        yield
    except OSError as error:
        raise ArchiveRefused(
            f"{file} cannot be written: {error.strerror or error}",
            remedy="make room there, or give this user the right to write; the same command goes on where it was",
        ) from error


class SegmentWriter:
    """A segment that is being written. start: the offset after what the segment before it has."""

    def __init__(
        self, file: Path, home: Partition, start: int, form: Form, codec: str, table: str = ""
    ) -> None:
        self.file, self.home, self.start, self.form = file, home, start, form
        self.records = self.odd = 0
        self.first = self.last = self.from_ms = self.to_ms = 0
        self.low: int | None = None
        self.high: int | None = None
        self.began = time.monotonic()
        self.reason = ""
        self._out = file.open("w+b")
        about = {"topic": home.topic, "partition": str(home.partition), "start": str(start), "table": table}
        self._writer = Writer(
            self._out,
            fastavro.parse_schema(form.schema()),
            codec=CODECS[codec],
            sync_interval=_BLOCK_BYTES,
            metadata={f"{_META}{name}": value for name, value in about.items()},
        )

    @property
    def bytes(self) -> int:
        """Of what is in the file; up to a block more is to come."""
        return self._out.tell()

    def add(self, entry: Entry, key: Any, value: Any) -> None:
        """One more record. key, value: as `forms.loaded` gives them."""
        datum = forms.encode(self.form, entry, key, value)
        self._writer.write(datum)
        record = entry.record
        if not self.records:
            self.first, self.from_ms, self.to_ms = record.offset, record.timestamp_ms, record.timestamp_ms
        self.last = record.offset
        self.from_ms = min(self.from_ms, record.timestamp_ms)
        self.to_ms = max(self.to_ms, record.timestamp_ms)
        self.records += 1
        if datum["why"]:
            self.odd += 1
            self.reason = self.reason or f"offset {record.offset}: {datum['why']}"
        if (lsn := lsn_of(value)) is not None:
            self.low = lsn if self.low is None else min(self.low, lsn)
            self.high = lsn if self.high is None else max(self.high, lsn)

    def finish(self, next_: int) -> Segment:
        """End the file and have it on the disk. next_: the offset that the next segment goes on at."""
        self._writer.flush()
        self._out.flush()
        os.fsync(self._out.fileno())
        size = self._out.tell()
        self._out.seek(0)
        digest = digest_of(self._out)
        self._out.close()
        return Segment(
            self.start, next_, self.records, self.first, self.last, self.odd, self.from_ms, self.to_ms,
            self.low, self.high, size, digest, datetime.now(UTC).isoformat(timespec="milliseconds"),
        )  # fmt: skip

    def abandon(self) -> None:
        """Leave it: its records are read from Kafka again."""
        with suppress(OSError):  # where there is no room, the last of it cannot be written either
            self._out.close()
        self.file.unlink(missing_ok=True)


def lsn_of(value: Any) -> int | None:
    """The LSN of an event, where it has one."""
    source = value.get("source") if type(value) is dict else None
    lsn = source.get("lsn") if type(source) is dict else None
    return lsn if type(lsn) is int else None


def digest_of(file: IO[bytes]) -> str:
    """Of what is left to be read."""
    return file_digest(file, lambda: blake2b(digest_size=DIGEST_BYTES)).hexdigest()  # type: ignore[arg-type]


def read(file: IO[bytes], home: Partition, name: str) -> Iterator[Entry]:
    """The records of a segment, in their order. Raises ArchiveDamaged where it ends too early or cannot be read."""
    try:
        reader = fastavro.reader(file, return_record_name=True)
        form = forms.form_of(json.loads(reader.metadata["avro.schema"]))
        for datum in reader:
            yield forms.decode(form, home, datum)  # type: ignore[arg-type]
    except Exception as error:  # fastavro lets out whatever the bytes lead to
        raise damaged(name, f"{type(error).__name__}: {error}".splitlines()[0][:200]) from error


def damaged(name: str, why: str) -> ArchiveDamaged:
    """A file of the archive that cannot be used."""
    return ArchiveDamaged(
        f"{name} of the archive is damaged: {why}",
        remedy="bring it back from a copy; else make a new base with `tandem archive base`, which the tail after it"
        " goes on from",
    )


def adopted(file: IO[bytes], home: Partition, start: int, name: str) -> Segment:
    """The manifest's entry of a whole segment that has none: its process ended between the two. What lay behind its
    last record, markers of transactions, is read again. Raises ArchiveDamaged."""
    records = odd = first = last = from_ms = to_ms = 0
    low: int | None = None
    high: int | None = None
    for entry in read(file, home, name):
        record = entry.record
        if not records:
            first, from_ms, to_ms = record.offset, record.timestamp_ms, record.timestamp_ms
        last = record.offset
        from_ms, to_ms = min(from_ms, record.timestamp_ms), max(to_ms, record.timestamp_ms)
        records += 1
        if (lsn := lsn_of(forms.loaded(record.value))) is not None:
            low, high = (lsn, lsn) if low is None or high is None else (min(low, lsn), max(high, lsn))
    if not records or first < start:
        raise damaged(name, "it has no record, or one from before its beginning")
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    ended = datetime.now(UTC).isoformat(timespec="milliseconds")
    return Segment(
        start, last + 1, records, first, last, odd, from_ms, to_ms, low, high, size, digest_of(file), ended
    )
