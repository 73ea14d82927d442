"""What is fitted on the validation rows after training: the temperature, and the scale of a regression's loss."""

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from ray_mlops.config.data import Task
from ray_mlops.statistics.losses import log_loss_rows
from ray_mlops.training.objective import to_values

FloatArray = npt.NDArray[np.float64]
LOSS_SCALE_QUANTILE = 0.95
_LOG_TEMPERATURE_BOUNDS = (-2.5, 2.5)


def fit_temperature(task: Task, outputs: FloatArray, target: FloatArray, weight: FloatArray | None = None) -> float:
    """Find the temperature with the least log-loss.

    One number for all classes: the ranking of rows (binary) and the predicted class (multiclass) stay as they are.

    Args:
        task: What the outputs are; 1 is returned for regression.
        outputs: Logits [n, k].
        target: Encoded targets [n].
        weight: Row weights [n].

    Returns:
        A temperature between exp(-2.5) and exp(2.5).

    References:
        Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks. ICML 2017,
        https://arxiv.org/abs/1706.04599.
    """
    if task == "regression" or not len(target):
        return 1.0

    def loss(log_temperature: float) -> float:
        values = to_values(task, outputs, float(np.exp(log_temperature)), 0.0, 1.0)
        return float(np.average(log_loss_rows(values, target), weights=weight))

    found = minimize_scalar(loss, bounds=_LOG_TEMPERATURE_BOUNDS, method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def compute_loss_scale(task: Task, values: FloatArray, target: FloatArray) -> float:
    """Absolute error that counts as total loss: the 0.95 quantile of the validation rows' (regression), else 1.

    One row in twenty then saturates the bounded loss, and the rest use its whole range. A model without any
    error gets the target's standard deviation, or 1.
    """
    if task != "regression" or not len(target):
        return 1.0
    scale = float(np.quantile(np.abs(values - target), LOSS_SCALE_QUANTILE))
    return scale or float(target.std()) or 1.0
