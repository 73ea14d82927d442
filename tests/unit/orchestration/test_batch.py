"""Batch prediction: the columns that are added, and outputs that are refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.config import build_config
from ray_mlops.errors import StoreError
from ray_mlops.orchestration.batch import predict_dataset, with_predictions
from ray_mlops.training.prediction import Prediction


def test_predictions_are_appended_to_the_rows() -> None:
    made = with_predictions(pa.table({"x": [1.0, 2.0]}), Prediction("binary", np.array([0.2, 0.9]), ("no", "yes"), 0.5))
    assert made.column_names == ["x", "prediction", "label"]
    assert made["label"].to_pylist() == ["no", "yes"]


def test_columns_of_the_rows_keep_their_names() -> None:
    rows = pa.table({"label": ["mine"], "prediction": [7]})
    made = with_predictions(rows, Prediction("binary", np.array([0.9]), ("no", "yes"), 0.5))
    assert made.column_names == ["label", "prediction", "predicted_prediction", "predicted_label"]
    assert made["label"].to_pylist() == ["mine"]


def test_output_that_holds_something_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    data = {"source": {"path": "none.csv"}, "task": "binary", "target": "y"}
    config = build_config({"name": "m", "data": data, "store": {"root": str(tmp_path / "store")}}, {})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "theirs.csv").write_text("x")
    with pytest.raises(StoreError, match=r"out: holds 1 files already.*--force"):
        predict_dataset(config, "none.csv", str(tmp_path / "out"))
    with pytest.raises(StoreError, match=r"theirs\.csv: is a file"):
        predict_dataset(config, "none.csv", str(tmp_path / "out" / "theirs.csv"))
