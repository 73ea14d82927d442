"""How much traffic a model has, from the newest files of its prediction log."""

from collections import defaultdict
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.errors import StoreError
from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log.files import read_columns
from ray_mlops.serving.prediction_log.listing import day_of, is_compacted
from ray_mlops.serving.rollout.sizing import Load

DAYS = 2
"""Newest days of event time that are looked at: a replica may write in the first after the other has begun."""
FILES_OF_EACH = 8
"""Newest files that are read of each replica: some seconds of traffic. What was compacted is older than that."""
SILENT_S = 30.0
"""A replica whose newest request is that much older than the newest of all has no part in the traffic of now."""
MIN_REQUESTS = 50
"""With fewer nothing is said."""
COLUMNS = ["request_id", "version", "arm", "arrival_time", "model_time_us", "sample_weight"]


def measure_load(files: Files, model: str, version: str) -> Load | None:
    """Measure a model's traffic; None with too few requests.

    Args:
        files: The store.
        model: The model's name.
        version: The version that is to take a share of it.
    """
    tables = [table for table in _newest(files, model) if table.num_rows]
    if not tables:
        return None
    now_us = max(_newest_us(table) for table in tables)
    tables = [table for table in tables if now_us - _newest_us(table) <= SILENT_S * 1e6]
    requests = pa.concat_tables([_by_request(table) for table in tables])
    champion_s = _mean_s(requests.filter(pc.equal(requests["arm"], "champion")))
    if requests.num_rows < MIN_REQUESTS or champion_s is None:
        return None
    own_s = _mean_s(requests.filter(pc.equal(requests["version"], version)))
    return Load(sum(_rate(table) for table in tables), champion_s, own_s or champion_s)


def _newest(files: Files, model: str) -> list[pa.Table]:
    """The newest rows of each replica."""
    by_replica: dict[str, list[str]] = defaultdict(list)
    for name in _flushes(files.names(f"predictions/{model}")):
        by_replica[name.rpartition("/")[2].rpartition("-")[0]].append(name)
    tables = []
    for names in by_replica.values():
        parts = []
        for name in sorted(names)[-FILES_OF_EACH:]:
            try:
                parts.append(read_columns(files.read(name), COLUMNS))
            except StoreError:  # taken away meanwhile
                continue
        if parts:
            tables.append(_weighted(pa.concat_tables(parts, promote_options="permissive")))
    return tables


def _flushes(names: Iterable[str]) -> list[str]:
    """The files of the newest days that replicas wrote themselves."""
    flushes = [name for name in names if name.endswith(".parquet") and not is_compacted(name)]
    newest = sorted({day_of(name) for name in flushes})[-DAYS:]
    return [name for name in flushes if day_of(name) in newest]


def _weighted(table: pa.Table) -> pa.Table:
    """The same rows, each of which has a weight: those of a log that was never thinned stand for themselves."""
    known = table["sample_weight"] if "sample_weight" in table.column_names else pa.nulls(len(table), pa.float64())
    others = table.select([name for name in table.column_names if name != "sample_weight"])
    return others.append_column("sample_weight", pc.fill_null(known, 1.0))


def _by_request(table: pa.Table) -> pa.Table:
    """One row for each request: all rows of a request have its time."""
    grouped = table.group_by(["request_id", "arm", "version"], use_threads=False)
    return grouped.aggregate([("model_time_us", "max"), ("arrival_time", "max"), ("sample_weight", "max")])


def _mean_s(requests: pa.Table) -> float | None:
    mean = pc.mean(requests["model_time_us_max"]).as_py()
    return None if mean is None else float(mean) / 1e6


def _newest_us(table: pa.Table) -> int:
    return int(pc.max(table["arrival_time"]).cast(pa.int64()).as_py())


def _rate(table: pa.Table) -> float:
    """Requests a second of one replica."""
    requests = _by_request(table)
    first_us = int(pc.min(requests["arrival_time_max"]).cast(pa.int64()).as_py())
    span_s = (_newest_us(table) - first_us) / 1e6
    weight = float(pc.mean(requests["sample_weight_max"]).as_py())
    return weight * (requests.num_rows - 1) / span_s if span_s > 0.0 else 0.0
