"""How a model is fitted and searched for."""

from typing import Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from ray_mlops.config.section import DottedPath, Section


class TrainingConfig(Section):
    """One training run."""

    model: DottedPath = "ray_mlops.training.models:tabular"
    """A factory ``(spec: ModelSpec, **params) -> torch.nn.Module``; see ``ray_mlops.training.models``."""
    params: dict[str, Any] = {}
    """Keyword arguments of the factory."""
    epochs: PositiveInt = 20
    batch_size: PositiveInt = 1024
    """Rows per optimiser step over all workers."""
    learning_rate: PositiveFloat = 2e-3
    weight_decay: NonNegativeFloat = 1e-4
    patience: PositiveInt = 3
    """Stop after this many epochs without a better validation loss; the best epoch's weights are kept."""
    seed: int = 0
    num_workers: PositiveInt | tuple[PositiveInt, PositiveInt] = 1
    """Workers, or ``[min, max]`` for elastic training."""
    use_gpu: bool | Literal["auto"] = "auto"
    """`auto` uses GPUs where the cluster has one for each worker."""
    cpus_per_worker: PositiveFloat | None = None
    """None means an even share of the training budget (see ``cluster.training_cpus``), at most 1."""
    max_failures: NonNegativeInt = 2
    """Worker failures after which a run is given up; each restart resumes from the last checkpoint."""
    checkpoint_epochs: PositiveInt = 1
    """A checkpoint every this many epochs."""
    calibrate: bool = True
    """Fit a temperature on the validation rows (classification)."""
    max_memory_rows: PositiveInt = 5_000_000
    """A worker's shard up to this many rows is held in memory; a larger one is streamed in large blocks."""


class SpaceConfig(Section):
    """The range of one hyperparameter."""

    type: Literal["uniform", "loguniform", "int", "choice"]
    low: float | None = None
    high: float | None = None
    values: list[Any] | None = None
    """The values of a choice."""

    @model_validator(mode="after")
    def _range_fits_type(self) -> Self:
        if self.type == "choice":
            if not self.values:
                raise ValueError("a choice needs 'values'")
        elif self.low is None or self.high is None or not self.low < self.high:
            raise ValueError(f"{self.type} needs 'low' below 'high'")
        elif self.type == "loguniform" and self.low <= 0:
            raise ValueError("loguniform needs 'low' above 0")
        return self


class TuneConfig(Section):
    """The hyperparameter search: ASHA with Optuna over the same training function."""

    num_trials: NonNegativeInt = 0
    """0 skips the search."""
    time_budget_s: PositiveFloat | None = None
    """No new trial starts after this long."""
    max_epochs: PositiveInt = 6
    """Epochs of the longest trial."""
    grace_epochs: PositiveInt = 1
    """Epochs before a trial may be stopped early."""
    reduction_factor: PositiveInt = Field(3, ge=2)
    """ASHA keeps one of this many at each rung."""
    sample_ratio: float = Field(1.0, gt=0, le=1)
    """Share of the training rows that trials see."""
    max_concurrent: PositiveInt | None = None
    """None means what the CPU budget allows."""
    seed: int = 0
    space: dict[str, SpaceConfig] = {}
    """Keys are fields of ``training`` (``learning_rate``) or ``params.NAME``; empty means a default space."""
