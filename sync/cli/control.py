"""Live control: `tandem pause`, `resume` and `throttle`. Running processes see it within a second."""

from __future__ import annotations

from typing import Annotated

import typer

from connectors.errors import Misused
from connectors.mongo.control import ROLES, Control
from sync.cli.options import Config, Json, MappingFile, read_settings
from sync.cli.output import out, print_json

_Roles = Annotated[list[str] | None, typer.Argument(help=f"{', '.join(ROLES)} [default: all].")]


def pause(
    roles: _Roles = None, config: Config = None, mapping: MappingFile = None, json: Json = False
) -> None:
    """Let consumers, the snapshot or a verification stand still, and keep their places: nothing is lost."""
    from sync import app as root

    told(root.control(read_settings(config, mapping), pause=roles or ROLES), json=json)


def resume(
    roles: _Roles = None, config: Config = None, mapping: MappingFile = None, json: Json = False
) -> None:
    """Let them go on."""
    from sync import app as root

    told(root.control(read_settings(config, mapping), resume=roles or ROLES), json=json)


def throttle(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    max_ops: Annotated[
        int | None,
        typer.Option(
            help="Rows a second at most: of all consumers together, of the snapshot, of a verification."
        ),
    ] = None,
    max_lag: Annotated[
        float | None, typer.Option(help="The snapshot waits while the stream is so many seconds behind.")
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="Take the limits away.")] = False,
) -> None:
    """Limit running consumers and loads."""
    from sync import app as root

    if not off and max_ops is None and max_lag is None:
        raise Misused("no limit is given", remedy="give --max-ops, --max-lag, or --off")
    if off and (max_ops is not None or max_lag is not None):
        raise Misused("--off takes the limits away", remedy="give --off alone, or the limits alone")
    settings = read_settings(config, mapping)
    told(root.control(settings, max_ops=max_ops, max_lag_s=max_lag, unlimited=off), json=json)


def told(now: Control, *, json: bool) -> None:
    """What is asked now."""
    if json:
        asked = {
            "paused": sorted(now.paused),
            "max_ops": now.max_ops,
            "max_lag_s": now.max_lag_s,
            "by": now.by,
        }
        print_json(asked)
        return
    words = [f"paused: {', '.join(sorted(now.paused))}"] if now.paused else []
    words += [f"at most {now.max_ops:,} rows/s"] if now.max_ops is not None else []
    words += [f"the snapshot waits while the stream is {now.max_lag_s:g} s behind"] if now.max_lag_s else []
    out.print("; ".join(words) or "at full speed: nothing is paused or limited", soft_wrap=True)
