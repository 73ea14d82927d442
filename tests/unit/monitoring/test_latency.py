"""Model time is watched: it makes itself a reference, and a slower model is news."""

import json

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.config import MonitoringConfig
from ray_mlops.monitoring.handover import LATENCY, count_columns
from ray_mlops.monitoring.latency import LATENCY_BINS, LatencyWatch, quantile
from ray_mlops.statistics.bins import ColumnCounts

CONFIG = MonitoringConfig.model_validate({"reference": {"windows": 30, "min_windows": 10}})


def window(index: int, slower: float = 1.0, rows: int = 200) -> ColumnCounts:
    generator = np.random.default_rng(index)
    level = 2000.0 * slower * np.exp(generator.normal(0, 0.05))
    return ColumnCounts.of(LATENCY_BINS, level * generator.lognormal(0, 0.4, rows))


def test_first_windows_become_the_reference_and_a_slow_model_is_noticed() -> None:
    watch = LatencyWatch(CONFIG)
    assert watch.view() is None
    for index in range(40):
        watch.update(index, window(index))
    assert watch.notices() == ()
    view = watch.view()
    assert view is not None
    assert view["status"] == "testing"
    assert view["p50_us"] == pytest.approx(2000, rel=0.25)
    for index in range(40, 46):
        watch.update(index, window(index, slower=2.0))
    assert watch.notices() == (LATENCY,)
    assert json.loads(json.dumps(watch.view(), allow_nan=False))["p99_us"] > view["p99_us"]


def test_windows_with_few_answers_and_without_any_are_left_out() -> None:
    watch = LatencyWatch(CONFIG)
    watch.update(0, None)
    watch.update(1, window(1, rows=10))
    assert watch.view() is None


def test_state_survives_a_restart_and_an_older_checkpoint_begins_anew() -> None:
    watch, again, fresh = (LatencyWatch(CONFIG) for _ in range(3))
    for index in range(15):
        watch.update(index, window(index))
    again.restore(json.loads(json.dumps(watch.to_json())))
    fresh.restore(None)
    assert again.view() == watch.view()
    assert fresh.view() is None


def test_quantile_of_nothing_is_nan() -> None:
    assert np.isnan(quantile(LATENCY_BINS, ColumnCounts.empty(LATENCY_BINS), 0.5))


def test_time_of_the_champions_own_answers_is_counted() -> None:
    rows = pa.table({"version": ["1", "1", "2"], "pinned": [False, True, False], LATENCY: [100, 200, 300]})
    counted = count_columns(rows, {LATENCY: LATENCY_BINS}, "1")
    assert counted[LATENCY].n == 1
    assert counted[LATENCY].total == 100.0


def test_window_whose_times_are_all_missing_is_shown_without_numbers() -> None:
    watch = LatencyWatch(CONFIG)
    watch.update(0, ColumnCounts.of(LATENCY_BINS, [None] * 200))
    view = watch.view()
    assert view is not None
    json.dumps(view, allow_nan=False)
    assert (view["mean_us"], view["p50_us"], view["p99_us"]) == (None, None, None)
