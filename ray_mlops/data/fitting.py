"""From statistics of a column to its encoder."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from ray_mlops.config import FeatureConfig
from ray_mlops.data.encoders import (
    PLAIN_LIMIT,
    SCALED_LIMIT,
    CategoryEncoder,
    DatetimeEncoder,
    NumericEncoder,
    VectorEncoder,
    datetime_part,
)
from ray_mlops.data.inputs import InputColumn
from ray_mlops.data.statistics_pass import ColumnStatistics

logger = logging.getLogger(__name__)

Encoder = NumericEncoder | CategoryEncoder | DatetimeEncoder | VectorEncoder
NUM_QUANTILES = 256
"""Knots of ``scale: quantile``."""
ID_RATIO, ID_ROWS = 0.9, 1000
"""Strings with more distinct values than this share of more rows than this look like identifiers."""


def fit_encoder(config: FeatureConfig, column: InputColumn, statistics: ColumnStatistics) -> Encoder:
    """Fit one column.

    A column without a single value is filled with 0 (or the constant) and warned of.
    """
    if statistics.missing == statistics.rows:
        logger.warning("fitted feature without a value column=%s rows=%d", column.name, statistics.rows)
    if column.type == "categorical":
        frequent = [word for word, count in statistics.counts.items() if count >= config.min_count]
        ranked = sorted(frequent, key=lambda word: (-statistics.counts[word], word))
        return CategoryEncoder(tuple(ranked[: config.max_categories]))
    indicator = config.indicator and 0 < statistics.missing < statistics.rows
    if column.type == "datetime":
        middle = np.array([int(_quantiles(statistics.values, [0.5])[0]) if len(statistics.values) else 0])
        return DatetimeEncoder(tuple(config.parts), int(datetime_part(middle, "year")[0]), indicator)
    if column.type == "vector":
        return _fit_vector(config, column, statistics, indicator)
    if column.type == "boolean":
        return NumericEncoder(_fill(config, statistics), indicator=indicator)
    return _fit_numeric(config, statistics, indicator)


def reasons_to_drop(columns: Sequence[InputColumn], statistics: Mapping[str, ColumnStatistics]) -> dict[str, str]:
    """Columns that nobody asked for by name and that cannot help, with the reason."""
    reasons = {}
    for column in columns:
        found = statistics[column.name]
        present = found.rows - found.missing
        if not present:
            reasons[column.name] = "every value is missing"
        elif found.distinct == 1 and not found.missing:
            reasons[column.name] = "every value is the same"
        elif column.type == "categorical" and present > ID_ROWS and found.distinct > ID_RATIO * present:
            reasons[column.name] = f"looks like an identifier: {found.distinct} distinct values in {present} rows"
    for name, reason in reasons.items():
        logger.warning("dropped feature column=%s reason=%r; list it in data.features to keep it", name, reason)
    return reasons


def _fit_numeric(config: FeatureConfig, statistics: ColumnStatistics, indicator: bool) -> NumericEncoder:
    values = statistics.values
    center, scale, limit = 0.0, 1.0, PLAIN_LIMIT
    knots: tuple[float, ...] = ()
    levels: tuple[float, ...] = ()
    if len(values) and config.scale == "standard":
        center, scale = statistics.mean, statistics.deviation
    elif len(values) and config.scale == "robust":
        low, center, high = _quantiles(values, [0.25, 0.5, 0.75])
        scale = (high - low) or statistics.deviation
    elif len(values) and config.scale == "quantile":
        knots, levels = _normal_knots(values)
    if config.scale in ("standard", "robust"):
        limit = SCALED_LIMIT
        scale = _usable(scale, center)
    pieces = _pieces(values, config.encoding_bins) if config.encoding == "piecewise_linear" else ()
    period = config.period if config.encoding == "periodic" else None
    return NumericEncoder(
        _fill(config, statistics), float(center), float(scale), indicator, limit, knots, levels, pieces, period
    )


def _fit_vector(
    config: FeatureConfig, column: InputColumn, statistics: ColumnStatistics, indicator: bool
) -> VectorEncoder:
    if config.scale == "none" or statistics.missing == statistics.rows:
        limit = PLAIN_LIMIT if config.scale == "none" else SCALED_LIMIT
        return VectorEncoder((0.0,) * column.length, (1.0,) * column.length, indicator, limit)
    centers = tuple(mean for mean, _ in statistics.elements)
    scales = tuple(_usable(deviation, mean) for mean, deviation in statistics.elements)
    return VectorEncoder(centers, scales, indicator)


def _usable(scale: float, center: float) -> float:
    """The scale, or 1 where it is only the rounding of a constant."""
    return scale if np.isfinite(scale) and scale > 1e-12 * max(abs(center), 1e-290) else 1.0


def _fill(config: FeatureConfig, statistics: ColumnStatistics) -> float:
    if config.impute == "constant":
        return config.fill_value
    if not len(statistics.values):
        return 0.0
    return statistics.mean if config.impute == "mean" else float(_quantiles(statistics.values, [0.5])[0])


def _normal_knots(values: npt.NDArray[np.float64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Distinct quantiles, and the normal quantile of the middle of each one's ranks."""
    knots = np.unique(_quantiles(values, np.linspace(0, 1, NUM_QUANTILES)))
    left = np.searchsorted(values, knots, side="left")
    right = np.searchsorted(values, knots, side="right")
    middle = (left + right) / (2 * len(values))
    edge = 0.5 / len(values)
    levels = ndtri(np.clip(middle, edge, 1 - edge))
    return tuple(knots.tolist()), tuple(levels.tolist())


def _pieces(values: npt.NDArray[np.float64], pieces: int) -> tuple[float, ...]:
    if not len(values):
        return ()
    edges = np.unique(_quantiles(values, np.linspace(0, 1, pieces + 1)))
    return tuple(edges.tolist()) if len(edges) > 1 else ()


def _quantiles(values: npt.NDArray[np.float64], shares: Sequence[float] | npt.NDArray[np.float64]) -> list[float]:
    """Quantiles of sorted numbers, as members of the sample (the lower one between two)."""
    ranks = np.floor(np.asarray(shares) * (len(values) - 1)).astype(int)
    return [float(value) for value in values[ranks]]
