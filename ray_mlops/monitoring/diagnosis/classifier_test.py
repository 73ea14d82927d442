"""Can a classifier tell the rows of now from those of the reference, and by which columns?

It looks at all columns together, and so finds what no single column shows. Rows of one window are alike, so windows
are never parted between training and test, and the p-value counts windows, not rows.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.stats import mannwhitneyu, rankdata
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from ray_mlops.statistics.columns import as_numbers, as_strings

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_FOLDS = 5
_MAX_CATEGORIES = 250
"""Categories that are told apart; scikit-learn allows 255."""


@dataclass(frozen=True, slots=True)
class ClassifierTest:
    """How well the two can be told apart."""

    auc: float
    """Of rows that the classifier was not trained on: 0.5 is not at all, 1 always."""
    p_value: float
    """Probability of windows as strange as these without a change."""
    features: tuple[tuple[str, float], ...]
    """By how much the AUC falls when a column is shuffled, the largest first."""
    reference_rows: int
    current_rows: int
    units: int
    """How many independent units the p-value counts."""
    unit: Literal["windows", "rows"]
    """What they are: rows only where no windows were given."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def tell_apart(
    reference: pa.Table,
    current: pa.Table,
    reference_windows: IntArray | None = None,
    current_windows: IntArray | None = None,
    *,
    columns: Sequence[str] | None = None,
    max_rows: int = 5_000,
    seed: int = 0,
) -> ClassifierTest:
    """Train a classifier to tell two tables apart, and test it on windows that it has not seen.

    Each window's mean score comes from a classifier that was trained without that window. The p-value is that of the
    one-sided Mann-Whitney test on those means (on rows where no windows are given). Leaving a window out makes its own
    kind rarer in training, which without a change draws the AUC below a half: the test errs on the safe side.

    Args:
        reference: Rows of then.
        current: Rows of now, with the same columns.
        reference_windows: Window of each row [n]; None takes each row by itself.
        current_windows: The same of now.
        columns: Which are looked at; None takes all that both have.
        max_rows: At most this many rows of each, drawn by chance.
        seed: Of the draws, folds, classifiers and shuffles.

    Raises:
        ValueError: A table has no rows, or there are fewer than two windows of it.

    References:
        Lopez-Paz, Oquab: Revisiting classifier two-sample tests. ICLR 2017, arXiv:1610.06545. There a single split
        and independent rows are taken.
    """
    rng = np.random.default_rng(seed)
    names = columns if columns is not None else [n for n in reference.column_names if n in current.column_names]
    rows = [_some(len(table), max_rows, rng) for table in (reference, current)]
    if min(len(part) for part in rows) == 0:
        raise ValueError("there are no rows to compare")
    table = pa.concat_tables(
        [t.select(names).take(pa.array(r)) for t, r in zip((reference, current), rows, strict=True)]
    )
    is_current = np.repeat([0, 1], [len(part) for part in rows])
    units = _units(rows, reference_windows, current_windows)
    values, is_category = _matrix(table)
    scores = np.full(len(values), np.nan)
    drops: dict[str, list[float]] = {name: [] for name in names}
    for train, test in _folds(is_current, units, seed):
        model = _trained(values[train], is_current[train], is_category, seed)
        scores[test] = _probability(model, values[test])
        base = area_under_curve(scores[test], is_current[test])
        for index, name in enumerate(names):
            shuffled = values[test].copy()
            shuffled[:, index] = shuffled[rng.permutation(len(test)), index]
            drops[name].append(base - area_under_curve(_probability(model, shuffled), is_current[test]))
    kinds, means = _unit_means(units, is_current, scores)
    p_value = float(mannwhitneyu(means[kinds == 1], means[kinds == 0], alternative="greater").pvalue)
    ranked = sorted(((name, float(np.mean(found))) for name, found in drops.items()), key=lambda pair: -pair[1])
    auc = area_under_curve(scores, is_current)
    unit: Literal["windows", "rows"] = "rows" if reference_windows is None or current_windows is None else "windows"
    return ClassifierTest(auc, p_value, tuple(ranked), len(rows[0]), len(rows[1]), len(means), unit)


