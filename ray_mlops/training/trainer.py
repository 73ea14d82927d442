"""Training on the cluster: Ray Train runs the loop on one or more workers and restarts it after a failure."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
import ray.train
from ray.exceptions import RayActorError
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer
from torch import Tensor

from ray_mlops.config import ProjectConfig
from ray_mlops.errors import DeadlineError, ResourceError, TrainingError
from ray_mlops.runtime.budget import ResourceBudget
from ray_mlops.runtime.cluster import available, plan_for_cluster
from ray_mlops.runtime.files import Files
from ray_mlops.training.epoch_log import EpochLog
from ray_mlops.training.loop import EpochRecord
from ray_mlops.training.result import TrainingResult
from ray_mlops.training.rows import LabelledRows, PreparedData
from ray_mlops.training.scaling import TargetScaling
from ray_mlops.training.shards import ShardLayout, to_dataset
from ray_mlops.training.weights import weights_from_bytes, weights_to_bytes
from ray_mlops.training.worker import TrainingJob, train_loop

logger = logging.getLogger(__name__)

OnEpoch = Callable[[int, dict[str, float]], None]
CONTROLLER_FAILURES = 2
"""Failed starts of the workers (each waits for a minute) after which a run is given up; Ray's default is never."""
_POLL_S = 0.25


def train_model(
    config: ProjectConfig,
    data: PreparedData,
    *,
    run_name: str,
    initial_weights: Mapping[str, Tensor] | None = None,
    scaling: TargetScaling | None = None,
    on_epoch: OnEpoch | None = None,
    resources: ResourceBudget | None = None,
    time_budget_s: float | None = None,
) -> TrainingResult:
    """Train on the Ray cluster that this process has joined.

    Checkpoints go to ``checkpoints/{run_name}`` in the store. Calling again with the same name goes on from the last
    one, even in another process; a training that is to start afresh needs a fresh name. On a CPU with one worker,
    equal data, configuration and seed give equal weights to the bit, also when a worker died on the way.

    Args:
        config: The run's configuration.
        data: Rows to train on and to stop early by; see ``rows.PreparedData``.
        run_name: Names the run's directory.
        initial_weights: Start from these (fine-tuning), the ``state()`` of a bundle.
        scaling: Of a regression's target; None takes it from the training rows. Fine-tuning needs that of the bundle
            that the weights come from.
        on_epoch: Called in this process with the number of each epoch and its metrics, once for each epoch.
        resources: What training may hold; None plans it for the cluster as it is now.
        time_budget_s: No epoch starts after this long.

    Raises:
        TrainingError: The loss is not finite, the model breaks its contract, or workers failed too often.
        ResourceError: The cluster is too small.
        DeadlineError: It took longer than ``cluster.step_timeout_s``.
    """
    started = time.monotonic()
    resources = resources or plan_for_cluster(config.training, config.cluster)
    _check_cluster(resources)
    scaling = scaling or TargetScaling.fit(data.spec.task, data.train.target)
    layout = ShardLayout(data.spec, scaling, data.train.mean_weight, len(data.train))
    weights = None if initial_weights is None else weights_to_bytes(initial_weights)
    job = TrainingJob(
        config.training,
        layout,
        ray.put(data.validation),
        weights,
        max(1, int(resources.cpus_per_worker)),
        time_budget_s,
    )
    log = EpochLog.remote() if on_epoch is not None else None
    trainer = _build_trainer(config, job, data.train, resources, run_name, log)
    found = _fit_with_deadline(trainer, _Epochs(log, on_epoch), config.cluster.step_timeout_s, resources)
    if "error" in found:
        raise TrainingError(*found["error"])
    result = TrainingResult(
        state=weights_from_bytes(found["weights"]),
        spec=data.spec,
        scaling=scaling,
        history=tuple(EpochRecord(**record) for record in found["history"]),
        best_epoch=found["best_epoch"],
        best_loss=found["best_loss"],
        resumed_epoch=found["resumed_epoch"],
        seconds=time.monotonic() - started,
    )
    logger.info(
        "trained run=%s workers=%s rows=%d epochs=%d best_epoch=%d best_loss=%.6f resumed_epoch=%d seconds=%.1f",
        run_name, resources.num_workers, len(data.train), len(result.history), result.best_epoch, result.best_loss,
        result.resumed_epoch, result.seconds,
    )  # fmt: skip
    return result


