"""Training, searching, serving and batch prediction on a real GPU: ``make gpu``; skipped where there is none."""

import dataclasses
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch

from ray_mlops.config import ProjectConfig, ServingConfig, StoreConfig, with_overrides
from ray_mlops.data.features import FeatureMatrix
from ray_mlops.ledger import Ledger
from ray_mlops.orchestration.batch import predict_dataset
from ray_mlops.runtime.budget import ResourceBudget, plan_budget
from ray_mlops.runtime.cluster import available
from ray_mlops.runtime.files import Files
from ray_mlops.serving.arm_start import start_arm
from ray_mlops.serving.launch import launch_gateway, shutdown_gateway
from ray_mlops.serving.protocol import NAMESPACE, ROUTES_ACTOR, Arm, Hooks, ModelRoutes
from ray_mlops.serving.routes import commit_routes, start_routes
from ray_mlops.training.bundle import ModelBundle
from ray_mlops.training.models import ModelSpec
from ray_mlops.training.rows import LabelledRows, PreparedData
from ray_mlops.training.trainer import train_model
from ray_mlops.training.tune import search
from tests.gpu.models import only_on_gpu
from tests.integration import gateways
from tests.integration.gateways import MODEL, ROW, Load, record_deployed, save_bundle, wait_until

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
    pytest.mark.usefixtures("ray_with_gpu"),
]

ROWS = 20_000
FACTORY = "tests.gpu.models:only_on_gpu"
PARAMS = {"hidden": 16, "members": 2, "depth": 1}


@pytest.fixture(scope="module")
def data() -> PreparedData:
    generator = np.random.default_rng(0)
    numeric = generator.normal(size=(ROWS, 4)).astype(np.float32)
    categorical = generator.integers(0, 5, size=(ROWS, 2))
    score = 2 * numeric[:, 0] + (categorical[:, 0] == 2) - 0.5
    target = (score + generator.logistic(size=ROWS) > 0).astype(np.float64)
    rows = LabelledRows(FeatureMatrix(numeric, categorical), target, np.ones(ROWS))
    spec = ModelSpec("binary", 4, (5, 5), 1)
    split = ROWS * 4 // 5
    return PreparedData(rows.take(np.arange(split)), rows.take(np.arange(split, ROWS)), spec)


def make_config(root: Path, **sections: Any) -> ProjectConfig:
    store = StoreConfig(root=str(root))
    training = {"params": PARAMS, "epochs": 4, "batch_size": 256, "learning_rate": 0.01, "seed": 3}
    return with_overrides(
        gateways.make_config(store, {}, {}),
        {**{f"training.{key}": value for key, value in training.items()}, **sections},
    )


def planned(config: ProjectConfig) -> ResourceBudget:
    total, _ = available()
    return plan_budget(total["CPU"], total["GPU"], 0.0, config.training, config.cluster)


def test_the_model_of_these_tests_refuses_a_cpu(data: PreparedData) -> None:
    model = only_on_gpu(data.spec, **PARAMS)
    numeric, categorical = torch.zeros(1, 4), torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="expected a GPU"):
        model(numeric, categorical)
    assert model.cuda()(numeric.cuda(), categorical.cuda()).shape == (1, 1)


def test_auto_trains_on_the_gpu_as_well_as_on_the_cpu(tmp_path: Path, data: PreparedData) -> None:
    """NCCL with one worker. The weights come back to the CPU: the driver may have no GPU."""
    config = make_config(tmp_path, **{"training.model": FACTORY})
    budget = planned(config)
    assert budget.use_gpu
    result = train_model(config, data, run_name="gpu", resources=budget)
    assert {tensor.device.type for tensor in result.state.values()} == {"cpu"}
    plain = make_config(tmp_path, **{"training.use_gpu": False})
    on_cpu = train_model(plain, data, run_name="cpu", resources=planned(plain))
    assert result.best_loss == pytest.approx(on_cpu.best_loss, abs=0.01)
    assert result.history[-1].validation_loss < result.history[0].validation_loss


def test_training_on_the_gpu_repeats_itself_and_goes_on(tmp_path: Path, data: PreparedData) -> None:
    config = make_config(tmp_path, **{"training.model": FACTORY})
    first = train_model(config, data, run_name="first", resources=planned(config))
    again = train_model(config, data, run_name="again", resources=planned(config))
    for name, tensor in first.state.items():
        assert torch.equal(again.state[name], tensor), name
    resumed = train_model(config, data, run_name="first", resources=planned(config))
    assert resumed.resumed_epoch == 4


