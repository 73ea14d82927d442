"""Requests that are there at the same moment are predicted together: one row costs a model nearly as much as ten.

Nobody waits for company. A request joins what the event loop has before it in this turn, and the next turn
predicts all of it, so that batches grow by themselves with the traffic. Where requests come one by one, they
are predicted at once, and only a few try whether that has changed. A model that is too slow for the event loop
predicts in a thread; there the next batch is what has come meanwhile.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate
from typing import Any

from ray_mlops.training.prediction import Prediction

Rows = Sequence[dict[str, Any]]
Outcome = tuple[Prediction, float]
"""A request's predictions, and the time inside the model, seconds: that of the whole batch."""
Waiting = tuple[Rows, "asyncio.Future[Outcome]"]

WORTHWHILE = 1.5
"""Requests in a usual batch from which batching pays for the turn of the event loop that it takes."""
PROBE_EVERY = 16
"""Where requests come one by one, one in so many tries whether others are there."""
LEARNING_RATE = 0.1


class MicroBatcher:
    """Batches for one model on one event loop.

    Args:
        predict: Predicts rows; quick enough for the event loop.
        fits: Whether so many rows are still quick.
    """

    def __init__(self, predict: Callable[[Rows], Prediction], fits: Callable[[int], bool]) -> None:
        self._predict, self._fits = predict, fits
        self._waiting: list[Waiting] = []
        self._num_alone = 0
        self.usual_size = 1.0
        """Requests in a batch, averaged over the newest."""

    async def predict(self, rows: Rows) -> Outcome:
        """Predict rows, together with those of others that are there.

        Raises:
            FeatureError: A value of these rows has the wrong type; the others do not see it.
        """
        if not self._waiting and self.usual_size < WORTHWHILE:
            self._num_alone += 1
            if self._num_alone % PROBE_EVERY:
                return self._timed(rows)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        self._waiting.append((rows, future))
        if len(self._waiting) == 1:
            loop.call_soon(self._predict_waiting)
        return await future

    def _predict_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        size = len(waiting)
        # A single batch of several is enough to begin; falling out of it takes many of one.
        self.usual_size = max(self.usual_size, size) if self.usual_size < WORTHWHILE else self._average(size)
        while waiting:
            count, num_rows = 1, len(waiting[0][0])
            while count < len(waiting) and self._fits(num_rows + len(waiting[count][0])):
                num_rows += len(waiting[count][0])
                count += 1
            self._answer_together(waiting[:count])
            waiting = waiting[count:]

    def _average(self, size: int) -> float:
        return self.usual_size + LEARNING_RATE * (size - self.usual_size)

    def _answer_together(self, batch: list[Waiting]) -> None:
        give(batch, predict_each(self._predict, [rows for rows, _ in batch]))

    def _timed(self, rows: Rows) -> Outcome:
        start = time.perf_counter()
        prediction = self._predict(rows)
        return prediction, time.perf_counter() - start


class ThreadBatcher:
    """Batches for a model that is too slow for the event loop: what comes while it predicts is the next batch.

    Args:
        predict: Predicts rows, for however long.
        run: Runs a function in the model's own thread; never two at once.
        fits: Whether so many rows may go together: others wait for as long as a batch takes.
    """

    def __init__(
        self, predict: Callable[[Rows], Prediction], run: Callable[..., Awaitable[Any]], fits: Callable[[int], bool]
    ) -> None:
        self._predict, self._run, self._fits = predict, run, fits
        self._waiting: deque[Waiting] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def predict(self, rows: Rows) -> Outcome:
        """Predict rows, together with those of others that wait.

        Raises:
            FeatureError: A value of these rows has the wrong type; the others do not see it.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        self._waiting.append((rows, future))
        if self._worker is None:
            self._worker = loop.create_task(self._predict_waiting())
        return await future

    async def _predict_waiting(self) -> None:
        try:
            while batch := self._next_batch():
                outcomes: Sequence[Outcome | Exception]
                try:
                    outcomes = await self._run(predict_each, self._predict, [rows for rows, _ in batch])
                except Exception as error:  # the thread itself; each of those who wait is told
                    outcomes = [error] * len(batch)
                give(batch, outcomes)
        finally:
            self._worker = None

    def _next_batch(self) -> list[Waiting]:
        batch: list[Waiting] = []
        num_rows = 0
        while self._waiting:
            rows, future = self._waiting[0]
            if batch and not self._fits(num_rows + len(rows)):
                break
            self._waiting.popleft()
            if not future.done():  # else the client has gone
                batch.append((rows, future))
                num_rows += len(rows)
        return batch


def predict_each(predict: Callable[[Rows], Prediction], requests: Sequence[Rows]) -> list[Outcome | Exception]:
    """Predict the rows of several requests at once; where that fails, of each alone, to find out whose fault it is."""
    if len(requests) > 1:
        start = time.perf_counter()
        try:
            prediction = predict([row for rows in requests for row in rows])
            seconds = time.perf_counter() - start
            ends = list(accumulate(map(len, requests)))
            parts = [prediction.take(slice(end - len(rows), end)) for rows, end in zip(requests, ends, strict=True)]
        except Exception:  # a model is foreign code
            pass
        else:
            return [(part, seconds) for part in parts]
    outcomes: list[Outcome | Exception] = []
    for rows in requests:
        start = time.perf_counter()
        try:
            outcomes.append((predict(rows), time.perf_counter() - start))
        except Exception as error:  # as above; whoever asked is told
            outcomes.append(error)
    return outcomes


def give(batch: Sequence[Waiting], outcomes: Sequence[Outcome | Exception]) -> None:
    """Hand outcomes to those who wait; some may have gone."""
    for (_, future), outcome in zip(batch, outcomes, strict=True):
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
