"""The candidate against the champion, row by row on the same holdout."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from ray_mlops.config import EvaluationConfig
from ray_mlops.evaluation.intervals import Interval, Resamples
from ray_mlops.evaluation.means import holm_adjust, mean_interval, p_value_above, weighted_mean
from ray_mlops.evaluation.rows import Floats
from ray_mlops.evaluation.slices import SliceCodes


@dataclass(frozen=True, slots=True)
class MetricDifference:
    """One metric of both models. ``difference`` is candidate minus champion, with its paired interval."""

    candidate: float
    champion: float
    difference: Interval


@dataclass(frozen=True, slots=True)
class SliceDifference:
    """Mean difference of the bounded loss, candidate minus champion, on one slice: positive is worse.

    Args:
        difference: With an interval that holds for all judged slices at once (Bonferroni).
        error: Standard error of the mean difference.
        p_worse: One-sided p-value of "not worse than the champion", adjusted over the judged slices (Holm);
            NaN where the slice is not judged.
    """

    column: str
    label: str
    rows: int
    is_judged: bool
    difference: Interval
    error: float
    p_worse: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """All differences between candidate and champion on the same rows."""

    champion_hash: str
    loss: Interval
    """Mean difference of the bounded loss, in [-1, 1]: positive is worse."""
    p_worse: float
    """One-sided p-value of "not worse than the champion" over all rows."""
    metrics: dict[str, MetricDifference] = field(default_factory=dict)
    slices: tuple[SliceDifference, ...] = ()


def compare_models(
    resamples: Resamples,
    worse: Floats,
    weight: Floats,
    cuts: Sequence[SliceCodes],
    config: EvaluationConfig,
    *,
    champion_hash: str,
) -> Comparison:
    """Compare two models on the same rows.

    Args:
        resamples: Of the candidate's meter (index 0) and the champion's (index 1).
        worse: Candidate's minus champion's bounded loss of each row, [n].
    """
    differences = resamples.differences(0, 1, config.confidence)
    metrics = {
        name: MetricDifference(float(resamples.point[0, column]), float(resamples.point[1, column]), differences[name])
        for column, name in enumerate(resamples.names)
    }
    mean, error = weighted_mean(worse, weight)
    return Comparison(
        champion_hash,
        mean_interval(worse, weight, config.confidence),
        p_value_above(mean, error, int((weight > 0).sum()), 0.0),
        metrics,
        compare_slices(worse, weight, cuts, config),
    )


def compare_slices(
    worse: Floats, weight: Floats, cuts: Sequence[SliceCodes], config: EvaluationConfig
) -> tuple[SliceDifference, ...]:
    """Test the mean loss difference of each slice, with multiplicity control over all that are judged.

    Args:
        worse: Candidate's minus champion's bounded loss of each row, [n].
    """
    found = []
    for cut in cuts:
        for index, label in enumerate(cut.labels):
            rows = np.flatnonzero(cut.codes == index)
            mean, error = weighted_mean(worse[rows], weight[rows])
            found.append((cut.column, label, len(rows), mean, error))
    judged = [(mean, error, rows) for _, _, rows, mean, error in found if rows >= config.min_support]
    p_values = iter(holm_adjust(np.array([p_value_above(*item, 0.0) for item in judged])).tolist())
    tail = (1 - config.confidence) / 2
    slices = []
    for column, label, count, mean, error in found:
        is_judged = count >= config.min_support
        reach = float(stats.t.isf(tail / len(judged) if is_judged else tail, max(count - 1, 1))) * error
        interval = Interval(mean, mean - reach, mean + reach)
        slices.append(
            SliceDifference(column, label, count, is_judged, interval, error, next(p_values) if is_judged else np.nan)
        )
    return tuple(slices)


def find_worse_slices(
    slices: Sequence[SliceDifference], limit: float, confidence: float
) -> list[tuple[SliceDifference, float]]:
    """Return the judged slices shown to be worse by more than ``limit``, worst first, with Holm's p-values.

    The chance that any is named although none is that much worse is at most ``1 - confidence``.
    """
    judged = [item for item in slices if item.is_judged]
    raw = [p_value_above(item.difference.value, item.error, item.rows, limit) for item in judged]
    pairs = zip(judged, holm_adjust(np.array(raw)).tolist(), strict=True)
    worse = [(item, p_value) for item, p_value in pairs if p_value < 1 - confidence]
    return sorted(worse, key=lambda pair: -pair[0].difference.value)
