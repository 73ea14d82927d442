"""Training and searching on a real Ray: results, restarts, resources."""

import dataclasses
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pytest
import torch

from ray_mlops.config import ProjectConfig, build_config, with_overrides
from ray_mlops.data.features import FeatureMatrix
from ray_mlops.errors import ResourceError, TrainingError
from ray_mlops.runtime.budget import ResourceBudget
from ray_mlops.training import shards
from ray_mlops.training.loop import FitResult, ShuffledRows, fit_model
from ray_mlops.training.models import ModelSpec
from ray_mlops.training.rows import LabelledRows, PreparedData, to_tensors
from ray_mlops.training.scaling import TargetScaling
from ray_mlops.training.trainer import train_model
from ray_mlops.training.tune import is_torn, search
from ray_mlops.training.watch import TrialRecord

pytestmark = pytest.mark.usefixtures("ray_cluster")

ROWS = 3000
ONE = ResourceBudget(
    num_workers=1,
    cpus_per_worker=0.5,
    use_gpu=False,
    concurrent_trials=1,
    cpus_per_trial=0.5,
    gpus_per_trial=0.0,
    training_cpus=2.0,
    data_cpus=1.0,
    reason="test",
)
TUNE: dict[str, Any] = {
    "tune.num_trials": 4,
    "tune.max_epochs": 3,
    "tune.max_concurrent": 1,
    "tune.space": {
        "learning_rate": {"type": "loguniform", "low": 0.001, "high": 0.1},
        "params.hidden": {"type": "choice", "values": [4, 8]},
    },
}
OWN = "tests.integration.user_model"


@pytest.fixture(scope="module")
def data() -> PreparedData:
    generator = np.random.default_rng(0)
    numeric = generator.normal(size=(ROWS, 3)).astype(np.float32)
    categorical = generator.integers(0, 5, size=(ROWS, 2))
    score = 2 * numeric[:, 0] + (categorical[:, 0] == 2) - 0.5
    target = (score + generator.logistic(size=ROWS) > 0).astype(np.float64)
    rows = LabelledRows(FeatureMatrix(numeric, categorical), target, generator.uniform(0.5, 2.0, ROWS))
    spec = ModelSpec("binary", 3, (5, 5), 1)
    return PreparedData(rows.take(np.arange(2400)), rows.take(np.arange(2400, ROWS)), spec)


def make_config(root: Path, **training: Any) -> ProjectConfig:
    small = {"params": {"hidden": 8, "members": 2}, "epochs": 4, "batch_size": 256, "learning_rate": 0.01}
    section = {"source": {"path": "rows.parquet"}, "task": "binary", "target": "y"}
    content = {"name": "small", "data": section, "store": {"root": str(root)}, "training": {**small, **training}}
    return build_config(content, {"cluster.step_timeout_s": 300, **TUNE})


def run_here(config: ProjectConfig, data: PreparedData) -> FitResult:
    scaling, weight = TargetScaling(), data.train.mean_weight
    train, validation = (to_tensors(rows, scaling, weight) for rows in (data.train, data.validation))
    return fit_model(data.spec, config.training, ShuffledRows(train), validation)


def fit_here(config: ProjectConfig, data: PreparedData) -> dict[str, torch.Tensor]:
    return run_here(config, data).state


def fit_loss_here(config: ProjectConfig, data: PreparedData) -> float:
    return run_here(config, data).best_loss


