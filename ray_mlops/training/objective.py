"""What training minimises, per task, and what a model's outputs mean."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy.special import expit, softmax
from torch import Tensor, nn
from torch.nn import functional

from ray_mlops.config.data import Task


def row_losses(task: Task, outputs: Tensor, target: Tensor) -> Tensor:
    """Compute the loss of each row [n] from outputs [n, k] and encoded targets [n].

    Log-loss for binary and multiclass, squared error (of the standardised target) for regression.

    Example:
        >>> import torch
        >>> row_losses("binary", torch.zeros(2, 1), torch.tensor([0.0, 1.0]))
        tensor([0.6931, 0.6931])
    """
    if task == "multiclass":
        return functional.cross_entropy(outputs, target.long(), reduction="none")
    if task == "binary":
        return functional.binary_cross_entropy_with_logits(outputs[:, 0], target.float(), reduction="none")
    return (outputs[:, 0] - target.float()).square()


def mean_loss(task: Task, outputs: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Average the weighted loss over rows. Weights have mean 1 over the training rows, so a batch is not rescaled."""
    return (row_losses(task, outputs, target) * weight).mean()


class Objective(nn.Module):
    """A model with its loss as ``forward``, so that data-parallel training sees every gradient.

    ``DistributedDataParallel`` only watches ``forward``; a model's own ``training_loss`` has to be called inside it.
    """

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, numeric: Tensor, categorical: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Compute the training loss of one batch, a scalar."""
        own_loss = getattr(self.model, "training_loss", None)
        if own_loss is not None:
            return cast(Tensor, own_loss(numeric, categorical, target, weight))
        return mean_loss(self.task, self.model(numeric, categorical), target, weight)


def to_values(
    task: Task,
    outputs: npt.NDArray[np.float64],
    temperature: float,
    mean: float,
    scale: float,
    shift: Sequence[float] = (),
) -> npt.NDArray[np.float64]:
    """Turn a model's outputs [n, k] into predictions.

    Args:
        task: What the outputs are.
        outputs: Logits, or standardised values.
        temperature: Divides logits; above 1 makes probabilities less extreme.
        mean: Mean of the training target (regression).
        scale: Standard deviation of the training target (regression).
        shift: Added to logits after the division: one number (binary), or one for each class; empty adds nothing.

    Returns:
        Binary: probability of the positive class [n]. Multiclass: probabilities [n, k]. Regression: values [n].

    Example:
        >>> to_values("binary", np.array([[0.0], [2.0]]), 2.0, 0.0, 1.0).round(3)
        array([0.5  , 0.731])
        >>> to_values("binary", np.array([[0.0], [2.0]]), 2.0, 0.0, 1.0, (-1.0,)).round(3)
        array([0.269, 0.5  ])
    """
    if task == "regression":
        return outputs[:, 0] * scale + mean
    logits = outputs / temperature + np.asarray(shift) if len(shift) else outputs / temperature
    if task == "binary":
        return np.asarray(expit(logits[:, 0]))
    return np.asarray(softmax(logits, axis=1))
