"""The cheapest way to renew a model: its weights stay, what its outputs mean is fitted anew on recent labelled rows.

It helps where the ranking of rows still holds and the level does not: other base rates, other costs, a shifted
target. It cannot help where the world orders rows differently.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from ray_mlops.config.data import Task
from ray_mlops.errors import TrainingError
from ray_mlops.statistics.losses import log_loss_rows
from ray_mlops.training.bundle import ModelBundle
from ray_mlops.training.calibration import compute_loss_scale
from ray_mlops.training.manifest import Manifest
from ray_mlops.training.objective import to_values
from ray_mlops.training.rows import LabelledRows

FloatArray = npt.NDArray[np.float64]
MIN_ROWS = 50
"""Labelled rows for each number that is fitted."""
_LOG_TEMPERATURE_LIMIT = 2.5


def recalibrate(bundle: ModelBundle, rows: LabelledRows) -> Manifest:
    """Fit a bundle's calibration on other rows: temperature and shift of its logits, or mean and scale.

    Args:
        bundle: Keeps its weights and features.
        rows: Features by the bundle's own pipeline, encoded targets, weights.

    Returns:
        The bundle's manifest with the new calibration and loss scale.

    Raises:
        TrainingError: There are too few rows, or rows of too few classes.

    References:
        Alexandari, Kundaje, Shrikumar: Maximum likelihood with bias-corrected calibration is hard to beat at label
        shift adaptation. ICML 2020, https://arxiv.org/abs/1901.06852.
    """
    task, target = bundle.task, np.asarray(rows.target, dtype=np.float64)
    needed = MIN_ROWS * (len(bundle.classes) if task == "multiclass" else 2)
    if len(target) < needed:
        problem = f"{len(target)} labelled rows, a recalibration needs {needed}"
        raise TrainingError(problem, bundle.name, "widen retraining.window, or take 'recalibrate' off the ladder")
    outputs = bundle.outputs(rows.features)
    manifest = bundle.manifest
    if task == "regression":
        mean, scale = fit_level(outputs[:, 0], target, rows.weight)
        manifest = replace(manifest, target_mean=mean, target_scale=scale)
    else:
        missing = sorted(set(range(len(bundle.classes))) - {int(value) for value in np.unique(target)})
        if missing:
            names = ", ".join(str(bundle.classes[index]) for index in missing)
            raise TrainingError(f"no row of class {names}", bundle.name, "a recalibration needs rows of every class")
        temperature, shift = fit_temperature_and_shift(task, outputs, target, rows.weight)
        manifest = replace(manifest, temperature=temperature, shift=shift)
    values = replace(bundle, manifest=manifest).predict_matrix(rows.features).values
    return replace(manifest, loss_scale=compute_loss_scale(task, values, target))


def fit_temperature_and_shift(
    task: Task, outputs: FloatArray, target: FloatArray, weight: FloatArray | None = None
) -> tuple[float, tuple[float, ...]]:
    """Find the temperature and the shift of logits [n, k] with the least log-loss.

    Binary: one shift. Multiclass: one for each class, the first of them 0, since adding a number to all is nothing.

    Example:
        >>> outputs = np.linspace(-3, 3, 4001)[:, None]
        >>> target = (np.random.default_rng(0).random(4001) < 1 / (1 + np.exp(-(outputs[:, 0] - 1.0)))).astype(float)
        >>> temperature, (shift,) = fit_temperature_and_shift("binary", outputs, target)
        >>> bool(abs(temperature - 1.0) < 0.1), bool(abs(shift + 1.0) < 0.1)
        (True, True)
    """
    is_binary = task == "binary"

    def unpack(point: Any) -> tuple[float, tuple[float, ...]]:
        shift = tuple(float(value) for value in point[1:])
        return float(np.exp(point[0])), shift if is_binary else (0.0, *shift)

    def loss(point: Any) -> float:
        temperature, shift = unpack(point)
        values = to_values(task, outputs, temperature, 0.0, 1.0, shift)
        return float(np.average(log_loss_rows(values, target), weights=weight))

    start = np.zeros(2 if is_binary else outputs.shape[1])
    bounds = [(-_LOG_TEMPERATURE_LIMIT, _LOG_TEMPERATURE_LIMIT)] + [(None, None)] * (len(start) - 1)
    found = minimize(loss, start, method="L-BFGS-B", bounds=bounds)
    return unpack(found.x if found.fun < loss(start) else start)


def fit_level(outputs: FloatArray, target: FloatArray, weight: FloatArray | None = None) -> tuple[float, float]:
    """Find mean and scale so that ``output * scale + mean`` is nearest to the target; the order of rows stays.

    Where outputs are constant, or fall while the target rises, only the level is moved, and the scale is 1.

    Example:
        >>> fit_level(np.array([0.0, 1.0, 2.0]), np.array([5.0, 7.0, 9.0]))
        (5.0, 2.0)
    """
    weights = np.ones(len(target)) if weight is None else np.asarray(weight, dtype=np.float64)
    centre, level = (float(np.average(values, weights=weights)) for values in (outputs, target))
    spread = float(np.average((outputs - centre) ** 2, weights=weights))
    together = float(np.average((outputs - centre) * (target - level), weights=weights))
    scale = together / spread if spread > 0.0 and together > 0.0 else 1.0
    return level - scale * centre, scale
