"""Search, train, and put the bundle together, tracked from beginning to end."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import Tensor

from ray_mlops.config import ProjectConfig, config_hash, with_overrides
from ray_mlops.orchestration.dataset import Dataset, event_times_us
from ray_mlops.orchestration.phases import OnPhase, silent
from ray_mlops.statistics.losses import bounded_loss
from ray_mlops.training.assemble import build_bundle
from ray_mlops.training.bundle import ModelBundle, Prediction
from ray_mlops.training.estimator import fit_estimator
from ray_mlops.training.importance import feature_importance
from ray_mlops.training.recalibration import recalibrate
from ray_mlops.training.result import TrainingResult
from ray_mlops.training.rows import PreparedData, joined
from ray_mlops.training.scaling import TargetScaling
from ray_mlops.training.trainer import OnEpoch, train_model
from ray_mlops.training.tune import TuneResult, search

_IMPORTANCE_ROWS = 2000
VERSION = "0.1.0"
"""The release; a checkout that was not installed has no metadata to ask."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained model, before it is judged."""

    bundle: ModelBundle
    config: ProjectConfig
    """With the values that the search chose."""
    overrides: Mapping[str, Any]
    prediction: Prediction
    """For the holdout rows."""


def run_name(config: ProjectConfig, dataset: Dataset, salt: str = "") -> str:
    """Name a training run by what goes into it: the same run after a crash resumes, another one starts afresh.

    The data section counts: another target, split or set of features on the same rows is another run.
    """
    hashes = [config_hash(section) for section in (config.data, config.training, config.tune)]
    content = json.dumps([*hashes, dataset.snapshot.id, salt])
    return f"{config.name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def search_parameters(config: ProjectConfig, dataset: Dataset, name: str, on_phase: OnPhase = silent) -> TuneResult:
    """Search hyperparameters over the training function."""
    count = config.tune.num_trials

    def show(trial: Any) -> None:
        on_phase("tune", f"trial {trial.number + 1} of {count}, loss {trial.loss:.5f}")

    on_phase("tune", f"{count} trials")
    return search(config, dataset.prepared, run_name=name, on_trial=show)


class Run(Protocol):
    """Where the course of a training is kept; ``TrackedRun`` is one."""

    run_id: str

    def log_metrics(self, metrics: Mapping[str, float | None], step: int = 0) -> None:
        """Record metrics of one step."""


