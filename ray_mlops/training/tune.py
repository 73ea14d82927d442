"""The search for hyperparameters: ASHA with Optuna on Ray Tune, over the loop that training runs as well.

Trials are plain functions in reused processes and share the rows in the object store; only the final fit needs a
trainer. With one trial at a time (``max_concurrent: 1``) the same data, configuration and seed give the same trials
and the same best one. With several at once they do not: which trials ASHA stops, and what Optuna suggests next,
depends on which trial reported first.
"""

import json
import logging
import math
import pickletools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import ray
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from ray_mlops.config import ProjectConfig, SpaceConfig, TrainingConfig, TuneConfig, with_overrides
from ray_mlops.errors import DeadlineError, TrainingError
from ray_mlops.runtime.budget import ResourceBudget
from ray_mlops.runtime.cluster import available, plan_for_cluster
from ray_mlops.runtime.files import Files
from ray_mlops.training.loop import EpochRecord, ShuffledRows, Worker, fit_model
from ray_mlops.training.models import ModelSpec
from ray_mlops.training.rows import LabelledRows, PreparedData, to_tensors
from ray_mlops.training.scaling import TargetScaling
from ray_mlops.training.space import current_sample, search_space, to_distribution, to_overrides
from ray_mlops.training.watch import METRIC, WATCHES, StopUnwatched, TellWatch, TrialRecord, Watch

logger = logging.getLogger(__name__)

_TRIAL_RESTARTS = 1
_POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class TuneResult:
    """What a search found."""

    best_overrides: dict[str, Any]
    """For ``config.with_overrides``."""
    best_loss: float
    trials: tuple[TrialRecord, ...]
    seconds: float


OnTrial = Callable[[TrialRecord], None]


@dataclass(frozen=True, slots=True)
class TrialJob:
    """Everything that a trial needs, apart from its sample."""

    config: ProjectConfig
    space: dict[str, SpaceConfig]
    spec: ModelSpec
    scaling: TargetScaling
    mean_weight: float
    train: ray.ObjectRef[Any]
    validation: ray.ObjectRef[Any]
    use_gpu: bool


def search(
    config: ProjectConfig,
    data: PreparedData,
    *,
    run_name: str,
    on_trial: OnTrial | None = None,
    resources: ResourceBudget | None = None,
) -> TuneResult:
    """Search on the Ray cluster that this process has joined.

    The first trial is the configuration as it is, where it lies in the space. Calling again with the same name, after
    a crash, finishes the search that was begun: trials that were done are not run again.

    Args:
        config: The run's configuration; ``tune.num_trials`` must be above 0.
        data: As for ``train_model``; trials see ``tune.sample_ratio`` of the training rows.
        run_name: Names the search's directory, ``checkpoints/{run_name}`` in the store. It holds Ray Tune's pickles:
            only who may write the store may write there.
        on_trial: Called in this process with each trial when it ends.
        resources: What trials may hold; None plans it for the cluster as it is now.

    Raises:
        ConfigError: The space is not one of this model's configuration.
        TrainingError: No trial ended an epoch.
        DeadlineError: No trial reported within ``cluster.step_timeout_s``.
    """
    started = time.monotonic()
    resources = resources or plan_for_cluster(config.training, config.cluster)
    space = search_space(config.tune.space, config.training)
    train = sample_rows(data.train, config.tune)
    scaling = TargetScaling.fit(data.spec.task, train.target)
    rows = ray.put(train), ray.put(data.validation)
    job = TrialJob(config, space, data.spec, scaling, train.mean_weight, *rows, resources.use_gpu)
    watch = WATCHES[run_name] = Watch(space)
    try:
        tuner = _build_tuner(config, job, run_name, resources)
        grid = _fit_watched(tuner, watch, on_trial, config.cluster.step_timeout_s)
    finally:
        del WATCHES[run_name]
    trials = tuple(_record(number, grid[number], space) for number in range(len(grid)))
    best = min(trials, key=lambda trial: trial.loss, default=None)
    if best is None or not math.isfinite(best.loss):
        why = next((trial.error for trial in trials if trial.error), "time was up before the first epoch ended")
        raise TrainingError(f"no trial of {len(trials)} ended an epoch: {why}", "tune")
    seconds = time.monotonic() - started
    logger.info(
        "searched run=%s trials=%d rows=%d best=%s best_loss=%.6f seconds=%.1f",
        run_name, len(trials), len(train), best.overrides, best.loss, seconds,
    )  # fmt: skip
    return TuneResult(best.overrides, best.loss, trials, seconds)


def sample_rows(rows: LabelledRows, config: TuneConfig) -> LabelledRows:
    """A seeded sample of rows, in their order."""
    if config.sample_ratio == 1.0:
        return rows
    count = max(1, round(len(rows) * config.sample_ratio))
    chosen = np.random.default_rng(config.seed).choice(len(rows), count, replace=False)
    return rows.take(np.sort(chosen))


def trial_config(sample: dict[str, Any], job: TrialJob) -> TrainingConfig:
    """The training section that a trial runs."""
    fixed = {"training.epochs": job.config.tune.max_epochs}
    return with_overrides(job.config, {**to_overrides(sample, job.space), **fixed}).training


