"""The ``MLmodel`` file, by which standard MLflow tools load a bundle as a pyfunc."""

import json
import sys
from typing import Any

import yaml

from ray_mlops.config.data import ColumnType
from ray_mlops.data.features import FeaturePipeline
from ray_mlops.data.inputs import InputColumn
from ray_mlops.training.manifest import Manifest

LOADER_MODULE = "ray_mlops.training.pyfunc"
# MLflow refuses whole numbers for "double"; the pipeline takes any number, and refuses what is none.
_MLFLOW_TYPES: dict[ColumnType, str] = {
    "numeric": "any",
    "categorical": "string",
    "boolean": "boolean",
    "datetime": "datetime",
}
_SCALAR_TYPES = {bool: "boolean", int: "long", float: "double", str: "string"}


def write_mlmodel(manifest: Manifest, features: FeaturePipeline) -> bytes:
    """Describe a bundle to MLflow. There is no time and no id in it: equal bundles give equal bytes."""
    inputs = [{"name": column.name, **_mlflow_type(column), "required": column.required} for column in features.columns]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    content: dict[str, Any] = {
        "artifact_path": "model",
        "flavors": {"python_function": {"loader_module": LOADER_MODULE, "data": ".", "python_version": python}},
        "metadata": {"ray_mlops_model": manifest.name, "ray_mlops_task": manifest.task},
        "signature": {"inputs": json.dumps(inputs), "outputs": json.dumps(_outputs(manifest)), "params": None},
    }
    return str(yaml.safe_dump(content, sort_keys=True)).encode()


def _mlflow_type(column: InputColumn) -> dict[str, Any]:
    if column.input_type == "vector":
        return {"type": "array", "items": {"type": "any"}}
    return {"type": _MLFLOW_TYPES[column.input_type]}


def probability_column(label: Any) -> str:
    """Name of the output column with one class's probability (multiclass)."""
    return f"probability.{label}"


def _outputs(manifest: Manifest) -> list[dict[str, Any]]:
    if manifest.task == "regression":
        return [{"name": "prediction", "type": "double"}]
    label = {"name": "prediction", "type": _SCALAR_TYPES[type(manifest.classes[0])]}
    if manifest.task == "binary":
        return [label, {"name": "probability", "type": "double"}]
    return [label, *({"name": probability_column(name), "type": "double"} for name in manifest.classes)]
