"""How many requests are worked on at once, and how many may wait: overload is said, never hidden in a queue."""

import asyncio
from collections import deque
from typing import Any

from ray_mlops.errors import OverloadError
from ray_mlops.serving.http.asgi import ClientGoneError, Receive


class Admission:
    """A counter with a bounded queue, for one event loop.

    Args:
        max_running: Requests worked on at once.
        max_waiting: Requests that may wait; one more is refused.
        max_wait_s: How long one waits before it is refused.
    """

    def __init__(self, max_running: int, max_waiting: int, max_wait_s: float = 30.0) -> None:
        self._max_running, self._max_waiting, self._max_wait_s = max_running, max_waiting, max_wait_s
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.num_running = 0

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a place."""
        return sum(not turn.done() for turn in self._waiting)

    async def enter(self, receive: Receive | None = None) -> None:
        """Take a place, or wait for one; ``leave`` must follow.

        Args:
            receive: Gives the client's next message, once its body was read: that it has gone.

        Raises:
            OverloadError: Too many wait, or this one has waited too long.
            ClientGoneError: The client went away meanwhile.
        """
        if self.num_running < self._max_running:
            self.num_running += 1
            return
        if len(self._waiting) >= self._max_waiting:
            self._waiting = deque(turn for turn in self._waiting if not turn.done())
            if len(self._waiting) >= self._max_waiting:
                problem = f"{self.num_running} requests are running and {len(self._waiting)} waiting"
                raise OverloadError(problem, "gateway", "try again later")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await self._wait(turn, receive)
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.leave()  # it was handed a place that it cannot use
            turn.cancel()
            raise

    def leave(self) -> None:
        """Hand the place over to whoever waits, or give it back."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.num_running -= 1

    async def _wait(self, turn: "asyncio.Future[None]", receive: Receive | None) -> None:
        leaving = None if receive is None else asyncio.ensure_future(receive())
        waited_for: set[asyncio.Future[Any]] = {turn} if leaving is None else {turn, leaving}
        try:
            await asyncio.wait(waited_for, timeout=self._max_wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if leaving is not None:
                leaving.cancel()
        if turn.done():
            return
        if leaving is not None and leaving.done():
            raise ClientGoneError("the client went away while it waited")
        problem = f"no place was free for {self._max_wait_s:g} s, {self.num_running} requests are running"
        raise OverloadError(problem, "gateway", "try again later")

    async def __aenter__(self) -> None:
        await self.enter()

    async def __aexit__(self, *_: object) -> None:
        self.leave()
