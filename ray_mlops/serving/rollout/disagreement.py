"""Where two versions answer the same row differently, and what that costs once the truth is known.

The champion's answer is in the log, the other's comes from scoring the logged row: nothing here needs traffic of
its own. All is computed from arrays of bounded length.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ray_mlops.serving.rollout.evidence import BoolArray, FloatArray
from ray_mlops.serving.rollout.shadow import BundleFacts
from ray_mlops.statistics.betting import log_e_paired_noninferiority, log_e_paired_regression
from ray_mlops.statistics.confidence import paired_interval

QUANTILES = (0.5, 0.9, 0.99, 1.0)
MOST = 5
"""Rows shown, those that differ most."""


@dataclass(frozen=True, slots=True)
class DisagreeingRow:
    """One logged row and both answers."""

    prediction_id: str
    champion: Any
    """Prediction of the champion: a number, or one for each class."""
    other: Any
    difference: float
    """See ``differences``."""
    inputs: Mapping[str, Any] | None = None
    """The raw inputs; None where the log has the row no more."""


@dataclass(frozen=True, slots=True)
class DisagreementReport:
    """How two versions differ on the same rows."""

    rows: int = 0
    decisions_differ: float | None = None
    """Share of rows on which the decisions differ; None for a regression, or without rows."""
    mean_difference: float | None = None
    """Mean of other minus champion; None for several classes, or without rows."""
    mean_by_class: Mapping[str, float] = field(default_factory=dict)
    """The same for the probability of each of several classes."""
    quantiles: Mapping[str, float] = field(default_factory=dict)
    """Quantiles of the size of the difference."""
    most: tuple[DisagreeingRow, ...] = ()
    """Rows that differ most, the worst first."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def differences(champion: FloatArray, other: FloatArray) -> FloatArray:
    """Return how far apart the answers of each row are [n].

    Numbers: the size of their difference. Probabilities of several classes: the total variation between them.

    Example:
        >>> differences(np.array([0.2, 0.5]), np.array([0.3, 0.5])).round(2).tolist()
        [0.1, 0.0]
        >>> differences(np.array([[0.5, 0.5, 0.0]]), np.array([[0.5, 0.0, 0.5]])).tolist()
        [0.5]
    """
    apart = np.abs(other - champion)
    return apart if apart.ndim == 1 else apart.sum(axis=1) / 2.0


def compare_answers(
    champion: FloatArray,
    other: FloatArray,
    facts: tuple[BundleFacts, BundleFacts],
    most: Sequence[DisagreeingRow] = (),
) -> DisagreementReport:
    """Summarise two versions' answers to the same rows; rows where either is not finite are left out.

    Args:
        champion: Predictions [n] or [n, k].
        other: The same of the other version.
        facts: Of champion and other: each decides by its own threshold.
        most: Rows that differ most.

    Example:
        >>> facts = BundleFacts("binary")
        >>> found = compare_answers(np.array([0.4, 0.9]), np.array([0.6, 0.8]), (facts, facts))
        >>> found.rows, found.decisions_differ, round(found.mean_difference, 3)
        (2, 0.5, 0.05)
    """
    known = _finite(champion) & _finite(other)
    champion, other = champion[known], other[known]
    if not len(champion):
        return DisagreementReport()
    apart, signed = differences(champion, other), (other - champion).mean(axis=0)
    decisions = _decide(facts[0], champion) != _decide(facts[1], other)
    is_regression = facts[0].task == "regression"
    return DisagreementReport(
        rows=len(apart),
        decisions_differ=None if is_regression else float(decisions.mean()),
        mean_difference=float(signed) if champion.ndim == 1 else None,
        mean_by_class={} if champion.ndim == 1 else dict(zip(facts[0].classes, signed.tolist(), strict=True)),
        quantiles={f"{q:g}": float(value) for q, value in zip(QUANTILES, np.quantile(apart, QUANTILES), strict=True)},
        most=tuple(most),
    )


def _decide(facts: BundleFacts, values: FloatArray) -> FloatArray:
    """Return the decision for each prediction [n] or [n, k], as a number [n]; a regression decides nothing."""
    if facts.task == "regression":
        return np.zeros(len(values))
    return (values.argmax(axis=1) if values.ndim == 2 else values >= facts.threshold).astype(np.float64)


def _finite(values: FloatArray) -> BoolArray:
    finite: BoolArray = np.isfinite(values if values.ndim == 1 else values.sum(axis=1))
    return finite


@dataclass(frozen=True, slots=True)
class PairedLossReport:
    """The difference of two versions' losses on the same units, with an interval that holds at every look."""

    pairs: int = 0
    mean: float | None = None
    """Mean of other minus champion: above 0 the other loses more."""
    low: float | None = None
    high: float | None = None
    level: float = 0.95
    """Probability that the interval covers the mean at all times at once."""
    log_e_worse: float = 0.0
    """Log evidence that the other loses more."""
    log_e_fine: float = 0.0
    """Log evidence that it loses less than ``margin`` more."""
    margin: float = 0.0
    problem: str = ""
    """Why there are no pairs, if so."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def report_paired_loss(paired: FloatArray, alpha: float, margin: float, problem: str = "") -> PairedLossReport:
    """Summarise differences of losses.

    Args:
        paired: Other's loss minus the champion's [n], in [-1, 1], one for each unit.
        alpha: Probability that the interval ever misses the mean.
        margin: How much worse is still fine.
        problem: Why there are none, if so.
    """
    if not len(paired):
        return PairedLossReport(level=1.0 - alpha, margin=margin, problem=problem or "no labels yet")
    interval = paired_interval(paired, alpha)
    return PairedLossReport(
        pairs=len(paired),
        mean=float(paired.mean()),
        low=interval.lower,
        high=interval.upper,
        level=1.0 - alpha,
        log_e_worse=log_e_paired_regression(paired),
        log_e_fine=log_e_paired_noninferiority(paired, margin),
        margin=margin,
    )
