"""Gaps between groups: how differently the model treats them, and how well it serves them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ray_mlops.config import EvaluationConfig
from ray_mlops.config.data import Task
from ray_mlops.evaluation.intervals import Interval, percentile_interval
from ray_mlops.evaluation.means import mean_interval, rate_interval
from ray_mlops.evaluation.rows import Floats, ScoredRows, sum_rows
from ray_mlops.evaluation.slices import SliceCodes

FAIRNESS_MEASURES: dict[Task, tuple[str, ...]] = {
    "binary": ("selection_rate", "true_positive_rate", "false_positive_rate", "accuracy"),
    "multiclass": ("accuracy",),
    "regression": ("mean_error",),
}


@dataclass(frozen=True, slots=True)
class GroupRate:
    """One measure of one group, over the ``support`` rows that it is about."""

    label: str
    support: int
    is_judged: bool
    rate: Interval


@dataclass(frozen=True, slots=True)
class FairnessGap:
    """The largest difference of one measure between any two judged groups of a column.

    Args:
        gap: NaN with fewer than two judged groups. The interval is of the bootstrap, and leans upward, as
            the largest of several noisy differences does.
        limit: From ``evaluation.fairness.max_gap``; None where the gap is only reported.
        problem: Why the gap could not be measured; empty when it was.
    """

    column: str
    measure: str
    gap: Interval
    limit: float | None
    groups: tuple[GroupRate, ...] = ()
    problem: str = ""


def measure_rows(scored: ScoredRows) -> dict[str, tuple[Floats, Floats]]:
    """Return for each fairness measure what each row adds [n], and whether the measure is about the row [n].

    ``true_positive_rate`` is about rows that are positive, ``false_positive_rate`` about those that are not.
    ``mean_error`` is prediction minus target, in the target's unit.
    """
    target, chosen = scored.target, scored.decisions()
    everyone = np.ones(len(target))
    if scored.task == "regression":
        return {"mean_error": (scored.values - target, everyone)}
    accuracy = ((chosen == target).astype(np.float64), everyone)
    if scored.task == "multiclass":
        return {"accuracy": accuracy}
    return {
        "selection_rate": (chosen, everyone),
        "true_positive_rate": (chosen, target),
        "false_positive_rate": (chosen, 1 - target),
        "accuracy": accuracy,
    }


def report_fairness(
    cuts: Sequence[SliceCodes], scored: ScoredRows, config: EvaluationConfig
) -> tuple[FairnessGap, ...]:
    """Measure every gap of every group column; each limit that could not be measured is a gap of NaN.

    A group is judged when at least ``min_support`` rows are what the measure is about: 200 rows with 20
    positives say little about a true positive rate.
    """
    rows = measure_rows(scored)
    gaps = [
        _measure_gap(cut, measure, added, about * scored.weight, config)
        for cut in cuts
        for measure, (added, about) in rows.items()
    ]
    return (*gaps, *_unmeasured(config.fairness.max_gap, scored.task, bool(cuts)))


def _measure_gap(cut: SliceCodes, measure: str, added: Floats, weight: Floats, config: EvaluationConfig) -> FairnessGap:
    groups = []
    for index, label in enumerate(cut.labels):
        rows = np.flatnonzero((cut.codes == index) & (weight > 0))
        interval_of = mean_interval if measure == "mean_error" else rate_interval
        rate = interval_of(added[rows], weight[rows], config.confidence)
        groups.append(GroupRate(label, len(rows), len(rows) >= config.fairness.min_support, rate))
    limit = config.fairness.max_gap.get(measure)
    judged = [index for index, group in enumerate(groups) if group.is_judged]
    if len(judged) < 2:
        problem = f"fewer than two groups have {config.fairness.min_support} rows that it is about"
        return FairnessGap(cut.column, measure, Interval(np.nan, np.nan, np.nan), limit, tuple(groups), problem)
    rates = np.array([groups[index].rate.value for index in judged])
    drawn = _draw_gaps(cut, judged, added, weight, config)
    gap = percentile_interval(float(np.ptp(rates)), drawn, config.confidence)
    return FairnessGap(cut.column, measure, gap, limit, tuple(groups))


def _draw_gaps(cut: SliceCodes, judged: list[int], added: Floats, weight: Floats, config: EvaluationConfig) -> Floats:
    """Resample rows within each judged group, and return the largest difference of each draw [samples]."""
    generator = np.random.default_rng(config.seed)
    rates = np.empty((config.bootstrap_samples, len(judged)))
    for column, index in enumerate(judged):
        rows = np.flatnonzero((cut.codes == index) & (weight > 0))
        pairs = np.stack([weight[rows] * added[rows], weight[rows]])
        for sample in range(config.bootstrap_samples):
            counts = np.bincount(generator.integers(0, len(rows), len(rows)), minlength=len(rows))
            total, size = sum_rows(counts.astype(np.float64), pairs)
            rates[sample, column] = total / size
    return np.asarray(np.ptp(rates, axis=1))


def _unmeasured(limits: Mapping[str, float], task: Task, has_groups: bool) -> list[FairnessGap]:
    nothing = Interval(np.nan, np.nan, np.nan)
    gaps = []
    for measure, limit in limits.items():
        if measure not in FAIRNESS_MEASURES[task]:
            known = ", ".join(FAIRNESS_MEASURES[task])
            gaps.append(FairnessGap("", measure, nothing, limit, problem=f"{task} models have: {known}"))
        elif not has_groups:
            gaps.append(FairnessGap("", measure, nothing, limit, problem="evaluation.fairness.groups is empty"))
    return gaps
