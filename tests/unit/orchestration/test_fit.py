"""Names of training runs: Ray Train resumes a run of the same name, so another run must have another name."""

from types import SimpleNamespace
from typing import Any

import pytest

from ray_mlops.config import build_config
from ray_mlops.orchestration.fit import run_name

DATA = {"source": {"path": "a.csv"}, "task": "binary", "target": "y"}
DATASET: Any = SimpleNamespace(snapshot=SimpleNamespace(id="s1"))


def test_run_name_is_the_same_for_the_same_run() -> None:
    names = {run_name(build_config({"name": "m", "data": DATA}, {}), DATASET) for _ in range(2)}
    assert len(names) == 1


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.target", "z"),
        ("data.features", [{"name": "x"}]),
        ("data.split.seed", 1),
        ("training.epochs", 3),
        ("tune.num_trials", 2),
    ],
)
def test_run_name_tells_runs_on_the_same_rows_apart(path: str, value: Any) -> None:
    config = {"name": "m", "data": DATA}
    assert run_name(build_config(config, {}), DATASET) != run_name(build_config(config, {path: value}), DATASET)
