"""Versions by number, alias or path, and their bundles."""

from ray_mlops.config import ProjectConfig
from ray_mlops.registry import MlflowRegistry
from ray_mlops.serving.loaded import trusted_modules
from ray_mlops.training.bundle import ModelBundle


def load_bundle(uri: str, config: ProjectConfig) -> ModelBundle:
    """Load a bundle, trusting our own code and the modules that the configuration names."""
    return ModelBundle.load(uri, trusted_modules(config))


def find_bundle(config: ProjectConfig, model: str) -> ModelBundle:
    """Load the bundle of a version, an alias, or a path.

    Raises:
        ModelNotFoundError: It is none of them.
    """
    return load_bundle(find_version(config, model)[1], config)


def find_version(config: ProjectConfig, model: str) -> tuple[str, str]:
    """The version that a number, an alias or a bundle's path means, and where its bundle is.

    Raises:
        ModelNotFoundError: It is none of them.
    """
    if "/" in model or "://" in model:
        return model, model
    found = MlflowRegistry(config.store.tracking_uri).get(config.name, model)
    return found.version, found.bundle
