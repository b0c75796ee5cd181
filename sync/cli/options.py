"""Options that every command has, and the settings that they lead to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sync import settings as settings_reader
from sync.cli.output import log
from sync.settings import Local, Settings

Config = Annotated[
    Path | None, typer.Option("--config", help="Configuration file [default: tandem.yaml, if there is one].")
]
MappingFile = Annotated[Path | None, typer.Option("--mapping", help="Mapping file [default: mapping.yaml].")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout; logs on stderr.")]

Metrics = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        metavar="[HOST:]PORT",
        help="Serve Prometheus metrics there, on loopback unless HOST is given.",
    ),
]


def read_settings(config: Path | None, mapping: Path | None) -> Settings:
    """The settings of a command, and its log as they want it. Raises SettingsInvalid."""
    log.component = next((word for word in sys.argv[1:] if not word.startswith("-")), log.component)
    settings = settings_reader.read(config, mapping)
    log.form = settings.observe.log
    return settings


def read_local(config: Path | None, mapping: Path | None) -> Local:
    """The same of a command that needs no server."""
    log.component = next((word for word in sys.argv[1:] if not word.startswith("-")), log.component)
    settings = settings_reader.read_local(config, mapping)
    log.form = settings.observe.log
    return settings
