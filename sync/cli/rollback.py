"""`tandem rollback`: the application moves back to PostgreSQL. Without --execute it is a rehearsal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape

from connectors.errors import Misused
from sync.cli.options import Config, Json, MappingFile, read_settings
from sync.cli.output import log, out, print_json
from sync.cli.progress import stopping
from sync.rollback.machine import Outcome
from sync.rollback.states import MEANING, ORDER, State
from sync.settings import Settings

app = typer.Typer(
    name="rollback",
    help="Move the application back to PostgreSQL: plan, run, resume, abort, status. docs/rollback.md",
    no_args_is_help=True,
)
MaxBlocked = Annotated[
    float | None,
    typer.Option(help="Seconds for which writes may be refused [default: cutover.max_blocked_s]."),
]
Until = Annotated[
    str | None,
    typer.Option("--until", help="Go no further than this state, and stay there until `resume`."),
]
Drop = Annotated[
    bool,
    typer.Option(
        "--drop-collections", help="Before the switch: drop the mapped collections, with their documents."
    ),
]


@app.command()
def plan(
    config: Config = None, mapping: MappingFile = None, json: Json = False, max_blocked: MaxBlocked = None
) -> None:
    """What `run` would do, what stands in its way, and for how long writes would be refused. Changes nothing."""
    _rehearse(_settings(config, mapping, max_blocked), json=json, drop=False)


@app.command()
def run(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    execute: Annotated[bool, typer.Option("--execute", help="Do it. Without, it is rehearsed.")] = False,
    max_blocked: MaxBlocked = None,
    until: Until = None,
    drop_collections: Drop = False,
) -> None:
    """Behind a cutover: all that was written to MongoDB is brought back, then the flags turn. Before it: what tandem
    made is taken away, and the source is as it was."""
    from sync import rollbacks

    end = _end(until)
    settings = _settings(config, mapping, max_blocked)
    if not execute:
        _rehearse(settings, json=json, drop=drop_collections)
        return
    if not rollbacks.switched(settings):
        _taken_away(
            rollbacks.take_away(settings, log, drop_collections=drop_collections, execute=True), json=json
        )
        return
    with stopping() as stop:
        _tell(rollbacks.run(settings, log, until=end, stop=stop.is_set), json=json, end=end)


@app.command()
def resume(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    max_blocked: MaxBlocked = None,
    until: Until = None,
) -> None:
    """Go on where a rollback stands: after a crash or a refusal."""
    from sync import rollbacks

    end = _end(until)
    with stopping() as stop:
        outcome = rollbacks.resume(_settings(config, mapping, max_blocked), log, until=end, stop=stop.is_set)
        _tell(outcome, json=json, end=end)


@app.command()
def abort(config: Config = None, mapping: MappingFile = None, json: Json = False) -> None:
    """Stay on MongoDB: writes are let in again. Not once the flags were turned."""
    from sync import rollbacks

    _tell(rollbacks.abort(read_settings(config, mapping), log), json=json, end=State.ABORTED)


@app.command()
def status(config: Config = None, mapping: MappingFile = None, json: Json = False) -> None:
    """Where the last rollback stands. Exit 1 while writes are refused, or a step is not known to be done."""
    from sync import rollbacks

    found = rollbacks.status(read_settings(config, mapping))
    if json:
        print_json({"rollback": found})
    elif found is None:
        out.print("there was no rollback yet")
    else:
        _picture(found)
    if found is not None and (found["writes_refused"] or found["intent"]):
        raise typer.Exit(1)


def _settings(config: Any, mapping: Any, max_blocked: float | None) -> Settings:
    settings = read_settings(config, mapping)
    if max_blocked is None:
        return settings
    if max_blocked <= 0:
        raise Misused("--max-blocked has to be above 0", remedy="give seconds, such as 30")
    cutover = settings.cutover.model_copy(update={"max_blocked_s": max_blocked})
    return settings.model_copy(update={"cutover": cutover})


def _end(until: str | None) -> State:
    if until is None:
        return State.DONE
    if until not in [str(state) for state in ORDER[1:]]:
        raise Misused(f"there is no state {until}", remedy=f"name one of: {', '.join(ORDER[1:])}")
    return State(until)


def _rehearse(settings: Settings, *, json: bool, drop: bool) -> None:
    from sync import rollbacks

    if rollbacks.switched(settings):
        _tell(rollbacks.plan(settings, log), json=json, rehearsed=True)
    else:
        _taken_away(rollbacks.take_away(settings, log, drop_collections=drop, execute=False), json=json)


def _taken_away(found: Mapping[str, object], *, json: bool) -> None:
    if json:
        print_json({"ok": True, "switched": False, **found})
        return
    out.print(
        "the application was not moved to MongoDB: what tandem made is taken away, the source stays as it is"
    )
    if found["abort"]:
        out.print(f"  the cutover {found['abort']} is aborted first", soft_wrap=True)
    listed = found.get("removed", found.get("would_remove"))
    for name in listed if isinstance(listed, list) else ():
        out.print(
            f"  {'removed' if 'removed' in found else 'would remove'} {escape(str(name))}", soft_wrap=True
        )
    if "removed" not in found:
        out.print("rehearsed: nothing was changed; `tandem rollback run --execute` does it")


def _tell(outcome: Outcome, *, json: bool, rehearsed: bool = False, end: State = State.DONE) -> None:
    if json:
        print_json({"ok": outcome.ok, "rehearsed": rehearsed, "switched": True, **outcome.as_dict()})
    else:
        _print(outcome, rehearsed=rehearsed)
    if not outcome.ok or (not rehearsed and outcome.state is not end):
        raise typer.Exit(1)


def _print(outcome: Outcome, *, rehearsed: bool) -> None:
    for step in outcome.steps:
        if "reached" in step:
            facts = step["facts"]
            assert isinstance(facts, Mapping)
            told = ", ".join(f"{name} {value}" for name, value in facts.items() if value is not False)
            out.print(
                f"{'would reach' if rehearsed else 'reached':>11}  {step['reached']:14} {escape(told)}",
                soft_wrap=True,
            )
        conditions = step.get("conditions")
        for condition in conditions if isinstance(conditions, list) else ():
            mark = {True: "[green]ok[/]", False: "[red]no[/]", None: "[yellow]unknown[/]"}[condition["ok"]]
            out.print(
                f"{'':11}  {mark} {escape(condition['name'])}: {escape(condition['why'])}", soft_wrap=True
            )
    if outcome.predicted is not None:
        parts = ", ".join(f"{n} {s:.1f} s" for n, s in outcome.predicted.parts.items() if s >= 0.05)
        out.print(f"writes would be refused for about {outcome.predicted.total_s:.1f} s: {parts}")
    if outcome.blocked_s is not None:
        out.print(f"writes were refused for {outcome.blocked_s:.1f} s")
    for why in outcome.refusals:
        out.print(f"[red]refused[/]  {escape(why)}", soft_wrap=True)
    if rehearsed:
        out.print("rehearsed: nothing was changed; `tandem rollback run --execute` does it")
    else:
        out.print(f"[bold]{outcome.state}[/]: {MEANING[outcome.state]}")


def _picture(found: Mapping[str, Any]) -> None:
    out.print(f"rollback {found['run']}, begun {found['began']}")
    reached = {e["goal"]: e["at"] for e in found["entries"] if e["what"] == "reached"}
    for state in ORDER:
        mark = "▶" if str(state) == found["state"] else "…" if str(state) == found["intent"] else " "
        out.print(
            f"{mark} {state:14} {reached.get(str(state), '')[11:19]:8}  {MEANING[state]}", soft_wrap=True
        )
    if found["state"] == State.ABORTED:
        out.print(f"▶ aborted: {MEANING[State.ABORTED]}")
    for entry in found["entries"]:
        if entry["what"] in ("failed", "fell back"):
            out.print(f"{entry['at'][11:19]} {entry['what']}: {escape(str(entry['facts'].get('why', '')))}")
    if found["intent"]:
        out.print(f"begun and not known to be done: {found['intent']}; `tandem rollback resume`, or abort")
