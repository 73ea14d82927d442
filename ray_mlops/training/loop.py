"""The one epoch loop: a worker of a trainer runs it, and so does each trial of a search."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ray_mlops.config import TrainingConfig
from ray_mlops.errors import TrainingError
from ray_mlops.training.checkpoint import STATE_VERSION, State
from ray_mlops.training.factory import build_model
from ray_mlops.training.models import ModelSpec
from ray_mlops.training.objective import Objective, row_losses
from ray_mlops.training.rows import TensorData
from ray_mlops.training.threads import cpu_threads, deterministic
from ray_mlops.training.weights import find_mismatch

EVALUATION_ROWS = 16_384
"""Rows at once when the validation loss is computed."""


class Batches(Protocol):
    """Training rows of one worker, cut into batches."""

    def epoch(self, batch_rows: int, generator: torch.Generator) -> Iterator[TensorData]:
        """Give every row once, in an order drawn from the generator, in batches of about this many rows."""


@dataclass(frozen=True, slots=True)
class ShuffledRows:
    """Rows in memory. An epoch is cut into batches of almost equal size: no small one is left over at the end.

    Example:
        >>> rows = TensorData(torch.zeros(5, 1), torch.zeros(5, 0), torch.arange(5), torch.ones(5))
        >>> [len(batch) for batch in ShuffledRows(rows).epoch(2, torch.Generator())]
        [3, 2]
    """

    rows: TensorData

    def epoch(self, batch_rows: int, generator: torch.Generator) -> Iterator[TensorData]:
        order = torch.randperm(len(self.rows), generator=generator).to(self.rows.target.device)
        for chosen in order.tensor_split(max(1, round(len(order) / batch_rows))):
            yield self.rows.take(chosen)


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """How one epoch went."""

    epoch: int
    """Starts at 1; 0 is the state that a fine-tuning starts from."""
    train_loss: float
    """Mean training loss over the epoch, while weights change; NaN for epoch 0."""
    validation_loss: float
    """Weighted mean of the task's loss after the epoch: log-loss, or squared error of the standardised target."""
    seconds: float

    def metrics(self) -> dict[str, float]:
        """For an experiment tracker."""
        measured = {"train_loss": self.train_loss, "validation_loss": self.validation_loss, "seconds": self.seconds}
        return {name: value for name, value in measured.items() if math.isfinite(value)}


@dataclass(frozen=True, slots=True)
class FitResult:
    """The best epoch's weights, and how training went."""

    state: dict[str, Tensor]
    history: tuple[EpochRecord, ...]
    best_epoch: int
    best_loss: float


