"""Whether two sets of counts can be of one distribution, for reports that are made once."""

from typing import Any

import numpy as np
from scipy.special import chdtrc

_LEAST_EXPECTED = 5.0
"""Counters of which a sample is expected to have fewer rows are thrown together."""


def two_sample_p(counts: Any, reference: Any) -> float:
    """Return the chi-squared p-value of two samples of independent rows; 1 where one of them is empty.

    The reference's own error counts as much as the current's. For a question that is asked once: looked at again
    and again a p-value falls below any level in the end.

    Args:
        counts: Counts [K].
        reference: Counts on the same bins [K].

    Example:
        >>> two_sample_p([50, 50], [500, 500]), round(two_sample_p([60, 40], [500, 500]), 3)
        (1.0, 0.056)
    """
    table = np.array([counts, reference], dtype=np.float64)
    rows = table.sum(axis=1)
    if not rows.all():
        return 1.0
    smaller = table.sum(axis=0) * (rows.min() / rows.sum())
    few = smaller < _LEAST_EXPECTED
    if few.any():
        table = np.column_stack([table[:, ~few], table[:, few].sum(axis=1)])
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return 1.0
    expected = table.sum(axis=0) * rows[:, None] / rows.sum()
    return float(chdtrc(table.shape[1] - 1, ((table - expected) ** 2 / expected).sum()))
