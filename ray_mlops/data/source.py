"""Sources: from ``data.source`` to rows, as a table here or as a dataset on Ray."""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import ray.data

from ray_mlops.config import SourceConfig
from ray_mlops.data.distributed import read_dataset
from ray_mlops.data.functions import find_function
from ray_mlops.data.readers import check_columns, check_names, normalise_event_time, read_file, usual_schema
from ray_mlops.data.source_files import SourceDescription, describe_files, read_units
from ray_mlops.errors import FeatureError, RayMLOpsError, SourceError


def read_source(source: SourceConfig, *, event_time: str | None = None) -> ray.data.Dataset:
    """A source as a lazy dataset; ``materialise`` it before training.

    Raises:
        SourceError: It is missing, empty, unreadable, or lacks the event time.
    """
    if source.function is not None:
        return ray.data.from_arrow(list(source_tables(source, event_time=event_time)))
    found = describe_files(source, event_time=event_time)
    return dataset_of_files(found, event_time)


def source_table(source: SourceConfig, *, event_time: str | None = None) -> pa.Table:
    """A source as one table, without Ray; for data that fits in memory.

    Raises:
        SourceError: As ``read_source``.
    """
    return pa.concat_tables(list(source_tables(source, event_time=event_time)), promote_options="permissive")


def source_tables(source: SourceConfig, *, event_time: str | None = None) -> Iterator[pa.Table]:
    """A source as tables of one schema, one after the other.

    Raises:
        SourceError: As ``read_source``.
    """
    if source.function is not None:
        yield from _function_tables(source, event_time)
        return
    found = describe_files(source, event_time=event_time)
    for file in found.files:
        yield read_file(file.path, found.format, schema=found.schema, event_time=event_time)


def dataset_of_files(
    found: SourceDescription, event_time: str | None, columns: list[str] | None = None, keep: Any = None
) -> ray.data.Dataset:
    """A lazy dataset of described files.

    Args:
        found: The files, by absolute address.
        event_time: Column of event times.
        columns: Only these.
        keep: A picklable filter, table to table, applied after reading.
    """
    schema, format = found.schema, found.format

    def read(unit: Mapping[str, Any]) -> pa.Table:
        table = read_file(
            unit["path"], format, schema=schema, columns=columns, event_time=event_time, row_groups=unit["row_groups"]
        )
        return table if keep is None else keep(table)

    units = [{"path": file.path, "row_groups": unit.row_groups} for file in found.files for unit in read_units(file)]
    return read_dataset(units, read)


def _function_tables(source: SourceConfig, event_time: str | None) -> Iterator[pa.Table]:
    where = f"data.source.function {source.function}"
    assert source.function is not None
    try:
        function: Any = find_function(source.function, where)
    except FeatureError as error:
        raise SourceError(error.problem, where, error.remedy) from error
    rows = 0
    for table in _called(function, source.arguments, where):
        check_names(table.column_names, where)
        check_columns(table.column_names, [event_time], where)
        rows += len(table)
        yield normalise_event_time(table.cast(usual_schema(table.schema)), event_time, where)
    if not rows:
        raise SourceError("there are no rows", where, "check the function and its arguments")


def _called(function: Any, arguments: Mapping[str, Any], where: str) -> Iterator[pa.Table]:
    """What the user's function returns or yields; whatever it raises is named and passed on."""
    try:
        result = function(**arguments)
        for table in result if isinstance(result, Iterator | list | tuple) else [result]:
            if not isinstance(table, pa.Table):
                raise SourceError(f"returned {type(table).__name__}", where, "return an Arrow table, or yield them")
            yield table
    except RayMLOpsError:
        raise
    except Exception as error:  # the user's code may raise anything
        problem = f"the function failed: {type(error).__name__}: {error}"
        raise SourceError(problem, where, "see data.source.arguments") from error
