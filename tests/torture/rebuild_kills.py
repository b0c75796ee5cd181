"""A rebuild killed before each of its acts, then carried on or thrown away, under a writer; and taken back.

    python -m tests.torture.rebuild_kills [--from N] [--to N]

On the servers of the environment. Each kill is followed by another run; at the end of each nothing is left, and every
field agrees with PostgreSQL.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.integration.test_rebuild import MAPPING, OTHER, shadows
from tests.integration.test_reload import DDL, writing
from tests.support import stack as servers
from tests.support.pipeline import Pipeline, consuming, pipeline
from tests.support.until import until


def killed(on: Pipeline, act: str, *arguments: str) -> str:
    """Run it and have it killed before an act. Returns the act's name; empty where there were not so many."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.rebuild_killed", act, "rebuild", *arguments, "--json",
         "--mapping", str(on.tandem.mapping)],
        env={**on.tandem.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )  # fmt: skip
    if done.returncode == -9:
        return re.findall(r"killed before act \d+: (\w+)", done.stderr)[-1]
    assert done.returncode == 0, done.stderr
    return ""


def one(on: Pipeline, act: int, forms: tuple[str, str]) -> bool:
    """Kill a swap before this act, go on, and see. False when it has no such act."""
    here, there = forms
    on.tandem.mapping.write_text(there, encoding="utf-8")
    name = killed(on, str(act), "teams", "--swap")
    if not name:
        return False
    discarded = False
    if act % 3 == 0:
        discarded = on.tandem.run("rebuild", "--discard", check=False).returncode == 0
    known = on.db["_tandem_state"].find_one({"_id": "rebuild"}) or {}
    if discarded:
        on.tandem.mapping.write_text(here, encoding="utf-8")
    elif known.get("phase", "none") != "none":
        on.tandem.run("rebuild", "--swap")
    elif not known.get("kept"):  # else the swap was made
        on.tandem.run("rebuild", "teams", "--swap")
    on.agree(120)
    if not discarded:
        on.tandem.run("rebuild", "--drop-kept")
        assert on.db["teams"].find_one({"name": {"$exists": True}}) is None
    left = shadows(on)
    assert not left, left
    print(
        f"act {act:2} {name:15} {'discarded' if discarded else 'carried on'}: agrees, nothing is left",
        flush=True,
    )
    return True


def main() -> None:
    """Every act, one after the other; the form changes each time that a swap was made."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--from", dest="first", type=int, default=1)
    parser.add_argument("--to", dest="last", type=int, default=99)
    asked = parser.parse_args()
    for act in range(asked.first, asked.last + 1):
        with (
            servers.own_names(servers.external(os.environ)) as own,
            tempfile.TemporaryDirectory() as folder,
            pipeline(own, Path(folder), DDL, MAPPING) as on,
        ):
            on.tandem.run("snapshot")
            with consuming(on) as [consumer], writing(on, ("teams", "members")):
                until(lambda: "consuming" in consumer.text(), within=60)
                if not one(on, act, (MAPPING, OTHER)):
                    return


if __name__ == "__main__":
    main()
