"""How columns hang together, as further numeric columns: what the others do not explain of one.

A change of the joint distribution that leaves every column's own distribution alone is seen by no test of single
columns. But where one column follows from others, what is left over is small, and grows when it ceases to. A
projection is such a remainder: fitted to the reference, frozen, and then binned, counted and tested as any
column is. All of it is whole numbers, so that counts do not depend on how rows are cut into batches.

References:
    Hawkins, Multivariate quality control based on regression-adjusted variables, Technometrics 33 (1991),
    doi:10.1080/00401706.1991.10484770.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.statistics.columns import as_numbers, as_strings

FloatArray = npt.NDArray[np.float64]

_STEPS = 16
"""Steps in a standard deviation to which numbers are rounded."""
_LIMIT = 4 * _STEPS
"""Numbers further out than four standard deviations count as if they were there."""
_WEIGHT_STEPS = 256
"""Steps to which weights are rounded."""
_TOP = 16
"""Categories of a column that are told apart."""
_RIDGE = 0.01
_SAMPLE_ROWS = 20_000
_LEAST_EXPLAINED = 0.25
"""Share of a column's variance that the others must explain to make its remainder worth watching."""
_MOST_ALIKE = 0.7
"""Correlation above which two remainders are the same."""
_LEAST_PART = 0.05
"""Share of what is explained that a column must contribute to be named."""
_LEAST_TERM = 0.005
"""And to be a term at all: each costs time in every row."""


@dataclass(frozen=True, slots=True)
class Projection:
    """A weighted sum of columns: one of them, less what the others let one expect of it."""

    target: str
    explained_by: tuple[str, ...]
    """The columns that say most about the target, the foremost first."""
    numbers: Mapping[str, int]
    """Weights of numeric columns, the target's included."""
    categories: Mapping[str, Mapping[str, int]]
    """Weights of categories, by column; 0 for all others, and for nulls."""

    @property
    def name(self) -> str:
        """How the derived column is called: the pair that hangs together most."""
        return f"{self.target}~{self.explained_by[0]}"

    @property
    def columns(self) -> frozenset[str]:
        """What it is computed from."""
        return frozenset({*self.numbers, *self.categories})


