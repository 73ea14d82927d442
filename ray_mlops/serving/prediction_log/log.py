"""The log of predictions: a bounded buffer, one Parquet file for each model, day and flush, exact counts."""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from ray_mlops.config import PredictionLogConfig
from ray_mlops.errors import OverloadError, RayMLOpsError
from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log.accounting import Accounting
from ray_mlops.serving.prediction_log.files import Written, hand_over, write_files
from ray_mlops.serving.prediction_log.spool import Spool
from ray_mlops.serving.prediction_log.table import LogRecord, split_by_file
from ray_mlops.serving.protocol import PredictionSink

logger = logging.getLogger(__name__)
RECENT_IDS = 100_000
"""Client-chosen prediction ids of a model that a replica remembers, to tell a repeat."""
FLUSH_ROWS = 8192
"""Rows that start a flush before its time."""
FLUSH_ATTEMPTS = 3
"""Flushes that are tried when a replica stops; what is left then is booked as lost by the next start."""
MAX_HANDOVERS = 64
"""Files that wait for a slow sink; further ones are not handed over, and counted. All are in the store."""


class PredictionLog:
    """Takes records on the event loop, writes them in a thread.

    Args:
        files: The store.
        directory: Local directory of counters and spool segments.
        replica: Name of this incarnation of the replica.
        config: Bounds, policy and durability.
        flush_interval_s: How long a row waits at most before it is written.
        sink: Is handed what was written; None hands it to nobody.

    Attributes:
        accounting: Exact counts of rows.
        retries: Rows whose prediction id was logged before.
        sink_failures: Flushes that the sink did not take.
        lost_before: Rows of dead replicas that the start of this one booked as lost.
    """

    def __init__(
        self,
        files: Files,
        directory: Path,
        replica: str,
        config: PredictionLogConfig,
        flush_interval_s: float,
        sink: PredictionSink | None = None,
    ) -> None:
        self.accounting = Accounting(directory / f"{replica}.bin")
        self.retries = 0
        self.sink_failures = 0
        self.lost_before = 0
        self._files, self._replica, self._sink = files, replica, sink
        self._blocks, self._max_rows = config.policy == "block", config.max_buffer_rows
        self._interval_s = flush_interval_s
        self._spool = Spool(directory, replica) if config.durability == "spool" else None
        self._buffer: list[LogRecord] = []
        self._batches: list[tuple[int, list[LogRecord], Path | None]] = []
        self._held_rows = 0
        self._sequence = 1
        self._recent: dict[str, OrderedDict[str, None]] = {}
        self._windows: dict[str, int] = {}
        self._wake = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False
        self._handovers = ThreadPoolExecutor(1, "handover")
        self._num_handovers = 0

    def start(self) -> None:
        """Flush in the background from now on."""
        self._task = asyncio.create_task(self._run())

    def check_room(self, num_rows: int) -> None:
        """Refuse a request whose rows would not fit, where the policy is to block.

        Raises:
            OverloadError: The buffer is full.
        """
        if self._blocks and self._held_rows + num_rows > self._max_rows:
            self._wake.set()
            raise OverloadError("the prediction log's buffer is full", "serving.log", "try again")

    def accept(self, record: LogRecord, *, is_named: bool, window: int | None = None) -> None:
        """Take a request's rows: remember, drop, or book as a repeat, by the policy.

        Args:
            record: The rows; repeats of ids that are known are left out.
            is_named: The client chose the ids, so that they may repeat.
            window: Event-time window of the newest row; a new one starts a flush at once.

        Raises:
            StoreError: The spool cannot be written.
        """
        if is_named:
            record = self._without_repeats(record)
        num_rows = len(record.ids)
        if not num_rows:
            return
        counts = self.accounting
        if self._held_rows + num_rows > self._max_rows and not self._blocks:
            counts.add("dropped", num_rows)
            counts.add("accepted", num_rows)
            return
        counts.add("accepted", num_rows)
        if self._spool is not None:
            self._append_to_spool(self._spool, record, num_rows)
        self._buffer.append(record)
        self._held_rows += num_rows
        if is_named:
            self._remember(record)
        if self._held_rows >= FLUSH_ROWS:
            self._wake.set()
        if window is not None:
            newest = self._windows.get(record.format.model)
            if newest is None or window > newest:
                self._windows[record.format.model] = window
                if newest is not None:
                    self._wake.set()

    async def flush(self) -> None:
        """Write what is buffered. What cannot be written is kept and tried again by the next flush."""
        async with self._flushing:
            if self._buffer:
                segment = self._spool.rotate() if self._spool else None
                self.accounting["segment_rows"] = 0
                self._batches.append((self._sequence, self._buffer, segment))
                self._sequence += len(split_by_file(self._buffer))
                self._buffer = []
            while self._batches:
                sequence, records, segment = self._batches[0]
                num_rows = sum(len(record.ids) for record in records)
                try:
                    written = await asyncio.to_thread(self._write, sequence, records)
                except (RayMLOpsError, OSError, pa.ArrowException) as error:
                    logger.error("keep rows rows=%d because=%s", num_rows, error)
                    return
                del self._batches[0]
                self._held_rows -= num_rows
                if segment is not None:
                    segment.unlink(missing_ok=True)
                self._hand_over(written)

    async def close(self) -> None:
        """Write what is left, close the sink, and let go of the counters."""
        self._is_closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        for _ in range(FLUSH_ATTEMPTS):
            await self.flush()
            if not self._batches:
                break
        if self._sink is not None:
            self._handovers.submit(self._sink.close)
        await asyncio.to_thread(self._handovers.shutdown)
        self.accounting.close()

    async def _run(self) -> None:
        while not self._is_closing:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._interval_s)
            self._wake.clear()
            await self.flush()

    def _append_to_spool(self, spool: Spool, record: LogRecord, num_rows: int) -> None:
        # Counted first: a death in between loses a request that was not answered, and says so.
        counts = self.accounting
        counts["segment_sequence"] = self._sequence
        counts.add("segment_rows", num_rows)
        counts.add("spooled", num_rows)
        try:
            spool.append(record, self._sequence)
        except RayMLOpsError:
            for name in ("accepted", "spooled", "segment_rows"):
                counts.add(name, -num_rows)
            raise

    def _without_repeats(self, record: LogRecord) -> LogRecord:
        recent = self._recent.get(record.format.model, OrderedDict())
        fresh = [index for index, name in enumerate(record.ids) if name not in recent]
        self.retries += len(record.ids) - len(fresh)
        return record if len(fresh) == len(record.ids) else record.select(fresh)

    def _remember(self, record: LogRecord) -> None:
        recent = self._recent.setdefault(record.format.model, OrderedDict())
        recent.update(dict.fromkeys(record.ids))
        while len(recent) > RECENT_IDS:
            recent.popitem(last=False)

    def _write(self, sequence: int, records: Sequence[LogRecord]) -> list[Written]:
        counts, written = self.accounting, []
        for item in write_files(self._files, self._replica, sequence, records, self._announce):
            if counts["booked_sequence"] < item.sequence:
                counts["written"] = counts["pending_written"]
                counts["booked_sequence"] = item.sequence
                if self._spool is not None:
                    counts.add("spooled", -item.rows.num_rows)
            written.append(item)
        return written

    def _announce(self, sequence: int, num_rows: int) -> None:
        counts = self.accounting
        if counts["booked_sequence"] < sequence:  # else a flush that failed half way is tried again
            counts["pending_sequence"] = sequence
            counts["pending_written"] = counts["written"] + num_rows

    def _hand_over(self, written: Sequence[Written]) -> None:
        for item in written if self._sink is not None else ():
            if self._num_handovers >= MAX_HANDOVERS:
                self.sink_failures += 1
                logger.warning("skip handover model=%s rows=%d because=sink is slow", item.model, item.rows.num_rows)
                continue
            self._num_handovers += 1
            self._handovers.submit(self._pass_on, item)

    def _pass_on(self, item: Written) -> None:
        assert self._sink is not None
        self.sink_failures += hand_over(self._sink, item)
        self._num_handovers -= 1
