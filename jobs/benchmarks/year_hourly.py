"""A simulated year of hourly windows before one monitor: what it holds, and what a window costs early and late."""

import json
import time

import numpy as np
import pyarrow as pa

from jobs.benchmarks.figures import Figure, Report
from jobs.benchmarks.options import Options
from ray_mlops.config import MonitoringConfig
from ray_mlops.monitoring.channels import DatasetMonitor
from ray_mlops.monitoring.feature import FeatureReference
from ray_mlops.monitoring.handover import SCORE, Reference, build_handover, count_columns
from ray_mlops.monitoring.monitor import ModelMonitor, Watched
from ray_mlops.statistics.bins import Bins, CategoricalBins, NumericBins

HOUR_US = 3_600_000_000
ROWS = 50
WINDOWS, QUICK_WINDOWS = 8760, 1200
WARM = 800
"""Windows after which display, history and label horizon are full."""
_NUM_REFERENCE = 60


def measure(options: Options, report: Report) -> None:
    """Measure ``hourly_held_bytes``, ``hourly_checkpoint_bytes`` and ``hourly_cost_ratio``."""
    windows = QUICK_WINDOWS if options.quick else WINDOWS
    monitor, seconds, held, stored = make_monitor(), [], dict[int, int](), dict[int, int]()
    for step in range(windows):
        rows = rows_of(_NUM_REFERENCE + step)
        began = time.process_time()
        monitor.handover(build_handover("m", "r", step, rows, monitor.reference))
        monitor.advance()
        seconds.append(time.process_time() - began)
        if step in (WARM, windows - 1):
            held[step], stored[step] = monitor.history.nbytes, len(json.dumps(monitor.checkpoint()))
    span = (windows - WARM) // 4
    early, late = (float(np.mean(part)) for part in (seconds[WARM : WARM + span], seconds[-span:]))
    growth = (stored[windows - 1] - stored[WARM]) / (windows - 1 - WARM) / 3
    told = f"{windows} windows, from window {WARM}"
    report.figures += [
        Figure("hourly_held_bytes", held[windows - 1], detail=f"counts of the past; {held[WARM]} at window {WARM}"),
        Figure("hourly_checkpoint_bytes", stored[windows - 1], detail=f"{told}: +{growth:.0f} a column and window"),
        Figure("hourly_cost_ratio", late / early, detail=f"{told}: {early * 1e3:.1f} ms, {late * 1e3:.1f} in the end"),
    ]


def make_monitor() -> ModelMonitor:
    """One number, one category and a score; windows of an hour."""
    config = MonitoringConfig.model_validate({"window": "1h", "labels": {"delay": "2h", "horizon": "48h"}})
    past = [rows_of(window) for window in range(_NUM_REFERENCE)]
    everything = pa.concat_tables(past)
    bins: dict[str, Bins] = {
        "x": NumericBins.from_sample(everything["features.x"]),
        "city": CategoricalBins.from_sample(everything["features.city"]),
        SCORE: NumericBins.from_sample(everything["prediction"]),
    }
    counts = [count_columns(part, bins) for part in past]
    inputs, score = (
        [FeatureReference(name, bins[name], tuple(c[name] for c in counts)) for name in names]
        for names in (("x", "city"), (SCORE,))
    )
    dataset = DatasetMonitor(inputs, score[0], [], config)
    watched = Watched("m", "1", "h", "binary", ("0", "1"), 1.0, float)
    return ModelMonitor(watched, Reference("ref", bins, HOUR_US, version="1"), dataset, config)


def rows_of(window: int) -> pa.Table:
    """Rows of the prediction log, the same whenever they are made."""
    rng = np.random.default_rng(window)
    stamps = pa.array(window * HOUR_US + np.sort(rng.integers(0, HOUR_US, ROWS)), pa.timestamp("us", tz="UTC"))
    return pa.table(
        {
            "prediction_id": [f"{window}-{index}" for index in range(ROWS)],
            "request_id": [f"{window}-{index}" for index in range(ROWS)],
            "event_time": stamps,
            "arrival_time": stamps,
            "arm": ["champion"] * ROWS,
            "version": ["1"] * ROWS,
            "route_version": [1] * ROWS,
            "pinned": [False] * ROWS,
            "weight": [1.0] * ROWS,
            "features.x": rng.normal(rng.normal(0.0, 0.3), 1.0, ROWS),
            "features.city": rng.choice(["a", "b", "c"], ROWS),
            "prediction": rng.beta(2.0, 3.0, ROWS),
        }
    )
