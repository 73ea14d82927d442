"""Small real bundles of the benchmark's model, made without training: speed does not depend on the weights."""

import numpy as np
import pyarrow as pa
import torch

from ray_mlops.config import ProjectConfig
from ray_mlops.data.profile import fit_features_and_profile
from ray_mlops.ledger import Ledger
from ray_mlops.orchestration.deploy import Deployment, deploy
from ray_mlops.registry import MlflowRegistry
from ray_mlops.runtime.files import Files
from ray_mlops.training.bundle import Manifest, ModelBundle
from ray_mlops.training.factory import build_model
from ray_mlops.training.models import ModelSpec

PARITY_ROWS = 64


def draw_rows(features: tuple[str, ...], target: str, num_rows: int = 512) -> pa.Table:
    """Rows of independent standard normal numbers."""
    generator = np.random.default_rng(0)
    columns = {name: pa.array(generator.normal(size=num_rows)) for name in (*features, target)}
    return pa.table(columns)


def build_bundle(config: ProjectConfig, features: tuple[str, ...], seed: int) -> ModelBundle:
    """A bundle with random weights of the model that the configuration names."""
    table = draw_rows(features, config.data.target)
    fitted, profile, _ = fit_features_and_profile(table, config.data, config.monitoring)
    spec = ModelSpec("regression", len(fitted.numeric_names), fitted.categorical_sizes, 1)
    torch.manual_seed(seed)
    factory, params = config.training.model, dict(config.training.params)
    model = build_model(factory, spec, params)
    manifest = Manifest(config.name, "regression", config.data.target, (), factory, params, spec, loss_scale=1.0)
    bundle = ModelBundle(manifest, fitted, model, profile, None)  # type: ignore[arg-type]
    return bundle.with_parity(table.slice(0, PARITY_ROWS))


def deploy_versions(config: ProjectConfig, features: tuple[str, ...], count: int) -> Deployment:
    """Register versions with different weights, all with a passed gate, and put the first behind HTTP.

    Ray must be connected.
    """
    files, ledger = Files(config.store.root_uri), Ledger.open(config.store)
    registry = MlflowRegistry(config.store.tracking_uri)
    for seed in range(count):
        ref = build_bundle(config, features, seed).save(files)
        made = registry.create_version(config.name, ref.uri, run_id=None, tags={"gate": "passed"}, key=ref.hash)
        payload = {
            "version": made.version,
            "bundle": ref.uri,
            "bundle_hash": ref.hash,
            "gate": {"passed": True, "reason": "made for a benchmark"},
            "metrics": {},
            "data_end_us": 0,
        }
        ledger.append(f"{config.name}/versions", "version.registered", f"{config.name}/versions/{ref.hash}", payload)
    return deploy(config, "1")
