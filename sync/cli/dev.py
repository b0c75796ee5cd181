"""`tandem dev`: the embedded stack."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sync.dev.places import default_home
from sync.dev.progress import shown
from sync.dev.stack import Stack
from sync.dev.state import Condition, StackStatus

app = typer.Typer(
    name="dev",
    help="The embedded stack: PostgreSQL, Kafka, Connect with Debezium, a MongoDB server: local processes.",
    no_args_is_help=True,
)

Home = Annotated[
    Path,
    typer.Option(
        envvar="TANDEM_HOME",
        help="Folder of the stack: data, logs, ports.",
        default_factory=default_home,
        show_default="~/.tandem",
    ),
]


@app.command()
def up(
    home: Home,
    repick_ports: Annotated[
        bool, typer.Option("--repick-ports", help="Choose new ports for those that are taken meanwhile.")
    ] = False,
) -> None:
    """Start what does not run, installing what is missing, and wait until everything answers."""
    with shown() as progress:
        Stack(home).up(progress, repick_ports=repick_ports)
    option = "" if home == default_home() else f" --home {shlex.quote(str(home))}"
    typer.echo(f'up. The addresses for other commands: eval "$(tandem dev env{option})"', err=True)


@app.command()
def down(
    home: Home,
    purge: Annotated[bool, typer.Option("--purge", help="Remove the data and the logs as well.")] = False,
) -> None:
    """End the stack's own processes. The data stays, unless --purge is given."""
    with shown() as progress:
        killed = Stack(home).down(purge=purge, progress=progress)
    if killed:
        typer.echo(f"killed, as they did not end in time: {', '.join(killed)}", err=True)


@app.command()
def status(
    home: Home,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Show each component. Exit code 1 when one that should run does not."""
    found = Stack(home).status()
    if as_json:
        typer.echo(json.dumps(_as_dict(found), indent=2))
    else:
        Console().print(_table(found))
        for component in found.components:
            if component.condition is Condition.KILLED:
                typer.echo(
                    f"{component.component} was killed, or ended by itself: `tandem dev up` starts it again"
                )
    raise typer.Exit(0 if found.ok else 1)


@app.command()
def env(
    home: Home,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Print the addresses as export lines, for eval "$(tandem dev env)"."""
    environ = Stack(home).addresses().environ()
    if as_json:
        typer.echo(json.dumps(environ, indent=2))
    else:
        typer.echo("\n".join(f"export {name}={shlex.quote(value)}" for name, value in environ.items()))


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def psql(
    home: Home,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGS]...", help="Arguments of psql.")
    ] = None,
) -> None:
    """Run psql on the stack's PostgreSQL. All arguments, input, output and the exit code are psql's own."""
    program, environ = Stack(home).psql()
    sys.stdout.flush()
    os.execve(program, ["psql", *(arguments or [])], environ)  # noqa: S606 - the program's path is ours


def _as_dict(found: StackStatus) -> dict[str, object]:
    return {
        "home": str(found.home),
        "ok": found.ok,
        "up": found.up,
        "components": [asdict(c) for c in found.components],
    }


def _table(found: StackStatus) -> Table:
    colours = {Condition.RUNNING: "green", Condition.STARTING: "yellow", Condition.KILLED: "red"}
    table = Table(
        "component", "state", "pid", "port", "memory", "uptime", title=f"embedded stack in {found.home}"
    )
    for c in found.components:
        colour = colours.get(c.condition, "dim")
        running = c.pid is not None
        table.add_row(
            c.component,
            f"[{colour}]{c.condition}[/]",
            str(c.pid or "-"),
            str(c.port or "-"),
            f"{c.memory_bytes / 2**20:.0f} MiB" if running else "-",
            _duration(c.uptime_s) if running else "-",
        )
    return table


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
