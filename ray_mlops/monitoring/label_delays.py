"""Labels of some classes come later than others: weights that make up for it, and the curves for people. Pure.

While a window's labels come in, the class whose labels are quick is counted too often. A labelled row counts
``share of all labels that has come by its age / share of its own class's that has``: the inverse of the chance
that its label is there already (Horvitz and Thompson 1952). Assumes that within a class the delay says nothing
about the loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_mlops.config.monitoring import LabelsConfig
from ray_mlops.statistics.delays import EDGES_S, DelayCurves, FloatArray, IntArray

MIN_LABELS = 50
"""Of a class, before its delays are known well enough."""
MIN_ARRIVED = 0.2
"""Share of a class's labels that must have come: what is counted for five cannot be told from chance."""
ALIKE = 0.01
"""Weights that differ from 1 by less are none: the classes' labels come alike."""
_QUANTILES = (0.5, 0.9, 0.95, 0.99)
_ENOUGH = 0.9
"""Share of the labels that should have come before a window is judged."""


@dataclass(frozen=True, slots=True, eq=False)
class Weighting:
    """How labelled rows count."""

    weights: FloatArray | None
    """Of each row [n], 1 on average; None where each counts once."""
    reason: str


def class_weights(curves: DelayCurves | None, ages_s: FloatArray, classes: IntArray) -> Weighting:
    """Weigh labelled rows by how much of their class is still missing.

    Args:
        curves: The delays; None where nothing is known of them.
        ages_s: Of the rows, seconds [n].
        classes: Their labels [n].
    """
    present = np.unique(classes)
    if curves is None or len(present) == 0:
        return Weighting(None, "no delays are known")
    if len(curves.labels) < 2:
        return Weighting(None, "there are no classes")
    few = [index for index in present.tolist() if curves.labels[index] < MIN_LABELS]
    if few:
        return Weighting(None, f"{curves.labels[few[0]]} labels of one class are known, {MIN_LABELS} are needed")
    own = curves.share(ages_s, classes)
    if own.min() < MIN_ARRIVED:
        return Weighting(
            None, f"only {own.min():.0%} of the labels of one class have come, {MIN_ARRIVED:.0%} are needed"
        )
    weights = curves.share(ages_s) / own
    weights *= len(weights) / weights.sum()
    if np.abs(weights - 1.0).max() < ALIKE:
        return Weighting(None, "the labels of all classes come alike")
    return Weighting(weights, f"labels of one class come later: rows count {weights.min():.2f} to {weights.max():.2f}")


def effective(weights: FloatArray) -> FloatArray:
    """The same weights, which sum up to as many rows of weight 1 as carry the same information [n] (Kish 1965)."""
    return weights * (weights.sum() / (weights @ weights)) if len(weights) else weights


def describe_curves(curves: DelayCurves | None, classes: Sequence[str], config: LabelsConfig) -> dict[str, Any]:
    """The curves for people: delays by class, coverage by age, and what they say of the configuration.

    Args:
        curves: None without any label.
        classes: Names, in the order of the codes; fewer than two where delays are not told apart.
        config: When a window is judged, and which coverage that takes.
    """
    if curves is None:
        return {"delays_s": {}, "curve": [], "advice": "no label has come yet"}
    names: dict[str, int | None] = {"all": None}
    if len(curves.labels) == len(classes) > 1:
        names |= {name: index for index, name in enumerate(classes)}
    return {
        "delays_s": {name: _delays(curves, index) for name, index in names.items()},
        "curve": _points(curves, names),
        "advice": _advice(curves, config),
    }


def _delays(curves: DelayCurves, index: int | None) -> dict[str, Any]:
    number = int(curves.labels.sum() if index is None else curves.labels[index])
    shown = {f"{share:g}": round(curves.quantile_s(share, index), 1) for share in _QUANTILES} if number else {}
    return {"labels": number, **shown}


def _points(curves: DelayCurves, names: Mapping[str, int | None]) -> list[dict[str, Any]]:
    """Every second edge where something happens."""
    moves = np.flatnonzero((curves.pooled > 0.0) & (np.concatenate(([0.0], curves.pooled[:-1])) < 1.0))
    if not len(moves):
        return []
    places = range(max(int(moves[0]) - 1, 0), min(int(moves[-1]) + 1, len(EDGES_S) - 1) + 1)
    points = []
    for place in places:
        by_class = {n: curves.pooled[place] if i is None else curves.arrived[i][place] for n, i in names.items()}
        covered = curves.coverage[place]
        points.append(
            {
                "age_s": round(float(EDGES_S[place]), 1),
                "coverage": None if np.isnan(covered) else round(float(covered), 4),
                "arrived": {name: round(float(share), 4) for name, share in by_class.items()},
            }
        )
    return points


def _advice(curves: DelayCurves, config: LabelsConfig) -> str:
    """What is wrong with ``monitoring.labels``, and what would be right; empty where nothing is."""
    delay_s = config.delay.total_seconds()
    arrived = float(curves.share(np.array([delay_s]))[0])
    covered = float(np.interp(delay_s, EDGES_S, curves.coverage))
    if arrived < _ENOUGH:
        return (
            f"by monitoring.labels.delay ({config.delay}) only {arrived:.0%} of the labels have come: "
            f"{_ENOUGH:.0%} have after {days(curves.quantile_s(_ENOUGH))}"
        )
    if covered < config.min_coverage:
        return (
            f"decay cannot be judged: by monitoring.labels.delay {covered:.0%} of the rows have a label, "
            f"monitoring.labels.min_coverage asks for {config.min_coverage:.0%}"
        )
    return ""


def days(seconds: float) -> str:
    """A duration for people.

    Example:
        >>> days(90.0), days(7200.0), days(259200.0)
        ('2 min', '2.0 h', '3.0 days')
    """
    if not np.isfinite(seconds):
        return "unknown"
    if seconds < 3600.0:
        return f"{seconds / 60.0:.0f} min"
    return f"{seconds / 3600.0:.1f} h" if seconds < 172_800.0 else f"{seconds / 86_400.0:.1f} days"
