"""Tests of ``counts`` and ``betting`` after each of many events at once, where one by one would be too slow.

Each gives, to the last digits, what the plain function gives for the events so far. A simulation that looks
after every event uses them to find the moments at which something could be decided.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import betaln

from ray_mlops.statistics.betting import STAKES, log_prior
from ray_mlops.statistics.counts import EFFECTS, LOG_PRIOR_BETTER, LOG_PRIOR_WORSE, log_excess

FloatArray = npt.NDArray[np.float64]


class RunningRateRatio:
    """``log_e_regression`` or ``log_e_noninferiority`` event by event.

    Args:
        margin: None tests for regression; a number tests for non-inferiority with this margin.

    Example:
        >>> from ray_mlops.statistics.counts import log_e_regression
        >>> path = RunningRateRatio().extend(0.1, [True, False, True])
        >>> bool(np.isclose(path[-1], log_e_regression([0.1], [2], [1])))
        True
    """

    def __init__(self, margin: float | None = None) -> None:
        self._null = 0.0 if margin is None else float(np.log1p(margin))
        self._effects = EFFECTS if margin is None else self._null - EFFECTS
        self._log_prior = LOG_PRIOR_WORSE if margin is None else LOG_PRIOR_BETTER
        self._log_ratios = np.zeros(len(EFFECTS))

    @property
    def log_e(self) -> float:
        """The evidence so far."""
        return float(np.logaddexp.reduce(self._log_ratios + self._log_prior))

    def extend(self, weight: float, is_candidate: Any) -> FloatArray:
        """Take up events; returns the log evidence after each of them [n].

        Args:
            weight: The candidate's share of the units, in (0, 1).
            is_candidate: Where each event landed, in order [n].
        """
        landed = np.asarray(is_candidate, dtype=np.float64)
        if not len(landed):
            return np.empty(0)
        excess = log_excess(np.array([weight]), self._null, self._effects)[0]
        steps = landed[:, None] * (self._effects - self._null) - excess
        ratios = self._log_ratios + np.cumsum(steps, axis=0)
        self._log_ratios = ratios[-1]
        path: FloatArray = np.logaddexp.reduce(ratios + self._log_prior, axis=1)
        return path


class RunningSampleRatio:
    """``sample_ratio_log_e`` unit by unit; each ``extend`` is a route version of its own."""

    def __init__(self, concentration: float = 100.0) -> None:
        self._concentration = concentration
        self.log_e = 0.0

    def extend(self, weight: float, is_candidate: Any) -> FloatArray:
        """Take up the units of one route version; returns the log evidence after each of them [n]."""
        landed = np.asarray(is_candidate, dtype=np.float64)
        if not len(landed):
            return np.empty(0)
        a = np.cumsum(landed)
        b = np.arange(1, len(landed) + 1) - a
        prior_a, prior_b = self._concentration * weight, self._concentration * (1.0 - weight)
        evidence = betaln(prior_a + a, prior_b + b) - betaln(prior_a, prior_b)
        path: FloatArray = self.log_e + evidence - a * np.log(weight) - b * np.log1p(-weight)
        self.log_e = float(path[-1])
        return path


def running_noninferiority(differences: Any, margin: float) -> FloatArray:
    """``log_e_paired_noninferiority`` after each pair [n].

    Args:
        differences: Candidate's loss minus champion's [n], in [-1, 1].
        margin: How much more would be too much.
    """
    x = 1.0 - (np.asarray(differences, dtype=np.float64) + 1.0) / 2.0
    gains = x / (1.0 - (margin + 1.0) / 2.0) - 1.0
    wealth = np.cumsum(np.log1p(STAKES * gains[:, None]), axis=0)
    path: FloatArray = np.logaddexp.reduce(wealth + log_prior(STAKES), axis=1)
    return path
