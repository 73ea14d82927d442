"""Training, validation and holdout rows: by time, by key, or by a hash of the row.

Rows of the same time (or key, or content) are never parted: what the model is judged on must not have been
seen in training.
"""

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_mlops.config import DataConfig
from ray_mlops.data.hashing import hash_rows, unit_interval
from ray_mlops.data.statistics_pass import event_times
from ray_mlops.data.values import MISSING_US
from ray_mlops.errors import DataError

logger = logging.getLogger(__name__)

SPLIT_NAMES = ("train", "validation", "holdout")
SPLIT_COLUMN = "__split"
"""Column that ``assign_split`` adds: 0 train, 1 validation, 2 holdout (int8)."""


@dataclass(frozen=True, slots=True)
class Splits:
    """Rows of a dataset, parted; the order within each part is the dataset's."""

    train: pa.Table
    validation: pa.Table
    holdout: pa.Table


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """How rows are parted: enough to say of any one row where it belongs."""

    by: str
    """``time``, ``key`` or ``hash``."""
    columns: tuple[str, ...] | None
    """The event time, or the columns that are hashed; None hashes all."""
    validation: float
    holdout: float
    seed: int
    validation_start_us: int = 0
    """By time: where validation begins, microseconds since 1970 UTC."""
    holdout_start_us: int = 0


def split_table(table: pa.Table, data: DataConfig, *, holdout_start_us: int | None = None) -> Splits:
    """Part a table.

    Args:
        table: All rows.
        data: ``split`` and the columns it needs.
        holdout_start_us: By time: where the holdout begins, instead of by its share.

    Raises:
        DataError: A part would be empty, or rows have no event time.
    """
    plan = plan_split(table, data, holdout_start_us=holdout_start_us)
    codes = split_codes(table, plan)
    check_split(np.bincount(codes, minlength=3), plan)
    train, validation, holdout = (table.filter(pa.array(codes == code)) for code in range(3))
    return Splits(train, validation, holdout)


def assign_split(table: pa.Table, plan: SplitPlan) -> pa.Table:
    """The table with the column ``SPLIT_COLUMN``; works block by block."""
    kept = table.drop_columns([SPLIT_COLUMN]) if SPLIT_COLUMN in table.column_names else table
    return kept.append_column(SPLIT_COLUMN, pa.array(split_codes(table, plan), pa.int8()))


def plan_split(table: pa.Table, data: DataConfig, *, holdout_start_us: int | None = None) -> SplitPlan:
    """Settle how to part rows; by time this needs all event times, else only the configuration.

    Raises:
        DataError: No column of the key, rows without event time, or no boundary leaves every part a row.
    """
    split = data.split
    by = split.by or ("time" if data.event_time else "hash")
    if by == "time":
        return _plan_by_time(table, data, holdout_start_us)
    columns = (split.key,) if by == "key" and split.key else (data.id,) if data.id else None
    for name in columns or ():
        if name not in table.column_names:
            raise DataError("no such column", f"data.split: {name}", f"the rows have {', '.join(table.column_names)}")
    return SplitPlan(by, columns, split.validation, split.holdout, split.seed)


def split_codes(table: pa.Table, plan: SplitPlan) -> npt.NDArray[np.int64]:
    """0 train, 1 validation, 2 holdout [n]."""
    if plan.by == "time" and plan.columns:
        times = event_times(table, plan.columns[0])
        return (times >= plan.validation_start_us).astype(np.int64) + (times >= plan.holdout_start_us)
    own = [name for name in table.column_names if not name.startswith("__")]
    uniform = unit_interval(hash_rows(table, plan.columns or own, plan.seed))
    in_holdout = uniform < plan.holdout
    return np.where(in_holdout, 2, (uniform < plan.holdout + plan.validation).astype(np.int64))


def check_split(counts: npt.NDArray[np.int64], plan: SplitPlan) -> None:
    """See that every part has rows.

    Raises:
        DataError: One has none.
    """
    sizes = dict(zip(SPLIT_NAMES, counts.tolist(), strict=True))
    logger.info("split rows by=%s sizes=%s", plan.by, sizes)
    empty = [name for name, size in sizes.items() if not size]
    if empty:
        remedy = "give more rows, larger shares, another data.split.seed, or split by something else"
        raise DataError(f"no row falls into {' and '.join(empty)} ({sizes})", f"data.split (by {plan.by})", remedy)


def _plan_by_time(table: pa.Table, data: DataConfig, holdout_start_us: int | None) -> SplitPlan:
    assert data.event_time is not None
    times = np.sort(event_times(table, data.event_time))
    where = f"data.split (by time, column {data.event_time!r})"
    if len(times) and times[0] == MISSING_US:
        missing = int(np.searchsorted(times, MISSING_US, side="right"))
        raise DataError(f"{missing} rows have no event time", where, "check the contract first: it sets them aside")
    if len(times) < 3 or times[0] == times[-1]:
        raise DataError("all rows have the same event time", where, "split by hash or key, or give more rows")
    split = data.split
    start = _boundary(times, 1 - split.holdout) if holdout_start_us is None else holdout_start_us
    before = times[times < start]
    if len(before) < 2 or before[0] == before[-1] or len(before) == len(times):
        problem = f"{len(before)} of {len(times)} rows lie before the holdout, at fewer than two times"
        raise DataError(problem, where, "move the holdout, give more rows, or split by hash or key")
    validation_start = _boundary(before, 1 - split.validation / (1 - split.holdout))
    return SplitPlan("time", (data.event_time,), split.validation, split.holdout, split.seed, validation_start, start)


def _boundary(times: npt.NDArray[np.int64], share: float) -> int:
    """The time from which on rows are cut off, so that about ``share`` of sorted times lies before it."""
    wanted = share * len(times)
    at = int(times[min(round(wanted), len(times) - 1)])
    low, high = (int(np.searchsorted(times, at, side=side)) for side in ("left", "right"))
    if low > 0 and (high == len(times) or wanted - low <= high - wanted):
        return at
    return int(times[high])
