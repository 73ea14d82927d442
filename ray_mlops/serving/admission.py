"""How many requests are worked on at once, and how many may wait: overload is said, never hidden in a queue."""

import asyncio
from collections import deque

from ray_mlops.errors import OverloadError


class Admission:
    """A counter with a bounded queue, for one event loop.

    Args:
        max_running: Requests worked on at once.
        max_waiting: Requests that may wait; one more is refused.
    """

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self._max_running, self._max_waiting = max_running, max_waiting
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.num_running = 0

    async def __aenter__(self) -> None:
        if self.num_running < self._max_running:
            self.num_running += 1
            return
        if len(self._waiting) >= self._max_waiting:
            problem = f"{self.num_running} requests are running and {len(self._waiting)} waiting"
            raise OverloadError(problem, "gateway", "try again later")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn  # whoever leaves hands its place over
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.num_running -= 1
