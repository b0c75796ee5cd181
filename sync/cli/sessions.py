"""`tandem sessions`: users are told, their sessions waited for, and those that are left moved to the agent."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.markup import escape

from connectors.errors import Misused
from sync.cli.options import Config, Json, MappingFile, read_settings
from sync.cli.output import out, print_json
from sync.cli.progress import StepProgress, stopping
from sync.sessions.migrate import Moved
from sync.sessions.notify import Sent
from sync.sessions.wait import Waited

app = typer.Typer(
    name="sessions",
    help="Sessions in use: tell their users, wait for their end, move them to the agent.",
    no_args_is_help=True,
)
#: so many failures are told to people; `--json` has all
_SHOWN = 20

DryRun = Annotated[bool, typer.Option("--dry-run", help="The same checks and report; nothing is changed.")]


@app.command()
def notify(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    dry_run: DryRun = False,
    message: Annotated[
        str | None, typer.Option(help="What users are told [default: sessions.message].")
    ] = None,
    downtime: Annotated[
        str | None, typer.Option(help="How long, for people [default: sessions.estimated_downtime].")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            help="When it begins, such as 2026-11-28T22:00+01:00 [default: sessions.begins_in_min from now]."
        ),
    ] = None,
    id_: Annotated[
        str | None,
        typer.Option("--id", help="Of this announcement: one given again tells only whom it did not reach."),
    ] = None,
) -> None:
    """Tell everybody who has a session. Exit 1 when somebody could not be told."""
    from sync import steps

    settings = read_settings(config, mapping)
    notice = steps.announcement(
        settings.sessions, id_=id_, message=message, downtime=downtime, at=_moment(at)
    )
    with stopping() as stop, StepProgress("told", "notices") as bar:
        report = steps.sessions_notify(
            settings, notice=notice, rehearse=dry_run, stop=stop, watch=lambda r: bar(r.done, r.total)
        )
    if json:
        print_json(report.as_dict())
    else:
        _print_sent(report)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def wait(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count once, and do not wait.")] = False,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds [default: sessions.wait_timeout_s, 3600].", min=0)
    ] = None,
    poll: Annotated[
        float | None, typer.Option(help="Seconds [default: sessions.wait_poll_s, 30].", min=0.1)
    ] = None,
    go_on: Annotated[
        bool | None,
        typer.Option(
            "--go-on/--abort",
            help="When some are left then: exit 0, or 1 [default: sessions.on_timeout, abort].",
        ),
    ] = None,
) -> None:
    """Wait until nobody has a session. Exit 1 when some are left, unless told to go on."""
    from sync import steps

    def show(report: Waited) -> None:
        left_s = max(report.timeout_s - report.seconds, 0)
        said = f"at most {left_s / 60:,.0f} min more" + (f"; {report.trouble}" if report.trouble else "")
        bar(report.most - report.left, report.most, f"{report.left:,} in use, {said}")

    settings = read_settings(config, mapping)
    with stopping() as stop, StepProgress("ended", "sessions") as bar:
        report = steps.sessions_wait(
            settings, timeout_s=timeout, poll_s=poll, goes_on=go_on, rehearse=dry_run, stop=stop, watch=show
        )
    if json:
        print_json(report.as_dict())
    else:
        _print_waited(report)
    if not report.ok and not dry_run:
        raise typer.Exit(1)


@app.command()
def migrate(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    dry_run: DryRun = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try those again that failed before.")
    ] = False,
) -> None:
    """Move every session to the agent, with its conversation. Resumable. Exit 1 when one is not moved."""
    from sync import steps

    settings = read_settings(config, mapping)
    with stopping() as stop, StepProgress("moved", "sessions") as bar:
        report = steps.sessions_migrate(
            settings,
            retry_failed=retry_failed,
            rehearse=dry_run,
            stop=stop,
            watch=lambda r: bar(r.done, r.total, f"{len(r.failures):,} failed"),
        )
    if json:
        print_json(report.as_dict())
    else:
        _print_moved(report)
    if not report.ok:
        raise typer.Exit(1)


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Misused(
            f"--at {text} is no time", remedy="give it as 2026-11-28T22:00+01:00; without a zone it is UTC"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _print_sent(report: Sent) -> None:
    out.print(f"{report.users:,} users have {report.sessions:,} sessions, by {report.place}")
    for channel, sent in report.sent.items():
        before = report.before.get(channel, 0)
        more = f", {before:,} had it before" if before else ""
        if report.rehearsed:
            out.print(f"would tell {report.users - before:,} by {channel}")
        else:
            out.print(f"{sent:,} took it by {channel}{more}")
    for failure in report.failures[:_SHOWN]:
        who = escape(failure.user) or "all"
        out.print(f"[red]not told[/] {who} by {failure.channel}: {escape(failure.reason)}", soft_wrap=True)
    if report.failures and not report.rehearsed:
        out.print(
            f"{len(report.failures):,} were not told: `tandem sessions notify --id {escape(report.notice)}`"
            " tries those again",
            soft_wrap=True,
        )


def _print_waited(report: Waited) -> None:
    if report.ended:
        out.print(f"nobody has a session, by {report.place}")
        return
    left = f"{report.left:,} sessions of {report.users:,} users are in use, by {report.place}"
    if report.rehearsed:
        out.print(f"{left}; would wait for them for {report.timeout_s / 60:,.0f} min")
        return
    out.print(
        f"{left}, after {report.seconds:,.0f} s" + ("; going on all the same" if report.goes_on else "")
    )


def _print_moved(report: Moved) -> None:
    if report.rehearsed:
        seconds = f", in about {report.predicted_s:g} s" if report.predicted_s is not None else ""
        out.print(f"the agent{_name(report)} answers; would move {report.pending:,} sessions{seconds}")
    else:
        out.print(
            f"{report.moved:,} sessions moved with {report.messages:,} messages in {report.seconds:.1f} s"
        )
    if report.already:
        out.print(f"{report.already:,} were moved before")
    for failure in report.failures[:_SHOWN]:
        out.print(
            f"[red]not moved[/] session {escape(failure.session)} of user {escape(failure.user)}:"
            f" {escape(failure.reason)}",
            soft_wrap=True,
        )
    if len(report.failures) > _SHOWN:
        out.print(f"and {len(report.failures) - _SHOWN:,} more: see --json")
    if report.gave_up:
        out.print(f"[red]given up[/] after {escape(report.gave_up)}", soft_wrap=True)
    if report.rehearsed:
        return
    if report.pending:
        out.print(f"{report.pending:,} were not tried: run it again")
    if report.failures:
        out.print("`tandem sessions migrate --retry-failed` tries those again that failed")
    if report.published is None:
        out.print(
            "their documents are the consumers' as yet: the cutover writes into them what became of each",
            soft_wrap=True,
        )


def _name(report: Moved) -> str:
    return f" ({escape(report.agent)})" if report.agent else ""
