"""Options that most commands share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ray_mlops.config import ProjectConfig, load_config, parse_overrides
from ray_mlops.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_CONFIG = "ray-mlops.yaml"
_ASSIGNMENTS = "ray_mlops.assignments"


def config_option(function: F) -> F:
    """``--config`` and ``--set``; the command gets ``config: ProjectConfig``."""

    def load(context: click.Context, parameter: click.Parameter, path: str | None) -> ProjectConfig:
        return find_config(path, context.meta.get(_ASSIGNMENTS, ()))

    config = _config_flag("config", callback=load)
    return config(_set_flag(is_eager=True, expose_value=False, callback=_remember)(function))


def unread_config_option(function: F) -> F:
    """``--config`` and ``--set``, not read yet; the command gets ``path`` and ``assignments``."""
    return _config_flag("path")(_set_flag()(function))


def find_config(path: str | None, assignments: Sequence[str]) -> ProjectConfig:
    """The configuration that ``--config`` and ``--set`` name.

    Raises:
        ConfigError: There is none, or it is wrong.
    """
    if path is None and not Path(DEFAULT_CONFIG).exists():
        remedy = "give --config FILE, or make one with 'ray-mlops init DATA --target COLUMN'"
        raise ConfigError(f"no configuration: there is no {DEFAULT_CONFIG} here", "--config", remedy)
    return load_config(path or DEFAULT_CONFIG, parse_overrides(assignments))


def _config_flag(name: str, **more: Any) -> Callable[[F], F]:
    text = f"Configuration file [default: {DEFAULT_CONFIG}; or RAY_MLOPS_CONFIG]."
    return click.option("-c", "--config", name, envvar="RAY_MLOPS_CONFIG", metavar="FILE", help=text, **more)


def _set_flag(**more: Any) -> Callable[[F], F]:
    text = "Replace one value, by dotted path: --set training.epochs=3 (repeatable)."
    return click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help=text, **more)


def _remember(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    context.meta[_ASSIGNMENTS] = value
    return value


def json_option(function: F) -> F:
    """``--json``: print a document for machines."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
