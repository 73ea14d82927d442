"""Rows to drill on and to compare: those that were served, with their labels, or the version's own snapshot."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.config import ProjectConfig
from ray_mlops.data.reference import window_of
from ray_mlops.data.snapshot import load_snapshot, snapshot_table
from ray_mlops.data.statistics_pass import event_times
from ray_mlops.data.values import MISSING_US
from ray_mlops.errors import DataError
from ray_mlops.monitoring.drill.stream import Stretch
from ray_mlops.runtime.files import Files
from ray_mlops.serving.label_log import read_labels
from ray_mlops.serving.labels_in_force import known_targets
from ray_mlops.serving.prediction_log.files import read_predictions
from ray_mlops.training.bundle import ModelBundle

Origin = Literal["log", "snapshot"]
_FEATURE = "features."
_TIMED_ROWS = 60
"""Answers of each window whose time is measured."""


@dataclass(frozen=True, slots=True, eq=False)
class PastRows:
    """Rows of the past, in order of event time."""

    origin: Origin
    inputs: pa.Table
    """Raw inputs in canonical types [n]."""
    event_us: npt.NDArray[np.int64]
    target: npt.NDArray[np.float64]
    """Encoded [n]; NaN without a label."""
    model_time_us: npt.NDArray[np.float64]
    """How long the answers took [n]; NaN where that is not known."""

    def __len__(self) -> int:
        return len(self.event_us)

    def take(self, rows: npt.NDArray[np.int64]) -> "PastRows":
        """Some rows, in the order given."""
        return replace(
            self,
            inputs=self.inputs.take(pa.array(rows)),
            event_us=self.event_us[rows],
            target=self.target[rows],
            model_time_us=self.model_time_us[rows],
        )

    def followed_by(self, later: "PastRows") -> "PastRows":
        """These rows and others after them; of the origin of the first."""
        return PastRows(
            self.origin,
            pa.concat_tables([self.inputs, later.inputs]),
            np.concatenate([self.event_us, later.event_us]),
            np.concatenate([self.target, later.target]),
            np.concatenate([self.model_time_us, later.model_time_us]),
        )

    def between(self, start_us: int, end_us: int) -> "PastRows":
        """The rows of a range of event time, its end exclusive."""
        first, last = np.searchsorted(self.event_us, [start_us, end_us])
        return self.take(np.arange(first, last))


def logged_past(config: ProjectConfig, bundle: ModelBundle, files: Files) -> PastRows | None:
    """The rows that were served, whoever answered them; None where there are none with every input of the model.

    A column that the log leaves out or hashes makes its rows useless for predicting anew.
    """
    if not set(config.serving.log.redact).isdisjoint(column.name for column in bundle.features.columns):
        return None
    log = read_predictions(files, config.name)
    needed = [f"{_FEATURE}{column.name}" for column in bundle.features.columns]
    if log.num_rows == 0 or not set(needed) <= set(log.column_names):
        return None
    log = log.filter(pc.invert(log["pinned"])).sort_by([("event_time", "ascending"), ("prediction_id", "ascending")])
    inputs = pa.table({name.removeprefix(_FEATURE): log[name] for name in needed})
    target = known_targets(log["prediction_id"], read_labels(files, config.name), bundle.encoder)
    times = log["model_time_us"].to_numpy().astype(np.float64)
    times[~(times > 0.0)] = np.nan  # an answer that never came from a model was not timed
    event_us = log["event_time"].cast(pa.int64()).to_numpy()
    return PastRows("log", bundle.features.canonical_table(inputs), event_us, target, times)


def snapshot_past(config: ProjectConfig, bundle: ModelBundle, files: Files) -> PastRows:
    """The rows of the version's own snapshot.

    Raises:
        SnapshotError: It is missing, or its files have changed.
        DataError: Its rows have no event time.
    """
    table = snapshot_table(load_snapshot(files, bundle.snapshot), files)
    event_us = event_times(table, config.data.event_time)
    if config.data.event_time is None:
        raise DataError("without event times there are no windows", "data.event_time", "name the column that has them")
    order = np.flatnonzero(event_us != MISSING_US)
    order = order[np.argsort(event_us[order], kind="stable")]
    table, event_us = table.take(pa.array(order)), event_us[order]
    target = bundle.encoder.encode(table[bundle.target])
    unknown = np.full(len(order), np.nan)
    return PastRows("snapshot", bundle.features.canonical_table(table), event_us, target, unknown)


def stretch_of_newest(
    past: PastRows, config: ProjectConfig, bundle: ModelBundle, *, num_windows: int, rows_per_window: int, seed: int
) -> Stretch:
    """Copy the newest windows that are fit to be tested.

    Args:
        past: Rows.
        config: Length of a window, and rows that it needs.
        bundle: The model; where the rows do not say how long answers took, it is timed here, row by row.
        num_windows: At most this many, the newest.
        rows_per_window: At most this many rows of each, drawn by chance.
        seed: Of the draw.
    """
    window_us = config.monitoring.window // timedelta(microseconds=1)
    windows = window_of(past.event_us, window_us)
    found, counts = np.unique(windows, return_counts=True)
    fit = found[counts >= config.monitoring.min_window_rows][-num_windows:]
    rng = np.random.default_rng(seed)
    chosen = [_some(np.flatnonzero(windows == window), rows_per_window, rng) for window in fit]
    if not chosen:
        return _stretch(past.take(np.zeros(0, np.int64)), bundle, np.zeros(0, np.int64))
    rows = past.take(np.concatenate(chosen))
    return _stretch(rows, bundle, np.repeat(fit, [len(part) for part in chosen]))


def _stretch(rows: PastRows, bundle: ModelBundle, windows: npt.NDArray[np.int64]) -> Stretch:
    times = rows.model_time_us
    if len(rows) and np.isnan(times).all():
        times = _timed(rows.inputs, bundle, windows)
    known = np.isfinite(times)
    return Stretch(rows.inputs, rows.target, windows, times[known], windows[known], len(bundle.classes))


def _timed(inputs: pa.Table, bundle: ModelBundle, windows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Time single answers of each window, microseconds [n]; NaN where none was timed."""
    times = np.full(len(windows), np.nan)
    for window in np.unique(windows):
        for row in np.flatnonzero(windows == window)[:_TIMED_ROWS].tolist():
            began = time.perf_counter_ns()
            bundle.predict(inputs.slice(row, 1))
            times[row] = (time.perf_counter_ns() - began) / 1000.0
    return times


def _some(rows: npt.NDArray[np.int64], count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    return rows if len(rows) <= count else np.sort(rng.choice(rows, count, replace=False))


def origins(wanted: str) -> Sequence[Origin]:
    """Where to look for rows, in order."""
    return ("log", "snapshot") if wanted == "auto" else (wanted,)  # type: ignore[return-value]
