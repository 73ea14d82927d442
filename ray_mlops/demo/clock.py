"""Where the demo's time goes, by phase, against its budget."""

import time
from collections.abc import Callable

BUDGET_S = {"start": 25.0, "data, tune, train, gate": 90.0, "replay": 90.0, "retraining": 75.0, "rollouts": 60.0}
"""Seconds by phase on two cores, installation aside."""
TOTAL_BUDGET_S = 360.0


class Clock:
    """Books the time since the last call of ``enter`` to the phase that was entered then.

    Args:
        now: A monotonic clock, seconds.

    Attributes:
        seconds: Ended stretches, by phase.

    Example:
        >>> ticks = iter([0.0, 2.0, 3.0, 9.0])
        >>> clock = Clock(lambda: next(ticks))
        >>> clock.enter("replay"), clock.enter("rollouts"), clock.enter(""), clock.seconds
        (None, None, None, {'replay': 2.0, 'rollouts': 1.0})
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.seconds: dict[str, float] = {}
        self._now = now
        self._phase = ""
        self._since = 0.0

    def enter(self, phase: str) -> None:
        """End the present phase and begin another; an empty name only ends it."""
        now = self._now()
        if self._phase:
            self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = phase, now

    def __str__(self) -> str:
        """The present phase, with what it has taken so far and what it may take."""
        spent = self.seconds.get(self._phase, 0.0) + self._now() - self._since
        budget = BUDGET_S.get(self._phase)
        return f"{self._phase} {spent:.0f} s" + ("" if budget is None else f" of {budget:.0f}")
