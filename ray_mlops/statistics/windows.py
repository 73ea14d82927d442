"""Evidence of change from one window of time to the next, where the window is the unit.

Rows of one day are alike, so a test that counts rows sees proof where there is weather. Here each window
gives one number, and what windows usually differ by is learned from reference windows. Both tests price in
that the reference is finite: it is never taken for the truth.
"""

from math import log
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


def t_log_e(reference: Any, current: Any, *, upward: bool = False) -> FloatArray:
    """Return the log evidence that the mean of windows moved, for each window at which it may have moved.

    H0: all windows, reference and current, are independent draws of one normal distribution of unknown mean
    and variance. The alternative with start s: windows from s on have moved by d standard deviations, with a
    normal prior on d. Mean and variance are integrated out with their right Haar prior, so the e-process is
    exact at every time without knowing either, however short the reference is; it does not change when the
    numbers are scaled or shifted. Heavy tails break it: see ``normal_scores``.

    Args:
        reference: Numbers of the reference windows [W], or of several series [W, J].
        current: Those of later windows in order [T] or [T, J].
        upward: Test H0 "moved downwards or not at all" (a half-normal prior on d > 0).

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
    n, num_current = len(before) + len(after), len(after)
    if not num_current or n < 3:
        return np.zeros(num_current)
    centred = np.concatenate((before, after)).reshape(n, -1)
    centred = centred - centred.mean(axis=0)
    spread = (centred**2).sum(axis=0)
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


def normal_scores(reference: Any, values: Any, floor: float) -> FloatArray:
    """Return window numbers on a scale on which the reference windows are normal, with tails cut off.

    Numbers within the reference's range get the normal quantile of their rank, those beyond it a little more
    than the outermost, by at most ``_TAIL_SD``: so that one storm is not proof of a change, as it would be for a
    test that believes in normal tails.

    Args:
        reference: Numbers of the reference windows [W].
        values: The numbers to convert [n].
        floor: A reference with a smaller standard deviation than this counts as if it had this one.

    Example:
        >>> normal_scores([1.0, 2.0, 3.0], [2.0, 1e9], floor=0.0).round(2).tolist()
        [0.0, 2.57]
    """
    x, known = np.asarray(values, dtype=np.float64), np.sort(np.asarray(reference, dtype=np.float64))
    deviation = float(known.std())
    unit = max(deviation, floor)
    if not unit > 0.0:
        return np.asarray(np.sign(x - known[0]) * _TAIL_SD, dtype=np.float64)
    points, index = np.unique(known, return_inverse=True)
    quantiles = np.bincount(index, ndtri((np.arange(len(known)) + 0.5) / len(known))) / np.bincount(index)
    beyond = np.clip((x - np.clip(x, known[0], known[-1])) / unit, -_TAIL_SD, _TAIL_SD)
    return np.asarray(np.interp(x, points, quantiles) * min(deviation / unit, 1.0) + beyond, dtype=np.float64)


def conformal_log_e(score: float, calibration: Any, u: float) -> float:
    """Return the log evidence that a window is stranger than the windows before it.

    H0: the score is exchangeable with the calibration scores. The p-value is their share that is larger, ties
    broken by ``u``, and is exactly uniform; it becomes an e-value by Vovk's mixture. One window can add at most
    about ``log(N)``.

    Args:
        score: How strange the window is.
        calibration: Scores of earlier windows [N]: a held-out part of the reference, and all later windows.
        u: A number drawn uniformly from (0, 1] for this window.

    References:
        Vovk, Testing randomness online, Statistical Science 36 (2021), doi:10.1214/20-STS817.

    Example:
        >>> round(conformal_log_e(9.0, range(9), 0.5), 2)
        0.58
    """
    earlier = np.asarray(calibration, dtype=np.float64)
    larger, equal = int((earlier > score).sum()), int((earlier == score).sum())
    p = max((larger + u * (equal + 1.0)) / (len(earlier) + 1.0), 1e-300)
    if p > 1.0 - 1e-4:
        return log(0.5)  # the limit; the quotient loses its digits here
    return log((1.0 - p + p * log(p)) / (p * log(p) ** 2))


def restart_log_e(log_es: Any) -> float:
    """Return ``RestartMixture.log_e`` for evidence that is known for every start [T] at once."""
    evidence = np.asarray(log_es, dtype=np.float64)
    steps = np.arange(1, len(evidence) + 1)
    waiting = -log(len(evidence) + 1.0)
    return float(np.logaddexp.reduce(np.append(evidence - np.log(steps * (steps + 1.0)), waiting)))
