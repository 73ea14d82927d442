"""Performance without labels: advisory, and only as good as its assumption.

For a calibrated classifier the expected loss of a row follows from its own probabilities. That assumes
that the relation of inputs to labels has not changed; a change of that relation is invisible here.
"""

from dataclasses import dataclass

import numpy as np

from ray_mlops.statistics.bins import FloatArray

ASSUMPTION = "calibrated probabilities and no concept drift"


@dataclass(frozen=True, slots=True)
class Estimate:
    """Sums of expected losses of some rows; adds up with ``+``."""

    n: int = 0
    log_loss: float = 0.0
    """Sum of the entropies, nats."""
    brier: float = 0.0
    """Sum of the expected bounded losses (see ``statistics.losses``)."""

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.n + other.n, self.log_loss + other.log_loss, self.brier + other.brier)

    def to_json(self) -> dict[str, float | int | str | None]:
        """Means, and what they rest on."""
        if self.n == 0:
            return {"rows": 0, "log_loss": None, "bounded_loss": None, "assumes": ASSUMPTION}
        means = {"log_loss": self.log_loss / self.n, "bounded_loss": self.brier / self.n}
        return {"rows": self.n, **means, "assumes": ASSUMPTION}


def estimate_losses(task: str, prediction: FloatArray) -> Estimate | None:
    """Confidence-based estimate (CBPE) of the loss of rows whose labels are not known.

    Args:
        task: `binary`, `multiclass` or `regression`.
        prediction: Probabilities [n] or [n, k].

    Returns:
        The sums; None for regression, where predictions say nothing about their own error.

    References:
        NannyML, "Confidence-based Performance Estimation"; Kivimaki et al., arXiv:2505.05295.

    Example:
        >>> estimate_losses("binary", np.array([0.5, 1.0])).brier
        0.25
    """
    if task == "regression":
        return None
    finite = prediction[np.isfinite(prediction).reshape(len(prediction), -1).all(axis=1)]
    classes = np.column_stack((1.0 - finite, finite)) if finite.ndim == 1 else finite
    clipped = np.clip(classes, 1e-15, 1.0)
    entropy = -(classes * np.log(clipped)).sum(axis=1)
    brier = (1.0 - (classes**2).sum(axis=1)) / 2.0
    return Estimate(len(classes), float(entropy.sum()), float(brier.sum()))
