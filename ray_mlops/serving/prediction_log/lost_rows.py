"""The rows of replicas that died: replayed from their spools, or booked as lost."""

import logging
from pathlib import Path

import pyarrow as pa

from ray_mlops.errors import RayMLOpsError
from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log.accounting import Accounting, dead_accounts
from ray_mlops.serving.prediction_log.files import hand_over, write_files
from ray_mlops.serving.prediction_log.spool import FormatFinder, read_segment, segments
from ray_mlops.serving.protocol import PredictionSink

logger = logging.getLogger(__name__)


def book_lost(
    directory: Path, files: Files, find_format: FormatFinder, sink: PredictionSink | None = None
) -> dict[str, int]:
    """Settle the counts of replicas that are dead: replay what they spooled, book the rest as lost.

    A repeat changes nothing. Where a spool cannot be replayed, all stays as it is for the next start.

    Args:
        directory: Where their counters and segments lie.
        files: The store.
        find_format: Says how a model's rows are written.
        sink: Is handed what is replayed.

    Returns:
        Rows that were written from spools (``replayed``) and rows that are gone (``lost``).
    """
    totals = {"replayed": 0, "lost": 0}
    for counts in dead_accounts(directory):
        replica = counts.path.stem
        try:
            replayed, lost = _settle(counts, directory, files, find_format, sink)
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
) -> tuple[int, int]:
    replica, replayed, open_rows = counts.path.stem, 0, 0
    left = segments(directory, replica)
    for first, path in left:
        records = list(read_segment(path, find_format))
        num_rows = sum(len(record.ids) for record in records)
        open_rows += num_rows if first == counts["segment_sequence"] else 0
        replayed += num_rows
        for item in write_files(files, replica, first, records):
            if sink is not None:
                hand_over(sink, item)
    if left or counts["spooled"]:
        lost = max(0, counts["segment_rows"] - open_rows)
        counts.add("lost", lost)
        counts["segment_rows"] = 0
        counts["spooled"] = 0
        counts["written"] = counts["accepted"] - counts["dropped"] - counts["lost"]
    else:
        if counts["written"] < counts["pending_written"] and _has_file(files, replica, counts["pending_sequence"]):
            counts["written"] = counts["pending_written"]
        lost = counts.unaccounted
        counts.add("lost", lost)
    for _, path in left:
        path.unlink(missing_ok=True)
    return replayed, lost


def _has_file(files: Files, replica: str, sequence: int) -> bool:
    return any(name.endswith(f"/{replica}-{sequence:08d}.parquet") for name in files.names("predictions"))
