"""From the evidence of each column to that of all of them, and back to the columns that explain it."""

from collections.abc import Mapping, Sequence
from math import exp, log
from typing import NamedTuple

import numpy as np

from ray_mlops.monitoring.feature import FeatureMonitor, FeatureReference
from ray_mlops.statistics.accumulate import combine, e_bh

_SMALLEST_IMPORTANCE = 0.02
"""Share of the inputs' weight that every column gets."""


class Watched(NamedTuple):
    """A column under watch, and its share of the evidence, above 0."""

    weight: float
    monitor: FeatureMonitor

    @property
    def weighted_log_e(self) -> float:
        return log(self.weight) + self.monitor.log_e


def column_weights(
    references: Sequence[FeatureReference],
    score: FeatureReference | None,
    score_weight: float,
    joint_weight: float = 0.0,
) -> dict[str, float]:
    """Return each watched column's share of the evidence; they sum to 1.

    The numbers that stand for a column of vectors share what that column would have, alike.

    Args:
        references: The inputs, and projections of them.
        score: The prediction.
        score_weight: Its share, where there is one; the rest belongs to the inputs.
        joint_weight: The share of the inputs' that the projections have, alike.
    """
    watched = [reference for reference in references if reference.role != "calendar" and not reference.derived_from]
    derived = [reference.name for reference in references if reference.derived_from and reference.part_of is None]
    total = sum(max(reference.importance, 0.0) for reference in watched)
    raw = {
        reference.name: max(max(reference.importance, 0.0) / total if total > 0.0 else 1.0, _SMALLEST_IMPORTANCE)
        for reference in watched
    }
    inputs = 0.0 if not raw else 1.0 if score is None else 1.0 - score_weight
    joint = joint_weight * inputs if derived else 0.0
    shares = {name: (inputs - joint) * weight / sum(raw.values()) for name, weight in raw.items()}
    shares |= {name: joint / len(derived) for name in derived}
    for owner, parts in vector_parts(references).items():
        shares |= dict.fromkeys([owner, *parts], shares.get(owner, 0.0) / (1 + len(parts)))
    return shares if score is None else {**shares, score.name: 1.0 - inputs}


def vector_parts(references: Sequence[FeatureReference]) -> dict[str, list[str]]:
    """Return the directions of each column of vectors."""
    parts: dict[str, list[str]] = {}
    for reference in references:
        if reference.part_of is not None:
            parts.setdefault(reference.part_of, []).append(reference.name)
    return parts


def combined_log_e(columns: Mapping[str, Watched]) -> float:
    """Return the log of the weighted mean of the columns' e-values; 0 of no columns."""
    if not columns:
        return 0.0
    return combine([c.weight for c in columns.values()], [c.monitor.log_e for c in columns.values()])


def share_of_limit(columns: Mapping[str, Watched], limit: float) -> float:
    """Return what some of the columns contribute to the combined evidence, in multiples of ``exp(limit)``."""
    return sum(exp(min(column.weighted_log_e - limit, 700.0)) for column in columns.values())


def guilty_columns(columns: Mapping[str, Watched], alpha: float) -> tuple[str, ...]:
    """Name the columns that e-BH rejects, those with most evidence first; at least the foremost one.

    A projection moves when one of its columns does: it is named only where that is no explanation. A direction of
    vectors stands for their column.
    """
    names, log_es = list(columns), [column.monitor.log_e for column in columns.values()]
    rejected = _owners(columns, [names[index] for index in e_bh(log_es, alpha) or [int(np.argmax(log_es))]])
    return tuple(n for n in rejected if not set(columns[n].monitor.reference.derived_from).intersection(rejected))


def noticed_columns(columns: Mapping[str, Watched], notification_windows: int) -> tuple[str, ...]:
    """Name the columns above the notification level, if the columns together are above it."""
    limit = log(notification_windows)
    log_rs = {name: column.monitor.log_r for name, column in columns.items()}
    if not columns or combine([c.weight for c in columns.values()], list(log_rs.values())) < limit:
        return ()
    return tuple(_owners(columns, [name for name in sorted(log_rs, key=lambda n: -log_rs[n]) if log_rs[name] >= limit]))


def most_weighty(columns: Mapping[str, Watched]) -> FeatureMonitor:
    """Return the column that contributes most to the combined evidence."""
    return max(columns.values(), key=lambda column: column.weighted_log_e).monitor


def _owners(columns: Mapping[str, Watched], names: Sequence[str]) -> list[str]:
    """Columns by the names that people know them by, each once."""
    return list(dict.fromkeys(columns[name].monitor.reference.part_of or name for name in names))
