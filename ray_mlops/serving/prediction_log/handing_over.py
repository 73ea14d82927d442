"""What was written goes to the monitor's sink, in a thread of its own: a slow or broken sink harms nobody."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ray_mlops.serving.prediction_log.files import Written, hand_over
from ray_mlops.serving.protocol import PredictionSink

logger = logging.getLogger(__name__)
MAX_HANDOVERS = 64
"""Files that wait for a slow sink; further ones are not handed over, and counted. All are in the store."""


class Handovers:
    """A bounded queue before one sink.

    Args:
        sink: Is handed the rows; None hands them to nobody.

    Attributes:
        num_failures: Files that the sink did not take.
    """

    def __init__(self, sink: PredictionSink | None) -> None:
        self.num_failures = 0
        self._sink = sink
        self._executor = ThreadPoolExecutor(1, "handover")
        self._num_waiting = 0

    def add(self, written: Sequence[Written]) -> None:
        """Hand over files, or count them where too many wait."""
        for item in written if self._sink is not None else ():
            if self._num_waiting >= MAX_HANDOVERS:
                self.num_failures += 1
                logger.warning("skip handover model=%s rows=%d because=sink is slow", item.model, item.rows.num_rows)
                continue
            self._num_waiting += 1
            self._executor.submit(self._pass_on, item)

    async def close(self) -> None:
        """Hand over what waits, and close the sink."""
        if self._sink is not None:
            self._executor.submit(self._sink.close)
        await asyncio.to_thread(self._executor.shutdown)

    def _pass_on(self, item: Written) -> None:
        assert self._sink is not None
        self.num_failures += hand_over(self._sink, item)
        self._num_waiting -= 1
