"""The dashboard and the alerts: what they ask for is sent, and their expressions are PromQL."""

from __future__ import annotations

import json
import re
from pathlib import Path

import promql_parser
import pytest
import yaml

from inpaint_ops import metrics
from tests.support.compose_files import REPOSITORY

MONITORING = REPOSITORY / "deploy/monitoring"
OURS = {metrics.IMAGES, metrics.STAGE_DURATION, metrics.PEAK_MEMORY}


def known_metrics() -> set[str]:
    """Ours, and what Airflow's registry says that it sends, as the exporter names them."""
    import airflow._shared.observability.metrics as package

    registry = yaml.safe_load((Path(package.__file__).parent / "metrics_template.yaml").read_text())
    airflows = {f"airflow_{one['name'].replace('.', '_')}" for one in registry["metrics"]}
    return airflows | OURS


def expressions() -> list[str]:
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    return [rule["expr"] for rule in rules] + [target["expr"] for panel in panels for target in panel["targets"]]


def test_dashboard_and_alerts_ask_for_metrics_that_are_sent() -> None:
    names = [name for text in expressions() for name in re.findall(r"\b(?:airflow|inpaint_ops)_[a-z_]+", text)]
    assert len(names) > 15
    for name in names:
        assert re.sub(r"_(bucket|sum|count)$", "", name) in known_metrics(), name


def test_expressions_are_promql() -> None:
    for text in expressions():
        promql_parser.parse(text.replace("$__rate_interval", "5m").replace("$__range", "6h"))
    with pytest.raises(ValueError, match="parenthesis"):
        promql_parser.parse("sum(rate(x[5m])")


def test_alerts_cover_what_operators_asked_for() -> None:
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
    assert {rule["alert"] for rule in rules} >= {
        "InpaintFailureRate", "InpaintRunStalled", "InpaintGpuIdleWhileWorkWaits", "InpaintDeadlineMissed",
    }  # fmt: skip
    assert all(rule["annotations"]["summary"] for rule in rules)


def test_the_exporter_gives_our_metrics_their_names() -> None:
    mappings = yaml.safe_load((MONITORING / "statsd-mapping.yaml").read_text())["mappings"]
    assert {one["match"].removeprefix("airflow."): one["name"] for one in mappings} == {name: name for name in OURS}
    kinds = {one["name"]: one["match_metric_type"] for one in mappings}
    assert kinds == {metrics.IMAGES: "counter", metrics.STAGE_DURATION: "observer", metrics.PEAK_MEMORY: "gauge"}
