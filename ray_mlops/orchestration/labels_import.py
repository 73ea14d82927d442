"""Labels from files, sent through the same door as all others."""

from collections import Counter
from datetime import datetime
from typing import Any

import pyarrow as pa

from ray_mlops.config import SourceConfig
from ray_mlops.data.source import source_table
from ray_mlops.errors import SourceError
from ray_mlops.orchestration.fit import OnPhase, silent
from ray_mlops.serving.client import Client

_BATCH = 2000


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

    A repeat is harmless: labels that are known already count as duplicates.

    Returns:
        Counts of `accepted`, `duplicate` and `conflicting` labels.

    Raises:
        SourceError: The file is missing, empty or lacks a column.
        RequestError: A label is of the wrong type; those before it were taken.
    """
    table = source_table(SourceConfig(path=path))
    wanted = [name for name in (id_column, label_column, time_column) if name is not None]
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        raise SourceError(f"no columns {missing}", path, f"it has {', '.join(table.column_names)}")
    counts: Counter[str] = Counter()
    for start in range(0, table.num_rows, _BATCH):
        part = table.slice(start, _BATCH)
        answer = client.feedback(_labels(part, id_column, label_column, time_column))
        counts.update({name: n for name, n in answer.items() if isinstance(n, int)})
        on_phase("labels", f"{min(start + _BATCH, table.num_rows)} of {table.num_rows}")
    return dict(counts)


def _labels(part: pa.Table, id_column: str, label_column: str, time_column: str | None) -> list[dict[str, Any]]:
    ids = part[id_column].to_pylist()
    labels = part[label_column].to_pylist()
    times = [None] * len(ids) if time_column is None else part[time_column].to_pylist()
    return [
        {"id": str(name), "label": label, "time": time.isoformat() if isinstance(time, datetime) else time}
        for name, label, time in zip(ids, labels, times, strict=True)
        if label is not None
    ]
