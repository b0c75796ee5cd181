"""What processes say of themselves: log lines and metrics."""

from __future__ import annotations

import json
import math
import urllib.request
import warnings

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from connectors.errors import Misused
from sync.observe.logs import Repeats, as_json

with warnings.catch_warnings():  # of kafka-python, on Python 3.11
    warnings.simplefilter("ignore", DeprecationWarning)
    from consumers.worker import Tally
    from sync.lag.judge import CollectionLag, LagReport
    from sync.lag.status import Part, StatusReport
    from sync.observe.metrics import ConsumerMetrics, LoaderMetrics, PipelineMetrics, Served
    from sync.snapshot.load import Loaded, LoadReport


def test_lines_that_differ_in_numbers_only_are_told_now_and_then() -> None:
    now = 0.0
    repeats = Repeats(clock=lambda: now)
    told = [repeats.tells(f"applied {n:,} events, 1.{n}/s", {}) for n in range(8_000, 8_020)]
    assert told == [True] * 5 + [False] * 15
    assert repeats.tells("another line", {})
    assert repeats.left_out() == []
    now = 11.0
    assert repeats.left_out() == [("applied 8,019 events, 1.8019/s", 15)]
    assert repeats.left_out() == []
    assert repeats.tells("applied 9 events, 1.0/s", {})


def test_what_was_left_out_is_told_at_the_end() -> None:
    repeats = Repeats(clock=lambda: 0.0)
    for n in range(1_000):
        repeats.tells(f"parked: row {n}", {})
    assert repeats.left_out(at_the_end=True) == [("parked: row 999", 995)]


def test_one_trouble_does_not_hide_another() -> None:
    repeats = Repeats(clock=lambda: 0.0)
    assert all(repeats.tells(f"orders_{year} has changed", {}) for year in range(2015, 2025))
    assert all(repeats.tells("parked: refused", {"table": f"s.t{n}"}) for n in range(20))


def test_lines_for_machines_are_one_object_each() -> None:
    line = as_json("run", 'a "quoted"\nline', {"collection": "users", "lsn": "0/4D", "at": 3})
    assert "\n" not in line
    found = json.loads(line)
    assert found.pop("at").endswith("+00:00")
    assert found == {
        "level": "info", "component": "run", "event": 'a "quoted"\nline',
        "collection": "users", "lsn": "0/4D", "at_": 3,
    }  # fmt: skip


def samples(registry: object) -> dict[tuple[str, str], float]:
    text = generate_latest(registry).decode()  # type: ignore[arg-type]
    found = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            found[one.name, ",".join(f"{k}={v}" for k, v in sorted(one.labels.items()))] = one.value
    return found


def test_a_consumer_counts_what_it_has_applied_and_how_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 10_000_000_000)
    metrics = ConsumerMetrics()
    metrics.applied([("s.t", 9_960), ("s.t", 9_000), ("s.u", 10_500)], 0.02)
    metrics.take(Tally(rows=3, parked=2, conflicts=1), 7, paused=False)
    metrics.take(Tally(rows=5, parked=2, conflicts=1), 7, paused=True)
    found = samples(metrics.registry)
    assert found["tandem_events_applied_total", "table=s.t"] == 2
    assert found["tandem_event_latency_seconds_bucket", "le=0.05,table=s.t"] == 1
    assert found["tandem_event_latency_seconds_sum", "table=s.t"] == pytest.approx(1.04)
    assert found["tandem_event_latency_seconds_sum", "table=s.u"] == 0  # clocks differ: not negative
    assert found["tandem_batch_seconds_count", ""] == 1
    assert (found["tandem_rows_written_total", ""], found["tandem_events_parked_total", ""]) == (5, 2)
    assert (found["tandem_assigned_partitions", ""], found["tandem_paused", ""]) == (7, 1)


def test_unknown_numbers_are_nan_and_said_to_be_unknown() -> None:
    role = ConsumerMetrics()
    numbers = PipelineMetrics(role)
    lag = LagReport("now", records=0, parked=0, unknown={"wal_bytes": "away", "seconds": "away"})
    lag.collections = [CollectionLag("users", "s.t", records=3)]
    numbers.take(lag)
    found = samples(role.registry)
    assert math.isnan(found["tandem_lag_seconds", ""])
    assert found["tandem_lag_unknown", "number=seconds"] == 1
    assert found["tandem_lag_unknown", "number=records"] == 0
    assert found["tandem_lag_records", "collection=users"] == 3
    assert math.isnan(found["tandem_slot_active", ""])


def test_components_that_are_no_longer_spoken_of_are_gone() -> None:
    role = ConsumerMetrics()
    numbers = PipelineMetrics(role)
    numbers.take_status(StatusReport([Part("MongoDB", None, "away"), Part("control", False, "paused")]))
    assert math.isnan(samples(role.registry)["tandem_component_up", "component=MongoDB"])
    numbers.take_status(StatusReport([Part("MongoDB", True, "fine")]))
    found = samples(role.registry)
    assert found["tandem_component_up", "component=MongoDB"] == 1
    assert ("tandem_component_up", "component=control") not in found


def test_a_loader_tells_how_far_it_is() -> None:
    metrics = LoaderMetrics()
    metrics.take(LoadReport({"users": Loaded(total=9, rows=4, chunks=3, chunks_done=1)}), throttled=True)
    found = samples(metrics.registry)
    assert found["tandem_snapshot_rows", "collection=users"] == 4
    assert found["tandem_snapshot_throttled", ""] == 1


def test_metrics_are_served_on_loopback_and_bad_addresses_are_named() -> None:
    metrics, told = ConsumerMetrics(), list[str]()
    with Served(metrics.registry, "0", told.append) as port:
        assert told == [f"http://127.0.0.1:{port}/metrics"]
        with urllib.request.urlopen(told[0], timeout=5) as answer:
            assert b"tandem_build_info" in answer.read()
        with (
            pytest.raises(Misused, match="cannot be served"),
            Served(metrics.registry, str(port), told.append),
        ):
            pass
    for wrong in ("", "x", "127.0.0.1", "127.0.0.1:99999", ":-1"):
        with pytest.raises(Misused, match="is no address"):
            Served(metrics.registry, wrong, told.append)
