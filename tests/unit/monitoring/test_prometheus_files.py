"""Rules and dashboard that ship: every metric and label in them is one that the code exports, and promtool agrees."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from ray_mlops.monitoring.exposition import exposition
from ray_mlops.monitoring.notices.exposition import expose_notifications
from ray_mlops.monitoring.notices.outbox import TargetState
from ray_mlops.monitoring.prometheus import read_dashboard, read_rules
from ray_mlops.serving.exposition import ReplicaMetrics, expose
from ray_mlops.serving.prediction_log.accounting import STATES
from ray_mlops.serving.protocol import Arm, ModelRoutes
from ray_mlops.serving.telemetry import Served, Telemetry

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (it comes with prometheus)")
CASES = Path(__file__).with_name("prometheus_rules.test.yaml")

_NAME = re.compile(r"\bray_mlops[a-z0-9_:]*")
_SELECTOR = re.compile(r"\b(ray_mlops[a-z0-9_:]*)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_GROUPING = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")
_SHOWN = re.compile(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}")


@pytest.fixture
def exported(watch: Any) -> dict[str, set[str]]:
    """Labels of every metric that a replica, the monitor and the notifier export, by name."""
    watched = watch()
    for window in range(1000, 1012):
        rows = watched.traffic.window(window, shift=3.0)
        watched.send(rows)
        watched.monitor.add_labels(watched.traffic.labels(rows, flip=True))
        watched.close()
    retraining = {"in_flight": None, "decisions": 0, "outcomes": {}, "policy": "", "blocked": False}
    rollout = {"stage": "canary", "version": "2", "weight": 0.1}
    views = {"m": {**watched.monitor.view(), "retraining": retraining, "rollout": rollout}}
    text = exposition(views) + expose_notifications([TargetState("m", "ops", 1, 0.0)]) + _replica()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def _replica() -> str:
    telemetry = Telemetry("r")
    routes = ModelRoutes("m", 1, Arm("1", "b", "h"))
    telemetry.book(Served(routes, "champion", "1", "ok", 0, 0.01, 0.01, 1.0))
    telemetry.book_refusal("m", 503)
    telemetry.book_labels("m", {"accepted": 1})
    metrics = ReplicaMetrics(telemetry, dict.fromkeys(STATES, 0), 0, {"m": 1}, 0, True)
    return expose(metrics)


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(read_rules())["groups"] for rule in group["rules"]]


def queries() -> Iterator[tuple[str, str]]:
    """Every expression of the dashboard, with its legend."""
    board = json.loads(read_dashboard())
    for panel in board["panels"]:
        yield from ((target["expr"], target["legendFormat"]) for target in panel.get("targets", []))
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"], ""


def known_labels(exported: dict[str, set[str]]) -> dict[str, set[str]]:
    """Labels by metric, those that the rules record included."""
    known = dict(exported)
    for rule in rules():
        if "record" in rule:
            known[rule["record"]] = labels_of_result(rule["expr"], known)
    return known


def labels_of_result(expression: str, known: dict[str, set[str]]) -> set[str]:
    """Labels that a result has: those it is grouped by, else those of its metrics."""
    groups = [{name.strip() for name in names.split(",")} for names in _GROUPING.findall(expression)]
    if groups:
        return set.union(*groups) - {"le"}
    return set().union(*(known[name] for name in _NAME.findall(expression)))


def check(expression: str, known: dict[str, set[str]]) -> None:
    """Every metric is known, and has the labels that it is selected and grouped by."""
    names = set(_NAME.findall(expression))
    assert names, expression
    assert names <= known.keys(), f"{names - known.keys()} in {expression}"
    for name, matchers in _SELECTOR.findall(expression):
        asked = set(_MATCHER.findall(matchers))
        assert asked <= known[name], f"{name} has no {asked - known[name]} in {expression}"
    grouped = {label.strip() for names_ in _GROUPING.findall(expression) for label in names_.split(",")}
    assert grouped <= set().union(*(known[name] for name in names)), expression


def test_metrics_and_labels_of_the_rules_are_exported(exported: dict[str, set[str]]) -> None:
    known = known_labels(exported)
    for rule in rules():
        check(rule["expr"], known)


def test_metrics_and_labels_of_the_dashboard_are_exported(exported: dict[str, set[str]]) -> None:
    known = known_labels(exported)
    for expression, legend in queries():
        check(expression, known)
        shown = set(_SHOWN.findall(legend))
        assert shown <= labels_of_result(expression, known), f"{legend!r} of {expression}"


def test_metric_that_nobody_exports_is_found(exported: dict[str, set[str]]) -> None:
    known = known_labels(exported)
    for wrong in ("ray_mlops_nothing > 0", 'ray_mlops_monitor_up{model="m"}', "sum by (model) (ray_mlops_monitor_up)"):
        with pytest.raises(AssertionError):
            check(wrong, known)


def test_every_alert_says_what_it_means_and_what_to_do(exported: dict[str, set[str]]) -> None:
    known = known_labels(exported)
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len({rule["alert"] for rule in alerts}) == len(alerts) > 15
    for rule in alerts:
        assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}, rule["alert"]
        shown = {name for text in rule["annotations"].values() for name in _SHOWN.findall(text)} - {"value"}
        assert shown <= labels_of_result(rule["expr"], known), rule["alert"]


def test_dashboard_panels_have_a_purpose_and_do_not_overlap() -> None:
    panels = json.loads(read_dashboard())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["description"] for panel in panels if panel["type"] != "row")
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


@needs_promtool
def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    assert "SUCCESS" in promtool("check", "rules", str(write_rules(tmp_path)))


@needs_promtool
def test_promtool_finds_that_the_rules_raise_what_they_should(tmp_path: Path) -> None:
    cases = tmp_path / "cases.yaml"
    cases.write_text(CASES.read_text(encoding="utf-8").replace("RULES", str(write_rules(tmp_path))), encoding="utf-8")
    assert "SUCCESS" in promtool("test", "rules", str(cases))


@needs_promtool
def test_promtool_parses_every_query_of_the_dashboard(tmp_path: Path) -> None:
    expressions = [expression for expression, legend in queries() if legend]
    recorded = [
        {"record": f"panel:{index}", "expr": expression.replace("$model", ".*")}
        for index, expression in enumerate(expressions)
    ]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}), encoding="utf-8")
    assert f"SUCCESS: {len(expressions)} rules found" in promtool("check", "rules", str(file))


def write_rules(directory: Path) -> Path:
    file = directory / "rules.yaml"
    file.write_text(read_rules(), encoding="utf-8")
    return file


def promtool(*arguments: str) -> str:
    done = subprocess.run([str(PROMTOOL), *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
