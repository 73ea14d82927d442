"""What a job that we submit is told through its environment."""

import json
import os

from ray_mlops.config import StoreConfig
from ray_mlops.errors import ConfigError

STORE_VARIABLE = "RAY_MLOPS_STORE"
"""Environment variable that tells a job its store, as JSON."""


def job_environment(store: StoreConfig) -> dict[str, str]:
    """The variables of a job that works with a store."""
    return {STORE_VARIABLE: json.dumps(store.model_dump(mode="json"))}


def store_of_job() -> StoreConfig:
    """The store of the job that this process is.

    Raises:
        ConfigError: This process is not a job of ours.
    """
    content = os.environ.get(STORE_VARIABLE)
    if content is None:
        raise ConfigError("is not set", STORE_VARIABLE, "--decision is for jobs; use 'ray-mlops retrain --config FILE'")
    return StoreConfig.model_validate_json(content)
