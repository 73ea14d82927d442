"""Batch prediction with Ray Data: the same bundle and the same features as in serving."""

import hashlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ray_mlops.config import ProjectConfig, SourceConfig
from ray_mlops.data.distributed import map_tables, within_deadline
from ray_mlops.data.source import read_source
from ray_mlops.orchestration.fit import OnPhase, silent
from ray_mlops.orchestration.pipeline import find_bundle
from ray_mlops.runtime.files import Files
from ray_mlops.training.bundle import ModelBundle, Prediction


class _Predict:
    """Predicts one block and writes it; returns how many rows."""

    def __init__(self, bundle: ModelBundle, output: str) -> None:
        self._bundle, self._output = bundle, output

    def __call__(self, table: pa.Table) -> pa.Table:
        if table.num_rows:
            predicted = with_predictions(table, self._bundle.predict(table))
            sink = pa.BufferOutputStream()
            pq.write_table(predicted, sink, compression="zstd")
            content = sink.getvalue().to_pybytes()
            name = hashlib.sha256(content).hexdigest()[:16]
            Files(self._output).write(f"part-{name}.parquet", content)
        return pa.table({"rows": pa.array([table.num_rows], pa.int64())})


def predict_dataset(
    config: ProjectConfig, source: str, output: str, version: str = "champion", *, on_phase: OnPhase = silent
) -> int:
    """Predict the rows of a Parquet, CSV or JSON-lines source into Parquet files.

    Args:
        config: The configuration.
        source: A path or URI.
        output: A directory or URI; files are written whole or not at all.
        version: A version, an alias or a bundle's path.
        on_phase: Progress.

    Returns:
        Number of rows.

    Raises:
        FeatureError: A column is missing or of the wrong type.
    """
    on_phase("load", version)
    bundle = find_bundle(config, version)
    on_phase("predict", source)
    dataset = map_tables(read_source(SourceConfig(path=source)), _Predict(bundle, output))
    return int(within_deadline(lambda: dataset.sum("rows"), "predicting", config.cluster.step_timeout_s) or 0)


def with_predictions(table: pa.Table, prediction: Prediction) -> pa.Table:
    """The rows with their predictions: ``prediction`` and ``label``, or a probability for each class."""
    columns: dict[str, Any] = {}
    if prediction.task == "multiclass":
        for index, name in enumerate(prediction.classes):
            columns[f"prediction.{name}"] = pa.array(prediction.values[:, index])
    else:
        columns["prediction"] = pa.array(prediction.values)
    if prediction.task != "regression":
        columns["label"] = pa.array(prediction.labels())
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table
