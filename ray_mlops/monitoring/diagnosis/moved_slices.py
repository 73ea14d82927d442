"""Which slices of the traffic have grown, shrunk or got worse, with intervals that count windows, not rows."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import nan, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.stats import t

from ray_mlops.evaluation.slices import slice_column

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Change:
    """A difference, now less then."""

    before: float
    now: float
    lower: float
    """Interval of the difference; NaN where there are too few windows."""
    upper: float

    @property
    def difference(self) -> float:
        return self.now - self.before

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.lower > 0.0 or self.upper < 0.0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "difference": self.difference, "is_clear": self.is_clear}


@dataclass(frozen=True, slots=True)
class MovedSlice:
    """One slice."""

    column: str
    label: str
    rows: int
    """Of now."""
    share: Change
    """Of all rows."""
    loss: Change | None
    """Mean loss of its labelled rows; None where either side has none."""
    contribution: float | None
    """What it adds to the change of the mean loss over all labelled rows; those of a column's slices add up to it."""

    @property
    def name(self) -> str:
        return f"{self.column}={self.label}"

    def to_json(self) -> dict[str, Any]:
        loss = None if self.loss is None else self.loss.to_json()
        return {**asdict(self), "share": self.share.to_json(), "loss": loss}


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """Rows of then, or of now."""

    rows: pa.Table
    windows: IntArray
    """Window of each row [n]; rows of one window are not independent."""
    loss: FloatArray
    """Of each row [n]; NaN without a label."""


def moved_slices(
    reference: Side,
    current: Side,
    columns: Sequence[str],
    *,
    max_slices: int = 20,
    min_rows: int = 30,
    confidence: float = 0.95,
) -> tuple[MovedSlice, ...]:
    """Compare every slice of some columns, then and now.

    Numbers are cut at the quartiles of both sides together, all else by value. The intervals hold together: with
    probability ``confidence`` all of them are right (Bonferroni).

    Args:
        reference: Rows of then.
        current: Rows of now.
        columns: What is cut.
        max_slices: The largest this many of a column.
        min_rows: Slices with fewer rows on both sides are left out.
        confidence: Of all intervals together.

    Returns:
        The slices whose share or loss has clearly changed first; among them those that add most to the loss, or without
        labels, whose share has moved most.
    """
    codes = {}
    for name in columns:
        both = pa.chunked_array([*reference.rows[name].chunks, *current.rows[name].chunks])
        codes[name] = slice_column(name, both, max_slices)
    cuts = [(name, label, index) for name, cut in codes.items() for index, label in enumerate(cut.labels)]
    level = 1.0 - (1.0 - confidence) / max(2 * len(cuts), 1)
    split, found = len(reference.windows), []
    for name, label, index in cuts:
        inside = codes[name].codes == index
        then, now = inside[:split], inside[split:]
        if max(then.sum(), now.sum()) >= min_rows:
            found.append(_compared(name, label, reference, current, then, now, level))
    return tuple(sorted(found, key=_rank))


def _compared(
    column: str,
    label: str,
    reference: Side,
    current: Side,
    then: npt.NDArray[np.bool_],
    now: npt.NDArray[np.bool_],
    level: float,
) -> MovedSlice:
    share = _change(
        _ratio(then, np.ones(len(then)), reference.windows), _ratio(now, np.ones(len(now)), current.windows), level
    )
    sides = [(side, inside, np.isfinite(side.loss)) for side, inside in ((reference, then), (current, now))]
    if any(not (inside & known).any() for _, inside, known in sides):
        return MovedSlice(column, label, int(now.sum()), share, None, None)
    old, new = (
        _ratio(np.where(known, side.loss, 0.0) * inside, inside & known, side.windows) for side, inside, known in sides
    )
    before, after = (float(side.loss[inside & known].sum() / known.sum()) for side, inside, known in sides)
    return MovedSlice(column, label, int(now.sum()), share, _change(old, new, level), after - before)


_Estimate = tuple[float, float, int]
"""A ratio of sums, its standard error, and the windows behind it."""


def _ratio(top: npt.NDArray[Any], bottom: npt.NDArray[Any], windows: IntArray) -> _Estimate:
    """Estimate a ratio of sums over windows, with an error that takes windows as the independent units."""
    _, index = np.unique(windows, return_inverse=True)
    tops = np.bincount(index, np.asarray(top, np.float64))
    bottoms = np.bincount(index, np.asarray(bottom, np.float64))
    used = int((bottoms > 0).sum())
    value = float(tops.sum() / bottoms.sum())
    if used < 2:
        return value, nan, used
    variance = float(((tops - value * bottoms) ** 2).sum()) * used / (used - 1) / float(bottoms.sum()) ** 2
    return value, sqrt(variance), used


def _change(before: _Estimate, now: _Estimate, level: float) -> Change:
    error = sqrt(before[1] ** 2 + now[1] ** 2)
    if not np.isfinite(error):
        return Change(before[0], now[0], nan, nan)
    if error == 0.0:
        difference = now[0] - before[0]
        return Change(before[0], now[0], difference, difference)
    terms = [(own[1] ** 2) ** 2 / (own[2] - 1) for own in (before, now)]
    freedom = error**4 / max(sum(terms), 1e-300)  # Welch and Satterthwaite
    reach = float(t.ppf((1.0 + level) / 2.0, freedom)) * error
    difference = now[0] - before[0]
    return Change(before[0], now[0], difference - reach, difference + reach)


def _rank(found: MovedSlice) -> tuple[bool, float]:
    is_clear = found.share.is_clear or (found.loss is not None and found.loss.is_clear)
    size = abs(found.share.difference) if found.contribution is None else abs(found.contribution)
    return (not is_clear, -size)
