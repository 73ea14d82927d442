"""Options that most commands share."""

from collections.abc import Callable
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
        assignments = context.meta.get(_ASSIGNMENTS, ())
        found = path or DEFAULT_CONFIG
        if path is None and not Path(DEFAULT_CONFIG).exists():
            remedy = "give --config FILE, or make one with 'ray-mlops init DATA --target COLUMN'"
            raise ConfigError(f"no configuration: there is no {DEFAULT_CONFIG} here", "--config", remedy)
        return load_config(found, parse_overrides(assignments))

    config = click.option(
        "-c",
        "--config",
        "config",
        envvar="RAY_MLOPS_CONFIG",
        callback=load,
        metavar="FILE",
        help=f"Configuration file [default: {DEFAULT_CONFIG}; or RAY_MLOPS_CONFIG].",
    )
    assignments = click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="KEY=VALUE",
        is_eager=True,
        expose_value=False,
        callback=_remember,
        help="Replace one value, by dotted path: --set training.epochs=3 (repeatable).",
    )
    return config(assignments(function))


def _remember(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    context.meta[_ASSIGNMENTS] = value
    return value


def json_option(function: F) -> F:
    """``--json``: print a document for machines."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
