"""Options that every command has, and the settings that they lead to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sync import settings as settings_reader
from sync.settings import Settings

Config = Annotated[
    Path | None, typer.Option("--config", help="Configuration file [default: tandem.yaml, if there is one].")
]
MappingFile = Annotated[Path | None, typer.Option("--mapping", help="Mapping file [default: mapping.yaml].")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout; logs on stderr.")]


def read_settings(config: Path | None, mapping: Path | None) -> Settings:
    """The settings of a command. Raises SettingsInvalid."""
    return settings_reader.read(config, mapping)
