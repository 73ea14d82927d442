"""Flights bundles without Ray: a champion, a candidate that has seen more, and one trained on flipped labels."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from ray_mlops.config import ProjectConfig, load_config
from ray_mlops.config.demo import SabotageConfig
from ray_mlops.data.profile import fit_features_and_profile
from ray_mlops.data.target import TargetEncoder
from ray_mlops.demo.flights import departures
from ray_mlops.demo.sabotage import flip_labels
from ray_mlops.training.assemble import build_bundle, prepare_data
from ray_mlops.training.bundle import ModelBundle
from ray_mlops.training.loop import ShuffledRows, fit_model
from ray_mlops.training.result import TrainingResult
from ray_mlops.training.rows import to_tensors
from ray_mlops.training.scaling import TargetScaling

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "flights.yaml"
START, CHAMPION_END, CANDIDATE_END = "2013-01-01", "2013-02-28", "2013-05-31"
VALIDATION = 0.15


def flights_config(root: Path, epochs: int, **rollout: object) -> ProjectConfig:
    """The demo's configuration on a store of its own; rollouts are started by hand."""
    overrides = {f"rollout.{name}": value for name, value in {"auto_start": False, **rollout}.items()}
    return load_config(str(CONFIG), {"store.root": str(root), "training.epochs": epochs, **overrides})


def fit_flights(config: ProjectConfig, table: pa.Table) -> ModelBundle:
    """Fit a bundle on rows in order of event time; the newest are for early stopping and calibration."""
    cut = round(len(table) * (1.0 - VALIDATION))
    features, profile, _ = fit_features_and_profile(table, config.data, config.monitoring)
    encoder = TargetEncoder.fit(table, config.data)
    prepared = prepare_data(table.slice(0, cut), table.slice(cut), features, encoder)
    scaling = TargetScaling.fit(encoder.task, prepared.train.target)
    train, validation = (to_tensors(rows, scaling, 1.0) for rows in (prepared.train, prepared.validation))
    fitted = fit_model(prepared.spec, config.training, ShuffledRows(train), validation)
    state = (fitted.state, prepared.spec, scaling, fitted.history, fitted.best_epoch, fitted.best_loss)
    return build_bundle(
        config,
        features=features,
        encoder=encoder,
        result=TrainingResult(*state),
        validation=prepared.validation,
        parity_rows=table.slice(cut),
        profile=profile,
    )


def fit_versions(config: ProjectConfig, rows_per_day: int) -> Mapping[str, ModelBundle]:
    """Fit ``champion`` (to the end of February), ``good`` (to the end of May), ``bad`` (the same, UA flipped)."""
    old = departures(START, CHAMPION_END, rows_per_day)
    new = departures(START, CANDIDATE_END, rows_per_day)
    assert config.demo is not None
    sabotage = config.demo.sabotage or SabotageConfig.model_validate({})
    flipped = flip_labels(new, config.data, sabotage, np.zeros(len(new), dtype=np.bool_))
    return {"champion": fit_flights(config, old), "good": fit_flights(config, new), "bad": fit_flights(config, flipped)}
