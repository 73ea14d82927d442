"""The log of predictions: a bounded buffer, one Parquet file for each model, day and flush, exact counts."""

import asyncio
import contextlib
import logging
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ray_mlops.config import PredictionLogConfig
from ray_mlops.errors import OverloadError, RayMLOpsError, StoreError
from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log.accounting import Accounting
from ray_mlops.serving.prediction_log.files import Written
from ray_mlops.serving.prediction_log.handing_over import Handovers
from ray_mlops.serving.prediction_log.repeats import RecentIds
from ray_mlops.serving.prediction_log.spool import Segment, Spool, encode, read_segment
from ray_mlops.serving.prediction_log.table import LogFormat, LogRecord, split_by_file
from ray_mlops.serving.prediction_log.thinning import Thinner
from ray_mlops.serving.prediction_log.writing import BatchWriter
from ray_mlops.serving.protocol import PredictionSink

logger = logging.getLogger(__name__)
FLUSH_ROWS = 8192
"""Rows that start a flush before its time."""
FLUSH_ATTEMPTS = 3
"""Flushes that are tried when a replica stops; what is left then is booked as lost by the next start."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows that wait to be written, in the order in which they were accepted."""

    sequence: int
    """Number of its first file."""
    records: Sequence[LogRecord]
    """Empty where the rows are on the local disk only."""
    held_rows: int
    """Rows in memory."""
    segment: Segment | None
    """Where the rows lie on the local disk as well, or only."""
    spooled_end: int
    """Rows that were spooled up to the segment's end."""
    num_bytes: int
    """Size of a segment that was spilled."""
    formats: dict[tuple[str, str], LogFormat]
    """To read a segment that was spilled."""


