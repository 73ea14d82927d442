"""How good estimates were, once labels came: beside a guess that needs no estimator."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_mlops.monitoring.monitor_state import Performance

_METRIC = "bounded_loss"
MIN_WINDOWS = 5
"""With fewer matured windows nothing is said."""


@dataclass(frozen=True, slots=True)
class EstimateRecord:
    """Mean errors over matured windows, of the bounded loss of the version's own labelled rows."""

    windows: int
    error: float
    """Mean distance between the estimate and what labels showed."""
    constant_error: float
    """That of the reference's mean loss, said of every window."""

    @property
    def is_useful(self) -> bool:
        """Whether estimates were closer to the truth than the constant."""
        return self.error < self.constant_error

    @property
    def words(self) -> str:
        """What this means, for people."""
        found = f"off by {self.error:.4f} on average in {self.windows} matured windows"
        if self.is_useful:
            return f"{found}; the reference's mean loss would have been by {self.constant_error:.4f}"
        return f"{found}, no better than the reference's mean loss ({self.constant_error:.4f})"

    def to_json(self) -> dict[str, Any]:
        return {
            "windows": self.windows,
            "error": self.error,
            "constant_error": self.constant_error,
            "is_useful": self.is_useful,
            "words": self.words,
        }


def estimate_record(windows: Iterable[Performance], reference_loss: float | None) -> EstimateRecord | None:
    """Compare estimates with the truth.

    Args:
        windows: Of one version; those without a realised loss or an estimate are left out.
        reference_loss: Mean bounded loss of the reference; None where there is none.

    Returns:
        None where too little is known.

    Example:
        >>> seen = [Performance(50, 50, 0.2, None, True, {"bounded_loss": 0.2}, {"bounded_loss": 0.21})] * 5
        >>> estimate_record(seen, 0.25).words
        "off by 0.0100 on average in 5 matured windows; the reference's mean loss would have been by 0.0500"
    """
    pairs = [
        (found.realised[_METRIC], found.expected[_METRIC])
        for found in windows
        if _METRIC in found.realised and _METRIC in found.expected
    ]
    if reference_loss is None or len(pairs) < MIN_WINDOWS:
        return None
    realised, expected = np.array(pairs).T
    error, constant = np.abs(expected - realised).mean(), np.abs(reference_loss - realised).mean()
    return EstimateRecord(len(pairs), float(error), float(constant))