@dataclass(frozen=True, slots=True)
class Worker:
    """Where the loop runs, and with whom."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    num_workers: int = 1
    threads: int = 1
    """Torch threads on a CPU."""
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module
    """Makes the objective data-parallel."""
    reduce: Callable[[Tensor], Tensor] = lambda sums: sums
    """Adds a tensor up over all workers."""


@dataclass(slots=True)
class _Progress:
    """What changes from epoch to epoch, apart from model and optimiser."""

    best: dict[str, Tensor]
    best_epoch: int = 0
    best_loss: float = math.inf
    history: list[EpochRecord] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        return self.history[-1].epoch if self.history else 0

    def book(self, record: EpochRecord, model: nn.Module) -> None:
        self.history.append(record)
        if record.validation_loss < self.best_loss:
            self.best_epoch, self.best_loss = record.epoch, record.validation_loss
            self.best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def fit_model(
    spec: ModelSpec,
    config: TrainingConfig,
    train: Batches,
    validation: TensorData,
    *,
    worker: Worker | None = None,
    initial_weights: Mapping[str, Tensor] | None = None,
    resume: State | None = None,
    on_epoch: Callable[[EpochRecord, Callable[[], State]], None] | None = None,
    time_budget_s: float | None = None,
) -> FitResult:
    """Fit a model until the epochs are over, the validation loss stops getting better, or time is up.

    On a CPU with one worker, equal arguments give equal weights to the bit, also after a resume: every epoch seeds
    its own shuffle and torch's generators from (seed, epoch, rank), so there is no random state to carry along.

    Args:
        spec: Inputs and outputs of the model.
        config: Which model, and how it is fitted.
        train: This worker's training rows, on its device.
        validation: All validation rows, on its device; each worker looks at its share.
        worker: Where the loop runs; None means alone, on one CPU thread.
        initial_weights: Start from these (fine-tuning); they are also the first candidate for the best epoch.
        resume: A state that ``on_epoch`` was given in an earlier run.
        on_epoch: Called after each epoch, on every worker, with its record and a function that makes the state.
        time_budget_s: No new epoch starts after this long.

    Raises:
        TrainingError: The loss is not finite, or the model breaks its contract.
    """
    worker = worker or Worker()
    if not len(validation):
        raise TrainingError("there are no validation rows", "data.split.validation", "give it more rows")
    with cpu_threads(worker.threads), deterministic(config.seed):
        started = time.monotonic()
        model = build_model(config.model, spec, config.params).to(worker.device)
        _load(model, initial_weights)
        optimizer = _build_optimizer(model, config, worker.device)
        progress = _restore(resume, model, optimizer) if resume else _Progress({}, 0)
        objective = worker.wrap(Objective(model, spec.task))
        share = validation.take(torch.arange(worker.rank, len(validation), worker.num_workers, device=worker.device))
        if initial_weights is not None and not progress.history:
            nothing = torch.full((2,), math.nan, dtype=torch.float64)
            progress.book(_measure(0, model, spec, share, nothing, worker, 0.0, False)[0], model)
        is_over = False
        while not is_over and progress.epoch < config.epochs and not _is_stale(progress, config):
            epoch, began = progress.epoch + 1, time.monotonic()
            sums = _train_epoch(objective, optimizer, train, config, worker, epoch)
            is_late = time_budget_s is not None and time.monotonic() - started > time_budget_s
            record, is_over = _measure(epoch, model, spec, share, sums, worker, began, is_late)
            _check_finite(record)
            progress.book(record, model)
            if on_epoch is not None:
                on_epoch(record, lambda: _state(progress, model, optimizer))
        return FitResult(_to_cpu(progress.best), tuple(progress.history), progress.best_epoch, progress.best_loss)


def _train_epoch(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    train: Batches,
    config: TrainingConfig,
    worker: Worker,
    epoch: int,
) -> Tensor:
    """One pass over the rows; returns the sum of batch losses times rows, and the rows."""
    seed = int(np.random.SeedSequence([config.seed & 0xFFFFFFFF, epoch, worker.rank]).generate_state(1, np.uint64)[0])
    torch.manual_seed(seed >> 1)
    generator = torch.Generator().manual_seed(seed >> 1)
    objective.train()
    sums = torch.zeros(2, dtype=torch.float64, device=worker.device)
    for batch in train.epoch(max(1, config.batch_size // worker.num_workers), generator):
        loss = objective(batch.numeric, batch.categorical, batch.target, batch.weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        # Summed on the device: reading each batch's loss would make a GPU wait for it.
        sums += torch.stack([loss.detach().double() * len(batch), torch.full_like(loss, len(batch), dtype=sums.dtype)])
    return sums


def _measure(
    epoch: int,
    model: nn.Module,
    spec: ModelSpec,
    share: TensorData,
    train_sums: Tensor,
    worker: Worker,
    began: float,
    is_late: bool,
) -> tuple[EpochRecord, bool]:
    """Compute the losses over all workers, and whether any of them is out of time: the same answer for all."""
    model.eval()
    losses = torch.zeros(3, dtype=torch.float64, device=worker.device)
    with torch.no_grad():
        for start in range(0, len(share), EVALUATION_ROWS):
            part = share.take(torch.arange(start, min(start + EVALUATION_ROWS, len(share)), device=worker.device))
            found = row_losses(spec.task, model(part.numeric, part.categorical), part.target).double()
            losses[0] += (found * part.weight).sum()
            losses[1] += part.weight.double().sum()
    losses[2] = float(is_late)
    total = worker.reduce(torch.cat([train_sums.to(worker.device), losses])).tolist()
    seconds = time.monotonic() - began if began else 0.0
    validation_loss = total[2] / total[3] if total[3] else math.nan
    return EpochRecord(epoch, total[0] / total[1] if total[1] else math.nan, validation_loss, seconds), total[4] > 0


def _check_finite(record: EpochRecord) -> None:
    if math.isfinite(record.train_loss) and math.isfinite(record.validation_loss):
        return
    problem = (
        f"the loss is not finite in epoch {record.epoch} "
        f"(training {record.train_loss}, validation {record.validation_loss})"
    )
    remedy = "lower training.learning_rate, or look for extreme values in features and target"
    raise TrainingError(problem, "training", remedy)


def _is_stale(progress: _Progress, config: TrainingConfig) -> bool:
    return progress.epoch - progress.best_epoch >= config.patience


def _build_optimizer(model: nn.Module, config: TrainingConfig, device: torch.device) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise TrainingError(f"the model of {config.model!r} has no parameters to train", "training.model")
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = device.type in ("cpu", "cuda")
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=config.learning_rate, fused=fused)


def _load(model: nn.Module, weights: Mapping[str, Tensor] | None) -> None:
    if weights is None:
        return
    if mismatch := find_mismatch(model, weights):
        remedy = "fine-tuning needs the same features and training.params as the model that it starts from"
        raise TrainingError(f"the initial weights do not fit the model: {mismatch}", "training", remedy)
    model.load_state_dict(dict(weights))


def _state(progress: _Progress, model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    return {
        "schema_version": STATE_VERSION,
        "model": _to_cpu(model.state_dict()),
        "optimizer": optimizer.state_dict(),
        "best": _to_cpu(progress.best),
        "best_epoch": progress.best_epoch,
        "best_loss": progress.best_loss,
        "history": [asdict(record) for record in progress.history],
    }


def _restore(state: State, model: nn.Module, optimizer: torch.optim.Optimizer) -> _Progress:
    _load(model, state["model"])
    optimizer.load_state_dict(state["optimizer"])
    history = [EpochRecord(**record) for record in state["history"]]
    return _Progress(dict(state["best"]), state["best_epoch"], state["best_loss"], history)


def _to_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in state.items()}
