"""The command ``ray-mlops``: parse, call one function, print.

Commands are imported when they are called, so that ``--help`` is quick and the environment is set before
Ray is imported.
"""

import importlib
import json
import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from ray_mlops.errors import ConfigError, GateRefusedError, RayMLOpsError, StoreError

logger = logging.getLogger(__name__)

_OS_REMEDY = "check permissions and free space ('ray-mlops doctor'); -vv shows where it happened"
EXIT_FAILED, EXIT_USAGE, EXIT_REFUSED = 1, 2, 3

_COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("project", "Write a configuration for a data file."),
    "validate": ("project", "Check a configuration and, with --data, the rows behind it."),
    "config": ("project", "Show the configuration's JSON Schema or resolved values."),
    "run": ("pipeline", "Data, tune, train, evaluate, gate, register: the whole pipeline."),
    "train": ("pipeline", "Train and evaluate without registering."),
    "tune": ("pipeline", "Search hyperparameters only."),
    "evaluate": ("pipeline", "Evaluate a registered version or a bundle on the source's holdout."),
    "register": ("pipeline", "Bring a model trained elsewhere through the same gate."),
    "retrain": ("pipeline", "Retrain now, run a recorded decision, or backtest the policy on the past."),
    "approve": ("pipeline", "Approve a version that waits for a person."),
    "serve": ("service", "Put the champion, or a version, behind HTTP."),
    "undeploy": ("service", "Take a model out of service."),
    "predict": ("predict", "Ask the running service, or a version, for predictions."),
    "batch-predict": ("predict", "Predict Parquet, CSV or JSON lines into Parquet; resumable."),
    "status": ("service", "What runs: cluster, models, versions, rollout, monitor."),
    "versions": ("service", "List the registered versions of the model."),
    "rollout": ("rollout", "Show, plan or operate a rollout; run versions as shadows."),
    "monitor": ("service", "Show the monitor, diagnose or acknowledge an alarm, compare two files, print alert rules."),
    "drill": ("drill", "Put known faults into a copy of the stream, and see what the monitor notices."),
    "notify": ("notify", "Show whom a model tells of what happens to it, or try it out."),
    "explain": ("service", "Everything that stands behind a prediction."),
    "replay": ("service", "Post rows of the past to a running service, or send again what failed."),
    "labels": ("service", "Import labels from Parquet, CSV or JSON lines."),
    "ledger": ("record", "Show or verify the record of decisions."),
    "reproduce": ("record", "Train a version again from its record and compare."),
    "gc": ("record", "Delete what the retention rules let go, and compact the prediction log."),
    "forget": ("record", "Delete the log rows, labels and failed requests of prediction ids."),
    "cluster": ("cluster", "Start or stop a local cluster."),
    "doctor": ("cluster", "Check the machine and the cluster, and what each finding costs."),
    "demo": ("demo", "A year of flights through the whole loop."),
}


class _LazyGroup(click.Group):
    """Imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"ray_mlops.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", count=True, help="Log decisions (-v) or everything (-vv).")
@click.version_option(package_name="ray-mlops")
def cli(verbose: int) -> None:
    """The whole life of a model as one closed loop on Ray.

    Start with 'ray-mlops init data.parquet --target y', then 'ray-mlops run' and 'ray-mlops serve'.
    'ray-mlops demo' shows the whole loop on a year of flights.
    """
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exit codes: 0 done, 1 failed, 2 usage, 3 gate refused."""
    if os.getcwd() not in sys.path:  # as `python -m` has it: models and functions that a configuration names lie here
        sys.path.insert(0, os.getcwd())
    try:
        code = cli.main(args=None if arguments is None else list(arguments), standalone_mode=False)
        sys.exit(code or 0)  # context.exit(3) comes back as a value here, not as an exception
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_USAGE)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except ConfigError as error:
        fail(error, EXIT_USAGE)
    except GateRefusedError as error:
        fail(error, EXIT_REFUSED)
    except RayMLOpsError as error:
        fail(error, EXIT_FAILED)
    except BrokenPipeError:  # the reader of our output has gone, as `head` does; Python must not flush into it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except OSError as error:  # a full disk, a missing permission: names the file; the rest of the trace helps nobody
        logger.debug("failed with an error of the operating system", exc_info=True)
        fail(StoreError(error.strerror or str(error), str(error.filename or ""), _OS_REMEDY), EXIT_FAILED)


def fail(error: RayMLOpsError, code: int) -> None:
    """Print an error in one line and leave; one that came through Ray without the traceback that Ray adds."""
    cause = getattr(error, "cause", None)
    error = cause if isinstance(cause, RayMLOpsError) else error
    click.echo(f"error: {' '.join(str(error).split())}", err=True)
    sys.exit(code)


def print_json(content: Any) -> None:
    """Print a document for machines; numbers that JSON has not, such as NaN, are null."""
    click.echo(json.dumps(_finite(content), indent=2, default=str, sort_keys=False))


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
