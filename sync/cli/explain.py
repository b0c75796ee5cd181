"""`tandem explain`: where a document comes from, and whether it says what its row says."""

from __future__ import annotations

from typing import Annotated

import typer

from connectors.errors import Misused
from sync.cli.options import Config, Json, MappingFile, read_settings
from sync.cli.output import log, out, print_json


def explain(
    collection: Annotated[str, typer.Argument(help="The collection, as the mapping has it.")],
    id_: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="The document's _id: 24 hexadecimal digits, or a text."),
    ] = None,
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    pk: Annotated[
        list[str] | None,
        typer.Option(
            "--pk", metavar="COLUMN=VALUE", help="The row's key instead; one for each column, or with commas."
        ),
    ] = None,
    events: Annotated[int, typer.Option(help="Show so many of the last events.", min=0, max=1_000)] = 10,
    look_back: Annotated[
        int, typer.Option(help="Look for them among so many of a partition's last records.", min=0)
    ] = 2_000,
) -> None:
    """Where a document comes from: its row now, each field beside what it has to be, the mapping's line, its events.

    Exit 1 when it is not as it has to be. Shows the values of its columns, less those that are secret.
    """
    from sync import app as root
    from sync.explain.read import Asked
    from sync.explain.render import render

    if (id_ is None) == (not pk):
        raise Misused("which document?", remedy="give its _id, or the key of its row: --pk COLUMN=VALUE")
    settings = read_settings(config, mapping)
    asked = Asked(collection, id_, _key(pk) if pk else None, events, look_back)
    facts, told = root.explain(settings, asked, log)
    if json:
        print_json({"verdict": told.what, "ok": told.ok, "why": list(told.why), **facts.as_dict()})
    else:
        render(facts, told, out, str(settings.mapping))
    if not told.ok:
        raise typer.Exit(1)


def _key(given: list[str]) -> dict[str, str]:
    """`team_id=7`, or `a=1,b=2`: a comma begins a new column where `COLUMN=` follows it. Raises Misused."""
    found: dict[str, str] = {}
    for one in given:
        last = ""
        for part in one.split(","):
            name, equals, value = part.partition("=")
            if equals and name.strip().isidentifier():
                last = name.strip()
                if last in found:
                    raise Misused(f"--pk names {last} twice", remedy="give each column once")
                found[last] = value
            elif last:
                found[last] += f",{part}"
            else:
                raise Misused(f"'{one}' is no COLUMN=VALUE", remedy="give --pk team_id=7")
    return found
