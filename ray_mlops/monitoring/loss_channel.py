"""Evidence that the model's mean loss has risen by more than a tolerance. The unit is a matured window."""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np

from ray_mlops.monitoring.window_channels import MOST_STARTS, WINDOW_STAKES, AccumulatingChannel, mean_with_margin
from ray_mlops.monitoring.window_runs import WindowRuns
from ray_mlops.statistics.accumulate import combine
from ray_mlops.statistics.betting import BetAboveMean
from ray_mlops.statistics.windows import FloatArray, NormalScores, Sums, restart_log_e, t_log_e

LossWindow = tuple[float, float, float]
"""Rows, sum of losses in [0, 1], sum of their squares; of weighted rows, as many as carry the same information."""

_MIN_WINDOWS = 8
"""With fewer reference windows only the distribution-free bet acts."""


class LossChannel:
    """Tests H0: mean loss <= mean loss of the reference + tolerance.

    Half of the wealth is bet by a t-test on window means, which learns from the reference how much windows
    differ; the other half by a bounded-mean bet, which assumes nothing.

    Args:
        reference: Losses of the reference's windows, of rows that the model was not trained on; not empty.
        tolerance: Rise of the mean loss that is still no decay.
    """

    def __init__(self, reference: Sequence[LossWindow], tolerance: float) -> None:
        windows = [window for window in reference if window[0] > 0]
        self._tolerance = tolerance
        means = np.array([total / n for n, total, _ in windows])
        self._centre = float(means.mean())
        variances = [max(squares / n - (total / n) ** 2, 0.0) for n, total, squares in windows]
        self._row_variance = float(np.mean(variances))
        sampling = self._row_variance * float(np.mean([1.0 / n for n, _, _ in windows]))
        self._between = max(float(means.var()) - sampling, 0.0)
        self._usual = self._between + sampling
        self._reference = np.array([self._levelled(window) for window in windows])
        self._scale = NormalScores(self._reference, floor=tolerance / 2.0)
        self._bet = BetAboveMean(min(max(mean_with_margin(means) + tolerance, 1e-6), 0.999), WINDOW_STAKES)
        self._bets = AccumulatingChannel(len(WINDOW_STAKES))
        self._current: list[float] = []
        self._windows = WindowRuns()
        self._given_up: Sums | None = None
        self.last: float | None = None
        """Mean loss of the newest window."""

    @property
    def reference_loss(self) -> float:
        """Mean loss of the reference's windows."""
        return self._centre

    @property
    def limit(self) -> float:
        """The mean loss up to which there is no decay."""
        return self._centre + self._tolerance

    def update(self, window: int, losses: LossWindow) -> None:
        """Take one matured window; one without labels is left out."""
        n, total, _ = losses
        if n == 0:
            return
        self.last = total / n
        self._windows.append(window)
        self._current.append(self._levelled(losses))
        if len(self._current) > MOST_STARTS:
            oldest = self._scale.of([self._current.pop(0) - self._tolerance])
            self._given_up = (self._given_up or Sums.empty(1)).plus(oldest)
        self._bets.take(self._bet.increments(min(max(self.last, 0.0), 1.0)))

    @property
    def log_e(self) -> float:
        """Evidence at the action level."""
        if len(self._reference) < _MIN_WINDOWS:
            return self._bets.log_e
        return combine([0.5, 0.5], [self._restarted(self._by_start()), self._bets.log_e])

    def change_window(self) -> int | None:
        """The window in which the loss most likely began to rise."""
        if not len(self._windows):
            return None
        evidence = self._by_start() if len(self._reference) >= _MIN_WINDOWS else np.zeros(0)
        if len(evidence) and self._restarted(evidence) >= self._bets.log_e:
            return self._windows[len(self._windows) - len(evidence) + int(np.argmax(evidence))]
        return self._windows[(self._bets.start or 1) - 1]

    def to_json(self) -> dict[str, Any]:
        past = {} if self._given_up is None else {"given_up": self._given_up.to_json()}
        windows, bets = self._windows.to_json(), self._bets.state()
        return {"means": self._current, "windows": windows, "last": self.last, "bets": bets, **past}

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take up a state that was stored for the same reference."""
        self._current, self._windows = list(content["means"]), WindowRuns(content["windows"])
        self._given_up = Sums.from_json(content["given_up"]) if "given_up" in content else None
        self.last = content["last"]
        self._bets.restore(content["bets"])

    def _by_start(self) -> FloatArray:
        shifted = self._scale.of(np.array(self._current) - self._tolerance)
        return t_log_e(self._scale.of(self._reference), shifted, upward=True, between=self._given_up)

    def _restarted(self, evidence: FloatArray) -> float:
        return restart_log_e(evidence, 0 if self._given_up is None else self._given_up.n)

    def _levelled(self, losses: LossWindow) -> float:
        """Return a window's mean, drawn to the centre where fewer rows than usual make it less certain."""
        n, total, _ = losses
        variance = self._between + self._row_variance / n
        shrink = min(sqrt(self._usual / variance), 1.0) if variance > 0.0 else 1.0
        return self._centre + (total / n - self._centre) * shrink
