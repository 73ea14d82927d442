"""Rows become files of the store, and the counts say so: the same code in a living replica and after its death."""

from collections.abc import Iterator, Sequence

from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log.accounting import Accounting
from ray_mlops.serving.prediction_log.files import Written, write_files
from ray_mlops.serving.prediction_log.table import LogRecord


class BatchWriter:
    """Writes batches of one replica, and books each file once it is there.

    Args:
        files: The store.
        replica: Whose rows these are.
        counts: Its counters.
    """

    def __init__(self, files: Files, replica: str, counts: Accounting) -> None:
        self._files, self._replica, self._counts = files, replica, counts

    def write_memory(self, sequence: int, records: Sequence[LogRecord]) -> Iterator[Written]:
        """Write rows that are in memory alone; a batch that failed half way may be written again.

        Raises:
            StoreError: A file cannot be written; those before it are, and are booked.
        """
        counts = self._counts
        for item in write_files(self._files, self._replica, sequence, records, self._announce):
            if counts["booked_sequence"] < item.sequence:
                counts["written"] = counts["pending_written"]
                counts["booked_sequence"] = item.sequence
            yield item

    def write_spooled(self, first: int, start: int, end: int, records: Sequence[LogRecord]) -> Iterator[Written]:
        """Write rows that are on the local disk; those that were not found there are lost.

        Args:
            first: Number of the first file.
            start: Rows spooled before the segment.
            end: Rows spooled with it.
            records: What was read of it.

        Raises:
            StoreError: A file cannot be written; the segment must be kept, and written again as a whole.
        """
        counts, done = self._counts, start
        for item in write_files(self._files, self._replica, first, records):
            done += item.rows.num_rows
            counts["settled"] = max(counts["settled"], done)
            yield item
        self.settle_missing(end)

    def settle_missing(self, end: int) -> None:
        """Book spooled rows as lost, up to one, that are not in the store and cannot come there any more."""
        missing = end - self._counts["settled"]
        if missing > 0:
            self._counts.add("settled_lost", missing)
            self._counts["settled"] = end

    def _announce(self, sequence: int, num_rows: int) -> None:
        counts = self._counts
        if counts["booked_sequence"] < sequence:  # else a flush that failed half way is tried again
            counts["pending_sequence"] = sequence
            counts["pending_written"] = counts["written"] + num_rows