def test_trials_share_the_gpu(tmp_path: Path, data: PreparedData) -> None:
    space = {"learning_rate": {"type": "loguniform", "low": 0.001, "high": 0.1}}
    tune = {"tune.num_trials": 4, "tune.max_epochs": 3, "tune.max_concurrent": 2, "tune.space": space}
    config = make_config(tmp_path, **{"training.model": FACTORY, **tune})
    budget = dataclasses.replace(planned(config), concurrent_trials=2, gpus_per_trial=0.5)
    result = search(config, data, run_name="search", resources=budget)
    assert len(result.trials) == 4
    assert len({trial.loss for trial in result.trials}) == 4


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[tuple[ProjectConfig, Ledger, Files]]:
    config = make_config(
        tmp_path,
        **{
            "serving.placement": "deployment",
            "rollout.candidate.gpus": 0.5,
            "rollout.prepare_timeout_s": 120.0,
            "training.model": FACTORY,
        },
    )
    yield config, Ledger.open(config.store), Files(config.store.root_uri)
    shutdown_gateway()
    ray.kill(ray.get_actor(ROUTES_ACTOR, namespace=NAMESPACE))


def test_two_versions_share_the_gpu_and_one_takes_over(serving: tuple[ProjectConfig, Ledger, Files]) -> None:
    """What the arms predict on the GPU is what the bundle predicts on the CPU; no request fails in between."""
    config, ledger, files = serving
    bundles = [save_bundle(files, config, seed, factory=FACTORY) for seed in (1, 2)]
    plain = [save_bundle(files, config, seed) for seed in (1, 2)]
    arms = [Arm(str(index + 1), ref.uri, ref.hash, "isolated") for index, ref in enumerate(bundles)]
    key = record_deployed(ledger, config)
    routes = commit_routes(ledger, ModelRoutes(MODEL, 0, arms[0], config_hash=key), 0)
    publisher = start_routes(config.store)
    start_arm(MODEL, "1", bundles[0].uri, config, 1.0)
    address = launch_gateway(config.store, ServingConfig(port=0, cpus_per_replica=0.1), Hooks())
    start_arm(MODEL, "2", bundles[1].uri, config, 1.0)
    with Load(address.url) as load:
        wait_until(lambda: load.versions["1"] > 20, "answers of the first")
        commit_routes(ledger, replace(routes, champion=arms[1], previous=arms[0]), routes.version)
        ray.get(publisher.publish.remote(), timeout=10)
        wait_until(lambda: load.versions["2"] > 20, "answers of the second")
    assert load.failures == []
    answer = httpx.post(f"{address.url}/predict", json={"instances": [ROW]}, timeout=60, trust_env=False).json()
    expected = ModelBundle.load(plain[1].uri).predict([ROW]).to_json()
    assert answer["version"] == "2"
    assert answer["predictions"][0]["probability"] == pytest.approx(expected[0]["probability"], abs=1e-5)


def test_batch_prediction_on_shares_of_the_gpu(tmp_path: Path) -> None:
    config = make_config(tmp_path / "store", **{"training.model": FACTORY})
    files = Files(config.store.root_uri)
    on_gpu, on_cpu = save_bundle(files, config, 1, factory=FACTORY), save_bundle(files, config, 1)
    generator = np.random.default_rng(0)
    table = pa.table(
        {"key": np.arange(50_000), "distance": generator.uniform(50, 500, 50_000), "carrier": ["UA", "DL"] * 25_000}
    )
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=10_000)
    source = str(tmp_path / "rows.parquet")
    for name, ref, gpus in (("gpu", on_gpu, 0.5), ("cpu", on_cpu, 0.0)):
        summary = predict_dataset(config, source, str(tmp_path / name), ref.uri, id_column="key", gpus=gpus)
        assert summary.rows == 50_000
    found = [pq.read_table(tmp_path / name).sort_by("key") for name in ("gpu", "cpu")]
    assert found[0]["key"].equals(found[1]["key"])
    probabilities = [table["prediction"].to_numpy() for table in found]
    np.testing.assert_allclose(probabilities[0], probabilities[1], atol=1e-5)