def run_trial(sample: dict[str, Any], job: TrialJob) -> None:
    """Fit once; called by Ray Tune in a process of its own."""
    device = torch.device("cuda" if job.use_gpu else "cpu")
    train, validation = (
        to_tensors(ray.get(rows), job.scaling, job.mean_weight).to(device) for rows in (job.train, job.validation)
    )
    best = math.inf

    def report(record: EpochRecord, _: Any) -> None:
        nonlocal best
        best = min(best, record.validation_loss)
        tune.report({METRIC: best, "validation_loss": record.validation_loss, "epoch": record.epoch})

    config = trial_config(sample, job)
    fit_model(job.spec, config, ShuffledRows(train), validation, worker=Worker(device=device), on_epoch=report)


def _build_tuner(config: ProjectConfig, job: TrialJob, run_name: str, resources: ResourceBudget) -> tune.Tuner:
    filesystem, root = Files(config.store.root_uri).arrow()
    held = {"cpu": resources.cpus_per_trial, "gpu": resources.gpus_per_trial}
    trainable = tune.with_resources(tune.with_parameters(run_trial, job=job), held)
    path = f"{root}/checkpoints/{run_name}"
    if is_torn(filesystem, path):
        logger.warning("search begins anew run=%s because=its state was being written when its process died", run_name)
        filesystem.delete_dir(path)
    if tune.Tuner.can_restore(path, storage_filesystem=filesystem):
        logger.info("search goes on run=%s", run_name)
        return tune.Tuner.restore(path, trainable, storage_filesystem=filesystem)
    chosen = config.tune
    first = current_sample(job.space, config.training)
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="min",
            num_samples=chosen.num_trials,
            max_concurrent_trials=chosen.max_concurrent or resources.concurrent_trials,
            time_budget_s=chosen.time_budget_s,
            reuse_actors=True,
            search_alg=OptunaSearch(
                {key: to_distribution(values) for key, values in job.space.items()},
                metric=METRIC,
                mode="min",
                points_to_evaluate=None if first is None else [first],
                seed=chosen.seed,
            ),
            scheduler=ASHAScheduler(
                max_t=chosen.max_epochs,
                grace_period=min(chosen.grace_epochs, chosen.max_epochs),
                reduction_factor=chosen.reduction_factor,
            ),
        ),
        run_config=tune.RunConfig(
            name=run_name,
            storage_path=f"{root}/checkpoints",
            storage_filesystem=filesystem,
            failure_config=tune.FailureConfig(max_failures=_TRIAL_RESTARTS),
            callbacks=[TellWatch(run_name)],
            stop=StopUnwatched(run_name),
            verbose=0,
        ),
    )


def is_torn(filesystem: pafs.FileSystem, path: str) -> bool:
    """Whether a search's state cannot be read: Ray Tune does not write it atomically.

    Args:
        filesystem: Where the search's directory is.
        path: The directory; one that is not there is not torn.
    """
    found = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    for prefix, is_whole in _STATES.items():
        states = [file.path for file in found if file.base_name.startswith(prefix)]
        if states:
            with filesystem.open_input_stream(max(states)) as stream:
                if not is_whole(stream.read()):
                    return True
    return False


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True


def _is_pickle(content: bytes) -> bool:
    """Whether a pickle goes on to its end; nothing of it is loaded."""
    try:
        for _ in pickletools.genops(content):
            pass
    except ValueError:
        return False
    return True


_STATES = {
    "experiment_state-": _is_json,
    "search_gen_state-": _is_pickle,
    "searcher-state-": _is_pickle,
    "callback-states-": _is_pickle,
}
"""Files of a search's state by how their names begin; the newest of each counts. Ray Tune goes on without those that it
cannot read, and ends the search too early."""


def _fit_watched(tuner: tune.Tuner, watch: Watch, on_trial: OnTrial | None, timeout_s: float) -> tune.ResultGrid:
    outcome: list[Any] = []

    def fit() -> None:
        try:
            outcome.append(tuner.fit())
        except tune.TuneError as error:
            outcome.append(error)

    thread = threading.Thread(target=fit, name="ray-tune", daemon=True)
    thread.start()
    while thread.is_alive() and time.monotonic() - watch.last_report < timeout_s:
        thread.join(_POLL_S)
        while not watch.records.empty():
            record = watch.records.get()
            if on_trial is not None:
                on_trial(record)
    if thread.is_alive():
        _, free = available()
        problem = f"no trial reported within {timeout_s:g} s; {free.get('CPU', 0.0):g} CPU are free"
        raise DeadlineError(problem, "tune", "raise cluster.step_timeout_s, or lower tune.max_concurrent")
    if not outcome:
        raise TrainingError("Ray Tune ended without a result; see the log above", "tune")
    if isinstance(outcome[0], Exception):
        raise TrainingError(f"the search failed: {outcome[0]}", "tune") from outcome[0]
    grid: tune.ResultGrid = outcome[0]
    return grid


def _record(number: int, result: Any, space: dict[str, SpaceConfig]) -> TrialRecord:
    metrics = result.metrics or {}
    lines = str(result.error).strip().splitlines() if result.error else [""]
    overrides = to_overrides(result.config or {}, space)
    loss = float(metrics.get(METRIC, math.inf))
    return TrialRecord(
        number, overrides, loss if math.isfinite(loss) else math.inf, int(metrics.get("epoch", 0)), lines[-1]
    )
