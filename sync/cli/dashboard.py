"""`tandem dashboard`: the web page."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Annotated

import typer

from sync.cli.options import Config, Json, MappingFile, read_settings
from sync.cli.output import log, out, print_json


def dashboard(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on [default: 127.0.0.1, this machine only].")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Port [default: 8787]; 0 takes any that is free.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the token that changes need; without one the page is read-only."),
    ] = None,
) -> None:
    """The web page: flow, lag, collections, parked rows, readiness. Ends with Ctrl-C."""
    from sync import board

    def listening(url: str, writes: bool) -> None:
        if json:
            print_json({"url": url, "writes": writes})
        else:
            out.print(f"dashboard at {url}" + ("" if writes else ", read-only"), soft_wrap=True)

    board.dashboard(
        read_settings(config, mapping), log, listening, host=host, port=port, token_file=token_file
    )
    log("dashboard ended")
    others = [t for t in threading.enumerate() if t is not threading.main_thread() and t.is_alive()]
    if others:  # a look that hangs in a driver: nothing is lost with it, and nobody waits for it
        os._exit(0)
