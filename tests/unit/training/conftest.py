"""Small data, a pipeline fitted to it, and a bundle."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_mlops.config import ProjectConfig, build_config
from ray_mlops.data.features import FeaturePipeline
from ray_mlops.data.profile import ReferenceProfile, fit_features_and_profile
from ray_mlops.data.target import TargetEncoder
from ray_mlops.training.assemble import build_bundle, prepare_data
from ray_mlops.training.bundle import ModelBundle
from ray_mlops.training.loop import ShuffledRows, fit_model
from ray_mlops.training.result import TrainingResult
from ray_mlops.training.rows import PreparedData, to_tensors
from ray_mlops.training.scaling import TargetScaling

ROWS = 600


@dataclass(frozen=True)
class Problem:
    """One small dataset with everything fitted."""

    config: ProjectConfig
    table: pa.Table
    features: FeaturePipeline
    encoder: TargetEncoder
    data: PreparedData
    profile: ReferenceProfile


@pytest.fixture(scope="session")
def make_problem() -> Callable[..., Problem]:
    """Makes a problem whose target depends on the number ``x`` and on the category ``city``, not on ``noise``."""

    def make(task: str = "binary", seed: int = 0, **overrides: Any) -> Problem:
        generator = np.random.default_rng(seed)
        x, noise = generator.normal(size=ROWS), generator.normal(size=ROWS)
        city = generator.choice(["a", "b", "c"], ROWS)
        score = 2 * x + 1.5 * (city == "a") - 0.5
        labels = {
            "binary": np.where(score + generator.logistic(size=ROWS) > 0, "yes", "no"),
            "multiclass": np.array(["low", "mid", "top"])[np.digitize(score + generator.normal(size=ROWS), [-1, 1])],
            "regression": 1000 + 50 * score + generator.normal(size=ROWS),
        }[task]
        numbers = pa.array(x, mask=generator.random(ROWS) < 0.05)
        table = pa.table({"x": numbers, "noise": noise, "city": city, "y": labels})
        section = {"source": {"path": "rows.parquet"}, "task": task, "target": "y"}
        small = {"training.params": {"hidden": 8, "members": 2}, "training.batch_size": 128, "training.epochs": 6}
        fast = {"training.learning_rate": 0.02}
        config = build_config({"name": "small", "data": section}, {**small, **fast, **overrides})
        features, profile, _ = fit_features_and_profile(table, config.data, config.monitoring)
        encoder = TargetEncoder.fit(table, config.data)
        cut = int(ROWS * 0.7)
        data = prepare_data(table.slice(0, cut), table.slice(cut), features, encoder)
        return Problem(config, table, features, encoder, data, profile)

    return make


@pytest.fixture(scope="session")
def fit() -> Callable[[Problem], TrainingResult]:
    """Fits a problem in this process."""

    def fit_here(problem: Problem) -> TrainingResult:
        data, spec = problem.data, problem.data.spec
        scaling = TargetScaling.fit(spec.task, data.train.target)
        train, validation = (to_tensors(rows, scaling, 1.0) for rows in (data.train, data.validation))
        found = fit_model(spec, problem.config.training, ShuffledRows(train), validation)
        return TrainingResult(found.state, spec, scaling, found.history, found.best_epoch, found.best_loss)

    return fit_here


@pytest.fixture(scope="session")
def make_bundle(fit: Callable[[Problem], TrainingResult]) -> Callable[..., ModelBundle]:
    """Trains a problem and makes its bundle."""

    def make(problem: Problem, **details: Any) -> ModelBundle:
        return build_bundle(
            problem.config,
            features=problem.features,
            encoder=problem.encoder,
            result=fit(problem),
            validation=problem.data.validation,
            parity_rows=problem.table.slice(0, 100),
            **{"profile": problem.profile, "snapshot": "5" * 16, **details},
        )

    return make


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)
