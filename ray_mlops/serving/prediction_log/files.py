"""The files of the prediction log: written flush by flush, read back by day."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log.table import LogRecord, build_table, split_by_file
from ray_mlops.serving.protocol import PredictionSink

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Written:
    """One file of a flush."""

    model: str
    sequence: int
    rows: pa.Table


def write_files(
    files: Files,
    replica: str,
    sequence: int,
    records: Sequence[LogRecord],
    announce: Callable[[int, int], None] = lambda sequence, num_rows: None,
) -> Iterator[Written]:
    """Write records as Parquet, one file for each model, bundle and day, numbered from ``sequence``.

    The same records with the same number give the same files again.

    Args:
        files: The store.
        replica: Whose rows these are.
        sequence: Number of the first file.
        records: In the order in which they were accepted.
        announce: Is told a file's number and rows before it is written.

    Yields:
        Each file once it is in the store.

    Raises:
        StoreError: A file cannot be written.
    """
    for number, ((model, _, day), part) in enumerate(split_by_file(records).items(), start=sequence):
        table = build_table(part)
        announce(number, table.num_rows)
        files.write_table(log_path(model, day, replica, number), table)
        yield Written(model, number, table)


def hand_over(sink: PredictionSink, item: Written) -> int:
    """Hand a file's rows to the sink, by version; returns how many times it failed."""
    failures = 0
    for version in pc.unique(item.rows["version"]).to_pylist():
        rows = item.rows.filter(pc.equal(item.rows["version"], version))
        try:
            sink.accept(item.model, version, rows)
        except Exception as error:  # foreign code: serving goes on, whatever it raises
            failures += 1
            logger.warning("lose handover model=%s rows=%d because=%s", item.model, rows.num_rows, error)
    return failures


def log_path(model: str, day: str, replica: str, sequence: int) -> str:
    """Where a file of the log lies in the store."""
    return f"predictions/{model}/day={day}/{replica}-{sequence:08d}.parquet"


def read_predictions(
    files: Files, model: str, days: tuple[str, str] | None = None, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read a model's log, in order of arrival; of rows with one prediction id the first stays.

    Args:
        files: The store.
        model: The model's name.
        days: First and last UTC day of event time (``YYYY-MM-DD``), both included; None reads all.
        columns: Only these; null where a file lacks one, left out where every file does. None reads all.

    Returns:
        Rows as written; no rows and no columns where nothing is logged.
    """
    wanted = None if columns is None else list(dict.fromkeys([*columns, "prediction_id", "arrival_time"]))
    tables = [_read(files.read(path), wanted) for path in _paths(files, model, days)]
    if not tables:
        return pa.table({})
    table = pa.concat_tables(tables, promote_options="permissive").sort_by("arrival_time")
    _, first = np.unique(table["prediction_id"].to_numpy(zero_copy_only=False).astype(str), return_index=True)
    if len(first) < table.num_rows:
        table = table.take(pa.array(np.sort(first)))
    return table if columns is None else table.select([name for name in columns if name in table.column_names])


def _read(content: bytes, wanted: Sequence[str] | None) -> pa.Table:
    file = pq.ParquetFile(pa.BufferReader(content))
    there = set(file.schema_arrow.names)
    return file.read(None if wanted is None else [name for name in wanted if name in there])


def _paths(files: Files, model: str, days: tuple[str, str] | None) -> list[str]:
    prefix = f"predictions/{model}/day="
    paths = [name for name in files.names(f"predictions/{model}") if name.endswith(".parquet")]
    if days is None:
        return paths
    return [name for name in paths if days[0] <= name.removeprefix(prefix).partition("/")[0] <= days[1]]
