"""The tables and rows of examples/acp in a test's own database."""

from __future__ import annotations

from pathlib import Path

import psycopg
from pydantic import SecretStr

from connectors.settings import SourceEndpoint

EXAMPLES = Path(__file__).parents[2] / "examples" / "acp"


def load_acp(dsn: str, *, users: int = 100) -> SourceEndpoint:
    """Create and fill the ACP tables in an empty database."""
    with psycopg.connect(dsn) as session:
        session.execute((EXAMPLES / "schema.sql").read_bytes())
        session.execute(load_script(users))
    return SourceEndpoint(dsn=SecretStr(dsn))


def load_script(users: int) -> bytes:
    r"""load.sql for any client: without psql's own \if line, and with a number for its variable :users."""
    lines = (EXAMPLES / "load.sql").read_text(encoding="utf-8").splitlines()
    return (
        "\n".join(line for line in lines if not line.startswith("\\")).replace(":users", str(users)).encode()
    )