@dataclass(frozen=True, slots=True)
class Projections:
    """All that are watched of one reference, computed together."""

    scales: Mapping[str, tuple[float, float]]
    """Centre and standard deviation (above 0) of the numeric columns in use."""
    members: tuple[Projection, ...]

    def of(self, columns: Mapping[str, Any]) -> dict[str, FloatArray]:
        """Return the derived columns [n], in units of a standard deviation of their targets.

        Args:
            columns: Numeric and categorical columns by name. A projection of one that is not there is left out.
        """
        members = [member for member in self.members if member.columns <= columns.keys()]
        sums: dict[str, FloatArray] = {}
        for name in dict.fromkeys(name for member in members for name in member.numbers):
            steps = standardised(as_numbers(columns[name]), *self.scales[name])
            for member in members:
                if name in member.numbers:
                    part = member.numbers[name] * steps
                    sums[member.name] = sums[member.name] + part if member.name in sums else part
        for name in dict.fromkeys(name for member in members for name in member.categories):
            codes, categories = _coded(columns[name])
            for member in (member for member in members if name in member.categories):
                weights = [member.categories[name].get(category, 0) for category in categories]
                sums[member.name] = sums[member.name] + np.array([*weights, 0], dtype=np.float64)[codes]
        return {name: total / (_STEPS * _WEIGHT_STEPS) for name, total in sums.items()}

    def to_json(self) -> dict[str, Any]:
        return {"scales": {k: list(v) for k, v in self.scales.items()}, "members": [asdict(m) for m in self.members]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        scales = {name: (scale[0], scale[1]) for name, scale in content["scales"].items()}
        members = [Projection(**{**m, "explained_by": tuple(m["explained_by"])}) for m in content["members"]]
        return cls(scales, tuple(members))


NO_PROJECTIONS = Projections({}, ())


def fit_projections(numeric: Mapping[str, Any], categorical: Mapping[str, Any], limit: int) -> Projections:
    """Find the columns that follow from others, and freeze what is left over of each.

    Args:
        numeric: Numeric columns [n] by name; nulls and constant columns are no harm.
        categorical: Categorical columns [n] by name.
        limit: Most projections; the columns that others explain best come first.

    Returns:
        No member for a column that the others do not explain, or whose remainder is that of one before.

    Example:
        >>> x = np.arange(500.0)
        >>> found = fit_projections({"km": x, "miles": x / 1.6 + 9 * np.cos(x * x), "day": x % 7}, {}, limit=4)
        >>> [member.name for member in found.members]
        ['miles~km']
    """
    design = _Design.of(numeric, categorical)
    if limit < 1 or len(design.names) < 2:
        return NO_PROJECTIONS
    inverse = np.linalg.inv(design.correlation + _RIDGE * np.eye(len(design.correlation)))
    found: list[Projection] = []
    directions: list[FloatArray] = []
    candidates = [(1.0 / inverse[k, k], k) for k in range(len(design.numbers))]
    for _, k in sorted(candidates):
        direction = inverse[k] / inverse[k, k]
        left = max(design.variance(direction), 1e-12)
        is_same = any(abs(design.covariance(direction, d)) > _MOST_ALIKE * sqrt(left) for d in directions)
        if len(found) < limit and 1.0 - left >= _LEAST_EXPLAINED and not is_same:
            found.append(design.projection(k, direction))
            directions.append(direction / sqrt(left))
    used = frozenset().union(*(member.numbers for member in found))
    return Projections({name: scale for name, scale in design.numbers.items() if name in used}, tuple(found))


def standardised(numbers: FloatArray, centre: float, scale: float) -> FloatArray:
    """Return numbers [n] in whole steps of a standard deviation, the outermost cut off, nulls as 0."""
    with np.errstate(invalid="ignore", over="ignore"):
        steps = (numbers - centre) * (_STEPS / scale)
    np.clip(np.rint(steps, out=steps), -_LIMIT, _LIMIT, out=steps)
    steps[~np.isfinite(numbers)] = 0.0
    return steps


@dataclass(frozen=True, slots=True)
class _Design:
    """The reference's rows as a matrix of numbers, numeric columns first, then one column for each category."""

    numbers: Mapping[str, tuple[float, float]]
    """Centre and scale by column."""
    names: tuple[str, ...]
    """The column that each column of the matrix belongs to [d]."""
    categories: tuple[str, ...]
    """And the category; empty for numbers [d]."""
    deviation: FloatArray
    """Standard deviation of each column of the matrix [d]."""
    correlation: FloatArray
    """[d, d]."""

    @classmethod
    def of(cls, numeric: Mapping[str, Any], categorical: Mapping[str, Any]) -> Self:
        numbers: dict[str, tuple[float, float]] = {}
        parts: list[FloatArray] = []
        for name, values in numeric.items():
            x = _some(as_numbers(values))
            centre, scale = _centre_and_scale(x)
            if scale > 0.0:
                numbers[name] = centre, scale
                parts.append(standardised(x, centre, scale) / _STEPS)
        names, categories = list(numbers), [""] * len(numbers)
        for name, values in categorical.items():
            strings = as_strings(values)
            rows = strings.take(pa.array(np.arange(0, len(strings), _stride(len(strings)))))
            for category in _frequent(rows):
                names, categories = [*names, name], [*categories, category]
                parts.append(pc.fill_null(pc.equal(rows, category), False).to_numpy(zero_copy_only=False).astype(float))
        matrix = np.stack(parts) if parts else np.zeros((0, 1))
        centred = matrix - matrix.mean(axis=1, keepdims=True)
        deviation = np.maximum(np.sqrt((centred**2).mean(axis=1)), 1e-9)
        scaled = centred / deviation[:, None]
        return cls(numbers, tuple(names), tuple(categories), deviation, scaled @ scaled.T / scaled.shape[1])

    def covariance(self, a: FloatArray, b: FloatArray) -> float:
        """Return that of two weighted sums."""
        return float(a @ self.correlation @ b)

    def variance(self, direction: FloatArray) -> float:
        return self.covariance(direction, direction)

    def projection(self, k: int, direction: FloatArray) -> Projection:
        """Return the remainder of numeric column k, with weights on the columns as they come."""
        target = self.names[k]
        explained = {name: self._part(name, direction) for name in dict.fromkeys(self.names) if name != target}
        most = sum(explained.values())
        ranked = sorted(explained, key=lambda name: -explained[name])
        kept = [name for name in ranked if explained[name] >= _LEAST_PART * most] or ranked[:1]
        used = {target, *(name for name in ranked if explained[name] >= _LEAST_TERM * most)}
        numbers: dict[str, int] = {}
        categories: dict[str, dict[str, int]] = {}
        weights = direction * self.deviation[k] / self.deviation  # in standard deviations of the target
        for name, category, weight in zip(self.names, self.categories, weights.tolist(), strict=True):
            if name in used and not category:
                numbers[name] = round(weight * _WEIGHT_STEPS)
            elif name in used:
                categories.setdefault(name, {})[category] = round(weight * _WEIGHT_STEPS * _STEPS)
        return Projection(target, tuple(kept), numbers, categories)

    def _part(self, name: str, direction: FloatArray) -> float:
        return self.variance(np.where(np.array(self.names) == name, direction, 0.0))


def _coded(values: Any) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return the position of each row's category [n], nulls last, and the categories."""
    encoded = pc.dictionary_encode(as_strings(values))
    categories = encoded.dictionary.to_pylist()
    return pc.fill_null(encoded.indices, len(categories)).to_numpy(zero_copy_only=False), categories


def _frequent(values: pa.Array) -> Sequence[str]:
    tally = pc.value_counts(values.drop_null())
    pairs = zip(tally.field("values").to_pylist(), tally.field("counts").to_pylist(), strict=True)
    return [name for name, _ in sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:_TOP]]


def _some(values: FloatArray) -> FloatArray:
    return values[:: _stride(len(values))]


def _stride(n: int) -> int:
    return max(n // _SAMPLE_ROWS, 1)


def _centre_and_scale(numbers: FloatArray) -> tuple[float, float]:
    """Return the median and a standard deviation without the outermost tenth; 0 of a constant column."""
    finite = numbers[np.isfinite(numbers)]
    if not len(finite):
        return 0.0, 0.0
    low, centre, high = np.quantile(finite, [0.05, 0.5, 0.95])
    with np.errstate(over="ignore"):
        scale = float(high - low) / 3.29 or float(finite.std())
    return float(centre), scale if np.isfinite(scale) and _STEPS / max(scale, 1e-300) < 1e300 else 0.0
