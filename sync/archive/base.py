"""A base: every mapped table, with all its columns, as one snapshot of PostgreSQL shows it.

It is a command of its own and no part of `tandem snapshot`: a load that was killed goes on under a later snapshot,
so what it reads is of several moments; it reads only what its mapping needs; and whatever it would write besides
would make it slower while collections wait for it. A base can be made, and made anew, at any time beside everything
else.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from connectors.archive import manifest
from connectors.archive.archive import Archive
from connectors.archive.basefile import WIRES, BaseWriter
from connectors.archive.manifest import Base, BaseColumn, BaseFile, BaseTable
from connectors.archive.segment import written
from connectors.errors import Stopped
from connectors.positions import Partition
from connectors.postgres import catalog
from connectors.postgres.client import connect, translated
from connectors.postgres.rows import KeyRange, Selected, SnapshotReader, TableRead
from connectors.postgres.slots import ExportedSnapshot, export_snapshot
from connectors.settings import SourceEndpoint
from consumers.mapping.composed import codec_of
from sync.settings import Archive as ArchiveSettings

_TIME = "%Y%m%dT%H%M%SZ"
#: where nothing says whether another process makes one, what was begun so long ago is nobody's
_DEAD_AFTER = timedelta(hours=24)
#: rows between two looks at whether it is to stop, and at how large the file is
_EVERY = 500


@dataclass(slots=True)
class BaseReport:
    """A base that is made. rows: by table, so far."""

    name: str = ""
    lsn: str = ""
    seconds: float = 0.0
    bytes: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    swept: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "base": self.name,
            "lsn": self.lsn,
            "seconds": round(self.seconds, 2),
            "bytes": self.bytes,
            "rows": self.rows,
        }


class BaseMaker:
    """Makes one base. ends: of all partitions of the tables. shown: returns when PostgreSQL shows whatever was
    committed before."""

    def __init__(
        self,
        archive: Archive,
        source: SourceEndpoint,
        tables: Sequence[catalog.Table],
        settings: ArchiveSettings,
        *,
        workers: int,
        ends: Callable[[], Mapping[Partition, int]],
        shown: Callable[[], None],
        stop: Callable[[], bool],
    ) -> None:
        self.archive, self.source, self.tables, self.settings = archive, source, tables, settings
        self.workers, self.ends, self.shown, self.stop = workers, ends, shown, stop
        self.report = BaseReport()
        self._failed: list[BaseException] = []
        self._done: dict[str, BaseTable] = {}

    def make(self) -> Base:
        """Make it: it is there when all of it is. Raises Stopped, and what reading and writing raise.

        The order makes base and tail one: first where the topics end, then, when PostgreSQL shows all that was
        committed by then, the snapshot. So every record before these positions is in the base, and what comes after
        them brings it to any later state (docs/write-rule.md, clause 6: what is in it twice converges).
        """
        with self.archive.store.locked("bases") as alone:
            began = datetime.now(UTC)
            self._sweep(began, alone=alone)
            ends = self.ends()
            self.shown()
            with export_snapshot(self.source) as snapshot:
                name = f"{int(snapshot.lsn):016x}-{began.strftime(_TIME)}"
                self.report.name, self.report.lsn = name, str(snapshot.lsn)
                self._read_all(name, snapshot)
            base = Base(
                name,
                int(snapshot.lsn),
                began.isoformat(timespec="seconds"),
                datetime.now(UTC).isoformat(timespec="seconds"),
                {home.id: end for home, end in sorted(ends.items())},
                {table.name: self._done[table.name] for table in self.tables},
            )
            self.archive.save_base(base)
        self.report.bytes = base.bytes
        self.report.seconds = (datetime.now(UTC) - began).total_seconds()
        return base

    def _sweep(self, now: datetime, *, alone: bool) -> None:
        """Remove bases that did not come to their end."""
        for name in self.archive.partial_bases():
            begun = datetime.strptime(name.rpartition("-")[2], _TIME).replace(tzinfo=UTC)
            if alone or now - begun > _DEAD_AFTER:
                self.archive.remove_base(name)
                self.report.swept.append(name)

    def _read_all(self, name: str, snapshot: ExportedSnapshot) -> None:
        todo: queue.Queue[tuple[int, catalog.Table]] = queue.Queue()
        for number, table in enumerate(self.tables):
            self.report.rows[table.name] = 0
            todo.put((number, table))

        def work() -> None:
            try:
                reader = SnapshotReader(self.source, snapshot.name)
                try:
                    while not self._failed:
                        number, table = todo.get_nowait()
                        file = self.archive.store.spool(manifest.base_name(name, _path(number, 0)))
                        with written(file.parent):
                            made = self._read(reader, name, number, table, int(snapshot.lsn))
                        self._done[table.name] = made
                finally:
                    reader.close()
            except queue.Empty:
                return
            except BaseException as error:
                self._failed.append(error)

        threads = [threading.Thread(target=work, daemon=True, name=f"base {n}") for n in range(self.workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failed:
            raise self._failed[0]

    def _read(
        self, reader: SnapshotReader, base: str, number: int, table: catalog.Table, lsn: int
    ) -> BaseTable:
        """One table, in files of at most `segment_bytes`; of an empty one, one without rows."""
        columns = columns_of(table)
        read = TableRead(
            table.name,
            tuple(Selected(c.name, c.select, c.wire) for c in columns),
            table.key,
            tuple(column.cast for column in table.columns if column.name in table.key),
            alone=table.alone,
        )
        files: list[BaseFile] = []
        writer: BaseWriter | None = None
        try:
            for n, row in enumerate(reader.copy(read, KeyRange(None, None), None)):
                if n % _EVERY == 0:
                    self._go_on()
                    self.report.rows[table.name] = n
                    if writer is not None and writer.bytes >= self.settings.segment_bytes:
                        files.append(self._put(base, writer, number, len(files)))
                        writer = None
                if writer is None:
                    writer = self._writer(base, number, len(files), table.name, columns, lsn)
                writer.add(row)
            if writer is None:
                writer = self._writer(base, number, 0, table.name, columns, lsn)
            files.append(self._put(base, writer, number, len(files)))
        except BaseException:
            if writer is not None:
                writer.abandon()
            raise
        made = BaseTable(columns, table.key, tuple(files))
        self.report.rows[table.name] = made.rows
        return made

    def _go_on(self) -> None:
        if self.stop() or self._failed:
            raise Stopped(
                "the base was not made: it was stopped", remedy="`tandem archive base` begins it anew"
            )

    def _writer(
        self, base: str, number: int, part: int, table: str, columns: tuple[BaseColumn, ...], lsn: int
    ) -> BaseWriter:
        file = self.archive.store.spool(manifest.base_name(base, _path(number, part)))
        return BaseWriter(file, table, columns, lsn, self.settings.codec)

    def _put(self, base: str, writer: BaseWriter, number: int, part: int) -> BaseFile:
        made = writer.finish(_path(number, part))
        self.archive.store.put(manifest.base_name(base, made.path), writer.file)
        return made


def _path(number: int, part: int) -> str:
    return f"{number:03d}-{part:05d}.avro"


def columns_of(table: catalog.Table) -> tuple[BaseColumn, ...]:
    """How each column is read: as the plan reads it, whatever mapping there is."""
    found = []
    for column in table.columns:
        codec = codec_of(column.resolved)
        assert codec.wire in WIRES, codec.wire  # tests/unit/test_archive_base.py: of every codec
        found.append(BaseColumn(column.name, column.type, codec.select, codec.wire))
    return tuple(found)


def tables_of(source: SourceEndpoint, names: Sequence[str]) -> list[catalog.Table]:
    """The tables, as the catalog has them."""
    with connect(source, name="tandem archive") as session, translated(source):
        found = catalog.tables(session, names)
    return [found[name] for name in names if name in found]
