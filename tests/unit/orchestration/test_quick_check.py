"""Predictions of a version without a service: what the service would say."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import nn

from ray_mlops.config import FeatureConfig, ProjectConfig, build_config
from ray_mlops.data.features import FeaturePipeline
from ray_mlops.errors import PayloadTooLargeError, RayMLOpsError, RequestError
from ray_mlops.orchestration import quick_check
from ray_mlops.training.bundle import Manifest, ModelBundle
from ray_mlops.training.models import ModelSpec

ROW = {"x": 1.0, "c": "a"}


class Double(nn.Module):
    """Twice the first number; not finite above 10."""

    def forward(self, numeric: torch.Tensor, categorical: torch.Tensor) -> torch.Tensor:
        return torch.where(numeric[:, :1] > 10.0, torch.nan, 2.0 * numeric[:, :1])


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProjectConfig:
    """A project whose champion is a small bundle."""
    table = pa.table({"x": [0.0, 1.0, 2.0, 1.0], "c": ["a", "b", "a", "b"]})
    features = FeaturePipeline.fit_table(table, [FeatureConfig(name="x", scale="none"), FeatureConfig(name="c")])
    spec = ModelSpec("regression", len(features.numeric_names), features.categorical_sizes, 1)
    manifest = Manifest("m", "regression", "y", (), "ray_mlops.training.models:tabular", {}, spec)
    bundle = ModelBundle(manifest, features, Double(), None, None)  # type: ignore[arg-type]
    monkeypatch.setattr(quick_check, "find_version", lambda config, version: ("3", "address"))
    monkeypatch.setattr(quick_check, "load_bundle", lambda address, config: bundle)
    data = {"source": {"path": "x.parquet"}, "task": "regression", "target": "y", "event_time": "t"}
    store = {"root": str(tmp_path)}
    return build_config({"name": "m", "data": data, "store": store, "serving": {"max_rows": 3}}, {})


def test_version_predicts_and_is_named(config: ProjectConfig) -> None:
    answer = quick_check.predict_rows(config, [ROW, {**ROW, "x": 2.5, "t": "2024-01-01"}], "champion")
    assert answer == {"predictions": [2.0, 5.0], "model": "m", "version": "3"}


@pytest.mark.parametrize(
    ("rows", "kind", "said"),
    [
        ([{**ROW, "wind": 1}], RequestError, r"rows\[0\]: unknown column 'wind'"),
        ([ROW, {"x": 1.0}], RequestError, r"rows\[1\]: column 'c' is missing"),
        ([{**ROW, "x": "far"}], RequestError, r"rows: column 'x', row 0: expected a number, got 'far'"),
        ([{**ROW, "t": "noon"}], RequestError, r"rows\[0\]\.t: expected an ISO 8601 time"),
        ([ROW] * 4, PayloadTooLargeError, "4 rows are more than 3"),
        ([{**ROW, "x": 11.0}], RayMLOpsError, "version 3: the prediction is not finite"),
    ],
)
def test_what_the_service_would_refuse_is_refused(
    config: ProjectConfig, rows: Any, kind: type[RayMLOpsError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        quick_check.predict_rows(config, rows, "champion")
