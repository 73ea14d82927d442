"""Training in this process, without a cluster: what one worker on one CPU thread does."""

import time
from collections.abc import Mapping

from torch import Tensor

from ray_mlops.config import ProjectConfig
from ray_mlops.training.loop import ShuffledRows, fit_model
from ray_mlops.training.result import TrainingResult
from ray_mlops.training.rows import PreparedData, to_tensors
from ray_mlops.training.scaling import TargetScaling
from ray_mlops.training.trainer import OnEpoch


def train_here(
    config: ProjectConfig,
    data: PreparedData,
    *,
    run_name: str = "",
    initial_weights: Mapping[str, Tensor] | None = None,
    scaling: TargetScaling | None = None,
    on_epoch: OnEpoch | None = None,
) -> TrainingResult:
    """Fit a model as ``trainer.train_model`` does with one worker, to the bit, but without its checkpoints.

    Args:
        config: The run's configuration.
        data: Rows to train on and to stop early by.
        run_name: Not used: nothing is kept that could be resumed.
        initial_weights: Start from these.
        scaling: Of a regression's target; None takes it from the training rows.
        on_epoch: Called with the number of each epoch and its metrics.

    Raises:
        TrainingError: The loss is not finite, or the model breaks its contract.
    """
    started = time.monotonic()
    scaling = scaling or TargetScaling.fit(data.spec.task, data.train.target)
    mean_weight = data.train.mean_weight
    train, validation = (to_tensors(rows, scaling, mean_weight) for rows in (data.train, data.validation))
    found = fit_model(
        data.spec,
        config.training,
        ShuffledRows(train),
        validation,
        initial_weights=initial_weights,
        on_epoch=None if on_epoch is None else lambda record, _: on_epoch(record.epoch, record.metrics()),
    )
    seconds = time.monotonic() - started
    return TrainingResult(
        found.state, data.spec, scaling, found.history, found.best_epoch, found.best_loss, seconds=seconds
    )
