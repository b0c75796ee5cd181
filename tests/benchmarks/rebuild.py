"""Events a second of a rebuild from the topics, beside the live consumer's over the same events, in one run.

    python -m tests.benchmarks.rebuild [--events 50000]

On the servers of the environment. The live consumer applies the events first, alone; then the rebuild does, while
the live consumer goes on with what a writer changes. Prints both rates, their ratio, and the machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

from tests.integration.test_reload import writing
from tests.support import stack as servers
from tests.support.pipeline import consuming, pipeline
from tests.support.until import until

DDL = """
CREATE TABLE teams (id bigint PRIMARY KEY, name text NOT NULL, body text, is_active boolean NOT NULL DEFAULT true);
CREATE TABLE members (id bigint PRIMARY KEY, team_id bigint, nick text, place integer);
CREATE TABLE notes (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), team_id bigint, text text);
"""
MAPPING = """
version: 1
collections:
  teams: {from: public.teams}
  members: {from: public.members, references: {teamId: {column: team_id, to: teams}}}
"""


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=50_000)
    events = parser.parse_args().events
    with (
        servers.own_names(servers.external(os.environ)) as own,
        tempfile.TemporaryDirectory() as folder,
        pipeline(own, Path(folder), DDL, MAPPING) as on,
    ):
        on.tandem.run("snapshot")
        half = events // 2
        on.sql.execute("INSERT INTO teams SELECT n, 'team ' || n FROM generate_series(1, %s) AS n", [half])
        on.sql.execute(
            "INSERT INTO members SELECT n, n, 'nick', 1 FROM generate_series(1, %s) AS n", [events - half]
        )
        time.sleep(10)  # until Kafka has them
        began = time.monotonic()
        tally = on.tandem.json("run", "--until-caught-up", timeout_s=1_800)
        live = tally["events"] / (time.monotonic() - began)
        with consuming(on) as [consumer], writing(on, ("teams", "members")):
            until(lambda: "consuming" in consumer.text(), within=60)
            report = on.tandem.json("rebuild", "teams", "members", "--from", "topics", timeout_s=1_800)
        rate = report["followed"] / report["followed_s"]
        print(
            f"live {live:,.0f} events/s (start and end of the process included), {tally['events']:,} events"
        )
        print(
            f"rebuild beside it {rate:,.0f} events/s, {report['followed']:,} events; agrees: {report['ok']}"
        )
        print(f"ratio {rate / live:.2f}; {os.cpu_count()} cores, {platform.platform()}")


if __name__ == "__main__":
    main()
