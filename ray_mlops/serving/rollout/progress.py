"""How far the evidence of one model is complete: replicas' watermarks, and the monitor's closed windows."""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import floor
from typing import Literal

from ray.exceptions import RayError

from ray_mlops.errors import RayMLOpsError
from ray_mlops.serving.protocol import MonitorView
from ray_mlops.serving.rollout.tally_book import TallyBook, Watermarks

logger = logging.getLogger(__name__)

REPLICA_DEADLINE_S = 10.0
"""A replica that is silent for longer counts as dead, and its watermark is waited for no more."""
GRACE_S = 2.0
"""After a start, how long replicas have to report before an epoch is closed, or an arm stopped, without them."""


@dataclass(frozen=True, slots=True)
class Look:
    """How much of the evidence may be looked at now."""

    is_full: bool
    """False between two windows: only commands and hard limits count."""
    through: int | None = None
    """The last window that counts."""


class Progress:
    """Tells when an epoch is complete.

    Args:
        model: The model's name.
        monitor: Knows which windows of event time are closed; None where there is no monitor.
        clock: Unix seconds.
    """

    def __init__(self, model: str, monitor: MonitorView | None, clock: Callable[[], float]) -> None:
        self.watermarks = Watermarks(REPLICA_DEADLINE_S)
        self._model, self._monitor, self._clock = model, monitor, clock
        self._closed: deque[tuple[int, float]] = deque(maxlen=1000)
        self._started_at = clock()

    def has_applied(self, route_version: int) -> bool:
        """Whether every replica has a route version; not known before they have had the time to report."""
        return self._has_heard and self.watermarks.has_applied(route_version, self._clock())

    @property
    def _has_heard(self) -> bool:
        """Whether each replica that lives must have reported by now."""
        return self._clock() - self._started_at >= GRACE_S

    @property
    def last_closed(self) -> int | None:
        """The newest window that was seen closed."""
        return self._closed[-1][0] if self._closed else None

    async def closed_window(self) -> int | None:
        """Ask for the newest closed window, noting when each was first seen closed."""
        if self._monitor is None:
            return None
        try:
            closed = await self._monitor.closed_window(self._model)
        except (RayMLOpsError, RayError) as error:
            logger.warning("cannot ask the monitor model=%s error=%s", self._model, error)
            return self.last_closed
        if closed is not None and (self.last_closed is None or closed > self.last_closed):
            self._closed.append((closed, self._clock()))
        return self.last_closed

    async def look(self, book: TallyBook, evaluated: int | None, evaluate: Literal["continuous", "window"]) -> Look:
        """Close what is complete, and say how far one may look.

        Args:
            book: Its epochs are closed seconds of arrival, or windows.
            evaluated: The last window that was looked at.
            evaluate: Every second there is, or one window after the other.
        """
        now = self._clock()
        for name in self.watermarks.remove_silent(now):
            logger.warning("dropped silent replica model=%s replica=%s", self._model, name)
        complete_s = self.watermarks.closed_through(now) if self._has_heard else None
        closed = await self.closed_window()
        if evaluate == "continuous":
            if complete_s is not None:
                book.close(floor(complete_s) - 1)
            return Look(is_full=True, through=closed)
        if closed is None or (evaluated is not None and closed <= evaluated):
            return Look(is_full=False, through=evaluated)
        window = min(book.open_epochs() | {closed})
        if not self._is_complete(window, complete_s, now):
            return Look(is_full=False, through=evaluated)
        book.close(window)
        return Look(is_full=True, through=window)

    def _is_complete(self, window: int, complete_s: float | None, now: float) -> bool:
        """Whether every replica has answered, and told, all that arrived before the window was seen closed."""
        seen_s = next(seen for closed, seen in self._closed if closed >= window)
        if complete_s is None:
            return now - self._started_at > REPLICA_DEADLINE_S
        return complete_s >= seen_s
