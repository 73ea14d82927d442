"""What the monitor would see of a stretch: counts on its bins, predictions, losses, latencies; window by window."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ray_mlops.config import ColumnContract
from ray_mlops.data.reference import LossWindow, ReferenceProfile
from ray_mlops.monitoring.drill.stream import Stretch
from ray_mlops.monitoring.handover import SCORE, count_columns, count_violations
from ray_mlops.monitoring.latency import LATENCY_BINS
from ray_mlops.statistics.bins import Bins, ColumnCounts
from ray_mlops.statistics.losses import bounded_loss
from ray_mlops.statistics.table import TableBins
from ray_mlops.training.bundle import ModelBundle


@dataclass(frozen=True, slots=True)
class Observed:
    """One window, as the monitor takes it."""

    counts: Mapping[str, ColumnCounts]
    """Of the inputs and of the projections."""
    score: ColumnCounts | None
    latency: ColumnCounts | None
    loss: LossWindow | None
    """None where no row has a label."""
    violations: Mapping[str, int]
    """Values outside the declared range or domain, by column."""


class Observer:
    """Counts as a replica does, and judges as the monitor does.

    Args:
        bundle: The model; it predicts anew wherever inputs have changed.
        profile: Bins of what is watched.
        rules: The declared contract, by column.
    """

    def __init__(self, bundle: ModelBundle, profile: ReferenceProfile, rules: Mapping[str, ColumnContract]) -> None:
        self._bundle, self._rules = bundle, rules
        self._derivations = profile.derivations
        bins: dict[str, Bins] = {n: c.bins for n, c in profile.counted.items()}
        if profile.score is not None:
            bins[SCORE] = profile.score.bins
        self._bins = TableBins(bins)

    def observe(self, stretch: Stretch) -> dict[int, Observed]:
        """Look at every window of a stretch."""
        prediction = self._bundle.predict(stretch.inputs).values
        return {window: self._window(stretch, prediction, window) for window in stretch.windows}

    def _window(self, stretch: Stretch, prediction: np.ndarray, window: int) -> Observed:  # type: ignore[type-arg]
        first, last = np.searchsorted(stretch.window, [window, window + 1])
        part, values = stretch.part(window), prediction[first:last]
        columns = {f"features.{name}": part.inputs[name] for name in part.inputs.column_names}
        top = values if values.ndim == 1 else values.max(axis=1)
        rows = pa.table({**columns, "prediction": pa.array(top)})
        counts = dict(count_columns(rows, self._bins, derivations=self._derivations))
        latency = ColumnCounts.of(LATENCY_BINS, part.latency_us) if len(part.latency_us) else None
        violations = count_violations(rows, self._rules)
        return Observed(counts, counts.pop(SCORE, None), latency, self._loss(part, values), violations)

    def _loss(self, part: Stretch, values: np.ndarray) -> LossWindow | None:  # type: ignore[type-arg]
        known = np.isfinite(part.target)
        if not known.any():
            return None
        losses = bounded_loss(self._bundle.task, values[known], part.target[known], self._bundle.loss_scale)
        return LossWindow(len(losses), float(losses.sum()), float((losses**2).sum()))
