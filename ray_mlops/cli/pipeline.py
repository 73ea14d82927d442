"""``run``, ``train``, ``tune``, ``evaluate``, ``register``, ``retrain``, ``approve``."""

import getpass
from typing import TYPE_CHECKING

import click

from ray_mlops.cli import EXIT_REFUSED, print_json
from ray_mlops.cli.backtest import backtest
from ray_mlops.cli.options import config_option, find_config, json_option, unread_config_option
from ray_mlops.cli.progress import PhasePrinter
from ray_mlops.cli.session import quiet_libraries, session
from ray_mlops.config import ClusterConfig, ProjectConfig
from ray_mlops.config.monitoring import RUNGS, RetrainAction
from ray_mlops.runtime.cluster import connect
from ray_mlops.runtime.jobs import store_of_job

if TYPE_CHECKING:
    from ray_mlops.orchestration.pipeline import PipelineReport


def _finish(context: click.Context, report: "PipelineReport", as_json: bool) -> None:
    if as_json:
        print_json(report.to_json())
    else:
        click.echo(report.summary())
    if report.gate is not None and not report.gate.passed:
        context.exit(EXIT_REFUSED)


@click.command()
@config_option
@click.option("--no-tune", is_flag=True, help="Skip the hyperparameter search.")
@json_option
@click.pass_context
def run(context: click.Context, config: ProjectConfig, no_tune: bool, as_json: bool) -> None:
    """Run the whole pipeline: data, tune, train, evaluate, gate, register.

    Exit code 3 means that the gate refused the model; the report says why.
    """
    with session(config), PhasePrinter(quiet=as_json) as phases:
        from ray_mlops.orchestration.pipeline import run_pipeline  # after Ray's environment is set

        report = run_pipeline(config, tune=not no_tune, on_phase=phases)
    _finish(context, report, as_json)


@click.command()
@config_option
@json_option
@click.pass_context
def train(context: click.Context, config: ProjectConfig, as_json: bool) -> None:
    """Train and evaluate one model; nothing is registered."""
    with session(config), PhasePrinter(quiet=as_json) as phases:
        from ray_mlops.orchestration.pipeline import run_pipeline  # after Ray's environment is set

        report = run_pipeline(config, tune=False, register=False, on_phase=phases)
    _finish(context, report, as_json)


@click.command()
@config_option
@click.option("--trials", type=click.IntRange(min=1), help="Number of trials [default: tune.num_trials, or 10].")
@json_option
def tune(config: ProjectConfig, trials: int | None, as_json: bool) -> None:
    """Search hyperparameters with ASHA and Optuna; prints what to put into the configuration."""
    with session(config), PhasePrinter(quiet=as_json) as phases:
        from ray_mlops.orchestration.pipeline import run_search  # after Ray's environment is set

        found = run_search(config, trials, on_phase=phases)
    if as_json:
        print_json(found)
        return
    for trial in found["trials"]:
        click.echo(f"  loss {trial['loss']:.5f}  epochs {trial['epochs']}  {trial['overrides']}")
    for key, value in found["best"].items():
        click.echo(f"--set {key}={value}")


@click.command()
@config_option
@click.argument("model", default="champion")
@json_option
def evaluate(config: ProjectConfig, model: str, as_json: bool) -> None:
    """Evaluate MODEL (a version, an alias or a bundle's path) on the holdout of the source's rows."""
    with session(config):
        from ray_mlops.orchestration.pipeline import evaluate_version  # after Ray's environment is set

        report = evaluate_version(config, model)
    if as_json:
        print_json(report.to_json())
        return
    for name, value in report.metrics.items():
        click.echo(f"{name:20} {value.value:.5f}  [{value.low:.5f}, {value.high:.5f}]")


@click.command()
@config_option
@click.argument("path")
@json_option
@click.pass_context
def register(context: click.Context, config: ProjectConfig, path: str, as_json: bool) -> None:
    """Bring the bundle at PATH, trained elsewhere, through the same gate."""
    with session(config), PhasePrinter(quiet=as_json) as phases:
        from ray_mlops.orchestration.pipeline import register_bundle  # after Ray's environment is set

        report = register_bundle(config, path, on_phase=phases)
    _finish(context, report, as_json)


@click.group(invoke_without_command=True)
@unread_config_option
@click.option("--decision", help="Run the retraining of this recorded decision (what the monitor submits).")
@click.option("--reason", default="asked for by hand", show_default=True, help="Kept in the ledger.")
@click.option(
    "--action", type=click.Choice(RUNGS), help="What to do; without it, the ladder of the configuration decides."
)
@json_option
@click.pass_context
def retrain(
    context: click.Context,
    path: str | None,
    assignments: tuple[str, ...],
    decision: str | None,
    reason: str,
    action: RetrainAction | None,
    as_json: bool,
) -> None:
    """Ask the monitor for a retraining now, or run the one of a recorded decision.

    'ray-mlops retrain backtest' shows beforehand what the policy would have done with the past.
    """
    if context.invoked_subcommand is not None:
        if decision or action:
            raise click.UsageError(f"--decision and --action are not for '{context.invoked_subcommand}'")
        context.obj = (path, assignments)
        return
    if decision is not None:
        store = store_of_job()
        quiet_libraries()
        with connect((ClusterConfig(), store), start="never"):
            from ray_mlops.orchestration.retrain import run_decision  # after Ray's environment is set

            report = run_decision(store, decision)
        if as_json:
            print_json(report.to_json())
        else:
            click.echo(report.summary())  # a refused candidate is a result of a retraining, not its failure
        return
    config = find_config(path, assignments)
    with session(config, start="never"):
        from ray_mlops.orchestration.retrain import request_retraining  # after Ray's environment is set

        answer = request_retraining(config, by=getpass.getuser(), reason=reason, action=action)
    if as_json:
        print_json(answer)
    else:
        click.echo(answer["policy"])
        click.echo("  the monitor submits the job when its policy lets it; 'ray-mlops monitor' shows how it ends")


retrain.add_command(backtest)


@click.command()
@config_option
@click.argument("version")
@click.option("--reason", required=True, help="Kept in the ledger.")
def approve(config: ProjectConfig, version: str, reason: str) -> None:
    """Approve VERSION, which passed the gate and waits for a person."""
    from ray_mlops.orchestration.approval import approve_version  # after parsing

    approve_version(config, version, by=getpass.getuser(), reason=reason)
    click.echo(f"approved {config.name} version {version}")
