"""How a column has moved, in one phrase for people: from which mean, or which category, to which."""

import numpy as np

from ray_mlops.statistics.bins import Bins, CategoricalBins, ColumnCounts

_NULL_CHANGE = 0.05
"""Change of the share of nulls that is worth a word."""


def describe_move(bins: Bins, reference: ColumnCounts, current: ColumnCounts, when: str = "in this window") -> str:
    """Say how rows differ from the reference; empty where one of them has none.

    Args:
        bins: Of the column.
        reference: All of its reference.
        current: The rows that are compared.
        when: Which rows these are.

    Example:
        >>> bins = CategoricalBins(("a", "b"), frozenset("ab"))
        >>> before, after = (ColumnCounts.of(bins, values) for values in (["a", "b", "b", "b"], ["a", "a", "a", "b"]))
        >>> describe_move(bins, before, after)
        "'a' 75.0 % of the rows in this window, 25.0 % of the reference"
    """
    if not reference.n or not current.n:
        return ""
    parts = [_of_categories(bins, reference, current, when)] if isinstance(bins, CategoricalBins) else []
    if not parts and np.isfinite(current.mean) and np.isfinite(reference.mean):
        parts.append(f"mean {current.mean:.4g} {when}, {reference.mean:.4g} in the reference")
    if abs(current.null_ratio - reference.null_ratio) > _NULL_CHANGE:
        parts.append(
            f"null {_percent(current.null_ratio)} of the rows {when}, in the reference {_percent(reference.null_ratio)}"
        )
    return "; ".join(part for part in parts if part)


def _of_categories(bins: CategoricalBins, reference: ColumnCounts, current: ColumnCounts, when: str) -> str:
    """The category whose share changed most; nulls are spoken of elsewhere."""
    before, now = (counts.counts[:-1] / max(counts.n, 1) for counts in (reference, current))
    most = int(np.argmax(np.abs(now - before)))
    if now[most] == before[most]:
        return ""
    name = {len(bins.top): "rare categories", len(bins.top) + 1: "categories that it never had"}
    named = name.get(most, f"{bins.labels[most]!r}")
    return f"{named} {_percent(now[most])} of the rows {when}, {_percent(before[most])} of the reference"


def _percent(share: float) -> str:
    return f"{100.0 * share:.1f} %"
