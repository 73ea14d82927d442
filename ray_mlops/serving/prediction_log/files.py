"""The files of the prediction log: written flush by flush, read back by day."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_mlops.errors import StoreError
from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log.listing import LogListing, log_path, read_live
from ray_mlops.serving.prediction_log.table import LogRecord, build_table, split_by_file
from ray_mlops.serving.protocol import LOG_COLUMNS, PredictionSink

logger = logging.getLogger(__name__)
FLUSH_FORM = {"compression": "snappy", "use_dictionary": False}
"""Parquet options of a flush: small files that are soon compacted, written while requests are answered."""


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
        files.write_table(log_path(model, day, replica, number), table, **FLUSH_FORM)
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

    Raises:
        StoreError: A file cannot be read.
    """
    tables = _read_tables(files, model, days, columns)
    if not tables:
        return pa.table({})
    table = unite(tables).sort_by("arrival_time")
    return table if columns is None else table.select([name for name in columns if name in table.column_names])


def read_parts(files: Files, model: str, days: tuple[str, str] | None = None) -> list[pa.Table]:
    """Read a model's log as it was written: rows of versions with other columns, or other kinds of them, stay apart.

    Args:
        files: The store.
        model: The model's name.
        days: As for ``read_predictions``.

    Returns:
        One table for each set of columns, each in order of arrival; of rows with one prediction id the first stays.

    Raises:
        StoreError: A file cannot be read.
    """
    alike: dict[pa.Schema, list[pa.Table]] = {}
    for table in _read_tables(files, model, days, None):
        alike.setdefault(table.schema, []).append(table)
    return [pa.concat_tables(tables).sort_by("arrival_time") for tables in alike.values()]


def _read_tables(
    files: Files, model: str, days: tuple[str, str] | None, columns: Sequence[str] | None
) -> list[pa.Table]:
    """Every file that has rows; of rows with one prediction id only the first that arrived."""
    wanted = None if columns is None else list(dict.fromkeys([*columns, "prediction_id", "arrival_time"]))
    found = read_live(LogListing(files, model), lambda path: read_columns(files.read(path), wanted), days).values()
    tables = [table.replace_schema_metadata(None) for table in found]
    if not tables:
        return []
    keys = unite([table.select(["prediction_id", "arrival_time"]) for table in tables])
    order = pc.sort_indices(keys["arrival_time"]).to_numpy()
    ids = keys["prediction_id"].to_numpy(zero_copy_only=False).astype(str)
    _, first = np.unique(ids[order], return_index=True)
    if len(first) == len(ids):
        return tables
    is_kept = np.zeros(len(ids), dtype=np.bool_)
    is_kept[order[first]] = True
    ends = np.cumsum([table.num_rows for table in tables])[:-1]
    return [table.filter(pa.array(own)) for table, own in zip(tables, np.split(is_kept, ends), strict=True)]


def find_row(files: Files, model: str, prediction_id: str) -> dict[str, Any] | None:
    """The logged row of a prediction id, the newest day first; None where there is none."""
    for name in reversed(LogListing(files, model).live()):
        try:
            ids = files.read_table(name, columns=["prediction_id"])["prediction_id"]
            position = pc.index(ids, prediction_id).as_py()
            if position >= 0:
                row: dict[str, Any] = files.read_table(name).slice(position, 1).to_pylist()[0]
                return row
        except StoreError:
            if files.exists(name):
                raise
            return find_row(files, model, prediction_id)  # compacted meanwhile
    return None


def unite(tables: Sequence[pa.Table]) -> pa.Table:
    """Put tables of several versions of a model together: null where one lacks a column.

    A column that was a number for one version and text for another is text.
    """
    schema = unite_schemas([table.schema for table in tables])
    kinds = {item.name: item.type for item in schema}
    fitting = [
        table.cast(pa.schema([(name, kinds[name]) for name in table.column_names]))
        for table in (table.replace_schema_metadata(None) for table in tables)
    ]
    return pa.concat_tables(fitting, promote_options="default").select(schema.names)


def unite_schemas(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """The columns of every version, in the log's order: ``LOG_COLUMNS``, features, predictions."""
    kinds: dict[str, pa.DataType] = {}
    for item in (item for schema in schemas for item in schema):
        kinds[item.name] = _common_type(kinds.get(item.name, item.type), item.type)
    groups = ([name for name, _ in LOG_COLUMNS], [n for n in kinds if n.startswith("features.")], list(kinds))
    names = [name for group in groups for name in group if name in kinds]
    return pa.schema([(name, kinds[name]) for name in dict.fromkeys(names)])


def _common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if one == other or pa.types.is_null(other):
        return one
    try:
        fields = [pa.schema([("x", kind)]) for kind in (one, other)]
        return pa.unify_schemas(fields, promote_options="permissive").field("x").type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.string()


def read_columns(content: bytes, wanted: Sequence[str] | None) -> pa.Table:
    """Read those of the wanted columns that a Parquet file has; None reads all."""
    file = pq.ParquetFile(pa.BufferReader(content))
    there = set(file.schema_arrow.names)
    return file.read(None if wanted is None else [name for name in wanted if name in there])
