"""Boosted trees over frozen bins that are plain arrays: no pickle, nothing to import, quick for many rows at once.

All nodes of one level of a tree ask the same question, so that a row's leaf is a number of few bits and a tree is
applied by a handful of operations on whole columns of small integers. Sums of tables, one for each column, would be
quicker still, but an error that depends on two columns together is what drift brings to light.

References:
    Prokhorenkova et al., CatBoost: unbiased boosting with categorical features, NeurIPS 2018, arXiv:1706.09516
    (oblivious trees). Ours have a fixed number of trees, bins instead of values, and several outputs in each leaf.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ray_mlops.statistics.bins import Bins, CategoricalBins, NumericBins, bins_from_json

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint16]

_TREES, _DEPTH, _RATE = 40, 5, 0.2
_PRIOR_ROWS = 20.0
"""A leaf's value is drawn to 0 as if this many rows had shown 0."""
_BATCH_ROWS = 8192
"""Rows that are looked up at once; their codes stay in the cache."""


class Tree(NamedTuple):
    """Questions "is the code above the limit?", the first decides the highest bit of the leaf."""

    columns: tuple[int, ...]
    limits: tuple[int, ...]
    leaves: FloatArray
    """[2 ** depth, J]"""


@dataclass(frozen=True, slots=True, eq=False)
class BoostedTrees:
    """J numbers of each row, as a sum over trees.

    Args:
        bins: By column.
        orders: Code of each position in the bins of a column [size]; categories are ordered by what they mean.
        base: Means of the fit [J].
        trees: Added to them.
        weights: How much the trees gain from each column, as a share; they sum to 1.
    """

    bins: Mapping[str, Bins]
    orders: Mapping[str, Codes]
    base: FloatArray
    trees: tuple[Tree, ...]
    weights: Mapping[str, float]

    @classmethod
    def fit(cls, bins: Mapping[str, Bins], places: Mapping[str, IntArray], targets: FloatArray) -> Self:
        """Fit trees one by one, each to what those before have left over.

        Args:
            bins: By column.
            places: Position of each row in them (``Bins.index``) [n].
            targets: Numbers to be explained [n, J], n >= 1; each is brought to the same scale.
        """
        base = targets.mean(axis=0)
        scale = np.where(targets.std(axis=0) > 0.0, targets.std(axis=0), 1.0)
        rest = (targets - base) / scale
        orders = {name: _order(column, places[name], rest[:, 0]) for name, column in bins.items()}
        codes = [orders[name][places[name]].astype(np.int64) for name in bins]
        sizes = [column.size for column in bins.values()]
        gains, trees = np.zeros(len(sizes)), []
        for _ in range(_TREES):
            columns, limits, leaf = _grow(codes, sizes, rest, gains)
            rows = np.bincount(leaf, minlength=1 << _DEPTH)
            sums = [np.bincount(leaf, values, minlength=1 << _DEPTH) for values in rest.T]
            leaves = _RATE * np.array(sums).T / (rows + _PRIOR_ROWS)[:, None]
            rest -= leaves[leaf]
            trees.append(Tree(columns, limits, leaves * scale))
        total = float(gains.sum())
        shares = gains / total if total > 0.0 else np.full(len(sizes), 1.0 / len(sizes))
        return cls(dict(bins), orders, base, tuple(trees), dict(zip(bins, shares.tolist(), strict=True)))

    def of(self, columns: Mapping[str, Any], rows: int) -> tuple[FloatArray, FloatArray]:
        """Return the numbers [n, J], and which share of what they rest on is outside the rows of the fit [n].

        Args:
            columns: Values [n] by name; a column that is missing counts as nulls.
            rows: n.
        """
        nulls = {name: np.full(rows, column.size - 1) for name, column in self.bins.items() if name not in columns}
        known = {name: column.index(columns[name]) for name, column in self.bins.items() if name in columns}
        return self.at({**known, **nulls}, rows)

    def at(self, places: Mapping[str, IntArray], rows: int) -> tuple[FloatArray, FloatArray]:
        """``of`` rows whose positions in the bins are known."""
        outside = np.zeros(rows)
        for name, column in self.bins.items():
            outside += self.weights[name] * _is_unknown(column)[places[name]]
        codes = [self.orders[name][places[name]] for name in self.bins]
        numbers = np.tile(self.base, (rows, 1))
        for start in range(0, rows, _BATCH_ROWS):
            part = slice(start, start + _BATCH_ROWS)
            self._add(numbers[part], [code[part] for code in codes])
        return numbers, outside

    def _add(self, numbers: FloatArray, codes: list[Codes]) -> None:
        for tree in self.trees:
            leaf = np.zeros(len(numbers), dtype=np.uint8)
            for column, limit in zip(tree.columns, tree.limits, strict=True):
                leaf <<= 1
                leaf |= codes[column] > limit
            numbers += tree.leaves.take(leaf, axis=0)

    def to_json(self) -> dict[str, Any]:
        trees = [[list(tree.columns), list(tree.limits), tree.leaves.tolist()] for tree in self.trees]
        return {
            "columns": list(self.bins),
            "bins": {name: column.to_json() for name, column in self.bins.items()},
            "orders": {name: order.tolist() for name, order in self.orders.items()},
            "base": self.base.tolist(),
            "trees": trees,
            "weights": dict(self.weights),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Rebuild a model.

        Raises:
            ValueError: Its parts do not fit each other.
        """
        bins = {name: bins_from_json(content["bins"][name]) for name in content["columns"]}
        orders = {name: np.array(content["orders"][name], dtype=np.uint16) for name in bins}
        base = np.array(content["base"], dtype=np.float64)
        trees = tuple(Tree(tuple(c), tuple(limits), np.array(leaves)) for c, limits, leaves in content["trees"])
        fits = all(
            tree.leaves.shape == (1 << len(tree.columns), len(base))
            and len(tree.limits) == len(tree.columns) <= 8
            and all(0 <= column < len(bins) for column in tree.columns)
            for tree in trees
        )
        if not fits or any(len(orders[name]) != column.size for name, column in bins.items()):
            raise ValueError("the trees do not fit their columns")
        return cls(bins, orders, base, trees, {name: float(content["weights"][name]) for name in bins})


def _grow(
    codes: list[IntArray], sizes: list[int], rest: FloatArray, gains: FloatArray
) -> tuple[tuple[int, ...], tuple[int, ...], IntArray]:
    """Choose the questions of one tree; returns columns, limits, and the leaf of each row [n]."""
    leaf = np.zeros(len(rest), dtype=np.int64)
    columns: list[int] = []
    limits: list[int] = []
    for level in range(_DEPTH):
        found = [
            _best_limit(leaf * size + code, 1 << level, size, rest) for code, size in zip(codes, sizes, strict=True)
        ]
        column = int(np.argmax([gain for gain, _ in found]))
        gains[column] += found[column][0] - min(gain for gain, _ in found)
        columns.append(column)
        limits.append(found[column][1])
        leaf = 2 * leaf + (codes[column] > limits[-1])
    return tuple(columns), tuple(limits), leaf


def _best_limit(place: IntArray, num_leaves: int, size: int, rest: FloatArray) -> tuple[float, int]:
    """The limit that explains most of what is left over when every leaf is split by it, and how much that is."""
    shape, length = (num_leaves, size), num_leaves * size
    low = np.bincount(place, minlength=length).reshape(shape).cumsum(axis=1)
    high = low[:, -1:] - low
    explained = np.zeros(size)
    for values in rest.T:
        below = np.bincount(place, values, minlength=length).reshape(shape).cumsum(axis=1)
        above = below[:, -1:] - below
        explained += (below**2 / (low + _PRIOR_ROWS) + above**2 / (high + _PRIOR_ROWS)).sum(axis=0)
    limit = int(explained[:-1].argmax())
    return float(explained[limit]), limit


def _order(bins: Bins, place: IntArray, values: FloatArray) -> Codes:
    """Code of each position: itself, or for categories the rank of the mean that they stand for."""
    if isinstance(bins, NumericBins):
        return np.arange(bins.size, dtype=np.uint16)
    rows = np.bincount(place, minlength=bins.size)
    means = np.bincount(place, values, minlength=bins.size) / (rows + _PRIOR_ROWS)
    return np.argsort(np.argsort(means, kind="stable"), kind="stable").astype(np.uint16)


def _is_unknown(bins: Bins) -> FloatArray:
    """1 for positions that stand for values which the fit did not know [size]."""
    unknown = np.zeros(bins.size)
    unknown[[-2] if isinstance(bins, CategoricalBins) else [0, -2]] = 1.0
    return unknown
