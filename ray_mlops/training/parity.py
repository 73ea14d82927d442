"""Rows with their expected features and predictions, kept in a bundle to check every place that serves it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ray_mlops.data.features import FeatureMatrix, FeaturePipeline
from ray_mlops.runtime.parquet import for_parquet

FloatArray = npt.NDArray[np.float64]
PARITY_BATCH_ROWS = 64
"""Rows per batch when expected predictions are written: matrix products round differently by batch shape."""


@dataclass(frozen=True, slots=True)
class ParitySet:
    """Raw rows and what the trainer made of them."""

    rows: pa.Table
    """Raw inputs, in the feature pipeline's ``input_schema``."""
    features: FeatureMatrix
    values: FloatArray
    """Expected predictions, as ``Prediction.values``: equal to the bit in batches of ``batch_rows`` from the first
    row on (the last batch holds what is left); otherwise within the gate's tolerance."""
    batch_rows: int = PARITY_BATCH_ROWS

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def empty(cls, features: FeaturePipeline) -> "ParitySet":
        """A set without rows, until there is a model to write one."""
        raw = features.input_schema().empty_table()
        return cls(raw, features.transform(raw), np.zeros(0))

    def to_bytes(self) -> bytes:
        """Write as one Parquet file; equal sets give equal bytes."""
        count = len(self)
        values = self.values.reshape(count, -1)
        table = pa.table(
            {
                "row": self.rows.combine_chunks().to_struct_array().combine_chunks(),
                "numeric": pa.array(list(self.features.numeric), pa.list_(pa.float32())),
                "categorical": pa.array(list(self.features.categorical), pa.list_(pa.int64())),
                "prediction": pa.array(list(values), pa.list_(pa.float64())),
            }
        )
        table = for_parquet(table).replace_schema_metadata(
            {"batch_rows": str(self.batch_rows), "one_value": str(int(self.values.ndim == 1))}
        )
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        return bytes(sink.getvalue().to_pybytes())

    @classmethod
    def from_bytes(cls, content: bytes) -> "ParitySet":
        """Read what ``to_bytes`` wrote."""
        table = pq.read_table(pa.BufferReader(content))
        metadata = table.schema.metadata
        rows = pa.Table.from_struct_array(table["row"])
        features = FeatureMatrix(_matrix(table["numeric"], np.float32), _matrix(table["categorical"], np.int64))
        values = _matrix(table["prediction"], np.float64)
        is_one_value = metadata[b"one_value"] == b"1"
        return cls(rows, features, values[:, 0] if is_one_value else values, int(metadata[b"batch_rows"]))


def predict_in_batches(
    predict: Callable[[FeatureMatrix], FloatArray], features: FeatureMatrix, batch_rows: int
) -> FloatArray:
    """Predict rows in batches of one size, the last one smaller."""
    starts = range(0, max(len(features), 1), batch_rows)
    return np.concatenate([predict(features.take(slice(start, start + batch_rows))) for start in starts])


def _matrix(column: pa.ChunkedArray, dtype: type) -> Any:
    flat: npt.NDArray[Any] = np.asarray(column.combine_chunks().flatten().to_numpy(zero_copy_only=False), dtype)
    return flat.reshape(len(column), -1) if len(column) else flat.reshape(0, 0)
