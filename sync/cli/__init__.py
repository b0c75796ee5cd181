"""The command `tandem`: parse, call `sync.app`, print. No logic here."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from connectors.errors import Broken, Misused, NotComplete, SyncError
from sync.cli import archive, backup, cutover, dead_letters, dev, files, flags, reverse, rollback, sessions
from sync.cli.control import pause, resume, throttle
from sync.cli.dashboard import dashboard
from sync.cli.demo import demo
from sync.cli.explain import explain
from sync.cli.init import init
from sync.cli.lag import lag
from sync.cli.options import Config, Json, MappingFile, Metrics
from sync.cli.options import read_settings as _settings
from sync.cli.output import (
    LoadProgress,
    err,
    log,
    out,
    print_error,
    print_health,
    print_json,
    print_load,
    print_outlook,
    print_reload,
    print_status,
    print_token,
)
from sync.cli.preflight import preflight
from sync.cli.rebuild import rebuild
from sync.cli.verify import verify

app = typer.Typer(
    name="tandem",
    help="Keeps MongoDB in step with PostgreSQL, then moves the application over without downtime.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(dev.app, name="dev")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(sessions.app, name="sessions")
app.add_typer(files.app, name="files")
app.add_typer(cutover.app, name="cutover")
app.add_typer(reverse.app, name="reverse")
app.add_typer(rollback.app, name="rollback")
app.add_typer(backup.app, name="backup")
app.add_typer(archive.app, name="archive")
app.add_typer(flags.app, name="flags")
app.command()(dashboard)
app.command()(demo)
app.command()(init)
app.command()(explain)
app.command()(preflight)
app.command()(lag)
app.command()(rebuild)
app.command()(verify)
for command in (pause, resume, throttle):
    app.command()(command)


@app.command()
def setup(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    drop_removed: Annotated[
        bool,
        typer.Option("--drop-removed", help="Drop the documents of collections that are no longer mapped."),
    ] = False,
) -> None:
    """Make publication, slot, topics, connector, collections, validators and indexes. Safe to repeat."""
    from sync import app as root

    report = root.setup(_settings(config, mapping), log, drop_removed=drop_removed)
    if json:
        print_json(report.as_dict())
        return
    for warning in report.warnings:
        err.print(f"[yellow]note[/] {warning}", soft_wrap=True)
    out.print("set up" if report.made else "set up already: nothing was missing")


@app.command()
def teardown(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    drop_collections: Annotated[
        bool,
        typer.Option("--drop-collections", help="Drop the mapped collections too, with their documents."),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it; without, only say what would be removed.")
    ] = False,
) -> None:
    """Remove connector, slot, publication, topics and tandem's own collections. A dry run unless --yes."""
    from sync import app as root

    settings = _settings(config, mapping)
    if not yes:
        what = (
            f"the connector {settings.connect.connector}, the slot {settings.source.slot}, the publication "
        )
        what += f"{settings.source.publication}, the topics {settings.kafka.topic_prefix}.*, tandem's own collections"
        what += " and the mapped collections with their documents" if drop_collections else ""
        if json:
            print_json({"dry_run": True, "would_remove": what})
        else:
            out.print(f"would remove {what}; repeat with --yes", soft_wrap=True)
        return
    done = root.teardown(settings, log, drop_collections=drop_collections)
    if json:
        print_json({"removed": done})
    else:
        out.print("removed " + ", ".join(done) if done else "nothing was there to be removed", soft_wrap=True)


@app.command()
def snapshot(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    replace_existing: Annotated[
        bool, typer.Option("--replace-existing", help="Remove documents that tandem did not write.")
    ] = False,
    metrics: Metrics = None,
) -> None:
    """Backfill: load every row, in parallel. Resumable; each collection streams when its own load has ended."""
    from sync import app as root

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both end it after the pieces in hand
    try:
        with LoadProgress() as progress:
            report = root.snapshot(
                _settings(config, mapping),
                log,
                replace_existing=replace_existing,
                watch=progress,
                metrics=metrics,
            )
    except KeyboardInterrupt:
        log("interrupted: run `tandem snapshot` again, it goes on where it was")
        raise
    if json:
        print_json(report.as_dict())
    else:
        print_load(report)


