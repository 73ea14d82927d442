"""Labels from files, sent through the same door as all others."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from ray_mlops.config import SourceConfig
from ray_mlops.data.readers import check_columns, read_file
from ray_mlops.data.source_files import describe_files
from ray_mlops.data.values import category_key
from ray_mlops.errors import RequestError, SourceError
from ray_mlops.orchestration.fit import OnPhase, silent
from ray_mlops.serving.client import Client

_BATCH = 2000
_LABEL = re.compile(r"labels\[(\d+)\](?:\.(\w+))?$")


def import_labels(
    client: Client,
    path: str,
    *,
    id_column: str = "id",
    label_column: str = "label",
    time_column: str | None = None,
    on_phase: OnPhase = silent,
) -> dict[str, int]:
    """Send the labels of a Parquet, CSV or JSON-lines file to a running service.

    A repeat is harmless: labels that are known already count as duplicates. Rows without a label are passed
    over. Ids in CSV are text, whatever they look like: ``007`` is not ``7``.

    Returns:
        Counts of `accepted`, `duplicate` and `conflicting` labels, and of rows without one as `missing`.

    Raises:
        SourceError: The file is missing, empty or lacks a column, or a row with a label has no id.
        RequestError: A label is of the wrong type; names the row. Those of earlier batches were taken.
    """
    table = _read(path, [id_column, label_column, *([time_column] if time_column else [])], id_column)
    labels = list(_labels(table, path, id_column, label_column, time_column))
    counts = Counter(dict.fromkeys(("accepted", "duplicate", "conflicting"), 0))
    for start in range(0, len(labels), _BATCH):
        batch = labels[start : start + _BATCH]
        try:
            answer = client.feedback([label for _, label in batch])
        except RequestError as error:
            raise type(error)(error.problem, _place(error.where, path, batch), error.remedy) from error
        counts.update({name: n for name, n in answer.items() if isinstance(n, int)})
        on_phase("labels", f"{start + len(batch)} of {len(labels)}")
    return {**counts, "missing": table.num_rows - len(labels)}


def _read(path: str, columns: list[str], id_column: str) -> pa.Table:
    found = describe_files(SourceConfig(path=path))
    check_columns(found.schema.names, columns, path)
    schema = pa.schema([found.schema.field(name) for name in dict.fromkeys(columns)])
    if found.format == "csv":
        schema = schema.set(schema.get_field_index(id_column), pa.field(id_column, pa.string()))
    return pa.concat_tables(read_file(file.path, found.format, schema=schema) for file in found.files)


def _labels(
    table: pa.Table, path: str, id_column: str, label_column: str, time_column: str | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows that have a label: the row's number from 1, and the label as the service takes it."""
    times = [None] * table.num_rows if time_column is None else table[time_column].to_pylist()
    rows = zip(table[id_column].to_pylist(), table[label_column].to_pylist(), times, strict=True)
    for number, (name, label, time) in enumerate(rows, start=1):
        if label is None or (isinstance(label, float) and math.isnan(label)):
            continue
        try:
            key = category_key(name)
        except TypeError:
            key = None
        if key is None:
            raise SourceError(f"a label without an id, got {name!r}", f"{path}, row {number}", "give every label an id")
        if not isinstance(label, bool | int | float | str | Decimal):
            problem = f"a label must be a string, number or boolean, got {type(label).__name__}"
            raise SourceError(problem, f"{path}, row {number}, column {label_column!r}")
        value = float(label) if isinstance(label, Decimal) else label
        moment = time.isoformat() if isinstance(time, datetime) else time
        yield number, {"id": key, "label": value, "time": moment}


def _place(where: str, path: str, batch: list[tuple[int, dict[str, Any]]]) -> str:
    """The file's row for a place in a request, ``labels[3].label``; else the rows of the batch."""
    found = _LABEL.match(where)
    if found is not None and int(found[1]) < len(batch):
        return f"{path}, row {batch[int(found[1])][0]}: {found[2] or 'label'}"
    return f"{path}, rows {batch[0][0]} to {batch[-1][0]}: {where}"
