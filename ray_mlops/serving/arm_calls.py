"""Requests for an isolated arm travel together: a hop between processes costs as much as twenty predictions.

A request after a pause leaves at once. Where they come more often than ``PACE_S``, those that came since the
last call go together in the next one, so that the hops of an arm cost the same however much traffic it has.
No call waits for the one before it: an arm that hangs on one call still gets the next. Those that travel in the
same call come back together, so that one that hangs holds up the few that left with it, until their own time is up.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ray_mlops.serving.predictor import Answer

Rows = Sequence[Mapping[str, Any]]
Reply = Answer | Exception
"""What the arm gave for one request; its exceptions are this request's alone."""
Send = Callable[[list[Rows]], Awaitable[Sequence[Reply]]]

PACE_S = 0.015
"""Least time from one call to the next. At 250 requests a second, 10 % of 2,500, three or four go together."""
JOINED_ROWS = 64
"""Requests of more rows travel alone: they are worth a hop, and others shall not wait for them."""


class ArmCalls:
    """Carries the requests of one gateway replica to one arm.

    Args:
        send: Makes one call for several requests.
        pace_s: See ``PACE_S``.
    """

    def __init__(self, send: Send, pace_s: float = PACE_S) -> None:
        self._send, self._pace_s = send, pace_s
        self._waiting: list[tuple[Rows, asyncio.Future[Answer]]] = []
        self._next_s = 0.0
        self._calls: set[asyncio.Task[None]] = set()

    async def predict(self, rows: Rows) -> Answer:
        """Ask for predictions.

        Raises:
            Exception: What the arm raised for these rows, or the call itself.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        if len(rows) > JOINED_ROWS:
            self._start([(rows, future)])
            return await future
        self._waiting.append((rows, future))
        if len(self._waiting) == 1:
            delay_s = self._next_s - loop.time()
            if delay_s > 0.0:
                loop.call_later(delay_s, self._leave)
            else:
                loop.call_soon(self._leave)
        return await future

    def _leave(self) -> None:
        self._next_s = asyncio.get_running_loop().time() + self._pace_s
        waiting, self._waiting = self._waiting, []
        waiting = [each for each in waiting if not each[1].done()]  # some clients have gone
        while waiting:
            count, num_rows = 0, 0
            while count < len(waiting) and (num_rows := num_rows + len(waiting[count][0])) <= JOINED_ROWS:
                count += 1
            self._start(waiting[:count])
            waiting = waiting[count:]

    def _start(self, batch: list[tuple[Rows, "asyncio.Future[Answer]"]]) -> None:
        call = asyncio.get_running_loop().create_task(self._call(batch))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        num_open = len(batch)

        def close(_: object) -> None:  # when nobody waits for it any more, a call that hangs shall not stay for ever
            nonlocal num_open
            num_open -= 1
            if not num_open:
                call.cancel()

        for _, future in batch:
            future.add_done_callback(close)

    async def _call(self, batch: list[tuple[Rows, "asyncio.Future[Answer]"]]) -> None:
        replies: Sequence[Reply]
        try:
            replies = await self._send([rows for rows, _ in batch])
        except Exception as error:  # whatever it is, each of those who wait is told
            replies = [error] * len(batch)
        for (_, future), reply in zip(batch, replies, strict=True):
            if future.done():
                continue
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)
