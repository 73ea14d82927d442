"""Like with like: which part of the day or week a window belongs to, and how many such parts there are.

Night is not day and Sunday is not Monday. Where windows are shorter than the cycle, each is compared with
reference windows of its own stratum only. Within a stratum windows are exchangeable when nothing changes, so each
stratum's evidence is an e-process of its own; that of the column is their mean, which is one again however the
strata depend on each other (a warm afternoon follows a warm morning, and a product would count it twice). The
price is the logarithm of the number of strata, and that a stratum sees only its share of the windows: a window
of one whole cycle, without strata, is the faster choice where it is fast enough.
"""

from typing import Literal

Strata = Literal["none", "hour_of_day", "day_of_week", "hour_of_week"]

_HOUR_US = 3_600_000_000
_UNITS: dict[str, tuple[int, int, int]] = {
    "none": (_HOUR_US, 1, 0),
    "hour_of_day": (_HOUR_US, 24, 0),
    "day_of_week": (24 * _HOUR_US, 7, 3),  # 1970-01-01 was a Thursday; Monday is 0
    "hour_of_week": (_HOUR_US, 168, 72),
}
"""Length of one unit, how many make a cycle, and where in the cycle 1970-01-01 00:00 UTC was."""


def stratum_of(window: int, window_us: int, strata: Strata) -> int:
    """Return the stratum in which a window begins, from 0 (midnight UTC, Monday).

    Example:
        >>> stratum_of(25, 3_600_000_000, "hour_of_day"), stratum_of(0, 86_400_000_000, "day_of_week")
        (1, 3)
    """
    unit_us, count, first = _UNITS[strata]
    return (window * window_us // unit_us + first) % count


def num_strata(strata: Strata) -> int:
    """Return how many strata there are."""
    return _UNITS[strata][1]
