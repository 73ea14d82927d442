"""Rows that a model is trained on: features, encoded targets, weights."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ray_mlops.data.features import FeatureMatrix
from ray_mlops.errors import TrainingError
from ray_mlops.training.models import ModelSpec
from ray_mlops.training.scaling import TargetScaling


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """Features with their truth, as numpy arrays."""

    features: FeatureMatrix
    target: npt.NDArray[np.float64]
    """Encoded targets [n], all finite; see ``data.target``."""
    weight: npt.NDArray[np.float64] | None = None
    """Non-negative weights [n]; None weighs all alike."""

    def __post_init__(self) -> None:
        count = len(self.target)
        if len(self.features) != count or (self.weight is not None and len(self.weight) != count):
            raise TrainingError(f"{len(self.features)} rows of features do not fit {count} targets", "training rows")
        if not np.isfinite(self.target).all():
            missing = int((~np.isfinite(self.target)).sum())
            remedy = "leave rows without a target out before training"
            raise TrainingError(f"{missing} of {count} targets are missing", "training rows", remedy)
        if self.weight is not None and not (np.isfinite(self.weight).all() and (self.weight >= 0).all()):
            raise TrainingError("weights must be finite and not negative", "data.weight")

    def __len__(self) -> int:
        return len(self.target)

    def take(self, rows: npt.NDArray[np.int64]) -> "LabelledRows":
        """Some rows, by index."""
        weight = None if self.weight is None else self.weight[rows]
        return LabelledRows(self.features.take(rows), self.target[rows], weight)

    @property
    def mean_weight(self) -> float:
        """Mean of the weights; 1 where there are none."""
        return 1.0 if self.weight is None or not len(self) else float(self.weight.mean())


def joined(first: LabelledRows, second: LabelledRows) -> LabelledRows:
    """The rows of two sets, one after the other; a set without weights weighs each row 1."""
    features = FeatureMatrix.concatenate([first.features, second.features])
    weights = [part.weight for part in (first, second)]
    weight = None
    if any(each is not None for each in weights):
        sizes = (len(first), len(second))
        filled = [np.ones(size) if each is None else each for each, size in zip(weights, sizes, strict=True)]
        weight = np.concatenate(filled)
    return LabelledRows(features, np.concatenate([first.target, second.target]), weight)


@dataclass(frozen=True, slots=True)
class PreparedData:
    """What a model is fitted on, preprocessed once; see ``assemble.prepare_data``."""

    train: LabelledRows
    validation: LabelledRows
    """Early stopping and calibration look at these."""
    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class TensorData:
    """Rows on a device, with standardised targets and weights of mean 1."""

    numeric: Tensor
    """float32 [n, d]"""
    categorical: Tensor
    """int64 [n, c]"""
    target: Tensor
    """float32 [n]"""
    weight: Tensor
    """float32 [n]"""

    def __len__(self) -> int:
        return len(self.target)

    def take(self, rows: Tensor) -> "TensorData":
        """Some rows, by index."""
        return TensorData(self.numeric[rows], self.categorical[rows], self.target[rows], self.weight[rows])

    def to(self, device: torch.device) -> "TensorData":
        """The same rows on another device."""
        return TensorData(*(part.to(device) for part in (self.numeric, self.categorical, self.target, self.weight)))


def to_tensors(rows: LabelledRows, scaling: TargetScaling, mean_weight: float) -> TensorData:
    """Standardise targets and weights, and share the features' memory with torch.

    Args:
        rows: Features with their truth.
        scaling: Of the training targets.
        mean_weight: Mean of the training weights; rows without weights have 1.
    """
    count = len(rows)
    weight = np.ones(count) if rows.weight is None else rows.weight / (mean_weight or 1.0)
    return TensorData(
        as_tensor(rows.features.numeric),
        as_tensor(rows.features.categorical),
        torch.from_numpy(scaling.apply(rows.target)),
        torch.from_numpy(weight.astype(np.float32)),
    )


def as_tensor(array: npt.NDArray[Any]) -> Tensor:
    """Share an array's memory with torch; one that is read-only (from Arrow, or Ray's object store) is copied."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
