"""From trained weights to a bundle: calibration, the scale of the loss, parity rows."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from ray_mlops.config import ProjectConfig
from ray_mlops.data.columns import numeric_values, one_chunk
from ray_mlops.data.features import FeaturePipeline
from ray_mlops.data.reference import ReferenceProfile
from ray_mlops.data.target import TargetEncoder
from ray_mlops.training.bundle import ModelBundle
from ray_mlops.training.calibration import compute_loss_scale, fit_temperature
from ray_mlops.training.factory import build_model
from ray_mlops.training.manifest import Manifest
from ray_mlops.training.models import ModelSpec
from ray_mlops.training.parity import ParitySet
from ray_mlops.training.result import TrainingResult
from ray_mlops.training.rows import LabelledRows, PreparedData


def model_spec(features: FeaturePipeline, encoder: TargetEncoder) -> ModelSpec:
    """What a model factory needs to know, from fitted features and target."""
    outputs = len(encoder.classes) if encoder.task == "multiclass" else 1
    return ModelSpec(encoder.task, len(features.numeric_names), features.categorical_sizes, outputs)


def prepare_data(
    train: pa.Table, validation: pa.Table, features: FeaturePipeline, encoder: TargetEncoder, weight: str | None = None
) -> PreparedData:
    """Preprocess once, for the search and the training alike.

    Args:
        train: Raw rows, each with a target.
        validation: The same.
        features: The fitted pipeline.
        encoder: The fitted target.
        weight: A column of weights (``data.weight``); a missing weight counts as 0.

    Raises:
        TrainingError: A target is missing, or a weight is negative.
    """
    train_rows, validation_rows = (label_rows(table, features, encoder, weight) for table in (train, validation))
    return PreparedData(train_rows, validation_rows, model_spec(features, encoder))


def label_rows(
    table: pa.Table, features: FeaturePipeline, encoder: TargetEncoder, weight: str | None = None
) -> LabelledRows:
    """Transform and encode a table; see ``prepare_data``."""
    weights = None if weight is None else numeric_values(one_chunk(table[weight]), weight)
    target = encoder.encode(table[encoder.name])
    return LabelledRows(
        features.transform(table), target, None if weights is None else np.where(np.isfinite(weights), weights, 0.0)
    )


def build_bundle(
    config: ProjectConfig,
    *,
    features: FeaturePipeline,
    encoder: TargetEncoder,
    result: TrainingResult,
    validation: LabelledRows,
    parity_rows: pa.Table,
    profile: ReferenceProfile,
    snapshot: str = "",
    contract: Mapping[str, Any] | None = None,
    lineage: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> ModelBundle:
    """Put a bundle together after training.

    Args:
        config: The run's configuration.
        features: The fitted pipeline.
        encoder: The fitted target.
        result: What training gave.
        validation: Rows for the temperature (where ``training.calibrate``) and the scale of the loss.
        parity_rows: Raw rows whose features and predictions are kept; the first ``gate.parity.rows`` of them.
        profile: The reference profile.
        snapshot: Id of the snapshot that was trained on.
        contract: The data contract in force, as JSON.
        lineage: Where the model comes from; must be the same for the same snapshot, configuration, code and seed.
        provenance: What differs from run to run (run id, time, job); not part of the bundle's hash.
    """
    model = build_model(config.training.model, result.spec, config.training.params)
    model.load_state_dict(result.state)
    manifest = Manifest(
        name=config.name,
        task=encoder.task,
        target=encoder.name,
        classes=encoder.classes,
        factory=config.training.model,
        params=config.training.params,
        spec=result.spec,
        target_mean=result.scaling.mean,
        target_scale=result.scaling.scale,
        snapshot=snapshot,
        contract=contract or {},
        lineage=lineage or {},
    )
    empty = ParitySet.empty(features)
    bundle = ModelBundle(manifest, features, model, profile, empty, provenance or {})
    calibrated = replace(bundle, manifest=_calibrate(bundle, validation, config.training.calibrate))
    return calibrated.with_parity(parity_rows.slice(0, config.gate.parity.rows))


def _calibrate(bundle: ModelBundle, validation: LabelledRows, is_wanted: bool) -> Manifest:
    manifest, target = bundle.manifest, validation.target
    if is_wanted:
        outputs = bundle.outputs(validation.features)
        temperature = fit_temperature(manifest.task, outputs, target, validation.weight)
        manifest = replace(manifest, temperature=temperature)
    values = replace(bundle, manifest=manifest).predict_matrix(validation.features).values
    return replace(manifest, loss_scale=compute_loss_scale(manifest.task, values, target))
