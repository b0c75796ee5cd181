"""The archive, put together from its rooms: kept, given a base, looked at, checked, pruned."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager

from connectors.archive.archive import Archive
from connectors.archive.manifest import Identity
from connectors.debezium import config
from connectors.errors import Misused, SettingsInvalid, SyncError
from connectors.kafka.admin import Admin
from connectors.kafka.follow import Follower
from connectors.positions import Partition
from connectors.postgres import slots
from connectors.postgres.client import connect, translated
from consumers.mapping import spec
from sync.archive.base import BaseMaker, BaseReport, tables_of
from sync.archive.keep import Archiver, Kept, Topic
from sync.archive.prune import Going, planned, prune
from sync.archive.status import ArchiveStatus, look
from sync.archive.verify import ArchiveReport, Check, Watch
from sync.control.pulse import Every, Pulse
from sync.observe.metrics import ArchiveMetrics, Served
from sync.settings import Settings
from sync.snapshot.load import await_shown

Log = Callable[..., None]
_PRUNE_EVERY_S = 600.0


def archive_of(settings: Settings) -> Archive:
    """The archive that the settings name. Raises SettingsInvalid."""
    if settings.archive.url is None:
        raise SettingsInvalid(
            "archive.url is missing (looked for TANDEM_ARCHIVE__URL and tandem.yaml)",
            remedy="set it to a folder, or to a URL such as s3://bucket/path (docs/archive.md)",
        )
    return Archive.at(settings.archive.url)


def run(
    settings: Settings,
    log: Log,
    stop: Callable[[], bool],
    *,
    until_caught_up: bool = False,
    accept_gaps: bool = False,
    metrics: str | None = None,
) -> Kept:
    """Keep what the topics hold, until stopped, or caught up with what was in them when this began."""
    archive = archive_of(settings)
    counted = ArchiveMetrics()
    with ExitStack() as stack:
        if metrics is not None:
            stack.enter_context(Served(counted.registry, metrics, lambda at: log("metrics", at=at)))
        admin = stack.enter_context(Admin(settings.kafka))
        first = _topics(settings, admin)
        alone = stack.enter_context(archive.store.locked("topics"))
        archive.claim(_identity(settings))
        stream = stack.enter_context(closing(Follower(settings.kafka, settings.archive_group)))
        archiver = Archiver(
            archive,
            stream,
            settings.archive,
            topics=_Topics(settings, admin, log),
            columns=lambda table: _columns(settings, table),
            log=log,
            compaction_lag_ms=settings.kafka.compaction_lag_hours * 3_600_000,
            accept_gaps=accept_gaps,
        )
        homes = [Partition(t.name, n) for t in first for n in range(t.partitions)]
        until = admin.ends(homes) if until_caught_up else None
        log("archiving", place=archive.store.place, topics=len(first), locked=alone)
        beats = _Beats(settings, archive, log, archiver, counted, stop)
        return archiver.run(beats, until)


class _Topics:
    """The topics of the mapped tables, as they are now; by the last mapping that could be read. Raises TopicMissing."""

    def __init__(self, settings: Settings, admin: Admin, log: Log) -> None:
        self.settings, self.admin, self.log = settings, admin, log
        self._tables = _tables(settings)

    def __call__(self) -> list[Topic]:
        try:
            self._tables = _tables(self.settings)
        except Misused as error:  # somebody is at work on the file
            self.log(f"going on by the mapping as it was: {error.what}")
        return _there(self.admin, self._tables)


class _Beats:
    """What an archiver does besides, between two polls: metrics, and what retention lets go. Called as its `stop`."""

    def __init__(
        self,
        settings: Settings,
        archive: Archive,
        log: Log,
        archiver: Archiver,
        counted: ArchiveMetrics,
        stop: Callable[[], bool],
    ) -> None:
        self.settings, self.archive, self.log = settings, archive, log
        self.archiver, self.counted, self.stop = archiver, counted, stop
        self._pruned = time.monotonic()

    def __call__(self) -> bool:
        self.counted.take(self.archiver.kept)
        if time.monotonic() - self._pruned > _PRUNE_EVERY_S:
            self._pruned = time.monotonic()
            try:
                going = planned(self.archive, self.settings.archive)
                if going.bases or going.segments:
                    self.archiver.prune(going)
                    self.log(
                        "removed what retention lets go", **{k: str(v) for k, v in going.as_dict().items()}
                    )
                if going.over:
                    self.log(
                        "the archive is over archive.retention_bytes: a new base lets more go",
                        bytes=going.over,
                    )
            except SyncError as error:
                self.log(f"retention: {error.what}", remedy=error.remedy)
        return self.stop()


def _topics(settings: Settings, admin: Admin) -> list[Topic]:
    """The topics of the mapped tables, as they are now. Raises TopicMissing."""
    return _there(admin, _tables(settings))


def _tables(settings: Settings) -> dict[str, str]:
    declared = spec.load(settings.mapping)
    return {config.topic_of(settings.kafka.topic_prefix, table): table for table in declared.tables}


def _there(admin: Admin, tables: Mapping[str, str]) -> list[Topic]:
    return [Topic(f.name, f.partitions, f.id, tables[f.name]) for f in admin.demand(tables).values()]


def _identity(settings: Settings) -> Identity:
    with connect(settings.source, name="tandem archive") as session, translated(settings.source):
        facts = slots.server_facts(session)
    return Identity(facts.system_identifier, facts.database, settings.kafka.topic_prefix)


def _columns(settings: Settings, table: str) -> Mapping[str, str]:
    return {c.name: c.type for found in tables_of(settings.source, [table]) for c in found.columns}


@contextmanager
def _base_maker(settings: Settings, stop: Callable[[], bool]) -> Iterator[BaseMaker]:
    archive = archive_of(settings)
    with ExitStack() as stack:
        admin = stack.enter_context(Admin(settings.kafka))
        archive.claim(_identity(settings))
        topics = _topics(settings, admin)
        homes = [Partition(t.name, n) for t in topics for n in range(t.partitions)]

        def shown() -> None:
            with connect(settings.source, name="tandem archive") as session, translated(settings.source):
                await_shown(session)

        yield BaseMaker(
            archive,
            settings.source,
            tables_of(settings.source, spec.load(settings.mapping).tables),
            settings.archive,
            workers=settings.limits.load_workers,
            ends=lambda: admin.ends(homes),
            shown=shown,
            stop=stop,
        )


def base(
    settings: Settings,
    log: Log,
    stop: Callable[[], bool],
    watch: Callable[[BaseReport], None] = lambda _: None,
) -> BaseReport:
    """Make a base. watch: called twice a second with the report as it is."""
    with (
        _base_maker(settings, stop) as maker,
        Pulse([Every("progress", 0.5, lambda: watch(maker.report), log)]),
    ):
        maker.make()
        return maker.report


def status(settings: Settings) -> ArchiveStatus:
    """How far the archive is, beside where its topics are."""
    archive = archive_of(settings)
    with ExitStack() as stack:
        admin = stack.enter_context(Admin(settings.kafka))
        topics = _topics(settings, admin)
        homes = [Partition(t.name, n) for t in topics for n in range(t.partitions)]
        stream = stack.enter_context(closing(Follower(settings.kafka, settings.archive_group)))
        return look(archive, stream.begins(homes), admin.ends(homes), seen(admin, settings))


def seen(admin: Admin, settings: Settings) -> int | None:
    """When an archiver last told where it is, seconds since 1970; None: never."""
    notes = [int(note) for _, note in admin.told(settings.archive_group).values() if note.isdigit()]
    return max(notes, default=None)


def verify(settings: Settings, *, deep: bool, watch: Watch, stop: Callable[[], bool]) -> ArchiveReport:
    """Whether it is whole. Needs no server but the archive's own."""
    return Check(archive_of(settings), deep=deep, watch=watch, stop=stop).run()


def pruned(settings: Settings, *, execute: bool) -> Going:
    """Remove what retention lets go; without execute only say what. Raises ArchiveTaken beside an archiver."""
    archive = archive_of(settings)
    archive.demand()
    if not execute:
        return planned(archive, settings.archive)
    with archive.store.locked("topics"):
        going = planned(archive, settings.archive)
        prune(archive, going)
        return going


__all__ = ["archive_of", "base", "pruned", "run", "seen", "status", "verify"]
