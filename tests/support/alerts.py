"""The alert rules' expressions, as far as these rules need them, over what processes serve: whether each would fire."""

from __future__ import annotations

import math
import operator
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

FILE = Path(__file__).parents[2] / "examples" / "grafana" / "alerts.yaml"
Series = list[tuple[str, Mapping[str, str], float]]
_SIMPLE = re.compile(
    r"(?P<how>max|min)(?: by \((?P<by>\w+)\) )?\((?P<name>\w+)(?:\{(?P<label>\w+)(?P<not>!?)=\"(?P<value>\w+)\"\})?\)"
    r" (?P<op>[<>]|==) (?P<limit>[\d.]+)"
)
_OPS: Mapping[str, Callable[[float, float], bool]] = {"<": operator.lt, ">": operator.gt, "==": operator.eq}


def rules() -> dict[str, str]:
    """alert -> expression."""
    (group,) = yaml.safe_load(FILE.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule["expr"] for rule in group["rules"]}


def scraped(addresses: Iterable[str]) -> Series:
    """All that these endpoints serve, and `up` of each."""
    found: Series = []
    for address in addresses:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                text = answer.read().decode()
        except (urllib.error.URLError, OSError):
            found.append(("up", {"job": "tandem", "instance": address}, 0.0))
            continue
        found.append(("up", {"job": "tandem", "instance": address}, 1.0))
        for family in text_string_to_metric_families(text):
            found += [(s.name, s.labels, s.value) for s in family.samples]
    return found


def firing(series: Series) -> set[str]:
    """The alerts whose expressions are true now, those over a range of time left out."""
    return {
        alert for alert, expr in rules().items() if "histogram_quantile" not in expr and _true(expr, series)
    }


def _true(expr: str, series: Series) -> bool:
    if expr == 'up{job="tandem"} == 0':
        return any(name == "up" and value == 0 for name, _, value in series)
    if absent := re.fullmatch(r"absent\((\w+)\)( or \(time\(\) - max\(\1\) > (\d+)\))?", expr):
        values = [value for name, _, value in series if name == absent[1]]
        return not values or (absent[3] is not None and time.time() - max(values) > float(absent[3]))
    found = _SIMPLE.fullmatch(expr)
    if found is None:
        raise AssertionError(f"an expression that is not known here: {expr}")
    groups: dict[str, list[float]] = {}
    for name, labels, value in series:
        wanted = found["label"] is None or (labels.get(found["label"]) == found["value"]) != bool(
            found["not"]
        )
        if name == found["name"] and wanted:
            groups.setdefault(labels.get(found["by"] or "", ""), []).append(value)
    choose = max if found["how"] == "max" else min
    known = [[v for v in values if not math.isnan(v)] for values in groups.values()]
    return any(_OPS[found["op"]](choose(values), float(found["limit"])) for values in known if values)