class Train(Protocol):
    """Fits a model; ``train_model`` on the cluster, ``train_here`` in this process."""

    def __call__(
        self,
        config: ProjectConfig,
        data: PreparedData,
        *,
        run_name: str,
        initial_weights: Mapping[str, Tensor] | None = None,
        scaling: TargetScaling | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> TrainingResult:
        """See ``train_model``."""


def fit_bundle(
    config: ProjectConfig,
    dataset: Dataset,
    run: Run,
    *,
    name: str,
    overrides: Mapping[str, Any] | None = None,
    initial: ModelBundle | None = None,
    parent: str | None = None,
    on_phase: OnPhase = silent,
    train: Train = train_model,
) -> Fitted:
    """Train, calibrate, and measure what the monitor will need.

    Args:
        config: The configuration.
        dataset: The rows.
        run: Where epochs are logged.
        name: Of the training run; the same name with the same overrides resumes it.
        overrides: What a search chose.
        initial: Start from this bundle's weights (fine-tuning).
        parent: Version that this one is to follow, for the record.
        on_phase: Progress.
        train: Where the weights are fitted.
    """
    chosen = with_overrides(config, dict(overrides or {}))
    on_phase("train", f"{len(dataset.prepared.train)} rows")

    def show(epoch: int, metrics: dict[str, float]) -> None:
        run.log_metrics(metrics, step=epoch)
        on_phase("train", f"epoch {epoch}, validation loss {metrics.get('validation_loss', float('nan')):.5f}")

    result = train(
        chosen,
        dataset.prepared,
        run_name=f"{name}-{config_hash(chosen.training)[:8]}" if overrides else name,
        initial_weights=None if initial is None else initial.state(),
        scaling=None if initial is None else initial.scaling,
        on_epoch=show,
    )
    bundle = build_bundle(
        chosen,
        features=dataset.features,
        encoder=dataset.encoder,
        result=result,
        validation=dataset.prepared.validation,
        parity_rows=dataset.holdout,
        profile=dataset.profile,
        snapshot=dataset.snapshot.id,
        contract=dataset.contract.to_json(),
        lineage=_lineage(chosen, parent),
        provenance={"run_id": run.run_id},
    )
    prediction = bundle.predict(dataset.holdout)
    return Fitted(_with_reference(bundle, dataset, prediction, chosen), chosen, dict(overrides or {}), prediction)


def recalibrate_bundle(
    config: ProjectConfig,
    dataset: Dataset,
    initial: ModelBundle,
    *,
    overrides: Mapping[str, Any] | None = None,
    parent: str | None = None,
    on_phase: OnPhase = silent,
) -> Fitted:
    """Keep a bundle's weights, fit its calibration on the newer rows, and measure what the monitor will need.

    Args:
        config: The configuration.
        dataset: The rows, with the bundle's own features.
        initial: The bundle.
        overrides: What a search chose for it.
        parent: Version that this one is to follow, for the record.
        on_phase: Progress.

    Raises:
        TrainingError: There are too few rows for it.
    """
    chosen = with_overrides(config, dict(overrides or {}))
    rows = joined(dataset.prepared.train, dataset.prepared.validation)
    on_phase("recalibrate", f"{len(rows)} rows")
    manifest = replace(
        recalibrate(initial, rows),
        snapshot=dataset.snapshot.id,
        contract=dataset.contract.to_json(),
        lineage=_lineage(chosen, parent),
    )
    bundle = replace(initial, manifest=manifest, profile=dataset.profile, provenance={})
    bundle = bundle.with_parity(dataset.holdout.slice(0, chosen.gate.parity.rows))
    prediction = bundle.predict(dataset.holdout)
    return Fitted(_with_reference(bundle, dataset, prediction, chosen), chosen, dict(overrides or {}), prediction)


def code_version() -> str:
    """Which code made a model: the release, and a hash of the source of the package."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return f"{VERSION}+{digest.hexdigest()[:12]}"


def _lineage(config: ProjectConfig, parent: str | None) -> dict[str, Any]:
    return {
        "config_hash": config_hash(config.training),
        "code": code_version(),
        "seed": config.training.seed,
        "parent": parent,
    }


def _with_reference(
    bundle: ModelBundle, dataset: Dataset, prediction: Prediction, config: ProjectConfig
) -> ModelBundle:
    """Fill in what only a trained model knows: importances, and scores and losses of rows it has not seen."""
    losses = bounded_loss(bundle.task, prediction.values, dataset.holdout_target, bundle.loss_scale)
    rows = min(_IMPORTANCE_ROWS, len(dataset.holdout))
    sample = np.sort(np.random.default_rng(config.training.seed).choice(len(dataset.holdout), rows, replace=False))
    importance = feature_importance(bundle, dataset.holdout.take(pa.array(sample)), dataset.holdout_target[sample])
    event_us, monitoring = event_times_us(dataset.holdout, config.data.event_time), config.monitoring
    profile = dataset.profile.with_importance(importance).with_scores(
        score_of(prediction), event_us, losses, monitoring=monitoring
    )
    seen = (dataset.holdout, prediction.values, dataset.holdout_target, event_us)
    estimator = fit_estimator(bundle, *seen, monitoring, unseen=config.serving.log.redact)
    return bundle.with_profile(replace(profile, estimator=estimator))


def score_of(prediction: Prediction) -> npt.NDArray[np.float64]:
    """One number for each row: the probability of the positive or of the most probable class, or the value [n]."""
    return prediction.values.max(axis=1) if prediction.task == "multiclass" else prediction.values
