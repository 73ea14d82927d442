"""Whether a version that is not the champion is asked at all: a cap on what it holds, and a circuit breaker.

A version that hangs must not hold the champion's places, and one that fails every time is not worth the wait.
What is kept from it is booked against it all the same: the guards see as many failures as if it had been asked.
"""

from dataclasses import dataclass
from typing import Literal

BREAK_AFTER = 5
"""Failures in a row after which the breaker opens."""
FIRST_PAUSE_S = 0.1
"""How long it stays open the first time. A version is not to answer for a second of traffic because of a hiccup."""
LONGEST_PAUSE_S = 2.0
"""Each probe that fails doubles the pause, up to this."""

Entry = Literal["ask", "probe", "overloaded", "unavailable"]
"""Ask it; ask it to see whether it is back; it has all it may hold; it is left alone."""
State = Literal["closed", "open", "half_open"]


@dataclass(slots=True)
class Breaker:
    """What one replica knows of one version.

    Attributes:
        max_running: Requests that may be with the version at once.
        running: Requests that are.
        failures: In a row.

    Example:
        >>> breaker = Breaker(max_running=1)
        >>> breaker.enter(now=0.0), breaker.enter(now=0.0)
        ('ask', 'overloaded')
    """

    max_running: int
    running: int = 0
    failures: int = 0
    _pause_s: float = FIRST_PAUSE_S
    _probe_at: float = 0.0
    _is_probing: bool = False

    def state(self, now: float) -> State:
        """`half_open` lets one request through, to see how it goes."""
        if self.failures < BREAK_AFTER:
            return "closed"
        return "half_open" if now >= self._probe_at and not self._is_probing else "open"

    def enter(self, now: float) -> Entry:
        """Take a place; ``leave`` gives it back, where it is one."""
        state = self.state(now)
        if state == "open":
            return "unavailable"
        if self.running >= self.max_running:
            return "overloaded"
        self.running += 1
        if state == "closed":
            return "ask"
        self._is_probing = True
        return "probe"

    def leave(self, entry: Entry, now: float) -> None:
        """Give a place back."""
        self.running -= 1
        if entry == "probe":
            self._is_probing = False
            self._probe_at = now + self._pause_s

    def renew(self, max_running: int) -> None:
        """Begin anew, but for the requests that are still with the version."""
        self.max_running = max_running
        self.succeed()

    def succeed(self) -> None:
        """Note an answer."""
        self.failures, self._pause_s = 0, FIRST_PAUSE_S

    def fail(self, entry: Entry, now: float) -> None:
        """Note a failure of the version's own; what the champion cannot answer either is none."""
        if entry in ("overloaded", "unavailable"):
            return
        self.failures += 1
        if self.failures == BREAK_AFTER:
            self._probe_at = now + self._pause_s
        elif entry == "probe":
            self._pause_s = min(2.0 * self._pause_s, LONGEST_PAUSE_S)
            self._probe_at = now + self._pause_s
