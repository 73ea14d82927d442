"""From the evidence of single steps to alarms over time, and from many features to one alarm.

Each step brings K bets, as the logarithms of their e-values. A change may begin at any step, so evidence is
restarted at each one. All of it takes constant memory and is a JSON value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, log
from typing import Any, Self

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RestartMixture:
    """The action level: the wealth of gamblers who start at each step, K at a time, averaged.

    Step t = 1, 2, ... gets the share ``1 / (t (t + 1))`` of the starting wealth, what is left waits. Under the
    null hypothesis the probability that ``log_e`` ever reaches ``log(1 / alpha)`` is at most ``alpha``, and a late
    change is still found: its price is about ``2 log t``.

    Example:
        >>> state = RestartMixture(1)
        >>> for log_e in [-1.0] * 50 + [2.0] * 8:
        ...     state = state.updated([log_e])
        >>> state.log_e > 5.0, state.change_point
        (True, 51)
    """

    num_bets: int
    steps: int = 0
    log_started: tuple[float, ...] = ()
    """Log wealth of the gamblers that have started [K], by bet; empty before the first step."""
    best_start: tuple[int, ...] = ()
    """The step from which each bet's evidence is largest [K]."""
    log_best: tuple[float, ...] = ()
    """That evidence, as if a gambler had started there with a wealth of 1."""

    def updated(self, log_es: Any) -> Self:
        """Return the state after one more step with these log e-values [K]."""
        gains = np.asarray(log_es, dtype=np.float64).reshape(self.num_bets)
        step = self.steps + 1
        stake = -log(step * (step + 1.0))
        started = np.asarray(self.log_started or [-inf] * self.num_bets)
        best = np.asarray(self.log_best or [-inf] * self.num_bets)
        starts = np.where(best >= 0.0, np.asarray(self.best_start or [0] * self.num_bets), step)
        wealth, best = np.logaddexp(started, stake) + gains, np.maximum(best, 0.0) + gains
        return type(self)(self.num_bets, step, _floats(wealth), tuple(starts.tolist()), _floats(best))

    @property
    def log_e(self) -> float:
        """Log of the average wealth; 0 before the first step."""
        waiting = -log(self.steps + 1.0)
        if not self.steps:
            return waiting
        return float(np.logaddexp(np.logaddexp.reduce(self.log_started) - log(self.num_bets), waiting))

    @property
    def change_point(self) -> int | None:
        """The step (from 1) at which the change most likely began; None before the first step."""
        return self.best_start[int(np.argmax(self.log_best))] if self.steps else None

    def to_json(self) -> dict[str, Any]:
        return {
            "num_bets": self.num_bets,
            "steps": self.steps,
            "log_started": _to_json(self.log_started),
            "best_start": list(self.best_start),
            "log_best": _to_json(self.log_best),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        started, best = _from_json(content["log_started"]), _from_json(content["log_best"])
        return cls(content["num_bets"], content["steps"], started, tuple(content["best_start"]), best)


@dataclass(frozen=True, slots=True)
class ShiryaevRoberts:
    """The notification level: a gambler with wealth 1 starts at every step, K at a time, averaged.

    With an alarm at ``log_r >= log(A)`` the mean number of steps before a false alarm is at least A.

    References:
        Shin, Ramdas and Rinaldo, E-detectors, New England J. Statistics in Data Science (2024),
        doi:10.51387/23-NEJSDS51.

    Example:
        >>> ShiryaevRoberts(1).updated([3.0]).updated([3.0]).log_r > 6.0
        True
    """

    num_bets: int
    log_rs: tuple[float, ...] = ()
    """By bet [K]; empty before the first step."""

    def updated(self, log_es: Any) -> Self:
        """Return the state after one more step with these log e-values [K]."""
        gains = np.asarray(log_es, dtype=np.float64).reshape(self.num_bets)
        return type(self)(self.num_bets, _floats(np.logaddexp(self.log_rs or [-inf] * self.num_bets, 0.0) + gains))

    @property
    def log_r(self) -> float:
        """Log of the average; minus infinity before the first step."""
        return float(np.logaddexp.reduce(self.log_rs) - log(self.num_bets)) if self.log_rs else -inf

    def to_json(self) -> dict[str, Any]:
        return {"num_bets": self.num_bets, "log_rs": _to_json(self.log_rs)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        return cls(content["num_bets"], _from_json(content["log_rs"]))


def combine(weights: Any, log_es: Any) -> float:
    """Return the log of the weighted mean of e-values: an e-value again, however they depend on each other.

    Args:
        weights: Non-negative weights [d]; they are scaled to sum to 1.
        log_es: Log e-values [d].

    Example:
        >>> round(combine([1.0, 1.0], [0.0, 0.0]), 12)
        0.0
    """
    w = np.asarray(weights, dtype=np.float64)
    if w.shape != np.shape(log_es) or not w.sum() > 0 or (w < 0).any():
        raise ValueError("weights must be as many as the e-values, not negative, and not all 0")
    used = w > 0
    return float(np.logaddexp.reduce(np.asarray(log_es, dtype=np.float64)[used] + np.log(w[used] / w.sum())))


def e_bh(log_es: Sequence[float], alpha: float) -> list[int]:
    """Name the hypotheses to reject: of those, a share of at most ``alpha`` is expected to be true.

    Use the evidence at one moment: on the largest evidence so far the guarantee is lost.

    Args:
        log_es: Log e-values [d].
        alpha: False discovery rate.

    Returns:
        Indices of the rejected hypotheses, those with most evidence first.

    References:
        Wang and Ramdas, False discovery rate control with e-values, JRSS-B 84 (2022), doi:10.1111/rssb.12489.

    Example:
        >>> e_bh([0.0, 6.0, 5.5], alpha=0.05)
        [1, 2]
    """
    order = np.argsort(-np.asarray(log_es, dtype=np.float64), kind="stable")
    needed = [log(len(log_es) / ((rank + 1) * alpha)) for rank in range(len(order))]
    passed = [rank for rank, index in enumerate(order) if log_es[index] >= needed[rank]]
    return [int(index) for index in order[: passed[-1] + 1]] if passed else []


def _floats(values: FloatArray) -> tuple[float, ...]:
    return tuple(values.tolist())


def _to_json(values: Sequence[float]) -> list[float | None]:
    return [None if value == -inf else value for value in values]


def _from_json(values: Sequence[float | None]) -> tuple[float, ...]:
    return tuple(-inf if value is None else value for value in values)
