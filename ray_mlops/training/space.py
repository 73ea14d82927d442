"""The space that a search looks through: distributions, and what a sample of them means for the configuration."""

from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from ray_mlops.config import SpaceConfig, TrainingConfig
from ray_mlops.errors import ConfigError
from ray_mlops.training.models import TABULAR_DEFAULTS

TABULAR = "ray_mlops.training.models:tabular"
_OPTIMISER_SPACE = {
    "learning_rate": SpaceConfig(type="loguniform", low=5e-4, high=1e-2),
    "weight_decay": SpaceConfig(type="loguniform", low=1e-5, high=1e-1),
}
_TABULAR_SPACE = {
    **_OPTIMISER_SPACE,
    "params.hidden": SpaceConfig(type="choice", values=[32, 64, 96, 128]),
    "params.depth": SpaceConfig(type="int", low=1, high=3),
    "params.dropout": SpaceConfig(type="uniform", low=0.0, high=0.4),
    "params.embedding_size": SpaceConfig(type="choice", values=[4, 8, 16]),
}
_FIXED = {"model", "params", "epochs", "seed", "num_workers", "use_gpu", "cpus_per_worker", "max_failures"}
"""Fields that are not a trial's to choose: who trains, where, and for how long."""


def search_space(space: Mapping[str, SpaceConfig], training: TrainingConfig) -> dict[str, SpaceConfig]:
    """The configured space, or a default one for the model.

    Raises:
        ConfigError: A key is neither a field of ``training`` that can be searched nor ``params.NAME``.
    """
    if not space:
        return dict(_TABULAR_SPACE if training.model == TABULAR else _OPTIMISER_SPACE)
    known = sorted(set(TrainingConfig.model_fields) - _FIXED)
    for key in space:
        is_parameter = key.startswith("params.") and len(key) > len("params.")
        if not is_parameter and key not in known:
            remedy = f"use 'params.NAME' or one of {', '.join(known)}"
            raise ConfigError(f"cannot search over {key!r}", "tune.space", remedy)
    return dict(space)


def to_distribution(config: SpaceConfig) -> BaseDistribution:
    """Optuna's form of a range; both ends belong to it. A choice is drawn by its position."""
    if config.type == "choice":
        return CategoricalDistribution(range(len(config.values or ())))
    low, high = float(config.low or 0.0), float(config.high or 0.0)
    if config.type == "int":
        return IntDistribution(int(low), int(high))
    return FloatDistribution(low, high, log=config.type == "loguniform")


def to_overrides(sample: Mapping[str, Any], space: Mapping[str, SpaceConfig]) -> dict[str, Any]:
    """Overrides of the configuration, by dotted path, that a sample stands for.

    Example:
        >>> space = {"params.hidden": SpaceConfig(type="choice", values=[32, 64])}
        >>> to_overrides({"params.hidden": 1}, space)
        {'training.params.hidden': 64}
    """
    values = {key: (space[key].values or [])[value] if space[key].type == "choice" else value
              for key, value in sample.items()}  # fmt: skip
    return {f"training.{key}": value for key, value in values.items()}


def current_sample(space: Mapping[str, SpaceConfig], training: TrainingConfig) -> dict[str, Any] | None:
    """The configuration as it is, as a point of the space: the first trial, so that a search never ends below it.

    None when it lies outside, or when a model's own default is not known here.
    """
    sample: dict[str, Any] = {}
    for key, config in space.items():
        value = _current_value(key, training)
        if config.type == "choice":
            if value not in (config.values or []):
                return None
            sample[key] = (config.values or []).index(value)
        elif not isinstance(value, int | float) or not float(config.low or 0) <= value <= float(config.high or 0):
            return None
        else:
            sample[key] = value
    return sample


def _current_value(key: str, training: TrainingConfig) -> Any:
    if not key.startswith("params."):
        return getattr(training, key)
    name = key.removeprefix("params.")
    defaults = TABULAR_DEFAULTS if training.model == TABULAR else {}
    return training.params.get(name, defaults.get(name))
