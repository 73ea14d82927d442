"""Sums of floats that are exact, so that neither the order of rows nor the blocks they come in matter.

Every finite double is a whole multiple of 2^-1074. A sum is kept as that whole number, in Python's integers.

References:
    R. M. Neal, Fast exact summation using small and large superaccumulators, 2015, arXiv:1505.05571
    (the idea; here one pair of counters per exponent, filled by ``bincount``).
    T. J. Dekker, A floating-point technique for extending the available precision, 1971,
    doi:10.1007/BF01397083 (the rounding error of a product).
"""

from fractions import Fraction
from math import nan, sqrt

import numpy as np
import numpy.typing as npt

_UNIT = 1 << 1074
_CHUNK = 1 << 24
_SQUARE_LIMIT = 1e150
_SPLIT = 134217729.0


def exact_sum(values: npt.NDArray[np.float64]) -> int:
    """The exact sum of finite numbers [n], in units of 2^-1074.

    Example:
        >>> sum_to_float(exact_sum(np.array([1e16, 1.0, -1e16])))
        1.0
    """
    total = 0
    for start in range(0, len(values), _CHUNK):
        bits = np.ascontiguousarray(values[start : start + _CHUNK]).view(np.int64)
        exponent = (bits >> 52) & 0x7FF
        mantissa = (bits & ((1 << 52) - 1)) | ((exponent > 0).astype(np.int64) << 52)
        mantissa = np.where(bits < 0, -mantissa, mantissa)
        high = np.bincount(exponent, weights=mantissa >> 26)  # below 2^53: exact in a double
        low = np.bincount(exponent, weights=mantissa & ((1 << 26) - 1))
        for power in np.flatnonzero((high != 0) | (low != 0)).tolist():
            total += ((int(high[power]) << 26) + int(low[power])) << max(power - 1, 0)
    return total


def exact_sum_of_squares(values: npt.NDArray[np.float64]) -> int:
    """The exact sum of squares of finite numbers [n], in units of 2^-1074.

    Magnitudes above 1e150 count as 1e150, since their squares are no doubles.
    """
    held = np.minimum(np.maximum(values, -_SQUARE_LIMIT), _SQUARE_LIMIT)
    square = held * held
    wide = held * _SPLIT
    high = wide - (wide - held)
    low = held - high
    error = ((high * high - square) + 2.0 * high * low) + low * low
    return exact_sum(square) + exact_sum(error)


def sum_to_float(total: int) -> float:
    """The nearest double of an exact sum."""
    return float(Fraction(total, _UNIT))


def mean_and_deviation(total: int, squares: int, count: int) -> tuple[float, float]:
    """Mean and standard deviation (divisor n) from exact sums; NaN without rows.

    Example:
        >>> values = np.array([1e300, 3e300])  # beyond what squares hold: no deviation, but a mean
        >>> mean_and_deviation(exact_sum(values), exact_sum_of_squares(values), 2)
        (2e+300, 0.0)
    """
    if not count:
        return nan, nan
    mean = Fraction(total, _UNIT * count)
    variance = Fraction(squares, _UNIT * count) - mean * mean
    return float(mean), sqrt(float(max(variance, Fraction())))
