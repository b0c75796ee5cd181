"""`tandem cutover`: the application moves to MongoDB. Without --execute it is a rehearsal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from connectors.errors import Misused
from sync.cli.options import Config, Json, MappingFile, read_settings
from sync.cli.output import log, out, print_json
from sync.cli.passage import MaxBlocked, Until, end_of, settings_of, tell, tell_conditions, tell_failures
from sync.cli.progress import stopping
from sync.cutover.states import MEANING, ORDER, PHASES, State
from sync.passage import Outcome
from sync.settings import Settings

app = typer.Typer(
    name="cutover",
    help="Move the application to MongoDB: plan, run, resume, abort, status. docs/runbook.md",
    no_args_is_help=True,
)
_ENDS = ", ".join(PHASES)

Execute = Annotated[
    bool, typer.Option("--execute", help="Do it. Without, it is rehearsed: nothing is changed.")
]
Phase = Annotated[str | None, typer.Option("--phase", help=f"Go no further than this phase: {_ENDS}.")]


@app.command()
def plan(
    config: Config = None, mapping: MappingFile = None, json: Json = False, max_blocked: MaxBlocked = None
) -> None:
    """What `run` would do, what stands in its way, and for how long writes would be refused. Changes nothing."""
    from sync import controller

    _tell(controller.plan(settings_of(config, mapping, max_blocked), log), json=json, rehearsed=True)


@app.command()
def run(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    execute: Execute = False,
    max_blocked: MaxBlocked = None,
    until: Until = None,
    phase: Phase = None,
    cohort: Annotated[
        str | None,
        typer.Option(help="Only let this cohort of flags.cohorts read from MongoDB, and hold there."),
    ] = None,
) -> None:
    """From the checks to the flags, each step journaled. Exit 1 when it did not come to its end, with the reasons."""
    from sync import controller

    settings = settings_of(config, mapping, max_blocked)
    if cohort is not None:
        if until is not None or phase is not None:
            raise Misused("--cohort goes no further than its flags", remedy="give it alone")
        _hold(settings, cohort, json=json, execute=execute)
        return
    end = _end(until, phase)
    if not execute:
        _tell(controller.plan(settings, log), json=json, rehearsed=True)
        return
    with stopping() as stop:
        _tell(controller.run(settings, log, until=end, stop=stop.is_set), json=json, end=end)


@app.command()
def resume(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    max_blocked: MaxBlocked = None,
    until: Until = None,
    phase: Phase = None,
) -> None:
    """Go on where a cutover stands: after a crash, a refusal, or a phase."""
    from sync import controller

    end = _end(until, phase)
    with stopping() as stop:
        outcome = controller.resume(
            settings_of(config, mapping, max_blocked), log, until=end, stop=stop.is_set
        )
        _tell(outcome, json=json, end=end)


@app.command()
def abort(config: Config = None, mapping: MappingFile = None, json: Json = False) -> None:
    """Back to PostgreSQL: writes are let in, the consumers go on, what was moved is put back. A cohort that reads from
    MongoDB reads from PostgreSQL again."""
    from sync import controller, gradual

    settings = read_settings(config, mapping)
    known = controller.status(settings)["cutover"]
    if not isinstance(known, Mapping) or known["state"] in (State.DONE, State.ABORTED):
        name = gradual.let_go(settings)
        if name is not None:
            if json:
                print_json({"ok": True, "cohort": name, "reads_from": "PostgreSQL"})
            else:
                out.print(f"the cohort {name} reads from PostgreSQL again")
            return
    _tell(controller.abort(settings, log), json=json, end=State.ABORTED)
    gradual.let_go(settings)


@app.command()
def status(config: Config = None, mapping: MappingFile = None, json: Json = False) -> None:
    """Where the last cutover stands. Exit 1 while writes are refused, or a step is not known to be done."""
    from sync import controller

    found = controller.status(read_settings(config, mapping))
    cutover, fence = found["cutover"], found["fence"]
    assert isinstance(fence, Mapping)
    if json:
        print_json(found)
    elif cutover is None:
        _cohort(found["cohort"])
        out.print("there was no cutover yet")
    else:
        assert isinstance(cutover, Mapping)
        _cohort(found["cohort"])
        _picture(cutover, fence)
    if isinstance(cutover, Mapping) and (cutover["writes_refused"] or cutover["intent"]):
        raise typer.Exit(1)


def _hold(settings: Settings, cohort: str, *, json: bool, execute: bool) -> None:
    from sync import gradual

    held = gradual.hold(settings, cohort, log, execute=execute)
    if json:
        print_json({"ok": held.ok, **held.as_dict()})
    else:
        tell_conditions(condition.as_dict() for condition in held.conditions)
        for change in held.changes:
            for line in change.lines():
                out.print(escape(line))
        if held.executed:
            out.print(
                f"the {held.keys:,} keys of the cohort {escape(cohort)} read from MongoDB; everybody writes to"
                " PostgreSQL, and what they write is in MongoDB after the lag (`tandem lag`). To go on:"
                " `tandem cutover run --execute`; to go back: `tandem cutover abort`",
                soft_wrap=True,
            )
        elif held.ok:
            out.print("rehearsed: nothing was changed; `--execute` does it")
    if not held.ok:
        raise typer.Exit(1)


def _end(until: str | None, phase: str | None) -> State:
    if until is not None and phase is not None:
        raise Misused("--until and --phase are two ways to say one thing", remedy="give one of them")
    if phase is not None:
        if phase not in PHASES:
            raise Misused(f"there is no phase {phase}", remedy=f"name one of: {_ENDS}")
        return PHASES[phase]
    return end_of(until, ORDER)


def _tell(outcome: Outcome[State], *, json: bool, rehearsed: bool = False, end: State = State.DONE) -> None:
    if json:
        print_json({"ok": outcome.ok, "rehearsed": rehearsed, **outcome.as_dict()})
    else:
        tell(outcome, "tandem cutover", rehearsed=rehearsed)
    if not outcome.ok or (not rehearsed and outcome.state is not end):
        raise typer.Exit(1)


def _cohort(held: object) -> None:
    if isinstance(held, Mapping):
        out.print(
            f"the cohort {escape(str(held['cohort']))} ({held['keys']:,} keys) reads from MongoDB since"
            f" {held['since']}; everybody writes to PostgreSQL",
            soft_wrap=True,
        )


def _picture(cutover: Mapping[str, Any], fence: Mapping[str, Any]) -> None:
    """All states in their order, with where it is."""
    grid = Table(title=f"cutover {cutover['run']}, begun {cutover['began']}", title_justify="left", box=None)
    grid.add_column("")
    grid.add_column("state")
    grid.add_column("at")
    grid.add_column("what it means")
    reached = {e["goal"]: e["at"] for e in cutover["entries"] if e["what"] == "reached"}
    aborted = cutover["state"] == State.ABORTED
    here = len(ORDER) if aborted else ORDER.index(State(cutover["state"]))
    for number, state in enumerate(ORDER):
        mark = "✓" if number <= here and not aborted else " "
        if str(state) == cutover["state"]:
            mark = "▶"
        elif str(state) == cutover["intent"]:
            mark = "…"
        when = reached.get(str(state), "") if number <= here and not aborted else ""
        grid.add_row(mark, str(state), when[11:19], MEANING[state])
    if aborted:
        grid.add_row("▶", "aborted", reached.get("aborted", "")[11:19], MEANING[State.ABORTED])
    out.print(grid)
    tell_failures(cutover["entries"])
    left = f", {fence['left_s']:.0f} s of its lease left" if fence["left_s"] is not None else ""
    out.print(f"the fence: {fence['standing']}{left}")
    if cutover["intent"]:
        out.print(f"begun and not known to be done: {cutover['intent']}; `tandem cutover resume`, or abort")
    if cutover["controller"]:
        out.print(f"controller: {cutover['controller']}")
