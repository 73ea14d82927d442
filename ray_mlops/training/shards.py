"""Training rows as a Ray Dataset, and a worker's share of it as tensors."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from ray_mlops.data.features import FeatureMatrix
from ray_mlops.training.loop import Batches, ShuffledRows
from ray_mlops.training.models import ModelSpec
from ray_mlops.training.rows import LabelledRows, TensorData, to_tensors
from ray_mlops.training.scaling import TargetScaling

BLOCK_ROWS = 131_072
"""Rows of a block. A shard that does not fit memory is read in blocks of this size and cut inside them: many small
batches from Ray Data cost 14 to 30 % of the speed, large ones 7 %, rows in memory nothing."""


@dataclass(frozen=True, slots=True)
class ShardLayout:
    """What a worker must know to turn its shard into tensors."""

    spec: ModelSpec
    scaling: TargetScaling
    mean_weight: float
    num_rows: int
    """Of the whole dataset."""


def to_dataset(rows: LabelledRows) -> ray.data.Dataset:
    """Put rows into Ray's object store; nothing is left to be computed.

    Columns: ``numeric`` and ``categorical`` (lists of one length; left out when empty), ``target``, ``weight``
    (only where there are weights) and ``row``, the row's number.
    """
    starts = range(0, len(rows), BLOCK_ROWS)
    blocks = [to_block(rows, slice(start, start + BLOCK_ROWS)) for start in starts]
    dataset: ray.data.Dataset = ray.data.from_arrow(blocks).materialize()
    return dataset


def to_block(rows: LabelledRows, part: slice) -> pa.Table:
    """Some rows as an Arrow table; see ``to_dataset``."""
    columns = {"row": pa.array(np.arange(len(rows))[part]), "target": pa.array(rows.target[part])}
    if rows.weight is not None:
        columns["weight"] = pa.array(rows.weight[part])
    for name, matrix in (("numeric", rows.features.numeric), ("categorical", rows.features.categorical)):
        if matrix.shape[1]:
            flat = pa.array(np.ascontiguousarray(matrix[part]).reshape(-1))
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1])
    return pa.table(columns)


def from_block(table: pa.Table, spec: ModelSpec) -> LabelledRows:
    """Rows of an Arrow table, in the order of their numbers."""
    order = np.argsort(table["row"].to_numpy(), kind="stable")
    features = FeatureMatrix(
        _matrix(table, "numeric", spec.num_numeric, np.float32)[order],
        _matrix(table, "categorical", len(spec.categorical_sizes), np.int64)[order],
    )
    weight = table["weight"].to_numpy()[order] if "weight" in table.column_names else None
    return LabelledRows(features, table["target"].to_numpy()[order], weight)


@dataclass(frozen=True, slots=True)
class StreamedRows:
    """Rows that do not fit memory: read in large blocks, each shuffled and cut by itself."""

    shard: ray.data.DataIterator
    layout: ShardLayout
    device: torch.device

    def epoch(self, batch_rows: int, generator: torch.Generator) -> Iterator[TensorData]:
        for block in self.shard.iter_batches(batch_size=BLOCK_ROWS, batch_format="pyarrow", prefetch_batches=2):
            yield from ShuffledRows(_tensors(block, self.layout, self.device)).epoch(batch_rows, generator)


def open_shard(
    shard: ray.data.DataIterator, layout: ShardLayout, num_workers: int, max_memory_rows: int, device: torch.device
) -> Batches:
    """A worker's training rows: in memory if they fit, else streamed."""
    if layout.num_rows / num_workers > max_memory_rows:
        return StreamedRows(shard, layout, device)
    blocks = list(shard.iter_batches(batch_size=None, batch_format="pyarrow"))  # type: ignore[arg-type]
    return ShuffledRows(_tensors(pa.concat_tables(blocks), layout, device))


def _tensors(table: pa.Table, layout: ShardLayout, device: torch.device) -> TensorData:
    return to_tensors(from_block(table, layout.spec), layout.scaling, layout.mean_weight).to(device)


def _matrix(table: pa.Table, name: str, width: int, dtype: type) -> Any:
    if not width:
        return np.zeros((len(table), 0), dtype)
    flat = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype).reshape(len(table), width)
