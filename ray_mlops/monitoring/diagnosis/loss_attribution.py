"""To which column does the model's loss owe its change? Shapley values over distributions, by reweighted rows.

What the loss would be if only some columns' own distributions were those of now is the mean over the reference's rows,
weighted by how much more frequent their values have become. A column's part is what it adds to that, averaged over
random orders in which columns change one after the other. What the columns' own distributions do not explain is the
inputs' *dependence* (their joint distribution moved, by a classifier's weights), and what the inputs do not explain
at all is the *labels*: the same inputs, answered by other labels. All parts add up to the change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_mlops.statistics.bins import Bins, CategoricalBins, NumericBins
from ray_mlops.statistics.columns import as_numbers, as_strings

FloatArray = npt.NDArray[np.float64]

DEPENDENCE, LABELS = "(dependence of the inputs)", "(labels, given the inputs)"
_BINS = 10
_TOP = 20
LARGEST_RATIO = 20.0
"""Values that have become more frequent than this count as if they were this much: a few rows shall not carry all."""
_PSEUDO_ROWS = 0.5


@dataclass(frozen=True, slots=True)
class LossAttribution:
    """Where a change of the mean loss comes from."""

    reference_loss: float
    current_loss: float
    parts: tuple[tuple[str, float], ...]
    """What each column, the inputs' dependence and the labels add to the mean loss, the largest in size first; their
    sum is the change."""
    effective_share: float
    """How many of the reference's rows the weighted means rest on, as a share; below 0.1 the parts are guesses."""
    unsupported: float
    """Share of the rows of now with a value that the reference never had: of them the parts cannot know."""

    @property
    def change(self) -> float:
        return self.current_loss - self.reference_loss

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "change": self.change}


def attribute_loss(
    reference: pa.Table,
    current: pa.Table,
    reference_loss: FloatArray,
    current_loss: FloatArray,
    *,
    joint_ratio: FloatArray | None = None,
    columns: Sequence[str] | None = None,
    orders: int = 64,
    seed: int = 0,
) -> LossAttribution:
    """Divide the change of the mean loss among columns, their dependence, and the labels.

    Args:
        reference: Labelled rows of then [n].
        current: Labelled rows of now [m].
        reference_loss: Loss of each [n].
        current_loss: Loss of each [m].
        joint_ratio: How much more frequent each reference row has become, all columns together [n]
            (``density_ratios``); None leaves dependence and labels in one part, the labels'.
        columns: Which are looked at; None takes all that both have.
        orders: Random orders of the columns.
        seed: Of the orders.

    Raises:
        ValueError: There are no rows.

    References:
        Zhang, Singh, Ghassemi, Joshi: "Why did the model fail?", ICML 2023, arXiv:2210.10769: Shapley values of
        distributions, estimated by importance weighting. We weigh by binned marginals, so that no causal graph
        is needed, and keep what they leave over as a part of its own.
    """
    if not len(reference_loss) or not len(current_loss):
        raise ValueError("there are no labelled rows")
    names = columns if columns is not None else [n for n in reference.column_names if n in current.column_names]
    ratios, beyond = {}, np.zeros(len(current_loss), bool)
    for name in names:
        ratios[name], outside = marginal_ratios(reference[name], current[name])
        beyond |= outside
    before, now = float(reference_loss.mean()), float(current_loss.mean())
    parts = _shapley(ratios, reference_loss, orders, np.random.default_rng(seed))
    marginals = before + sum(parts.values())
    weights = np.prod(np.stack([*ratios.values(), np.ones(len(reference_loss))]), axis=0)
    if joint_ratio is not None:
        weights, covariates = joint_ratio, _weighted(reference_loss, joint_ratio)
        parts[DEPENDENCE] = covariates - marginals
        parts[LABELS] = now - covariates
    else:
        parts[LABELS] = now - marginals
    ranked = tuple(sorted(parts.items(), key=lambda pair: -abs(pair[1])))
    return LossAttribution(before, now, ranked, effective_share(weights), float(beyond.mean()))


def marginal_ratios(
    reference: pa.ChunkedArray | pa.Array, current: pa.ChunkedArray | pa.Array
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Return how much more frequent each reference row's value has become [n], and which rows of now are beyond [m].

    Numbers are compared on ten bins of equal mass of both tables together; a value of now is beyond where its bin is
    empty in the reference, or its category unknown there.
    """
    bins = _bins(reference, current)
    then, now = bins.index(_values(bins, reference)), bins.index(_values(bins, current))
    old, new = (np.bincount(index, minlength=bins.size).astype(np.float64) for index in (then, now))
    smoothed = old + _PSEUDO_ROWS, new + _PSEUDO_ROWS
    ratio = (smoothed[1] / smoothed[1].sum()) / (smoothed[0] / smoothed[0].sum())
    return np.minimum(ratio, LARGEST_RATIO)[then], (old == 0.0)[now]


def effective_share(weights: FloatArray) -> float:
    """Kish's effective number of rows, as a share of all.

    Example:
        >>> effective_share(np.array([1.0, 1.0, 0.0, 0.0]))
        0.5
    """
    return float(weights.sum() ** 2 / ((weights**2).sum() * len(weights)))


def _shapley(
    ratios: Mapping[str, FloatArray], loss: FloatArray, orders: int, rng: np.random.Generator
) -> dict[str, float]:
    """What each column adds to the weighted mean loss, averaged over orders; each order adds up to the whole."""
    names, totals = list(ratios), dict.fromkeys(ratios, 0.0)
    for _ in range(orders):
        weights, value = np.ones(len(loss)), float(loss.mean())
        for index in rng.permutation(len(names)).tolist():
            weights = weights * ratios[names[index]]
            following = _weighted(loss, weights)
            totals[names[index]] += (following - value) / orders
            value = following
    return totals


def _weighted(loss: FloatArray, weights: FloatArray) -> float:
    return float((weights * loss).sum() / weights.sum())


def _bins(reference: pa.ChunkedArray | pa.Array, current: pa.ChunkedArray | pa.Array) -> Bins:
    kind = reference.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind):
        return CategoricalBins.from_sample(as_strings(reference), _TOP)
    return NumericBins.from_sample(np.concatenate([as_numbers(reference), as_numbers(current)]), _BINS)


def _values(bins: Bins, values: pa.ChunkedArray | pa.Array) -> Any:
    return as_numbers(values) if isinstance(bins, NumericBins) else as_strings(values)
