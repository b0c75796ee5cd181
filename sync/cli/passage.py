"""What `tandem cutover` and `tandem rollback` print and take alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape

from connectors.errors import Misused
from sync.cli.options import read_settings
from sync.cli.output import out
from sync.passage import Outcome, S
from sync.settings import Settings

MaxBlocked = Annotated[
    float | None,
    typer.Option(help="Seconds for which writes may be refused [default: cutover.max_blocked_s]."),
]
Until = Annotated[
    str | None,
    typer.Option("--until", help="Go no further than this state, and stay there until `resume`."),
]


def settings_of(config: Any, mapping: Any, max_blocked: float | None) -> Settings:
    """As the other commands read them, with another budget where one is given. Raises Misused."""
    settings = read_settings(config, mapping)
    if max_blocked is None:
        return settings
    if max_blocked <= 0:
        raise Misused("--max-blocked has to be above 0", remedy="give seconds, such as 30")
    cutover = settings.cutover.model_copy(update={"max_blocked_s": max_blocked})
    return settings.model_copy(update={"cutover": cutover})


def end_of(until: str | None, order: tuple[S, ...]) -> S:
    """The state that --until names; without it the last. Raises Misused."""
    if until is None:
        return order[-1]
    for state in order[1:]:
        if until == str(state):
            return state
    raise Misused(f"there is no state {until}", remedy=f"name one of: {', '.join(order[1:])}")


def tell_conditions(found: Iterable[Mapping[str, Any]], indent: str = "") -> None:
    """One on each line. found: name, ok, why."""
    for condition in found:
        mark = {True: "[green]ok[/]", False: "[red]no[/]", None: "[yellow]unknown[/]"}[condition["ok"]]
        out.print(f"{indent}{mark} {escape(condition['name'])}: {escape(condition['why'])}", soft_wrap=True)


def tell(outcome: Outcome[S], command: str, *, rehearsed: bool) -> None:
    """How far it came, for people. command: `tandem` and its name."""
    for step in outcome.steps:
        if "reached" in step:
            facts = step["facts"]
            assert isinstance(facts, Mapping)
            told = ", ".join(f"{name} {value}" for name, value in facts.items() if _is_short(value))
            out.print(f"{'would reach' if rehearsed else 'reached':>11}  {step['reached']:16} {escape(told)}")
        conditions = step.get("conditions")
        tell_conditions(conditions if isinstance(conditions, list) else (), f"{'':11}  ")
    if outcome.predicted is not None:
        parts = ", ".join(f"{n} {s:.1f} s" for n, s in outcome.predicted.parts.items() if s >= 0.05)
        out.print(f"writes would be refused for about {outcome.predicted.total_s:.1f} s: {parts}")
    if outcome.blocked_s is not None:
        out.print(f"writes were refused for {outcome.blocked_s:.1f} s")
    for why in outcome.refusals:
        out.print(f"[red]refused[/]  {escape(why)}", soft_wrap=True)
    if rehearsed:
        out.print(f"rehearsed: nothing was changed; `{command} run --execute` does it")
    else:
        out.print(f"[bold]{outcome.state}[/]: {outcome.meaning[outcome.state]}")


def _is_short(value: object) -> bool:
    """What tells people something on one line; `--json` and the journal have all."""
    return isinstance(value, int | float | str) and value is not False and len(str(value)) <= 60


def tell_failures(entries: Iterable[Mapping[str, Any]]) -> None:
    """What has come to nothing, of a journal."""
    for entry in entries:
        if entry["what"] in ("failed", "fell back"):
            out.print(f"{entry['at'][11:19]} {entry['what']}: {escape(str(entry['facts'].get('why', '')))}")