def assert_same(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(got[name], tensor), name


def test_train_model_with_one_worker_gives_the_loop_s_own_weights_and_reports_every_epoch(
    tmp_path: Path, data: PreparedData
) -> None:
    config = make_config(tmp_path)
    told: list[tuple[int, dict[str, float]]] = []
    result = train_model(config, data, run_name="a", on_epoch=lambda *epoch: told.append(epoch), resources=ONE)
    assert_same(result.state, fit_here(config, data))
    assert [epoch for epoch, _ in told] == [record.epoch for record in result.history] == [1, 2, 3, 4]
    assert [metrics for _, metrics in told] == [record.metrics() for record in result.history]
    again = train_model(config, data, run_name="a", resources=ONE)
    assert again.resumed_epoch == 4
    assert_same(again.state, result.state)


def test_train_model_after_its_worker_died_ends_like_an_undisturbed_run(tmp_path: Path, data: PreparedData) -> None:
    marker = tmp_path / "died"
    steps = {"epochs": 4, "batch_size": 256}
    params = {"marker": str(marker), "steps": 25}
    dying = make_config(tmp_path, model=f"{OWN}:dies_once", params=params, **steps)
    result = train_model(dying, data, run_name="dies", resources=ONE)
    calm = make_config(tmp_path, model=f"{OWN}:wide_and_deep", params={}, **steps)
    assert marker.exists()
    assert_same(result.state, fit_here(calm, data))
    assert 1 <= result.resumed_epoch < 4
    assert len(result.history) == 4


def test_train_model_with_two_workers_shares_gradients(tmp_path: Path, data: PreparedData) -> None:
    config = make_config(tmp_path)
    result = train_model(config, data, run_name="two", resources=dataclasses.replace(ONE, num_workers=2))
    assert result.best_loss == pytest.approx(run_here(config, data).best_loss, abs=0.02)
    assert result.history[-1].validation_loss < result.history[0].validation_loss


def test_train_model_with_a_shard_too_large_for_memory_streams_it(
    tmp_path: Path, data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "BLOCK_ROWS", 1000)
    config = make_config(tmp_path, max_memory_rows=1000, epochs=3)
    elastic = dataclasses.replace(ONE, num_workers=(1, 2))
    result = train_model(config, data, run_name="streamed", resources=elastic)
    assert result.best_loss < 0.95 * result.history[0].train_loss


def test_train_model_whose_model_fails_names_the_cause(tmp_path: Path, data: PreparedData) -> None:
    config = make_config(tmp_path, model=f"{OWN}:always_fails", params={}, max_failures=0)
    with pytest.raises(TrainingError, match="this model cannot train"):
        train_model(config, data, run_name="fails", resources=ONE)


def test_train_model_with_a_wrong_model_is_not_tried_again(tmp_path: Path, data: PreparedData) -> None:
    config = make_config(tmp_path, model=f"{OWN}:wrong_shape", params={})
    with pytest.raises(TrainingError, match=r"user_model:wrong_shape' returned \[2, 2\].*expected \[2, 1\]"):
        train_model(config, data, run_name="shape", resources=ONE)


def test_train_model_on_too_small_a_cluster_says_so_at_once(tmp_path: Path, data: PreparedData) -> None:
    many = dataclasses.replace(ONE, num_workers=64, cpus_per_worker=1.0)
    with pytest.raises(ResourceError, match="64 workers need 64 CPU, the cluster has 4"):
        train_model(make_config(tmp_path), data, run_name="big", resources=many)
    with pytest.raises(ResourceError, match="need 1 GPU"):
        train_model(make_config(tmp_path), data, run_name="gpu", resources=dataclasses.replace(ONE, use_gpu=True))


def test_search_repeats_itself_with_one_trial_at_a_time(tmp_path: Path, data: PreparedData) -> None:
    config = make_config(tmp_path)
    told: list[TrialRecord] = []
    first = search(config, data, run_name="first", on_trial=told.append, resources=ONE)
    again = search(config, data, run_name="again", resources=ONE)
    assert first.trials == again.trials
    assert tuple(told) == first.trials
    assert len(first.trials) == 4
    assert len({trial.loss for trial in first.trials}) == 4
    assert first.trials[0].overrides == {"training.learning_rate": 0.01, "training.params.hidden": 8}
    assert first.best_loss == min(trial.loss for trial in first.trials)
    short = build_config(config.model_dump(mode="json"), {**first.best_overrides, "training.epochs": 3})
    assert fit_loss_here(short, data) == first.best_loss


_BREAKS_OFF = """
import os, pickle, sys, threading
import ray
from ray.tune.execution.experiment_state import _ExperimentCheckpointManager as Manager
from ray_mlops.training import tune

tune._POLL_S = 0.01
writing, write, written = threading.Lock(), Manager.sync_up_experiment_state, threading.Event()

def write_undisturbed(*arguments, **options):
    with writing:
        found = write(*arguments, **{**options, "wait": True})  # a copy goes on in a thread of its own
    written.set()
    return found

Manager.sync_up_experiment_state = write_undisturbed

def die(trial):
    if trial.number == 1:
        written.clear()
        assert written.wait(60)  # what ended is on disk
        writing.acquire()  # what is torn when it dies while it writes is another test's matter
        os._exit(7)

if __name__ == "__main__":
    address, file = sys.argv[1:]
    config, data, budget = pickle.load(open(file, "rb"))
    env_vars = {"PYTHONPATH": os.environ["PYTHONPATH"]}
    ray.init(address=address, namespace="ray_mlops", log_to_driver=False, runtime_env={"env_vars": env_vars})
    tune.search(config, data, run_name="broken", on_trial=die, resources=budget)
"""


def test_search_whose_process_died_is_finished_by_another(tmp_path: Path, data: PreparedData, ray_cluster: str) -> None:
    config = with_overrides(make_config(tmp_path), {"tune.num_trials": 10})
    (tmp_path / "job.pkl").write_bytes(pickle.dumps((config, data, ONE)))
    script = tmp_path / "breaks_off.py"
    script.write_text(_BREAKS_OFF)
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "RAY_AUTH_MODE": "token", "TUNE_GLOBAL_CHECKPOINT_S": "0"}
    command = [sys.executable, str(script), ray_cluster, str(tmp_path / "job.pkl")]
    died = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert died.returncode == 7, died.stderr
    told: list[TrialRecord] = []
    result = search(config, data, run_name="broken", on_trial=told.append, resources=ONE)
    assert len(result.trials) == 10
    assert 1 <= len(told) < 10
    assert result.best_loss == min(trial.loss for trial in result.trials)


