"""The board and the alert rules speak of metrics that there are, and docs/metrics.md lists them all."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import pytest
import yaml

from tests.support import alerts

with warnings.catch_warnings():  # of kafka-python, on Python 3.11
    warnings.simplefilter("ignore", DeprecationWarning)
    from sync.observe.metrics import ArchiveMetrics, ConsumerMetrics, LoaderMetrics, PipelineMetrics

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"\btandem_\w+")


def served() -> set[str]:
    consumer, loader, archive = ConsumerMetrics(), LoaderMetrics(), ArchiveMetrics()
    PipelineMetrics(consumer)
    return {
        family.name + ("_total" if family.type == "counter" else "_info" if family.type == "info" else "")
        for registry in (consumer.registry, loader.registry, archive.registry)
        for family in registry.collect()
        if family.name.startswith("tandem")
    }


def named(expressions: list[str]) -> set[str]:
    return {re.sub(r"_(bucket|count|sum)$", "", name) for text in expressions for name in NAME.findall(text)}


def test_the_rules_speak_of_metrics_that_are_served() -> None:
    assert named(list(alerts.rules().values())) <= served()


def test_every_rule_says_what_it_means_and_what_to_do() -> None:
    (group,) = yaml.safe_load(alerts.FILE.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "action"}


def test_the_board_speaks_of_metrics_that_are_served() -> None:
    board = json.loads((ROOT / "examples" / "grafana" / "tandem.json").read_text(encoding="utf-8"))
    found = named([target["expr"] for panel in board["panels"] for target in panel["targets"]])
    assert found <= served()
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_documentation_lists_every_metric_and_no_other() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert {name for name in NAME.findall(text) if name not in ("tandem_", "tandem_json")} == served()


def test_an_expression_is_judged_as_prometheus_would(monkeypatch: pytest.MonkeyPatch) -> None:
    nan = float("nan")
    series: alerts.Series = [
        ("a", {"x": "1"}, 5.0), ("a", {"x": "2"}, nan), ("b", {}, 0.0), ("up", {"job": "tandem"}, 1.0)
    ]  # fmt: skip
    judged = {
        "max(a) > 4": True, "max(a) > 5": False, "min(a) < 6": True, 'max(a{x="2"}) > 0': False,
        'min by (x) (a{x!="2"}) == 5': True, "min by (x) (a) == 5": True, "max(b) == 0": True, "max(c) == 0": False,
        "absent(c)": True, "absent(a)": False, 'up{job="tandem"} == 0': False,
    }  # fmt: skip
    monkeypatch.setattr(alerts, "rules", lambda: {expr: expr for expr in judged})
    assert alerts.firing(series) == {expr for expr, true in judged.items() if true}
