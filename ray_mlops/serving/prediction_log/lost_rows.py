"""The rows of replicas that died: written out from their segments, or booked as lost."""

import logging
from itertools import zip_longest
from pathlib import Path

import pyarrow as pa

from ray_mlops.errors import RayMLOpsError
from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log.accounting import Accounting, dead_accounts
from ray_mlops.serving.prediction_log.files import hand_over
from ray_mlops.serving.prediction_log.listing import was_written
from ray_mlops.serving.prediction_log.spool import FormatFinder, Segment, read_segment, segments
from ray_mlops.serving.prediction_log.writing import BatchWriter
from ray_mlops.serving.protocol import PredictionSink

logger = logging.getLogger(__name__)


def book_lost(
    directory: Path, files: Files, find_format: FormatFinder, sink: PredictionSink | None = None
) -> dict[str, int]:
    """Settle the counts of replicas that are dead: write out what they spooled, book the rest as lost.

    A repeat changes nothing. Where a segment cannot be written out, it stays as it is for the next start.

    Args:
        directory: Where their counters and segments lie.
        files: The store.
        find_format: Says how a model's rows are written.
        sink: Is handed what is replayed.

    Returns:
        Rows that were written from segments (``replayed``) and rows that are gone (``lost``).
    """
    totals = {"replayed": 0, "lost": 0}
    for counts in dead_accounts(directory):
        replica = counts.path.stem
        lost_before = counts.states()["lost"]
        try:
            replayed = _settle(counts, directory, files, find_format, sink)
            lost = counts.states()["lost"] - lost_before
        except (RayMLOpsError, OSError, pa.ArrowException) as error:
            logger.error("leave rows of dead replica replica=%s because=%s", replica, error)
            continue
        finally:
            counts.close()
        totals["replayed"] += replayed
        totals["lost"] += lost
        if replayed or lost:
            logger.warning("settle dead replica replica=%s replayed=%d lost=%d", replica, replayed, lost)
    return totals


def _settle(
    counts: Accounting, directory: Path, files: Files, find_format: FormatFinder, sink: PredictionSink | None
) -> int:
    """Write out each segment, then book what is left; returns rows that were written."""
    replica, replayed = counts.path.stem, 0
    writer = BatchWriter(files, replica, counts)
    left = segments(directory, replica)
    for segment, following in zip_longest(left, left[1:]):
        replayed += _write_out(counts, writer, segment, following, find_format, sink)
        segment.path.unlink(missing_ok=True)
    writer.settle_missing(counts["spooled"])
    if counts["written"] < counts["pending_written"] and was_written(files, replica, counts["pending_sequence"]):
        counts["written"] = counts["pending_written"]
    counts.add("lost", counts.unaccounted)
    return replayed


def _write_out(
    counts: Accounting,
    writer: BatchWriter,
    segment: Segment,
    following: Segment | None,
    find_format: FormatFinder,
    sink: PredictionSink | None,
) -> int:
    start = counts["settled"] if segment.start is None else segment.start
    end = counts["spooled"] if following is None else following.start
    if end is not None and counts["settled"] >= end:
        return 0  # it was written out before, and only its file was left
    writer.settle_missing(start)  # segments before this one are gone
    records = list(read_segment(segment.path, find_format))
    num_rows = sum(len(record.ids) for record in records)
    for item in writer.write_spooled(segment.first, start, start + num_rows if end is None else end, records):
        if sink is not None:
            hand_over(sink, item)
    return num_rows
