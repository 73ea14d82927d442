"""Batch prediction with Ray Data: the same bundle and the same features as in serving."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_mlops.config import ProjectConfig, SourceConfig
from ray_mlops.data.distributed import collect_table, map_tables
from ray_mlops.data.source import read_source
from ray_mlops.errors import StoreError
from ray_mlops.orchestration.fit import OnPhase, silent
from ray_mlops.orchestration.pipeline import find_bundle
from ray_mlops.runtime.files import Files
from ray_mlops.training.bundle import ModelBundle, Prediction

_PART = re.compile(r"part-[0-9a-f]{16}\.parquet")


class _Predict:
    """Predicts one block and writes it; returns how many rows, and the file."""

    def __init__(self, bundle: ModelBundle, output: str) -> None:
        self._bundle, self._output = bundle, output

    def __call__(self, table: pa.Table) -> pa.Table:
        name = ""
        if table.num_rows:
            predicted = with_predictions(table, self._bundle.predict(table))
            sink = pa.BufferOutputStream()
            pq.write_table(predicted, sink, compression="zstd")
            content = sink.getvalue().to_pybytes()
            name = f"part-{hashlib.sha256(content).hexdigest()[:16]}.parquet"
            Files(self._output).write(name, content)
        return pa.table({"rows": pa.array([table.num_rows], pa.int64()), "file": [name]})


def predict_dataset(
    config: ProjectConfig,
    source: str,
    output: str,
    version: str = "champion",
    *,
    replace: bool = False,
    on_phase: OnPhase = silent,
) -> int:
    """Predict the rows of a Parquet, CSV or JSON-lines source into Parquet files.

    Args:
        config: The configuration.
        source: A path or URI.
        output: A directory or URI; files are written whole or not at all.
        version: A version, an alias or a bundle's path.
        replace: Take the place of predictions that lie in the output already; they go once the new ones are there.
        on_phase: Progress.

    Returns:
        Number of rows.

    Raises:
        FeatureError: A column is missing or of the wrong type.
        StoreError: The output cannot be written, or holds files.
    """
    output = output if "://" in output else str(Path(output).absolute())  # workers have directories of their own
    files = Files(output)
    before = set(_present(files, output))
    if before and not replace:
        problem = f"holds {len(before)} files already, and predictions would be mixed with them"
        raise StoreError(problem, output, "give an empty directory, or --force to replace earlier predictions")
    on_phase("load", version)
    bundle = find_bundle(config, version)
    on_phase("predict", source)
    timeout_s = config.cluster.step_timeout_s
    written = collect_table(
        map_tables(read_source(SourceConfig(path=source)), _Predict(bundle, output)), "predicting", timeout_s
    )
    for name in before - set(written["file"].to_pylist()):
        if _PART.fullmatch(name):
            files.delete(name)
    return int(pc.sum(written["rows"]).as_py() or 0)


def _present(files: Files, output: str) -> Iterator[str]:
    if files.is_local and Path(files.root).exists() and not Path(files.root).is_dir():
        raise StoreError("is a file, and predictions are written into a directory", output, "give another output")
    return files.names("")


def with_predictions(table: pa.Table, prediction: Prediction) -> pa.Table:
    """The rows with their predictions: ``prediction`` and ``label``, or a probability for each class.

    A column of the rows keeps its name; ours is called ``predicted_label``, say, where the rows have a ``label``.
    """
    columns: dict[str, Any] = {}
    if prediction.task == "multiclass":
        for index, name in enumerate(prediction.classes):
            columns[f"prediction.{name}"] = pa.array(prediction.values[:, index])
    else:
        columns["prediction"] = pa.array(prediction.values)
    if prediction.task != "regression":
        columns["label"] = pa.array(prediction.labels())
    given = set(table.column_names)
    for name, values in columns.items():
        free = name
        while free in given:
            free = f"predicted_{free}"
        table = table.append_column(free, values)
    return table
