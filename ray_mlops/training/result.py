"""What a training run gives."""

from dataclasses import dataclass

from torch import Tensor

from ray_mlops.training.loop import EpochRecord
from ray_mlops.training.models import ModelSpec
from ray_mlops.training.scaling import TargetScaling


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The best epoch's weights, and how training went."""

    state: dict[str, Tensor]
    """Weights by name, on the CPU."""
    spec: ModelSpec
    scaling: TargetScaling
    """How a regression's target was standardised."""
    history: tuple[EpochRecord, ...]
    best_epoch: int
    best_loss: float
    resumed_epoch: int = 0
    """The epoch after which the last restart went on; 0 when there was none."""
    seconds: float = 0.0
    """Wall-clock time of the whole run, start of the workers included."""
