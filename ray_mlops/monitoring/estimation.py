"""Performance without labels: what the champion's answers let one expect, and whether that may be believed.

Advisory: nothing is ever done because of an estimate. It is summed up where the rows are, beside the counts; the
monitor adds the sums up, shows them beside the truth, and says why it does not show them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ray_mlops.config.monitoring import EstimationConfig
from ray_mlops.monitoring.labels import EXPECTED, column_numbers, finite_rows, prediction_values
from ray_mlops.statistics.bins import FloatArray
from ray_mlops.statistics.estimators import (
    ERRORS,
    SCORE,
    ClassificationEstimator,
    Estimator,
    RegressionEstimator,
    RowEstimates,
)
from ray_mlops.statistics.expected import Expected

_FEATURE = "features."
_OUTSIDE = f"{EXPECTED}outside"
_NO_ESTIMATOR = "this version has no estimator: it was made by an older release, or on too few rows"


@dataclass(frozen=True, slots=True)
class Calibration:
    """What labels have said about the estimates of one epoch."""

    windows: int
    """Matured windows that were compared."""
    log_e: float
    """Evidence that estimates are off."""
    limit: float
    """Log evidence from which they are."""
    since: int | None = None
    """Window from which they most likely are."""
    reason: str = ""

    def has_failed_by(self, window: int) -> bool:
        """Whether the estimate of a window is among those that are off."""
        return self.log_e >= self.limit and self.since is not None and window >= self.since


@dataclass(frozen=True, slots=True)
class EstimateDecision:
    """Whether an estimate may be shown, and why."""

    is_shown: bool
    reason: str


def decide_estimate(
    window: int, expected: Expected | None, calibration: Calibration | None, min_rows: int, config: EstimationConfig
) -> EstimateDecision:
    """Decide whether the estimate of a window is shown.

    Args:
        window: Its index.
        expected: Its sums; None without an estimator.
        calibration: What labels have said so far; None where they cannot say anything.
        min_rows: Rows that a window needs.
        config: Limits.
    """
    if expected is None:
        return EstimateDecision(False, _NO_ESTIMATOR)
    if expected.n < min_rows:
        return EstimateDecision(False, f"{expected.n} rows, {min_rows} are needed")
    share = expected.outside / expected.n
    if share > config.max_outside_ratio:
        found = f"{share:.0%} of what it rests on lies outside the rows that it was fitted on"
        return EstimateDecision(False, f"{found}, up to {config.max_outside_ratio:.0%} is accepted")
    if calibration is not None and calibration.has_failed_by(window):
        return EstimateDecision(False, f"labels contradict it: {calibration.reason}")
    compared = 0 if calibration is None else calibration.windows
    return EstimateDecision(True, f"not contradicted by {compared} matured windows")


def with_expectations(rows: pa.Table, estimator: Estimator | None, version: str | None) -> pa.Table:
    """Add what an error model says of each row, for the sums and for the label join; nothing for a classifier.

    Args:
        rows: Rows of the prediction log.
        estimator: The champion's.
        version: The champion; other versions' rows get nulls.
    """
    if not isinstance(estimator, RegressionEstimator) or rows.num_rows == 0 or "prediction" not in rows.column_names:
        return rows
    own = _own(rows, version) & np.isfinite(rows["prediction"].to_numpy())
    part = rows.filter(pa.array(own))
    columns: dict[str, Any] = {
        name.removeprefix(_FEATURE): column
        for name, column in zip(part.column_names, part.itercolumns(), strict=True)
        if name.startswith(_FEATURE)
    }
    found = estimator.estimate({**columns, SCORE: part["prediction"].to_numpy()})
    for name, values in [*((f"{EXPECTED}{n}", found.means[n]) for n in ERRORS), (_OUTSIDE, found.outside)]:
        whole = np.full(rows.num_rows, np.nan)
        whole[own] = values
        rows = rows.append_column(name, pa.array(whole))
    return rows


def expect_windows(
    rows: pa.Table, estimator: Estimator | None, version: str | None, window_us: int
) -> dict[int, Expected]:
    """Sum up what is expected of the champion's own rows, by window of event time.

    Args:
        rows: As ``with_expectations`` returns them.
        estimator: The champion's; None gives nothing.
        version: The champion.
        window_us: Length of a window.
    """
    if estimator is None or rows.num_rows == 0:
        return {}
    own = rows.filter(pa.array(_own(rows, version)))
    if own.num_rows == 0:  # all of other versions, whose answers may be of another kind
        return {}
    estimated, kept = estimate_rows(own, estimator)
    windows = own["event_time"].cast(pa.int64()).to_numpy()[kept] // window_us
    return {
        window: estimated.take(windows == window).total(estimator.fitted_rows, estimator.auc_cells)
        for window in np.unique(windows).tolist()
    }


def estimate_rows(rows: pa.Table, estimator: Estimator) -> tuple[RowEstimates, Any]:
    """What is expected of a version's own rows, labelled or not.

    Args:
        rows: As ``with_expectations`` returns them, or as the label join kept them.
        estimator: The version's.

    Returns:
        The estimates, and which rows have one [n].
    """
    prediction = predictions_of(rows, estimator)
    kept = finite_rows(prediction)
    if isinstance(estimator, ClassificationEstimator):
        return estimator.estimate(prediction[kept]), kept
    means = {name: column_numbers(rows, f"{EXPECTED}{name}") for name in ERRORS}
    kept &= np.isfinite(means[ERRORS[0]])
    outside = column_numbers(rows, _OUTSIDE)
    found = {name: values[kept] for name, values in means.items()}
    return estimator.read(found, prediction[kept], np.nan_to_num(outside[kept])), kept


def predictions_of(rows: pa.Table, estimator: Estimator) -> FloatArray:
    """The predictions of a version's own rows: [n], or [n, k] in the order of its classes."""
    if isinstance(estimator, RegressionEstimator):
        return prediction_values(rows, "regression")
    return prediction_values(rows, estimator.task, estimator.classes)


def estimate_to_json(expected: Expected | None, decision: EstimateDecision, assumes: str, coverage: float) -> Any:
    """An estimate for people; its numbers are left out where it is not shown."""
    shown: Mapping[str, Any] = {}
    if expected is not None and decision.is_shown:
        shown = {name: found.to_json() for name, found in expected.metrics(coverage).items()}
    return {
        "rows": 0 if expected is None else expected.n,
        "log_loss": shown.get("log_loss", {}).get("value"),
        "bounded_loss": shown.get("bounded_loss", {}).get("value"),
        "metrics": shown,
        "coverage": coverage,
        "outside_ratio": expected.outside / expected.n if expected is not None and expected.n else None,
        "assumes": assumes,
        "is_shown": decision.is_shown,
        "reason": decision.reason,
    }


def _own(rows: pa.Table, version: str | None) -> Any:
    pinned = np.asarray(rows["pinned"].to_numpy(), dtype=bool)
    if version is None:
        return ~pinned
    return ~pinned & (np.array(rows["version"].to_pylist(), dtype=object) == version)
