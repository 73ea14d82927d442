"""Loads a bundle for stock MLflow: ``mlflow.pyfunc.load_model("models:/NAME@champion")`` or a bundle's directory.

A bundle whose model is not ours names code outside this package; it is imported only when the environment variable
``RAY_MLOPS_TRUSTED_MODULES`` lists its module (comma-separated), since the bundle cannot vouch for itself.
"""

import os
from typing import Any

import pandas as pd
import pyarrow as pa

from ray_mlops.training.bundle import ModelBundle
from ray_mlops.training.factory import OWN_PACKAGE
from ray_mlops.training.mlmodel import probability_column
from ray_mlops.training.prediction import Prediction

TRUSTED_VARIABLE = "RAY_MLOPS_TRUSTED_MODULES"


class PyfuncModel:
    """A bundle behind MLflow's interface."""

    def __init__(self, bundle: ModelBundle) -> None:
        self.bundle = bundle

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Predict a data frame; see ``to_frame`` for what comes back. ``params`` are not used."""
        return to_frame(self.bundle.predict(_to_table(model_input)))


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> PyfuncModel:
    """Called by MLflow with the bundle's directory."""
    named = [entry.strip() for entry in os.environ.get(TRUSTED_VARIABLE, "").split(",")]
    return PyfuncModel(ModelBundle.load(path, trusted=(OWN_PACKAGE, *filter(None, named))))


def to_frame(prediction: Prediction) -> pd.DataFrame:
    """Column ``prediction`` (label or value), then ``probability`` (binary) or ``probability.CLASS`` (multiclass)."""
    columns: dict[str, Any] = {"prediction": prediction.labels()}
    if prediction.task == "binary":
        columns["probability"] = prediction.values
    elif prediction.task == "multiclass":
        by_class = zip(prediction.classes, prediction.values.T, strict=True)
        columns.update({probability_column(name): values for name, values in by_class})
    return pd.DataFrame(columns)


def _to_table(frame: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
