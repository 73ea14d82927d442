"""What each worker of a training run does: open its shard, fit, report, checkpoint."""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint
from ray.train.torch import get_device, prepare_model
from torch import Tensor, nn

from ray_mlops.config import TrainingConfig
from ray_mlops.errors import TrainingError
from ray_mlops.training.checkpoint import State, state_from_bytes, state_to_bytes
from ray_mlops.training.loop import EpochRecord, Worker, fit_model
from ray_mlops.training.rows import LabelledRows, to_tensors
from ray_mlops.training.shards import ShardLayout, open_shard
from ray_mlops.training.weights import weights_from_bytes, weights_to_bytes

_CHECKPOINT_FILE = "state.pt"


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """Everything that a worker needs, apart from its shard."""

    config: TrainingConfig
    layout: ShardLayout
    validation: ray.ObjectRef[Any]
    """``LabelledRows`` in the object store."""
    initial_weights: bytes | None
    """As ``weights_to_bytes`` writes them."""
    threads: int
    time_budget_s: float | None


def train_loop(settings: dict[str, Any]) -> dict[str, Any] | None:
    """Run on each worker by Ray Train; the worker of rank 0 returns the result."""
    job: TrainingJob = settings["job"]
    context = ray.train.get_context()
    worker = Worker(
        device=get_device(),
        rank=context.get_world_rank(),
        num_workers=context.get_world_size(),
        threads=job.threads,
        wrap=_wrap,
        reduce=_add_up,
    )
    resume = _load_state(ray.train.get_checkpoint())
    layout = job.layout
    shard = ray.train.get_dataset_shard("train")
    train = open_shard(shard, layout, worker.num_workers, job.config.max_memory_rows, worker.device)
    validation: LabelledRows = ray.get(job.validation)
    try:
        found = fit_model(
            layout.spec,
            job.config,
            train,
            to_tensors(validation, layout.scaling, layout.mean_weight).to(worker.device),
            worker=worker,
            initial_weights=None if job.initial_weights is None else weights_from_bytes(job.initial_weights),
            resume=resume,
            on_epoch=lambda record, make_state: _report(record, make_state, job.config, worker.rank),
            time_budget_s=job.time_budget_s,
        )
    except TrainingError as error:
        # Every worker gets here alike, and trying again would end alike: it is a result, not a failure.
        return {"error": (error.problem, error.where, error.remedy)} if worker.rank == 0 else None
    if worker.rank != 0:
        return None
    return {
        "weights": weights_to_bytes(found.state),
        "history": [asdict(record) for record in found.history],
        "best_epoch": found.best_epoch,
        "best_loss": found.best_loss,
        "resumed_epoch": resume["history"][-1]["epoch"] if resume else 0,
    }


def _wrap(objective: nn.Module) -> nn.Module:
    wrapped: nn.Module = prepare_model(objective)
    return wrapped


def _add_up(sums: Tensor) -> Tensor:
    if ray.train.get_context().get_world_size() > 1:
        torch.distributed.all_reduce(sums)
    return sums


def _load_state(checkpoint: Checkpoint | None) -> State | None:
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as directory:
        return state_from_bytes((Path(directory) / _CHECKPOINT_FILE).read_bytes())


def _report(record: EpochRecord, make_state: Callable[[], State], config: TrainingConfig, rank: int) -> None:
    metrics = {"epoch": record.epoch, **record.metrics()}
    is_due = record.epoch % config.checkpoint_epochs == 0 or record.epoch == config.epochs
    if rank != 0 or not is_due:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / _CHECKPOINT_FILE).write_bytes(state_to_bytes(make_state()))
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(directory))
