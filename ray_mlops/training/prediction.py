"""What a model says about rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_mlops.config.data import Scalar, Task


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predictions for n rows.

    Example:
        >>> Prediction("binary", np.array([0.2, 0.75]), ("no", "yes")).to_json()
        [{'label': 'no', 'probability': 0.2}, {'label': 'yes', 'probability': 0.75}]
    """

    task: Task
    values: npt.NDArray[np.float64]
    """Binary: probability of the positive class [n]. Multiclass: probabilities [n, k]. Regression: values [n]."""
    classes: tuple[Scalar, ...] = ()
    """Binary: negative, positive. Multiclass: in the order of ``values``. Regression: empty."""
    threshold: float = 0.5
    """Binary: the probability from which the label is the positive class."""

    def __len__(self) -> int:
        return len(self.values)

    def labels(self) -> list[Scalar]:
        """The label of each row; for regression, the value."""
        if self.task == "regression":
            return [float(value) for value in self.values]
        is_binary = self.task == "binary"
        indices = (self.values >= self.threshold).astype(int) if is_binary else self.values.argmax(axis=1)
        return [self.classes[index] for index in indices]

    def to_json(self) -> list[Any]:
        """One JSON value for each row.

        Binary: ``{"label", "probability"}`` (of the positive class). Multiclass: ``{"label", "probabilities"}``,
        by class as text. Regression: a number.
        """
        labels = self.labels()
        if self.task == "regression":
            return labels
        values = self.values.tolist()
        if self.task == "binary":
            return [{"label": label, "probability": value} for label, value in zip(labels, values, strict=True)]
        names = [str(name) for name in self.classes]
        return [
            {"label": label, "probabilities": dict(zip(names, row, strict=True))}
            for label, row in zip(labels, values, strict=True)
        ]

    def take(self, rows: Any) -> "Prediction":
        """Some rows, by indices, mask or slice."""
        return Prediction(self.task, self.values[rows], self.classes, self.threshold)