@app.command()
def reload(
    collections: Annotated[
        list[str] | None, typer.Argument(help="Collections to read again [default: what is due].")
    ] = None,
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what it would do, and for how long.")
    ] = False,
    metrics: Metrics = None,
) -> None:
    """Read rows again while the stream goes on: their tables stand still meanwhile. Resumable."""
    from sync import app as root
    from sync.snapshot.reload import Outlook

    with LoadProgress() as progress:
        report = root.reload(
            _settings(config, mapping),
            log,
            collections or (),
            dry_run=dry_run,
            watch=progress,
            metrics=metrics,
        )
    if json:
        print_json(report.as_dict())
    elif isinstance(report, Outlook):
        print_outlook(report)
    else:
        print_reload(report)


@app.command()
def heal(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also where the slot is there: it was made again by hand.")
    ] = False,
    metrics: Metrics = None,
) -> None:
    """A new slot in place of one that is gone or lost, and every row read again. Resumable."""
    from sync import app as root

    with LoadProgress() as progress:
        report = root.heal(_settings(config, mapping), log, force=force, watch=progress, metrics=metrics)
    if json:
        print_json(report.as_dict())
    else:
        print_reload(report)


@app.command()
def run(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="End when all is applied that is committed now.")
    ] = False,
    metrics: Metrics = None,
) -> None:
    """The consumers: apply changes until stopped. Several processes share the work."""
    from sync import app as root

    stopping: list[int] = []
    told = False

    def stop(
        number: int, _: object
    ) -> None:  # no log line: its lock may be held by what this has interrupted
        if stopping:  # asked twice: nothing is lost by ending in the middle of a batch
            os._exit(128 + number)
        stopping.append(number)

    def stopped() -> bool:
        nonlocal told
        if stopping and not told:
            told = True
            log("stopping after this batch", signal=signal.Signals(stopping[0]).name)
        return bool(stopping)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    consumers = root.Consumers(
        _settings(config, mapping), log, until_caught_up=until_caught_up, metrics=metrics
    )
    tally = consumers.run(stopped)
    names = ("events", "rows", "reread", "batches", "conflicts", "parked", "healed", "untangled")
    if json:
        print_json({name: getattr(tally, name) for name in names})
    else:
        out.print(f"applied {tally.events:,} events in {tally.batches:,} batches, {tally.parked} parked")


@app.command("wait-for")
def wait_for(
    target: Annotated[str, typer.Argument(help="`now`, or an LSN such as 16/B374D848.")],
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait [default: without end].")] = None,
) -> None:
    """Return when the target holds everything that was committed up to an LSN; print the token."""
    from sync import app as root

    token = root.wait_for(_settings(config, mapping), target, timeout)
    if json:
        print_json(token.as_dict())
    else:
        print_token(token)


@app.command()
def health(config: Config = None, mapping: MappingFile = None, json: Json = False) -> None:
    """Whether every component is in order, in five seconds. Exit 1 when one is not, or cannot be asked."""
    from sync import app as root

    report = root.status(_settings(config, mapping))
    if json:
        full = report.as_dict()
        print_json({"ok": report.healthy, "components": full["components"], "members": full["members"]})
    else:
        print_health(report)
    if not report.healthy:
        raise typer.Exit(1)


@app.command()
def status(config: Config = None, mapping: MappingFile = None, json: Json = False) -> None:
    """Every component, the lag, and how far each collection is. Exit 1 when something is not in order."""
    from sync import app as root

    report = root.status(_settings(config, mapping))
    if json:
        print_json(report.as_dict())
    else:
        print_status(report)
    if not report.ok:
        raise typer.Exit(1)


#: typer's class for a command line that it cannot read, which it does not export
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def main() -> None:
    """Run the command; errors that have a name are told without a traceback."""
    as_json = "--json" in sys.argv
    try:
        sys.exit(app(standalone_mode=not as_json))
    except SyncError as error:
        print_error(error, as_json=as_json)
        sys.exit(error.exit_code)
    except _UsageError as error:
        misused = Misused(error.format_message(), remedy="see `tandem COMMAND --help`")  # type: ignore[attr-defined]
        print_error(misused, as_json=True)
        sys.exit(misused.exit_code)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if (
            as_json
        ):  # an error of tandem itself: scripts get their document, people the traceback for the report
            what = f"tandem met an error that it does not know: {type(error).__name__}"
            print_json(Broken(what, remedy="report it, with the traceback on stderr").as_dict())
        raise


__all__ = ["NotComplete", "app", "main"]
