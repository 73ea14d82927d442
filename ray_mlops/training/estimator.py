"""Fit, on rows that a model was not trained on, what will estimate its performance without labels."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_mlops.config import MonitoringConfig
from ray_mlops.data.reference import Times, binned_values, newest_windows, window_of
from ray_mlops.statistics.estimator_fit import fit_classification, fit_regression
from ray_mlops.statistics.estimators import Estimator
from ray_mlops.training.bundle import ModelBundle

_UNUSED_TYPES = ("datetime", "vector")
"""Times move on by themselves: tomorrow's values are never those of the fit. Of vectors, the norm says too little."""


def fit_estimator(
    bundle: ModelBundle,
    rows: pa.Table,
    prediction: npt.NDArray[np.float64],
    target: npt.NDArray[np.float64],
    event_us: Times,
    monitoring: MonitoringConfig,
    unseen: Collection[str] = (),
) -> Estimator | None:
    """Fit it for a bundle's task.

    Args:
        bundle: The model, with the bins of its profile.
        rows: Raw rows [n].
        prediction: The model's predictions for them [n] or [n, k].
        target: Encoded targets [n].
        event_us: Event times [n]; zeros without event time.
        monitoring: How many windows of gaps are kept.
        unseen: Columns that the prediction log leaves out or hashes.

    Returns:
        None where there are too few rows.
    """
    profile = bundle.profile
    windows = window_of(event_us, profile.window_us)
    kept = newest_windows(event_us, profile.window_us, monitoring.reference_windows)
    if bundle.task != "regression":
        fitted = fit_classification(bundle.task, prediction, target, windows, kept, bundle.threshold)
        return None if fitted is None else replace(fitted, classes=tuple(str(name) for name in bundle.classes))
    raw = bundle.features.canonical_table(rows)
    used = {
        name: column
        for name, column in profile.columns.items()
        if name not in unseen and column.role != "calendar" and column.type not in _UNUSED_TYPES
    }
    values = {name: binned_values(raw[name], column.type) for name, column in used.items()}
    bins = {name: column.bins for name, column in used.items()}
    return fit_regression(values, bins, prediction, target, bundle.loss_scale, windows, kept)