def density_ratios(
    reference: pa.Table,
    current: pa.Table,
    reference_windows: IntArray | None = None,
    current_windows: IntArray | None = None,
    *,
    largest: float = 20.0,
    seed: int = 0,
) -> FloatArray:
    """Return how much more frequent each row of the reference has become, all columns together [n].

    Args:
        reference: Rows of then.
        current: Rows of now, with the same columns.
        reference_windows: As in ``tell_apart``.
        current_windows: As in ``tell_apart``.
        largest: Ratios above this, and below one over this, are cut there.
        seed: Of folds and classifiers.

    Raises:
        ValueError: As ``tell_apart``.
    """
    rows = [np.arange(len(reference)), np.arange(len(current))]
    values, is_category = _matrix(pa.concat_tables([reference, current]))
    is_current = np.repeat([0, 1], [len(reference), len(current)])
    units = _units(rows, reference_windows, current_windows)
    scores = np.full(len(values), 0.5)  # of a unit that no fold could test: as frequent as before
    for train, test in _folds(is_current, units, seed):
        model = _trained(values[train], is_current[train], is_category, seed)
        scores[test] = _probability(model, values[test])
    then = scores[: len(reference)]
    return np.clip(then / np.maximum(1.0 - then, 1e-9), 1.0 / largest, largest)


def area_under_curve(scores: FloatArray, is_positive: IntArray) -> float:
    """The probability that a positive row scores above a negative one, ties counted half; 0.5 without either kind.

    Example:
        >>> area_under_curve(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
        0.75
    """
    positive = int(is_positive.sum())
    negative = len(is_positive) - positive
    if not positive or not negative:
        return 0.5
    ranks = float(rankdata(scores)[is_positive == 1].sum())
    return (ranks - positive * (positive + 1) / 2.0) / (positive * negative)


def _trained(values: FloatArray, is_current: IntArray, is_category: list[bool], seed: int) -> Any:
    """Trained as if both kinds were equally frequent, so that its odds are ratios of densities.

    On one thread: its many short parallel loops take ten times as long where other work keeps the processors busy.
    """
    model = HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=15, categorical_features=is_category, class_weight="balanced", random_state=seed
    )
    with threadpool_limits(1, user_api="openmp"):
        return model.fit(values, is_current)


def _probability(model: Any, values: FloatArray) -> FloatArray:
    with threadpool_limits(1, user_api="openmp"):
        return np.asarray(model.predict_proba(values)[:, 1], np.float64)


def _some(size: int, count: int, rng: np.random.Generator) -> IntArray:
    return np.arange(size) if size <= count else np.sort(rng.choice(size, count, replace=False))


def _units(rows: Sequence[IntArray], reference: IntArray | None, current: IntArray | None) -> IntArray:
    """What is exchangeable if nothing has changed: windows, numbered through both tables, or rows."""
    if reference is None or current is None:
        return np.arange(sum(len(part) for part in rows))
    _, then = np.unique(reference[rows[0]], return_inverse=True)
    _, now = np.unique(current[rows[1]], return_inverse=True)
    if min(then.max(), now.max()) < 1:
        raise ValueError("a comparison by windows needs two windows of each; compare by rows, or take more")
    return np.concatenate([then, now + then.max() + 1])


def _folds(is_current: IntArray, units: IntArray, seed: int) -> list[tuple[IntArray, IntArray]]:
    least = min(len(np.unique(units[is_current == kind])) for kind in (0, 1))
    folds = StratifiedGroupKFold(min(_FOLDS, least), shuffle=True, random_state=seed)
    found = [(train, test) for train, test in folds.split(units, is_current, units) if len(test)]
    return [(train, test) for train, test in found if len(np.unique(is_current[train])) == 2]


def _unit_means(units: IntArray, is_current: IntArray, scores: FloatArray) -> tuple[IntArray, FloatArray]:
    """Which kind each unit is of, and its mean score; those that were never tested are left out."""
    known = np.isfinite(scores)
    numbers, index = np.unique(units[known], return_inverse=True)
    sizes = np.bincount(index)
    kinds = np.zeros(len(numbers), np.int64)
    kinds[index] = is_current[known]
    return kinds, np.bincount(index, scores[known]) / sizes


def _matrix(table: pa.Table) -> tuple[FloatArray, list[bool]]:
    """All columns as numbers [n, d], and which of them are categories; what is missing is NaN."""
    columns, is_category = [], []
    for name in table.column_names:
        kind = table.schema.field(name).type
        as_category = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind)
        columns.append(_codes(as_strings(table[name])) if as_category else as_numbers(table[name]))
        is_category.append(as_category)
    return np.column_stack(columns), is_category


def _codes(words: pa.Array) -> FloatArray:
    """Categories by rank of frequency [n], NaN for missing; the rarest share a code."""
    encoded = words.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    counts = np.bincount(codes[codes >= 0], minlength=len(encoded.dictionary))
    ranks = np.empty(len(counts), np.int64)
    ranks[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    found = (
        np.minimum(ranks[np.maximum(codes, 0)], _MAX_CATEGORIES).astype(np.float64)
        if len(counts)
        else np.zeros(len(codes))
    )
    return np.where(codes < 0, np.nan, found)
