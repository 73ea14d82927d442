"""Bodies of requests: read within a size, a time, and a number of bytes that all of them may hold at once.

A body is read before its request takes a place, so that clients that send slowly hold up nobody but themselves.
What bounds memory then is the sum over all bodies, not the number of places.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from ray_mlops.errors import OverloadError, RequestTimeoutError
from ray_mlops.serving.http.asgi import Receive, read_body

LOOK_S = 1.0
"""How often the oldest reads are looked at. A timer for each would take as long as the routing of a request."""


class BodyReader:
    """Reads bodies on one event loop.

    Args:
        max_bytes: The most of one body, as it comes.
        max_held_bytes: The most of all bodies that were read and not released.
        timeout_s: How long a client may take to send a body; it is given up within ``LOOK_S`` after that.

    Attributes:
        held_bytes: Bytes that were read and not released yet.
    """

    def __init__(self, max_bytes: int, max_held_bytes: int, timeout_s: float) -> None:
        self._max_bytes, self._max_held, self._timeout_s = max_bytes, max(max_held_bytes, max_bytes), timeout_s
        self._began: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._is_looking = False
        self.held_bytes = 0

    async def read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """Read a whole body as it comes, chunked or not; ``release`` its length when it is no longer needed.

        Raises:
            PayloadTooLargeError: The declared or the actual length is over the limit.
            RequestError: The length is not a number.
            RequestTimeoutError: The client took too long.
            OverloadError: All bodies together are too much.
            ClientGoneError: The client went away before it was complete.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._began[task] = loop.time()
        if not self._is_looking:
            self._is_looking = True
            loop.call_later(LOOK_S, self._look, loop)
        try:
            return await self._take(headers, receive)
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            task.uncancel()
            problem = f"the body was not complete after {self._timeout_s:g} s"
            raise RequestTimeoutError(problem, "body", "send it faster, or raise serving.body_timeout_s") from None
        finally:
            del self._began[task]
            self._late.discard(task)

    def release(self, num_bytes: int) -> None:
        """Say that so many bytes are no longer needed."""
        self.held_bytes -= num_bytes

    async def _take(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        taken = 0

        def count(num_bytes: int) -> None:
            nonlocal taken
            taken += num_bytes
            self.held_bytes += num_bytes
            if self.held_bytes > self._max_held:
                raise OverloadError(f"bodies of {self._max_held} bytes are held already", "gateway", "try again")

        try:
            return await read_body(headers, receive, self._max_bytes, count)
        except BaseException:  # cancelled, too: whatever ends a read, its bytes are no longer held
            self.held_bytes -= taken
            raise

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give up the reads that have taken too long: the oldest come first."""
        limit = loop.time() - self._timeout_s
        for task, began in self._began.items():
            if began > limit:
                break
            if task not in self._late:
                self._late.add(task)
                task.cancel()
        self._is_looking = bool(self._began)
        if self._is_looking:
            loop.call_later(LOOK_S, self._look, loop)
