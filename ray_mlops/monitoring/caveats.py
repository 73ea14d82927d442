"""What a column's reference cannot tell, in words: silence must not be taken for "no drift"."""

from dataclasses import dataclass

import numpy as np

from ray_mlops.config import MonitoringConfig
from ray_mlops.monitoring.feature import FeatureMonitor, FeatureReference
from ray_mlops.monitoring.window_channels import present_rows
from ray_mlops.statistics.bins import CategoricalBins, ColumnCounts, NumericBins

_MANY_UNSEEN = 0.01
"""Share of the reference's own values outside its vocabulary from which that is said."""


@dataclass(frozen=True, slots=True)
class Caveat:
    """Whether a column can be tested for drift, and what its silence means."""

    is_watched: bool
    text: str
    """Empty where nothing has to be said."""


def caveat_of(monitor: FeatureMonitor, config: MonitoringConfig) -> Caveat:
    """Say what the reference of a column, as it is now, cannot tell."""
    if monitor.is_warming_up:
        return _warming_up(monitor, config)
    pooled = sum(monitor.reference_windows(), ColumnCounts.empty(monitor.reference.bins))
    if monitor.is_blind:
        return Caveat(False, "not watched for drift: the reference has no value of it to compare with")
    return Caveat(True, _standing(monitor.reference, pooled))


def _warming_up(monitor: FeatureMonitor, config: MonitoringConfig) -> Caveat:
    pooled = monitor.reference.pooled()
    has, needs = monitor.num_reference_windows, config.reference.min_windows
    windows = "1 window" if len(monitor.reference.windows) == 1 else f"{len(monitor.reference.windows)} windows"
    counted = f"the reference has {pooled.n} rows in {windows}, and a test needs {needs} of them"
    then = f"{has} of {needs} new windows are collected in its place"
    epsilon = monitor.row_tolerance
    if epsilon is None:
        return Caveat(False, f"not watched for drift yet: {counted}, too few to test even single rows; {then}")
    seen = f"until then only a change of more than {100.0 * epsilon:.0f} % of the rows can be noticed"
    return Caveat(True, f"warming up: {counted}; {then}, {seen}")


def _standing(reference: FeatureReference, pooled: ColumnCounts) -> str:
    if isinstance(reference.bins, NumericBins) and pooled.minimum == pooled.maximum:
        return f"constant in the reference ({pooled.minimum:g}): whatever else comes counts as out of its range"
    if isinstance(reference.bins, CategoricalBins):
        unseen = float(pooled.counts[-2]) / present_rows(pooled)
        if unseen > _MANY_UNSEEN:
            known, share = len(reference.bins.vocabulary), f"{100.0 * unseen:.0f} %"
            return (
                f"too many categories: {known} are remembered, and {share} of the reference's own values are none of "
                "them; new categories cannot be told from rare ones"
            )
        if np.count_nonzero(pooled.counts[:-1]) == 1:
            return f"constant in the reference ({reference.bins.labels[int(np.argmax(pooled.counts[:-1]))]!r})"
    return ""
