"""What the labels of a window say about the champion that answered it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.monitoring.estimation import Estimate, estimate_losses
from ray_mlops.monitoring.handover import own_rows
from ray_mlops.monitoring.labels import prediction_values
from ray_mlops.monitoring.loss_channel import LossWindow
from ray_mlops.statistics.bins import FloatArray
from ray_mlops.statistics.losses import Task, bounded_loss, log_loss_rows


@dataclass(frozen=True, slots=True)
class Watched:
    """What the monitor must know of the champion that it watches."""

    model: str
    version: str
    config_hash: str
    task: Task
    classes: tuple[str, ...]
    loss_scale: float
    encode: Callable[[Any], float]
    """Turns a label into a number."""
    start_window: int | None = None
    """First window that is tested; None means the first that is seen."""

    def is_tested(self, window: int) -> bool:
        """Whether a window belongs to this epoch."""
        return self.start_window is None or window >= self.start_window


def own_losses(watched: Watched, labelled: pa.Table) -> LossWindow:
    """Losses of the rows that the version itself answered in the ordinary way: what is judged."""
    losses = _losses(watched, own_rows(labelled, watched.version))
    return len(losses), float(losses.sum()), float((losses**2).sum())


def mean_losses(watched: Watched, labelled: pa.Table) -> tuple[float | None, float | None]:
    """Mean bounded loss and mean log-loss of whoever was champion then: what is shown.

    Returns:
        None where there are no rows; no log-loss for a regression.
    """
    answered = _champions_rows(labelled)
    if answered.num_rows == 0:
        return None, None
    loss = float(_losses(watched, answered).mean())
    if watched.task == "regression":
        return loss, None
    rows = log_loss_rows(_predictions(watched, answered), answered["label"].to_numpy(), epsilon=1e-7)
    return loss, float(rows.mean())


def estimate(watched: Watched, rows: pa.Table) -> Estimate | None:
    """The loss that the champion's own probabilities let one expect (see ``estimate_losses``)."""
    answered = _champions_rows(rows)
    return estimate_losses(watched.task, _predictions(watched, answered)) if answered.num_rows else None


def _champions_rows(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.and_(pc.equal(rows["arm"], "champion"), pc.invert(rows["pinned"])))


def _losses(watched: Watched, rows: pa.Table) -> FloatArray:
    return bounded_loss(watched.task, _predictions(watched, rows), rows["label"].to_numpy(), watched.loss_scale)


def _predictions(watched: Watched, rows: pa.Table) -> FloatArray:
    names = [f"prediction.{name}" for name in watched.classes]
    if watched.task == "multiclass" and set(names) <= set(rows.column_names):
        rows = rows.select(names)  # a version with other classes may have answered too
    return prediction_values(rows, watched.task)
