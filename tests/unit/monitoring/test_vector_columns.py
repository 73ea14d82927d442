"""The numbers of a column of vectors share its weight, and speak in its name."""

from typing import Any

import numpy as np
import pytest

from ray_mlops.config import MonitoringConfig
from ray_mlops.monitoring.channels import DatasetMonitor
from ray_mlops.monitoring.combination import column_weights
from ray_mlops.monitoring.feature import FeatureReference
from ray_mlops.statistics.bins import ColumnCounts, NumericBins

CONFIG = MonitoringConfig.model_validate({"window": "1h", "min_window_rows": 20, "reference": {"min_windows": 8}})
NAMES = ("x", "v", "v.direction_00", "v.direction_01", "x~z")
SOURCES = {"v.direction_00": ("v",), "v.direction_01": ("v",), "x~z": ("x", "z")}


def counts_of(name: str, window: int, shift: float = 0.0) -> ColumnCounts:
    rng = np.random.default_rng([window, NAMES.index(name)])
    return ColumnCounts.of(NumericBins(np.linspace(-3, 3, 9).tolist()), rng.normal(size=200) + shift)


def references(importance: float = 3.0) -> list[FeatureReference]:
    bins = NumericBins(np.linspace(-3, 3, 9).tolist())
    return [
        FeatureReference(
            name,
            bins,
            tuple(counts_of(name, window) for window in range(30)),
            importance=importance if name == "v" else 1.0,
            derived_from=SOURCES.get(name, ()),
        )
        for name in NAMES
    ]


def run(shifted: str, windows: int = 12) -> tuple[DatasetMonitor, Any]:
    monitor = DatasetMonitor(references(), None, [], CONFIG)
    for window in range(100, 100 + windows):
        verdict = monitor.update(window, {n: counts_of(n, window, 1.0 if n == shifted else 0.0) for n in NAMES})
    return monitor, verdict


def test_numbers_share_the_weight_of_their_column() -> None:
    found = column_weights(references(), None, 0.3, joint_weight=0.2)
    assert sum(found.values()) == pytest.approx(1.0)
    assert found["x~z"] == pytest.approx(0.2)
    assert found["v"] == found["v.direction_00"] == found["v.direction_01"]
    assert 3 * found["v"] == pytest.approx(3 * found["x"])


@pytest.mark.parametrize("shifted", ["v", "v.direction_01"])
def test_whichever_number_moved_its_column_is_named(shifted: str) -> None:
    monitor, verdict = run(shifted)
    assert verdict.alarms == ("inputs",)
    assert verdict.guilty == ("v",)
    assert "v" in verdict.notices
    assert not any("direction" in name for name in (*verdict.notices, *verdict.features))
    told = monitor.describe("inputs")
    assert told["columns"]["v"]["number"] == shifted
    assert told["reason"] == "drift in v"
    shown = monitor.view()["features"]
    assert set(shown) == {"x", "v", "x~z"}
    assert shown["v"]["weight"] == pytest.approx(3 * monitor.evidence()["v"].weight)
    assert shown["v"]["log_e"] > shown["x"]["log_e"]


def test_column_that_others_explain_is_not_named_for_a_vector() -> None:
    assert run("x")[1].guilty == ("x",)


def test_broken_vectors_give_no_evidence_in_any_number() -> None:
    monitor = DatasetMonitor(references(), None, [], CONFIG)
    empty = ColumnCounts.of(NumericBins(np.linspace(-3, 3, 9).tolist()), np.full(200, np.nan))
    for window in range(100, 112):
        counts = {n: counts_of(n, window, 1.0) if n.startswith("v.") else counts_of(n, window) for n in NAMES}
        verdict = monitor.update(window, {**counts, "v": empty})
    assert {breach.partition(":")[0] for breach in verdict.breaches} == {"v"}
    assert verdict.alarms == ()


def test_restart_gives_the_same_evidence() -> None:
    monitor, _ = run("v.direction_00", windows=6)
    again = DatasetMonitor(references(), None, [], CONFIG)
    again.restore(monitor.to_json())
    assert again.log_e == monitor.log_e
    assert again.view() == monitor.view()
