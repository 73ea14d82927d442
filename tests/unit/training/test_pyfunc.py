"""Stock MLflow loads and runs a bundle."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest

from ray_mlops.errors import BundleError
from ray_mlops.runtime.files import Files
from ray_mlops.training.bundle import ModelBundle
from ray_mlops.training.pyfunc import TRUSTED_VARIABLE


@pytest.mark.parametrize(
    ("task", "columns"),
    [
        ("binary", ["prediction", "probability"]),
        ("multiclass", ["prediction", "probability.low", "probability.mid", "probability.top"]),
        ("regression", ["prediction"]),
    ],
)
def test_mlflow_loads_a_bundle_and_predicts_a_frame(
    task: str,
    columns: list[str],
    make_problem: Callable[..., Any],
    make_bundle: Callable[..., ModelBundle],
    tmp_path: Path,
) -> None:
    problem = make_problem(task)
    bundle = make_bundle(problem)
    model = mlflow.pyfunc.load_model(bundle.save(Files(str(tmp_path))).uri)
    frame = problem.table.select(["x", "noise", "city"]).slice(0, 20).to_pandas()
    result = model.predict(frame)
    expected = bundle.predict(problem.table.slice(0, 20))
    assert list(result.columns) == columns
    assert result["prediction"].tolist() == expected.labels()
    if task == "binary":
        np.testing.assert_array_equal(result["probability"], expected.values)
    assert [column["name"] for column in model.metadata.get_input_schema().to_dict()] == ["x", "noise", "city"]
    assert [column["name"] for column in model.metadata.get_output_schema().to_dict()] == columns


def test_mlflow_takes_missing_values_and_whole_numbers(
    make_problem: Callable[..., Any], make_bundle: Callable[..., ModelBundle], tmp_path: Path
) -> None:
    model = mlflow.pyfunc.load_model(make_bundle(make_problem()).save(Files(str(tmp_path))).uri)
    frame = pd.DataFrame({"x": [None, 1.0], "noise": np.array([1, 2]), "city": [None, "elsewhere"]})
    assert model.predict(frame)["probability"].between(0, 1).all()


def test_mlflow_s_loader_trusts_a_user_s_module_only_by_the_environment(
    make_problem: Callable[..., Any],
    make_bundle: Callable[..., ModelBundle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = Path(__file__).parents[2] / "integration" / "user_model.py"
    (tmp_path / "their_models.py").write_text(source.read_text())
    monkeypatch.syspath_prepend(str(tmp_path))
    problem = make_problem(**{"training.model": "their_models:wide_and_deep", "training.params": {"width": 4}})
    uri = make_bundle(problem).save(Files(str(tmp_path))).uri
    with pytest.raises(BundleError, match="their_models"):
        mlflow.pyfunc.load_model(uri)
    monkeypatch.setenv(TRUSTED_VARIABLE, "other, their_models")
    frame = problem.table.select(["x", "noise", "city"]).slice(0, 3).to_pandas()
    assert len(mlflow.pyfunc.load_model(uri).predict(frame)) == 3
