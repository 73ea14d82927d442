"""Sequential tests on counts of two arms, where we ourselves drew the arm of each unit.

Given that an event happened (an error, a slow answer), chance alone decides on which arm it landed, with
a probability that the routing weight fixes. So only the events matter, a rate that moves for both arms
cancels, and the tests stay valid when the weight changes and however often they are looked at: under the
null hypothesis the probability that ``log_e`` ever reaches ``log(1 / alpha)`` is at most ``alpha``.

Units must be assigned independently (one per request, or one per user where routing is sticky), and
events must enter in the order of their requests, not of their reports.

All arrays run over route versions: within one the candidate's weight is constant.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import betaln

FloatArray = npt.NDArray[np.float64]

EFFECTS: FloatArray = np.geomspace(0.05, 2.5, 16)
"""Log rate ratios that the tests bet on: from 5 % to 12 times."""
LOG_PRIOR_WORSE: FloatArray = np.log(EFFECTS / EFFECTS.sum())
"""Share of the stake on each effect in a test for regression, in proportion to the effect: a small one takes so
many events that a small prior costs little (1.5 times the errors are found 9 % later than with equal shares), and
five times the errors are found 17 % sooner."""
LOG_PRIOR_BETTER: FloatArray = np.full(len(EFFECTS), -np.log(len(EFFECTS)))
"""The same in a test for non-inferiority, where an equal candidate is a small effect."""


def log_e_regression(weights: Any, candidate: Any, champion: Any) -> float:
    """Return the log evidence that the candidate's event rate is above the champion's.

    H0: rate of the candidate <= rate of the champion. Events under a weight that is not strictly between
    0 and 1 carry no information and are left out; without events the evidence is 0.

    Args:
        weights: Candidate's share of the units in each route version [V], in (0, 1).
        candidate: Events on the candidate [V].
        champion: Events on the champion [V].

    Raises:
        ValueError: The shapes differ, or a count is negative.

    References:
        Lindon and Malek, Anytime-Valid Inference for Multinomial Count Data, arXiv:2011.03567. The prior is a
        grid of one-sided effects instead of a Beta, so that H0 is one-sided and the weight may vary.

    Example:
        >>> log_e_regression([0.5], [0], [0])
        0.0
        >>> log_e_regression([0.1], [12], [20]) > 4.0
        True
    """
    return _log_e_rate_ratio(weights, candidate, champion, 0.0, EFFECTS, LOG_PRIOR_WORSE)


def log_e_noninferiority(weights: Any, candidate: Any, champion: Any, margin: float) -> float:
    """Return the log evidence that the candidate's event rate is below ``1 + margin`` times the champion's.

    H0: rate of the candidate >= (1 + margin) times rate of the champion. Arguments as for
    ``log_e_regression``; ``margin`` must be above -1.
    """
    if not margin > -1:
        raise ValueError(f"the margin must be above -1, got {margin}")
    limit = float(np.log1p(margin))
    return _log_e_rate_ratio(weights, candidate, champion, limit, limit - EFFECTS, LOG_PRIOR_BETTER)


def log_e_score_shift(weights: Any, candidate: Any, champion: Any, concentration: float = 20.0) -> float:
    """Return the log evidence that the arms' units fall into bins differently.

    H0: in every bin the share of units on the candidate is the routing weight. Finds any difference, harmful
    or not. Each route version is a Beta mixture of its own.

    Args:
        weights: Candidate's share of the units [V].
        candidate: Units of the candidate in each bin [V, B].
        champion: Units of the champion in each bin [V, B].
        concentration: Pseudo-units of the prior in each bin; more bets on smaller differences.
    """
    w, a, b = _informative(weights, candidate, champion)
    w = w.reshape(-1, *([1] * (a.ndim - 1)))
    prior_a, prior_b = concentration * w, concentration * (1.0 - w)
    evidence = betaln(prior_a + a, prior_b + b) - betaln(prior_a, prior_b) - a * np.log(w) - b * np.log1p(-w)
    return float(evidence.sum())


def sample_ratio_log_e(counts: Any, weights: Any, concentration: float = 100.0) -> float:
    """Return the log evidence that the arms did not get the shares of units that they should have.

    H0: each unit went to the candidate with probability ``weights[v]``. A rollout with strong evidence here
    (alpha 1e-4) measures nothing: some units were routed, or lost, by arm.

    Args:
        counts: Units of (candidate, champion) in each route version [V, 2].
        weights: Candidate's share [V]. Versions with a weight of 0 or 1 are left out.
        concentration: Pseudo-units of the prior; more bets on smaller deviations.

    References:
        Lindon and Malek, arXiv:2011.03567 (the Dirichlet-multinomial with two arms).

    Example:
        >>> sample_ratio_log_e([[500, 500]], [0.5]) < 0 < sample_ratio_log_e([[600, 400]], [0.5])
        True
    """
    pairs = np.asarray(counts, dtype=np.float64).reshape(-1, 2)
    return log_e_score_shift(weights, pairs[:, 0], pairs[:, 1], concentration)


def _log_e_rate_ratio(
    weights: Any, candidate: Any, champion: Any, null: float, effects: FloatArray, log_prior: FloatArray
) -> float:
    """Mix, over log rate ratios [K], the likelihood ratio of where the events landed, against ``null``."""
    w, a, b = _informative(weights, candidate, champion)
    if not (a + b).any():
        return 0.0
    log_ratios = a.sum() * (effects - null) - (a + b) @ log_excess(w, null, effects)
    return float(np.logaddexp.reduce(log_ratios + log_prior))


def log_excess(weights: FloatArray, null: float, effects: FloatArray) -> FloatArray:
    """Return how much likelier any event is under each log rate ratio than under ``null`` [V, K], as a logarithm.

    An event lands on the candidate with probability w exp(d) / (w exp(d) + 1 - w) when the log ratio is d.
    """
    w = weights[:, None]
    excess: FloatArray = np.log(w * np.exp(effects) + 1.0 - w) - np.log(w * np.exp(null) + 1.0 - w)
    return excess


def _informative(weights: Any, candidate: Any, champion: Any) -> tuple[FloatArray, FloatArray, FloatArray]:
    w = np.atleast_1d(np.asarray(weights, dtype=np.float64))
    a = np.atleast_1d(np.asarray(candidate, dtype=np.float64))
    b = np.atleast_1d(np.asarray(champion, dtype=np.float64))
    if a.shape != b.shape or len(a) != len(w) or w.ndim != 1:
        raise ValueError(f"counts {a.shape} and {b.shape} do not fit weights {w.shape}")
    if (a < 0).any() or (b < 0).any():
        raise ValueError("counts must not be negative")
    inside = (w > 0) & (w < 1)
    return w[inside], a[inside], b[inside]
