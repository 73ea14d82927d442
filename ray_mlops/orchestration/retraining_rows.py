"""The rows of a retraining: the source's up to a moment, united with the prediction log and its labels.

Nothing after the decision's ``as_of`` gets in: neither a row whose event time is later than the holdout's
end, nor a label or a correction that was received later. Rows with one id are one row; the logged one wins.
"""

from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.config import DataConfig
from ray_mlops.data.snapshot import Snapshot, create_snapshot, load_snapshot, snapshot_table
from ray_mlops.data.source import source_table
from ray_mlops.data.target import TargetEncoder
from ray_mlops.errors import DataError
from ray_mlops.monitoring.policy import RetrainDecision
from ray_mlops.runtime.files import Files
from ray_mlops.serving.label_log import read_labels
from ray_mlops.serving.labels_in_force import known_targets
from ray_mlops.serving.prediction_log.files import read_predictions

_FEATURE = "features."
_DAY_US = 86_400_000_000


def snapshot_for(decision: RetrainDecision, data: DataConfig, encoder: TargetEncoder, files: Files) -> Snapshot:
    """Record the rows that a decision may use, as a snapshot.

    Args:
        decision: Its windows and its ``as_of``.
        data: Columns and source.
        encoder: The target's classes, to write logged labels as the source does.
        files: The store.

    Raises:
        DataError: There are no rows, or one lies outside what the decision allows.
    """
    logged = logged_rows(decision, data, encoder, files)
    sourced = source_rows(decision, data)
    rows = unite(logged, sourced, data)
    if rows is None:
        raise DataError("no labelled rows in the training window", decision.decision_id, "send labels, or widen it")
    check_no_future(rows, decision, data)
    counts = {name: 0 if part is None else part.num_rows for name, part in (("log", logged), ("source", sourced))}
    origin = {"kind": "retraining", "decision": decision.decision_id, "rows": counts, "as_of_us": decision.as_of_us}
    return create_snapshot(data, files, table=rows, origin=origin)


def logged_rows(decision: RetrainDecision, data: DataConfig, encoder: TargetEncoder, files: Files) -> pa.Table | None:
    """Logged predictions of the decision's windows joined with the labels known by its ``as_of``."""
    span = (_day(decision.train_start_us), _day(decision.holdout_end_us - 1))
    log = read_predictions(files, decision.model, span)
    labels = read_labels(files, decision.model)
    if log.num_rows == 0 or labels.num_rows == 0:
        return None
    event_us = log["event_time"].cast(pa.int64()).to_numpy()
    log = log.filter(pa.array((event_us >= decision.train_start_us) & (event_us < decision.holdout_end_us)))
    targets = known_targets(log["prediction_id"], labels, encoder, decision.as_of_us)
    labelled = np.isfinite(targets)
    log = log.filter(pa.array(labelled))
    if log.num_rows == 0:
        return None
    columns = {name.removeprefix(_FEATURE): log[name] for name in log.column_names if name.startswith(_FEATURE)}
    columns[data.event_time or "event_time"] = log["event_time"]
    columns[data.id or "prediction_id"] = log["prediction_id"]
    columns[data.target] = decode_targets(targets[labelled], encoder)
    return pa.table(columns)


def source_rows(decision: RetrainDecision, data: DataConfig) -> pa.Table | None:
    """The source's labelled rows within the decision's windows; None where it has none."""
    if data.event_time is None:
        return None
    table = source_table(data.source, event_time=data.event_time)
    event_us = table[data.event_time].cast(pa.int64()).to_numpy()
    inside = (event_us >= decision.train_start_us) & (event_us < decision.holdout_end_us)
    rows = table.filter(pa.array(inside))
    rows = rows.filter(pc.is_valid(rows[data.target]))
    return rows if rows.num_rows else None


def unite(logged: pa.Table | None, sourced: pa.Table | None, data: DataConfig) -> pa.Table | None:
    """Both tables in order of event time; of rows with one id the logged one stays."""
    if logged is not None and sourced is not None and data.id is not None:
        known = pa.array(logged[data.id].to_pylist())
        sourced = sourced.filter(pc.invert(pc.is_in(sourced[data.id].cast(pa.string()), known)))
    parts = [_uniform(part, data) for part in (logged, sourced) if part is not None and part.num_rows]
    if not parts:
        return None
    united = pa.concat_tables(parts, promote_options="permissive")
    keys = [name for name in (data.event_time, data.id) if name is not None and name in united.column_names]
    return united.sort_by([(name, "ascending") for name in keys]) if keys else united


def check_no_future(rows: pa.Table, decision: RetrainDecision, data: DataConfig) -> None:
    """Refuse a row from after the holdout's end.

    Raises:
        DataError: Names the row's event time and the limit.
    """
    if data.event_time is None or data.event_time not in rows.column_names:
        return
    newest = int(pc.max(rows[data.event_time]).cast(pa.int64()).as_py())
    if newest >= decision.holdout_end_us:
        limit = _iso(decision.holdout_end_us)
        problem = f"a row of {_iso(newest)} lies beyond {limit}, the end of what was known"
        raise DataError(problem, decision.decision_id, "the source or the log returned rows from the future")


def decode_targets(values: np.ndarray[Any, np.dtype[np.float64]], encoder: TargetEncoder) -> pa.Array:
    """Write encoded targets as the source writes them."""
    if encoder.task == "regression":
        return pa.array(values)
    return pa.array([encoder.classes[int(value)] for value in values])


def _uniform(table: pa.Table, data: DataConfig) -> pa.Table:
    """Event time as UTC microseconds and ids as strings, so that both tables fit together."""
    if data.event_time in table.column_names:
        index = table.column_names.index(data.event_time)
        table = table.set_column(index, data.event_time, table[data.event_time].cast(pa.timestamp("us", tz="UTC")))
    if data.id in table.column_names:
        index = table.column_names.index(data.id)
        table = table.set_column(index, data.id, table[data.id].cast(pa.string()))
    return table


def _day(event_us: int) -> str:
    return date.fromordinal(date(1970, 1, 1).toordinal() + event_us // _DAY_US).isoformat()


def _iso(event_us: int) -> str:
    return datetime.fromtimestamp(event_us / 1e6, UTC).isoformat()


def recorded_rows(files: Files, snapshot_id: str) -> pa.Table:
    """The rows of a recorded snapshot."""
    return snapshot_table(load_snapshot(files, snapshot_id), files)
