"""A uniform sample of rows that come faster than they can be written, each with its weight.

Adaptive sampling by halving (P. Flajolet, "On adaptive sampling", Computing 43, 1990, doi:10.1007/BF02241657,
there for counting distinct values): when the buffer is full, each row in it is kept with probability 1/2 and
stands for twice as many, and further rows are let in at the same rate. What is decided depends on the number
of rows alone, never on what is in them, so that a sum weighted by ``sample_weight`` is unbiased.
"""

import random
from collections.abc import Sequence

from ray_mlops.serving.prediction_log.table import LogRecord


class Thinner:
    """Keeps a buffer of rows within its capacity.

    Args:
        capacity: Rows that fit.
        random_source: Draws; None takes a generator seeded by the system.

    Attributes:
        weight: How many rows each row stands for that is let in now.
    """

    def __init__(self, capacity: int, random_source: random.Random | None = None) -> None:
        self.weight = 1.0
        self._capacity = max(1, capacity)
        self._random = random_source or random.Random()

    def add(self, buffer: list[LogRecord], num_rows: int, record: LogRecord) -> tuple[list[LogRecord], int]:
        """Add one more request to a buffer, or what is kept of it; returns the buffer and its rows.

        Args:
            buffer: Is appended to; a new one is returned where it had to be thinned.
            num_rows: Rows in the buffer.
            record: The request.
        """
        for part in self._thin([record], 1.0 / self.weight):
            buffer.append(part)
            num_rows += len(part.ids)
        while num_rows > self._capacity:
            self.weight *= 2.0
            buffer = self._thin(buffer, 0.5)
            num_rows = sum(len(each.ids) for each in buffer)
        return buffer, num_rows

    def reset(self) -> None:
        """Let every row in again: the buffer is empty."""
        self.weight = 1.0

    def _thin(self, records: Sequence[LogRecord], ratio: float) -> list[LogRecord]:
        if ratio == 1.0:
            return list(records)
        thinned = []
        for record in records:
            chosen = [index for index in range(len(record.ids)) if self._random.random() < ratio]
            if chosen:
                part = record if len(chosen) == len(record.ids) else record.select(chosen)
                part.sample_weight /= ratio
                thinned.append(part)
        return thinned
