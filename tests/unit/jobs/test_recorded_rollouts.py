"""The benchmark that records rollouts: its service is the real one, and its pictures come from the store."""

import asyncio
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs.benchmarks.in_process import LocalService
from jobs.benchmarks.recorded_rollouts import draw_store, main
from ray_mlops.config import ProjectConfig, build_config
from ray_mlops.data.profile import fit_features_and_profile
from ray_mlops.training.bundle import Manifest, ModelBundle
from ray_mlops.training.factory import build_model
from ray_mlops.training.models import ModelSpec

DAY_S, FIRST = 86400.0, 16_000
ROLLOUT = {
    "evaluate": "window",
    "auto_start": False,
    "steps": [0.5],
    "min_requests": 20,
    "bake_requests": 20,
    "shadow": {"min_pairs": 40, "loss_margin": 0.2},
    "guards": {"error_limit": 0.2, "slo_limit": 0.2, "dry_run": ["score_shift", "latency"]},
}


def make_config(root: Path) -> ProjectConfig:
    data = {"source": {"path": "x"}, "task": "regression", "target": "y", "event_time": "at", "id": "id"}
    content = {"name": "m", "store": {"root": str(root)}, "data": data, "monitoring": {"window": "1d"}}
    return build_config({**content, "rollout": ROLLOUT}, {})


def make_bundle(config: ProjectConfig, seed: int) -> ModelBundle:
    x = np.random.default_rng(seed).normal(size=200)
    at = pa.array((np.arange(200) * 1_000_000).astype("datetime64[us]"), pa.timestamp("us", tz="UTC"))
    table = pa.table({"x": x, "y": x, "at": at, "id": [str(i) for i in range(200)]})
    features, profile, _ = fit_features_and_profile(table, config.data, config.monitoring)
    spec = ModelSpec("regression", len(features.numeric_names), features.categorical_sizes, 1)
    torch.manual_seed(seed)
    factory, params = "ray_mlops.training.models:tabular", {"hidden": 8, "members": 2, "depth": 1}
    model = build_model(factory, spec, params)
    manifest = Manifest("m", "regression", "y", (), factory, params, spec, loss_scale=50.0)
    return ModelBundle(manifest, features, model, profile, None).with_parity(table.slice(0, 16))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], int]:
    """A store in which a rollout was recorded; the states day by day, and how many requests failed."""
    root = tmp_path_factory.mktemp("store")
    config = make_config(root)
    bundles = {"1": make_bundle(config, 1), "2": make_bundle(config, 2)}

    async def play() -> tuple[list[str], int]:
        service = LocalService(config, bundles, FIRST * 86_400_000_000 - 1, FIRST * DAY_S)
        await service.open()
        await service.close_window(FIRST - 1)
        await service.reconciler.request("2", "me")
        states, failed = [], 0
        for day in range(FIRST, FIRST + 10):
            at = str(np.datetime64(day, "D")) + "T06:00:00Z"
            for index in range(60):
                row: dict[str, Any] = {"x": float(index % 7), "at": at}
                failed += (await service.predict([row], [f"{day}-{index}"]))[0] != 200
            labels = [{"id": f"{day}-{index}", "label": 0.0, "time": at} for index in range(60)]
            failed += await service.feedback(labels) != 200
            states.append(await service.close_window(day))
        await service.close()
        return states, failed

    return (root, *asyncio.run(play()))


def test_service_in_one_process_carries_a_rollout_to_its_end(store: tuple[Path, list[str], int]) -> None:
    _, states, failed = store
    assert failed == 0
    assert list(dict.fromkeys(states)) == ["canary[0]", "baking", "promoted"], "60 pairs a day are enough here"


def test_recorded_rollouts_of_a_store_are_drawn(
    store: tuple[Path, list[str], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = draw_store(str(store[0]), "m", tmp_path)
    picture = path.read_text(encoding="utf-8")
    ElementTree.fromstring(picture)
    for text in ("Rollout m-v2", "ended as promoted: all evidence is in", "Loss: good enough?", ">promoted</text>"):
        assert text in picture
    main(["--store", str(store[0]), "--model", "m", "--out", str(tmp_path / "again")])
    assert "m-v2.svg" in capsys.readouterr().out
    assert (tmp_path / "again" / "m-v2.svg").read_text(encoding="utf-8") == picture