class PredictionLog:
    """Takes records on the event loop, writes them in a thread.

    Rows are bounded in memory by ``max_buffer_rows``. When there is no room, ``policy`` decides: ``drop`` and
    ``block`` do what they say; ``sample`` thins the rows that wait out and gives those that stay their weight
    (half of the bound is for rows that wait, half for those being written); ``spill`` puts rows into segments on
    the local disk until half of the memory is free again.

    Args:
        files: The store.
        directory: Local directory of counters and segments.
        replica: Name of this incarnation of the replica.
        config: Bounds, policy and durability.
        flush_interval_s: How long a row waits at most before it is written.
        sink: Is handed what was written; None hands it to nobody.

    Attributes:
        accounting: Exact counts of rows.
        lost_before: Rows of dead replicas that the start of this one booked as lost.
        spilled_bytes: Size of the segments of rows that memory had no room for.

    Raises:
        StoreError: The local directory cannot be written.
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
        self.lost_before = 0
        self.spilled_bytes = 0
        self._recent, self._handovers = RecentIds(), Handovers(sink)
        self._writer = BatchWriter(files, replica, self.accounting)
        self._policy, self._max_rows = config.policy, config.max_buffer_rows
        self._max_spilled_bytes = int(config.max_spill_mb * 2**20)
        self._interval_s = flush_interval_s
        self._spool = Spool(directory, replica)
        self._is_durable = config.durability == "spool"
        half = max(1, self._max_rows // 2)
        self._thinner = Thinner(half) if config.policy == "sample" else None
        self._limit = self._free_limit = self._max_rows if self._thinner is None else half
        """Rows held, buffer and queue together, from which on the policy acts."""
        self._buffer: list[LogRecord] = []
        self._queue: deque[_Batch] = deque()
        self._held_rows = 0
        self._is_pressed = False
        """Whether rows are being thinned, or go to the local disk."""
        self._threshold = 0
        """Rows held from which on the policy is asked: the one comparison that a request costs."""
        self._set_pressed(False)
        self._spilled: dict[tuple[str, str, str], LogFormat] = {}
        """What the open spilled segment holds: model, bundle and day."""
        self._spilled_rows = 0
        self._sequence = 1
        self._windows: dict[str, int] = {}
        self._wake = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False

    @property
    def retries(self) -> int:
        """Rows whose prediction id was logged before."""
        return self._recent.num_repeats

    @property
    def sink_failures(self) -> int:
        """Files that the sink did not take."""
        return self._handovers.num_failures

    def start(self) -> None:
        """Flush in the background from now on."""
        self._task = asyncio.create_task(self._run())

    def check_room(self, num_rows: int) -> None:
        """Refuse a request whose rows would not fit, where the policy is to block.

        Raises:
            OverloadError: The buffer is full.
        """
        if self._policy == "block" and self._held_rows + num_rows > self._max_rows:
            self._wake.set()
            raise OverloadError("the prediction log's buffer is full", "serving.log", "try again")

    def accept(self, record: LogRecord, *, is_named: bool, window: int | None = None) -> None:
        """Take a request's rows: remember, or do with them what the policy says, or book them as a repeat.

        Args:
            record: The rows; repeats of ids that are known are left out.
            is_named: The client chose the ids, so that they may repeat.
            window: Event-time window of the newest row; a new one starts a flush at once.

        Raises:
            StoreError: The log is to be durable (``durability: spool``), and the disk cannot be written.
        """
        if is_named:
            record = self._recent.without_repeats(record)
        num_rows = len(record.ids)
        if not num_rows:
            return
        if self._held_rows + num_rows > self._threshold:
            self._accept_pressed(record, num_rows, is_named)
            return
        counts = self.accounting
        counts.add("accepted", num_rows)
        if self._is_durable:
            try:
                self._append_to_spool(record, num_rows)
            except RayMLOpsError:
                counts.add("accepted", -num_rows)
                raise
        self._buffer.append(record)
        self._held_rows += num_rows
        if is_named:
            self._recent.remember(record)
        if self._held_rows >= FLUSH_ROWS:
            self._wake.set()
        if window is not None:
            newest = self._windows.get(record.format.model)
            if newest is None or window > newest:
                self._windows[record.format.model] = window
                if newest is not None:
                    self._wake.set()

    async def flush(self) -> None:
        """Write what is held. What cannot be written is kept and tried again by the next flush."""
        async with self._flushing:
            if await self._drain():
                self._close_open()
                if await self._drain():
                    self._end_pressure()

    async def close(self) -> None:
        """Write what is left, close the sink, and let go of the counters."""
        self._is_closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        for _ in range(FLUSH_ATTEMPTS):
            await self.flush()
            if not self._queue and not self._buffer:
                break
        self._close_open()
        await self._handovers.close()
        self.accounting.close()

    async def _run(self) -> None:
        while not self._is_closing:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._interval_s)
            self._wake.clear()
            await self.flush()

    # -- when there is no room ------------------------------------------------------------------------

    def _accept_pressed(self, record: LogRecord, num_rows: int, is_named: bool) -> None:
        self._wake.set()
        self.accounting.add("accepted", num_rows)
        if self._policy == "drop":
            self.accounting.add("dropped", num_rows)
            return
        if not self._is_pressed:
            self._set_pressed(True)
            logger.warning("take pressure policy=%s rows=%d", self._policy, self._held_rows)
            if self._policy == "spill":
                self._close_open()
        if self._thinner is not None:
            self._thin(self._thinner, record, num_rows)  # what is left out is stood for by what stays
            is_kept = True
        else:
            is_kept = self._spill(record, num_rows)
        if is_named and is_kept:
            self._recent.remember(record)

    def _set_pressed(self, is_pressed: bool) -> None:
        self._is_pressed = is_pressed
        self._threshold = -1 if is_pressed else sys.maxsize if self._policy == "block" else self._limit

    def _thin(self, thinner: Thinner, record: LogRecord, num_rows: int) -> None:
        waiting = self._held_rows - (self._limit - self._free_limit)
        self._buffer, left = thinner.add(self._buffer, waiting, record)
        self._held_rows += left - waiting
        self.accounting.add("dropped", waiting + num_rows - left)

    def _spill(self, record: LogRecord, num_rows: int) -> bool:
        """Put rows on the local disk, or drop them; returns whether they are kept."""
        try:
            if self.spilled_bytes >= self._max_spilled_bytes:
                raise StoreError("holds serving.log.max_spill_mb", "the local disk's part")
            before = self._spool.num_bytes if self._spilled else 0
            self._append_to_spool(record, num_rows)
        except StoreError as error:
            self.accounting.add("dropped", num_rows)
            logger.debug("drop rows rows=%d because=%s", num_rows, error)
            return False
        self.spilled_bytes += self._spool.num_bytes - before
        self._spilled_rows += num_rows
        self._spilled.update(dict.fromkeys(split_by_file([record]), record.format))
        if self._spilled_rows >= FLUSH_ROWS:
            self._close_open()
        return True

    def _append_to_spool(self, record: LogRecord, num_rows: int) -> None:
        # Counted first: a death in between loses a request that was not answered, and says so.
        counts = self.accounting
        start = counts["spooled"]
        counts.add("spooled", num_rows)
        try:
            self._spool.append(encode(record), self._sequence, start)
        except StoreError:
            counts.add("spooled", -num_rows)
            raise

    # -- writing --------------------------------------------------------------------------------------

    def _close_open(self) -> None:
        """Queue what is open: the rows in memory, or a segment of rows that are on the local disk only."""
        spilled, num_bytes = self._spilled, self._spool.num_bytes
        segment = self._spool.rotate()
        if self._thinner is not None:
            self._thinner.reset()
            self._limit = self._held_rows + self._free_limit
            self._set_pressed(False)
        if not self._buffer and segment is None:
            return
        held_rows = sum(len(record.ids) for record in self._buffer)
        formats = {(model, bundle): style for (model, bundle, _), style in spilled.items()}
        end = self.accounting["spooled"]
        batch = _Batch(self._sequence, self._buffer, held_rows, segment, end, num_bytes if spilled else 0, formats)
        self._queue.append(batch)
        self._sequence += len(split_by_file(self._buffer)) if self._buffer else len(spilled)
        self._buffer, self._spilled, self._spilled_rows = [], {}, 0

    async def _drain(self) -> bool:
        """Write what is queued; returns whether all of it was."""
        while self._queue:
            batch = self._queue[0]
            try:
                written = await asyncio.to_thread(self._write, batch)
            except (RayMLOpsError, OSError, pa.ArrowException) as error:
                logger.error("keep rows rows=%d because=%s", batch.held_rows, error)
                return False
            self._queue.popleft()
            self._release(batch)
            self._handovers.add(written)
        return True

    def _write(self, batch: _Batch) -> list[Written]:
        if batch.segment is None:
            return list(self._writer.write_memory(batch.sequence, batch.records))
        records = batch.records or list(
            read_segment(batch.segment.path, lambda model, bundle: batch.formats[model, bundle])
        )
        start = batch.segment.start
        assert start is not None
        return list(self._writer.write_spooled(batch.sequence, start, batch.spooled_end, records))

    def _release(self, batch: _Batch) -> None:
        self._held_rows -= batch.held_rows
        self.spilled_bytes -= batch.num_bytes
        if batch.segment is not None:
            batch.segment.path.unlink(missing_ok=True)
        if self._thinner is not None:
            self._limit -= batch.held_rows
            self._set_pressed(self._is_pressed)
        elif self._held_rows <= self._max_rows // 2:
            self._end_pressure()

    def _end_pressure(self) -> None:
        if self._is_pressed and self._thinner is None:
            self._close_open()
            self._set_pressed(False)
            counts = self.accounting.states()
            logger.warning("end pressure spooled=%d dropped=%d", counts["spooled"], counts["dropped"])
