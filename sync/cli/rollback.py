"""`tandem rollback`: the application moves back to PostgreSQL. Without --execute it is a rehearsal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape

from sync.cli.options import Config, Json, MappingFile, read_settings
from sync.cli.output import log, out, print_json
from sync.cli.passage import MaxBlocked, Until, end_of, settings_of, tell, tell_failures
from sync.cli.progress import stopping
from sync.passage import Outcome
from sync.rollback.states import MEANING, ORDER, State
from sync.settings import Settings

app = typer.Typer(
    name="rollback",
    help="Move the application back to PostgreSQL: plan, run, resume, abort, status. docs/rollback.md",
    no_args_is_help=True,
)
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
    _rehearse(settings_of(config, mapping, max_blocked), json=json, drop=False)


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

    end = end_of(until, ORDER)
    settings = settings_of(config, mapping, max_blocked)
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

    end = end_of(until, ORDER)
    with stopping() as stop:
        outcome = rollbacks.resume(
            settings_of(config, mapping, max_blocked), log, until=end, stop=stop.is_set
        )
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


def _tell(outcome: Outcome[State], *, json: bool, rehearsed: bool = False, end: State = State.DONE) -> None:
    if json:
        print_json({"ok": outcome.ok, "rehearsed": rehearsed, "switched": True, **outcome.as_dict()})
    else:
        tell(outcome, "tandem rollback", rehearsed=rehearsed)
    if not outcome.ok or (not rehearsed and outcome.state is not end):
        raise typer.Exit(1)


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
    tell_failures(found["entries"])
    if found["intent"]:
        out.print(f"begun and not known to be done: {found['intent']}; `tandem rollback resume`, or abort")