def test_search_whose_state_is_torn_begins_anew(tmp_path: Path, data: PreparedData) -> None:
    config = with_overrides(make_config(tmp_path), {"tune.num_trials": 2})
    first = search(config, data, run_name="torn", resources=ONE)
    local, directory = pafs.LocalFileSystem(), tmp_path / "checkpoints" / "torn"
    assert not is_torn(local, str(directory))
    kinds = ("experiment_state-*.json", "search_gen_state-*.json", "searcher-state-*.pkl")
    for number, (state,) in enumerate(list(directory.glob(kind)) for kind in kinds):
        whole = state.read_bytes()
        for part in (b"", whole[:100]):
            state.write_bytes(part)
            assert is_torn(local, str(directory)), f"{state.name}: {len(part)} bytes of kind {number}"
        state.write_bytes(whole)
    assert not is_torn(local, str(directory))
    (state,) = directory.glob(kinds[1])
    state.write_bytes(b"")
    told: list[TrialRecord] = []
    assert search(config, data, run_name="torn", on_trial=told.append, resources=ONE).trials == first.trials
    assert tuple(told) == first.trials


def test_search_whose_listener_fails_stops_and_says_so(tmp_path: Path, data: PreparedData) -> None:
    class ListenerError(Exception):
        pass

    def fail(trial: TrialRecord) -> None:
        raise ListenerError

    with pytest.raises(ListenerError):
        search(make_config(tmp_path), data, run_name="unheard", on_trial=fail, resources=ONE)
    deadline = time.monotonic() + 60
    while any(thread.name == "ray-tune" for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(thread.name == "ray-tune" for thread in threading.enumerate())


def test_search_whose_trials_all_fail_names_the_cause(tmp_path: Path, data: PreparedData) -> None:
    config = make_config(tmp_path, model=f"{OWN}:wrong_shape", params={})
    overrides = {"tune.num_trials": 1, "tune.space": {"learning_rate": TUNE["tune.space"]["learning_rate"]}}
    with pytest.raises(TrainingError, match=r"no trial of 1 ended an epoch.*returned \[2, 2\]"):
        search(build_config(config.model_dump(mode="json"), overrides), data, run_name="wrong", resources=ONE)
