"""Every metric that the dashboard, the alerts and the scaling ask for is one that a server has,
with the labels that they ask for.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from ossia.server import Settings
from ossia.tools.containers import Containers

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "ossia.json").read_text("utf-8"))
VARIABLES = {"$__rate_interval": "5m", "$__range": "1h", "$instance": ".*"}  # Grafana's
OF_PROMETHEUS = {"up"}  # it makes this one, and two labels, itself
ITS_LABELS = {"job", "instance"}
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
HI = "<|channel|>final<|message|>Hi<|return|>"
SPOILT = "<|channel|>final<|message|>Hi<|channel|>final<|message|>again<|return|>"


def dashboard_queries() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def scaling_queries() -> Iterator[str]:
    scaled = yaml.safe_load((DEPLOY / "keda.yaml").read_text("utf-8"))
    for trigger in scaled["spec"]["triggers"]:
        yield trigger["metadata"]["query"]


def queries() -> list[str]:
    found = [*dashboard_queries(), *(rule["expr"] for rule in rules()), *scaling_queries()]
    for name, value in VARIABLES.items():
        found = [query.replace(name, value) for query in found]
    return found


def selected(query: str) -> list[promql_parser.VectorSelector]:
    """What a query reads. Raises for one that is no PromQL."""
    found: list[promql_parser.VectorSelector] = []

    def look(node: object) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        elif isinstance(node, promql_parser.MatrixSelector):
            found.append(node.vector_selector)

    promql_parser.walk(promql_parser.parse(query), look)
    return found


def grouped_by(query: str) -> set[str]:
    """The labels that aggregations keep."""
    lists = re.findall(r"\bby \(([^)]*)\)", query)
    return {name.strip() for names in lists for name in names.split(",") if name.strip()}


def test_the_dashboard_has_all_rows() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == [
        "Traffic", "Latency", "Tokens", "Engine", "Cache", "Tools", "Errors and repairs", "Per key"
    ]  # fmt: skip
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_what_a_query_reads_is_seen() -> None:
    query = (
        "histogram_quantile(0.9, sum by (le) (rate(a_bucket{b='c'}[5m]))) / max_over_time(d[1m])"
    )
    assert {one.name for one in selected(query)} == {"a_bucket", "d"}
    assert grouped_by(query) == {"le"}
    with pytest.raises(ValueError):
        selected("sum by (")


@pytest.mark.anyio
async def test_every_metric_exists(client_for: Any, tmp_path: Path) -> None:
    containers = Containers(tmp_path)
    async with client_for(HI, SPOILT, settings=Settings(), containers=containers) as client:
        for _ in range(2):
            body = {"model": "nano", "input": "Hi"}
            assert (await client.post("/v1/responses", json=body)).status_code == 200
        client.app.state.service.metrics.tool_call("python", "ok", 0.1)
        text = (await client.get("/metrics")).text
    samples = {}
    for family in text_string_to_metric_families(text):
        labels = {name for sample in family.samples for name in sample.labels}
        for suffix in SUFFIXES[family.type]:
            samples[family.name + suffix] = labels
    for query in queries():
        asked = selected(query)
        assert asked, query
        of_all = set(ITS_LABELS)
        for one in asked:
            if one.name in OF_PROMETHEUS:
                continue
            assert one.name in samples, f"there is no {one.name}: {query}"
            of_all |= samples[one.name]
            labels = {matcher.name for matcher in one.matchers.matchers}
            assert labels <= samples[one.name] | ITS_LABELS, query
        assert grouped_by(query) <= of_all, query


def test_alerts_say_what_they_mean() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]


def test_alerts_fire_when_they_should() -> None:
    """deploy/alerts_test.yml, in Prometheus's own words."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        run = subprocess.run([promtool, *command], cwd=DEPLOY, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr
