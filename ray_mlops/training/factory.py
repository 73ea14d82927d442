"""Model factories by dotted path: found, trusted, called, and held to the contract."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ray_mlops.errors import BundleError, TrainingError
from ray_mlops.training.models import ModelSpec

Factory = Callable[..., nn.Module]
OWN_PACKAGE = "ray_mlops."
_OWN_MODULE = "ray_mlops.training.models"
_PROBE_ROWS = 2
_CONTRACT = "see ray_mlops.training.models for the contract"


def check_trusted(path: str, trusted: Sequence[str]) -> None:
    """Allow a bundle's factory to be imported, or refuse.

    Args:
        path: The factory's dotted path.
        trusted: Modules (``my_package.models``), packages (``my_package.``) or whole paths (``my_package:net``).
            Of our own package only the module of models counts, whatever is said here.

    Raises:
        BundleError: It is not trusted; nothing was imported.

    Example:
        >>> check_trusted("my_package.models:net", ["my_package.models"])
    """
    module = path.partition(":")[0]
    if f"{module}.".startswith(OWN_PACKAGE):
        allowed = module == _OWN_MODULE
    else:
        allowed = any(path == entry or f"{module}.".startswith(f"{entry.rstrip('.')}.") for entry in trusted if entry)
    if not allowed:
        remedy = f"name {module!r} in 'training.model' or in 'trusted' if you trust it"
        raise BundleError(f"the bundle wants to import {path!r}, which is not trusted", "bundle.json: model", remedy)


def load_factory(path: str) -> Factory:
    """Import a model factory by its dotted path.

    Raises:
        TrainingError: No such module or name, or it cannot be called.
    """
    module, _, name = path.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise TrainingError(f"cannot import {path!r}: {error}", "training.model", "is it on PYTHONPATH?") from error
    if not callable(factory):
        raise TrainingError(f"{path!r} is a {type(factory).__name__}, expected a function", "training.model", _CONTRACT)
    return cast(Factory, factory)


def build_model(path: str, spec: ModelSpec, params: Mapping[str, Any]) -> nn.Module:
    """Build a model and check what it returns on two rows of zeros.

    Leaves the model in training mode. Draws its initial weights from torch's global generator.

    Raises:
        TrainingError: The factory is missing, does not take these parameters, or its model breaks the contract.
    """
    factory = load_factory(path)
    try:
        inspect.signature(factory).bind(spec, **params)
    except TypeError as error:
        problem = f"{path!r} cannot be called with (spec, {', '.join(params)}): {error}"
        raise TrainingError(problem, "training.params", f"it takes {inspect.signature(factory)}") from None
    try:
        model = factory(spec, **params)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TrainingError(f"{path!r} failed: {error}", "training.params") from error
    if not isinstance(model, nn.Module):
        problem = f"{path!r} returned a {type(model).__name__}, expected a torch.nn.Module"
        raise TrainingError(problem, "training.model", _CONTRACT)
    _check_outputs(model, path, spec)
    return model.train()


def _check_outputs(model: nn.Module, path: str, spec: ModelSpec) -> None:
    numeric = torch.zeros(_PROBE_ROWS, spec.num_numeric)
    categorical = torch.zeros(_PROBE_ROWS, len(spec.categorical_sizes), dtype=torch.int64)
    inputs = f"numeric {list(numeric.shape)} and categorical {list(categorical.shape)}"
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(numeric, categorical)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise TrainingError(
            f"the model of {path!r} failed on {inputs}: {error}", "training.model", _CONTRACT
        ) from error
    expected = [_PROBE_ROWS, spec.num_outputs]
    got = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if got != expected or not outputs.is_floating_point():
        kind = f" {outputs.dtype}" if isinstance(outputs, Tensor) else ""
        problem = f"the model of {path!r} returned {got}{kind} for {inputs}, expected {expected} torch.float32"
        raise TrainingError(problem, "training.model", _CONTRACT)
