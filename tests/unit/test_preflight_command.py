"""`tandem preflight` on a command line that makes no sense: refused before any server is asked."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from connectors.errors import Misused
from sync.cli import app


@pytest.mark.parametrize(
    "options",
    [
        ["--sample", "0"],
        ["--sample", "x"],
        ["--sample", "101%"],
        ["--full", "--sample", "5"],
        ["--only-data", "--only-settings"],
    ],
)
def test_options_that_make_no_sense(options: list[str]) -> None:
    done = CliRunner().invoke(app, ["preflight", *options])
    assert isinstance(done.exception, Misused)
    assert done.exception.exit_code == 2
