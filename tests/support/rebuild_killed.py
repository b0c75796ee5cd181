"""`tandem`, killed by SIGKILL before one of the acts of a rebuild: `python -m tests.support.rebuild_killed N ARGS...`.

N: before the Nth act that is journaled, renames or drops; or the name of one: before the first of these.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from connectors.mongo import rebuilds, schema
from sync import swap

ACTS: list[tuple[Any, str]] = [
    (rebuilds.Journal, "write"),
    (rebuilds.Journal, "write_in"),
    (rebuilds, "hold"),
    (rebuilds, "keep"),
    (rebuilds, "switch"),
    (rebuilds, "take_name"),
    (rebuilds, "release"),
    (rebuilds, "follow"),
    (rebuilds, "begin_at_live"),
    (schema, "drop"),
    (swap, "drop_strays"),
]


def _counted(wanted: str, name: str, act: Callable[..., Any], seen: list[str]) -> Callable[..., Any]:
    def acting(*args: Any, **options: Any) -> Any:
        seen.append(name)
        if wanted in (name, str(len(seen))):
            sys.stderr.write(f"killed before act {len(seen)}: {name}\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return act(*args, **options)

    return acting


def main() -> None:
    """Run it; the last line on stderr says how many acts there were."""
    wanted, seen = sys.argv[1], list[str]()
    for room, name in ACTS:
        setattr(room, name, _counted(wanted, name, getattr(room, name), seen))
    sys.argv = ["tandem", *sys.argv[2:]]
    from sync.cli import main as command

    try:
        command()
    finally:
        sys.stderr.write(f"acts: {len(seen)}\n")


if __name__ == "__main__":
    main()
