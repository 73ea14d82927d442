"""Requests that are there at the same moment are predicted together: one row costs a model nearly as much as ten.

Nobody waits for company. A request joins what the event loop has before it in this turn, and the next turn
predicts all of it, so that batches grow by themselves with the traffic. Where requests come one by one, they
are predicted at once, and only a few try whether that has changed.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from ray_mlops.training.prediction import Prediction

Rows = Sequence[dict[str, Any]]
Outcome = tuple[Prediction, float]
"""A request's predictions, and the time inside the model, seconds: that of the whole batch."""

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
        self._waiting: list[tuple[Rows, asyncio.Future[Outcome]]] = []
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

    def _answer_together(self, batch: list[tuple[Rows, "asyncio.Future[Outcome]"]]) -> None:
        if len(batch) > 1:
            start = time.perf_counter()
            try:
                prediction = self._predict([row for rows, _ in batch for row in rows])
                seconds = time.perf_counter() - start
                first = 0
                parts = []
                for rows, _ in batch:
                    parts.append(prediction.take(slice(first, first + len(rows))))
                    first += len(rows)
            except Exception:  # a model is foreign code: find out alone whose rows it cannot take
                pass
            else:
                for (_, future), part in zip(batch, parts, strict=True):
                    if not future.done():
                        future.set_result((part, seconds))
                return
        for rows, future in batch:
            if future.done():  # the client has gone
                continue
            try:
                future.set_result(self._timed(rows))
            except Exception as error:  # as above; whoever asked is told
                future.set_exception(error)

    def _timed(self, rows: Rows) -> Outcome:
        start = time.perf_counter()
        prediction = self._predict(rows)
        return prediction, time.perf_counter() - start