class _TellLog(UserCallback):
    """Runs in Ray Train's controller."""

    def __init__(self, log: Any) -> None:
        self._log = log

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        self._log.add.remote(metrics[0])


class _Epochs:
    """Hands each epoch to a listener once, though a restarted run repeats some."""

    def __init__(self, log: Any, listener: OnEpoch | None) -> None:
        self._log, self._listener = log, listener
        self._position, self._last = 0, 0
        self._asked: Any = None

    def poll(self) -> None:
        """Tell what has come since; never waits."""
        if self._log is None:
            return
        self._asked = self._asked or self._log.since.remote(self._position)
        if not ray.wait([self._asked], timeout=0)[0]:
            return
        try:
            records = ray.get(self._asked)
        except RayActorError as error:
            logger.warning("lost the log of epochs, they are told at the end cause=%s", error)
            self._log = None
            return
        self._asked = None
        self._position += len(records)
        for record in records:
            self.tell(int(record.pop("epoch")), record)

    def tell(self, epoch: int, metrics: dict[str, float]) -> None:
        if self._listener is not None and epoch > self._last:
            self._last = epoch
            self._listener(epoch, metrics)


def _build_trainer(
    config: ProjectConfig,
    job: TrainingJob,
    rows: LabelledRows,
    resources: ResourceBudget,
    run_name: str,
    log: Any,
) -> TorchTrainer:
    filesystem, root = Files(config.store.root_uri).arrow()
    return TorchTrainer(
        train_loop,  # type: ignore[arg-type]
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if resources.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=resources.num_workers,  # type: ignore[arg-type]
            use_gpu=resources.use_gpu,
            resources_per_worker=resources.resources_per_worker,
        ),
        run_config=RunConfig(
            name=run_name,
            storage_path=f"{root}/checkpoints",
            storage_filesystem=filesystem,
            failure_config=FailureConfig(
                max_failures=config.training.max_failures,
                controller_failure_limit=CONTROLLER_FAILURES,  # type: ignore[call-arg]
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            callbacks=[] if log is None else [_TellLog(log)],  # type: ignore[list-item]
        ),
        datasets={"train": to_dataset(rows)},
    )


def _fit_with_deadline(
    trainer: TorchTrainer, epochs: _Epochs, timeout_s: float, resources: ResourceBudget
) -> dict[str, Any]:
    """Fit in a thread: on the main one, Ray would take over Ctrl-C for the rest of the process's life."""
    outcome: list[Any] = []

    def fit() -> None:
        try:
            outcome.append(trainer.fit().return_value)  # type: ignore[attr-defined]
        except ray.train.TrainingFailedError as error:
            outcome.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    deadline = time.monotonic() + timeout_s
    while thread.is_alive() and time.monotonic() < deadline:
        thread.join(_POLL_S)
        epochs.poll()
    if thread.is_alive():
        asked = f"{resources.num_workers} workers with {resources.cpus_per_worker:g} CPU each"
        _, free = available()
        left = f"{free.get('CPU', 0.0):g} CPU and {free.get('GPU', 0.0):g} GPU are free"
        problem = f"training did not end within {timeout_s:g} s; it holds or waits for {asked}, {left}"
        raise DeadlineError(problem, "training", "raise cluster.step_timeout_s, or ask for fewer or smaller workers")
    if not outcome:
        raise TrainingError("Ray Train ended without a result; see the log above", "training")
    if isinstance(outcome[0], Exception):
        raise _explain(outcome[0]) from outcome[0]
    found: dict[str, Any] = outcome[0]
    for record in found.get("history", ()):
        epochs.tell(record["epoch"], EpochRecord(**record).metrics())
    return found


def _explain(error: Exception) -> TrainingError:
    failures = getattr(error, "worker_failures", None) or {}
    cause = next(iter(failures.values()), error)
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    workers = f"worker {min(failures)} failed" if failures else "the run could not be started"
    remedy = "see the worker's log above; training.max_failures is the number of restarts allowed"
    return TrainingError(f"{workers}: {lines[-1]}", "training", remedy)


def _check_cluster(resources: ResourceBudget) -> None:
    cluster, _ = available()
    least = resources.num_workers if isinstance(resources.num_workers, int) else resources.num_workers[0]
    for name, each in resources.resources_per_worker.items():
        if cluster.get(name, 0.0) < least * each:
            problem = f"{least} workers need {least * each:g} {name}, the cluster has {cluster.get(name, 0.0):g}"
            raise ResourceError(problem, "training.num_workers", "ask for fewer workers or a smaller share")
