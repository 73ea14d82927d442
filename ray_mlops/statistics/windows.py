"""Evidence of change from one window of time to the next, where the window is the unit.

Rows of one day are alike, so a test that counts rows sees proof where there is weather. Here each window
gives one number, and what windows usually differ by is learned from reference windows. Both tests price in
that the reference is finite: it is never taken for the truth.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import comb, log
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri
from scipy.stats import t as student

FloatArray = npt.NDArray[np.float64]

_EFFECTS_SD = (1.0, 3.0, 9.0)
"""Sizes of shift that ``t_log_e`` bets on, in standard deviations of a window."""
_TAIL_SD = 1.6
"""How far beyond the reference's outermost window any other can count."""


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Windows that no change is looked for at any more: all that later ones need of them."""

    n: int
    total: FloatArray
    """Of their numbers, by series [J]."""
    squares: FloatArray
    """Of their squares [J]."""

    @classmethod
    def empty(cls, num_series: int) -> "Sums":
        return cls(0, np.zeros(num_series), np.zeros(num_series))

    def plus(self, numbers: FloatArray) -> "Sums":
        """These and one more window [J]."""
        return Sums(self.n + 1, self.total + numbers, self.squares + numbers**2)

    def to_json(self) -> dict[str, Any]:
        return {"n": self.n, "total": self.total.tolist(), "squares": self.squares.tolist()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Sums":
        return cls(content["n"], np.array(content["total"]), np.array(content["squares"]))


def t_log_e(reference: Any, current: Any, *, upward: bool = False, between: Sums | None = None) -> FloatArray:
    """Return the log evidence that the mean of windows moved, for each window at which it may have moved.

    H0: all windows, reference and current, are independent draws of one normal distribution of unknown mean
    and variance. The alternative with start s: windows from s on have moved by d standard deviations, with a
    normal prior on d. Mean and variance are integrated out with their right Haar prior, so the e-process is
    exact at every time without knowing either, however short the reference is; it does not change when the
    numbers are scaled or shifted. Heavy tails break it: see ``NormalScores``.

    Args:
        reference: Numbers of the reference windows [W], or of several series [W, J].
        current: Those of later windows in order [T] or [T, J].
        upward: Test H0 "moved downwards or not at all" (a half-normal prior on d > 0).
        between: Windows after the reference and before ``current``, at which no change is looked for any more.

    Returns:
        Log e-values [T]: entry s is that of a change at current window s, averaged over the series. All 0
        while W + T < 3.

    References:
        Wang and Ramdas, Anytime-valid t-tests and confidence sequences for Gaussian means with unknown
        variance, arXiv:2310.03722 (the scale-invariant e-process with a Gaussian mixture); Perez-Ortiz et al.,
        E-statistics, group invariance and anytime-valid testing, doi:10.1214/23-AOS2343. We remove the unknown
        mean in the same way, and mix over three prior scales.

    Example:
        >>> import numpy as np
        >>> reference = np.sin(np.arange(30.0))
        >>> evidence = t_log_e(reference, [0.5, 4.0, 4.0, 4.0])
        >>> int(evidence.argmax()), bool(evidence.max() > 8.0)
        (1, True)
    """
    before, after = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    known, num_current = len(before) + len(after), len(after)
    n = known if between is None else known + between.n
    if not num_current or n < 3:
        return np.zeros(num_current)
    numbers = np.concatenate((before, after)).reshape(known, -1)
    if between is None:
        centred = numbers - numbers.mean(axis=0)
        spread = (centred**2).sum(axis=0)
    else:
        mean = (numbers.sum(axis=0) + between.total) / n
        centred = numbers - mean
        spread = (centred**2).sum(axis=0) + between.squares - 2.0 * mean * between.total + between.n * mean**2
    excess = np.cumsum(centred[::-1], axis=0)[:num_current][::-1]  # of the windows after each start [T, J]
    moved = np.arange(num_current, 0, -1.0)[:, None]
    information = moved * (n - moved) / n
    parts = [_t_part(excess, information, spread, n, effect**2, upward) for effect in _EFFECTS_SD]
    mixed = np.logaddexp.reduce(np.concatenate(parts, axis=1), axis=1) - log(len(parts) * centred.shape[1])
    return np.asarray(mixed, dtype=np.float64)


def _t_part(
    excess: FloatArray, information: FloatArray, spread: FloatArray, n: int, prior: float, upward: bool
) -> FloatArray:
    """Return the log e-values [T, J] for one prior variance of the shift."""
    shrunk = prior / (1.0 + prior * information)
    total = np.maximum(spread, 1e-300)
    left = np.maximum(total - shrunk * excess**2, total * 1e-12)
    evidence = -0.5 * np.log1p(prior * information) - (n - 1) / 2.0 * np.log(left / total)
    if upward:  # the posterior probability that the shift is upwards, over the prior's one half
        evidence = evidence + student.logcdf(excess * np.sqrt(shrunk * (n - 1) / left), n - 1) + log(2.0)
    return np.asarray(np.where(information > 0.0, evidence, 0.0), dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class NormalScores:
    """A scale on which the numbers of reference windows are normal, with tails cut off.

    Numbers within the reference's range get the normal quantile of their rank, those beyond it a little more
    than the outermost, by at most ``_TAIL_SD``: so that one storm is not proof of a change, as it would be for a
    test that believes in normal tails.

    Args:
        reference: Numbers of the reference windows [W], W >= 1.
        floor: A reference with a smaller standard deviation than this counts as if it had this one.

    Example:
        >>> NormalScores([1.0, 2.0, 3.0], floor=0.0).of([2.0, 1e9]).round(2).tolist()
        [0.0, 2.57]
    """

    reference: Any
    floor: float
    _points: FloatArray = field(init=False, repr=False)
    _quantiles: FloatArray = field(init=False, repr=False)
    _unit: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        known = np.sort(np.asarray(self.reference, dtype=np.float64))
        deviation = float(known.std())
        unit = max(deviation, self.floor)
        points, index = np.unique(known, return_inverse=True)
        normal = ndtri((np.arange(len(known)) + 0.5) / len(known))
        quantiles = np.bincount(index, normal) / np.bincount(index)
        object.__setattr__(self, "_points", points)
        object.__setattr__(self, "_quantiles", quantiles * min(deviation / unit, 1.0) if unit > 0.0 else quantiles)
        object.__setattr__(self, "_unit", unit)

    def of(self, values: Any) -> FloatArray:
        """Return the scores of numbers [n]."""
        x = np.asarray(values, dtype=np.float64)
        low, high = self._points[0], self._points[-1]
        if not self._unit > 0.0:
            return np.asarray(np.sign(x - low) * _TAIL_SD, dtype=np.float64)
        beyond = (np.maximum(x - high, 0.0) + np.minimum(x - low, 0.0)) / self._unit
        beyond = np.minimum(np.maximum(beyond, -_TAIL_SD), _TAIL_SD)
        return np.asarray(np.interp(x, self._points, self._quantiles) + beyond, dtype=np.float64)


def persistence(scores: Any, doubt_se: float = 0.5) -> FloatArray:
    """Return how much of a window's normal score is in the next one's too, at the most, in [0, 0.9] [J].

    The lag-one autocorrelation of the reference windows, its bias taken off, plus what it may be off by:
    windows that are taken for independent and are not, are proof of anything in the end.

    Args:
        scores: Normal scores of the reference windows, in order of time [W, J].
        doubt_se: Standard errors to add.

    Example:
        >>> calm = np.sin(np.arange(60.0) / 9.0)[:, None]
        >>> wild = calm * (-1.0) ** np.arange(60.0)[:, None]
        >>> bool(persistence(calm)[0] > 0.8), persistence(wild).tolist()
        (True, [0.0])
    """
    x = np.asarray(scores, dtype=np.float64)
    x = x - x.mean(axis=0)
    squares, products = (x**2).sum(axis=0), (x[1:] * x[:-1]).sum(axis=0)
    lag_one = np.divide(products, squares, out=np.zeros_like(squares), where=squares > 0.0)
    unbiased = lag_one + (1.0 + 3.0 * lag_one) / len(x)
    return np.asarray(np.clip(unbiased + doubt_se / np.sqrt(len(x)), 0.0, 0.9), dtype=np.float64)


def independent_parts(scores: Any, persistence: Any) -> FloatArray:
    """Return what is new in each window's scores [n, J]: independent where the scores are a Gaussian AR(1).

    Args:
        scores: In order of time [n, J].
        persistence: As ``persistence`` returns it [J].
    """
    x, rho = np.asarray(scores, dtype=np.float64), np.asarray(persistence, dtype=np.float64)
    new = (x[1:] - rho * x[:-1]) / np.sqrt(1.0 - rho**2)
    return np.concatenate((x[:1], new))


def decisive_run(num_windows: int, rank: int, num_steps: float) -> int:
    """Return how many windows in a row must lie above the ``rank``-th highest of the reference's to be proof.

    Exchangeable windows do so at a given moment with a probability of at most ``1 / num_steps``, exactly, whatever
    they are distributed like. It is found at once where a bet on the mean must first outgrow the rarest outage.

    Args:
        num_windows: Windows of the reference, at least ``rank``.
        rank: 1 for the highest.
        num_steps: Mean number of windows between false alarms.

    Example:
        >>> decisive_run(60, 1, 12_000), decisive_run(60, 3, 12_000), decisive_run(20, 1, 12_000)
        (3, 4, 5)
    """
    length = 1
    while comb(rank - 1 + length, length) * num_steps > comb(num_windows + length, length):
        length += 1
    return length


def conformal_log_e(score: float, calibration: Any, u: float, counts: Any = None) -> float:
    """Return the log evidence that a window is stranger than the windows before it.

    H0: the score is exchangeable with the calibration scores. The p-value is their share that is larger, ties
    broken by ``u``, and is exactly uniform; it becomes an e-value by Vovk's mixture. One window can add at most
    about ``log(N)``.

    Args:
        score: How strange the window is.
        calibration: Scores of earlier windows [N]: a held-out part of the reference, and all later windows.
        u: A number drawn uniformly from (0, 1] for this window.
        counts: How often each calibration score was seen [N]; None means once.

    References:
        Vovk, Testing randomness online, Statistical Science 36 (2021), doi:10.1214/20-STS817.

    Example:
        >>> round(conformal_log_e(9.0, range(9), 0.5), 2)
        0.58
    """
    earlier = np.asarray(calibration, dtype=np.float64)
    times = np.ones(len(earlier), dtype=np.int64) if counts is None else np.asarray(counts)
    larger, equal = int(times[earlier > score].sum()), int(times[earlier == score].sum())
    p = max((larger + u * (equal + 1.0)) / (int(times.sum()) + 1.0), 1e-300)
    if p > 1.0 - 1e-4:
        return log(0.5)  # the limit; the quotient loses its digits here
    return log((1.0 - p + p * log(p)) / (p * log(p) ** 2))


def restart_log_e(log_es: Any, before: int = 0) -> float:
    """Return ``RestartMixture.log_e`` for evidence that is known for every start [T] at once.

    Args:
        log_es: Evidence by start.
        before: Starts before these, whose share of the wealth has been given up: what is left is valid, and less.
    """
    evidence = np.asarray(log_es, dtype=np.float64)
    steps = before + np.arange(1, len(evidence) + 1)
    waiting = -log(before + len(evidence) + 1.0)
    return float(np.logaddexp.reduce(np.append(evidence - np.log(steps * (steps + 1.0)), waiting)))
