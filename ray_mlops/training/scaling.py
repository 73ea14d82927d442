"""A regression's target is standardised for training, and turned back afterwards."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ray_mlops.config.data import Task


@dataclass(frozen=True, slots=True)
class TargetScaling:
    """Mean and standard deviation of the training targets; 0 and 1 change nothing.

    Example:
        >>> TargetScaling.fit("regression", np.array([1.0, 3.0]))
        TargetScaling(mean=2.0, scale=1.0)
        >>> TargetScaling.fit("binary", np.array([0.0, 1.0]))
        TargetScaling(mean=0.0, scale=1.0)
    """

    mean: float = 0.0
    scale: float = 1.0

    @classmethod
    def fit(cls, task: Task, target: npt.NDArray[np.float64]) -> "TargetScaling":
        """Of training targets [n]; 0 and 1 for classes. A constant target has scale 1."""
        if task != "regression" or not len(target):
            return cls()
        deviation = float(target.std())
        return cls(float(target.mean()), deviation if deviation > 0 else 1.0)

    def apply(self, target: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Standardise targets [n]."""
        return ((target - self.mean) / self.scale).astype(np.float32)
