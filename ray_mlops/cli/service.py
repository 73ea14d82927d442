"""``serve``, ``undeploy``, ``predict``, ``status``, ``rollout``, ``monitor``, ``explain``, ``replay``, ``labels``."""

import getpass
import time
from typing import Any

import click

from ray_mlops.cli import print_json
from ray_mlops.cli.options import config_option, find_config, json_option, unread_config_option
from ray_mlops.cli.progress import PhasePrinter
from ray_mlops.cli.session import session
from ray_mlops.cli.text_files import read_json_lines
from ray_mlops.config import MonitoringConfig, ProjectConfig, SourceConfig
from ray_mlops.errors import ConfigError
from ray_mlops.serving.client import Client


def _client(config: ProjectConfig) -> Client:
    """A client of the running service, with the operator's token where this machine has it."""
    from ray_mlops.orchestration.addresses import service_address  # after parsing

    url, token = service_address(config)
    return Client(url, config.name, token)


@click.command()
@config_option
@click.option("--version", help="Serve this version [default: the champion, else the newest that passed the gate].")
@click.option("--block", is_flag=True, help="Stay in the foreground; Ctrl-C takes the service and its cluster down.")
def serve(config: ProjectConfig, version: str | None, block: bool) -> None:
    """Put a model behind HTTP. A second call changes only the routes; nothing is restarted."""
    with session(config, keep=not block), PhasePrinter() as phases:
        from ray_mlops.orchestration.deploy import deploy  # after Ray's environment is set

        deployment = deploy(config, version, on_phase=phases)
        click.echo(f"serving {deployment.model} version {deployment.version}")
        for name, url in deployment.urls().items():
            click.echo(f"  {name:10} {url}")
        click.echo(f"  operator token: {deployment.token_file}")
        while block:
            time.sleep(3600)


@click.command()
@config_option
@click.argument("model", required=False)
def undeploy(config: ProjectConfig, model: str | None) -> None:
    """Take MODEL [default: the configuration's] out of service; versions and logs stay."""
    with session(config, start="never"):
        from ray_mlops.orchestration.deploy import undeploy as take_down  # after Ray's environment is set

        take_down(config, model or config.name)
    click.echo(f"took {model or config.name} out of service")


@click.command()
@config_option
@click.argument("rows", default="-")
@click.option("--routing-key", help="Keep this caller on one arm.")
def predict(config: ProjectConfig, rows: str, routing_key: str | None) -> None:
    """Ask the running service for predictions of ROWS: JSON lines in a file, or '-' for standard input."""
    instances = read_json_lines(rows)
    with _client(config) as client:
        print_json(client.predict(instances, routing_key=routing_key))


@click.command("batch-predict")
@config_option
@click.argument("source")
@click.argument("output")
@click.option("--version", default="champion", show_default=True, help="A version or an alias.")
@click.option("--force", is_flag=True, help="Replace predictions that lie in OUTPUT already.")
def batch_predict(config: ProjectConfig, source: str, output: str, version: str, force: bool) -> None:
    """Predict the rows of SOURCE (Parquet, CSV or JSON lines; path or URI) into Parquet files in OUTPUT."""
    with session(config), PhasePrinter() as phases:
        from ray_mlops.orchestration.batch import predict_dataset  # after Ray's environment is set

        rows = predict_dataset(config, source, output, version, replace=force, on_phase=phases)
    click.echo(f"wrote {rows} predictions to {output}")


@click.command()
@config_option
@json_option
def status(config: ProjectConfig, as_json: bool) -> None:
    """What runs: cluster, models, versions, rollout, monitor."""
    from ray_mlops.orchestration.status import read_status, status_lines  # after parsing

    found = read_status(config)
    if as_json:
        print_json(found)
    else:
        click.echo("\n".join(status_lines(found)))


@click.command()
@config_option
@json_option
def versions(config: ProjectConfig, as_json: bool) -> None:
    """List the registered versions: gate, aliases, parent, metrics."""
    from ray_mlops.orchestration.status import list_versions, version_lines  # after parsing

    found = list_versions(config)
    if as_json:
        print_json(found)
    else:
        click.echo("\n".join(version_lines(found)))


@click.group()
def rollout() -> None:
    """Show or operate a rollout."""


@rollout.command("show")
@config_option
@json_option
def rollout_show(config: ProjectConfig, as_json: bool) -> None:
    """State, weights, guards and evidence of the running (or last) rollout."""
    from ray_mlops.orchestration.status import rollout_lines  # after parsing

    with _client(config) as client:
        found = client.rollout()
    if as_json:
        print_json(found)
    else:
        click.echo("\n".join(rollout_lines(found)))


@rollout.command("start")
@config_option
@click.argument("version")
@click.option("--override-gate", metavar="REASON", help="Start although the gate refused; kept in the ledger.")
@click.option("--skip-shadow", is_flag=True, help="Go straight to the first canary step.")
def rollout_start(config: ProjectConfig, version: str, override_gate: str | None, skip_shadow: bool) -> None:
    """Start the rollout of VERSION."""
    with _client(config) as client:
        print_json(client.command("start", version=version, override_gate=override_gate, skip_shadow=skip_shadow))


def _command(verb: str, text: str) -> None:
    @rollout.command(verb, help=text)
    @config_option
    @click.option("--reason", default="", help="Kept in the ledger.")
    def operate(config: ProjectConfig, reason: str) -> None:
        with _client(config) as client:
            print_json(client.command(verb, reason=reason))


_command("pause", "Hold the rollout where it is.")
_command("resume", "Go on with a paused rollout.")
_command("promote", "Make the candidate champion now.")
_command("rollback", "Take all traffic back to the champion, or to the one before.")


@rollout.command("plan")
@config_option
@click.option("--requests-per-day", type=click.FloatRange(min=0), required=True, help="Traffic of the model.")
@click.option("--labels-per-day", type=click.FloatRange(min=0), required=True, help="Labels that come back.")
@click.option(
    "--error-rate", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Share of failed requests."
)
def rollout_plan(config: ProjectConfig, requests_per_day: float, labels_per_day: float, error_rate: float) -> None:
    """Say beforehand how many requests, labels and days each step needs."""
    from ray_mlops.orchestration.status import plan_lines  # after parsing
    from ray_mlops.serving.rollout.plan import plan_rollout

    steps = plan_rollout(
        config.rollout, requests_per_day=requests_per_day, labels_per_day=labels_per_day, error_rate=error_rate
    )
    click.echo("\n".join(plan_lines(steps)))


@click.group(invoke_without_command=True)
@unread_config_option
@json_option
@click.pass_context
def monitor(context: click.Context, path: str | None, assignments: tuple[str, ...], as_json: bool) -> None:
    """Show what the monitor sees, or acknowledge a contract alarm."""
    context.obj = (path, assignments)
    if context.invoked_subcommand is not None:
        return
    from ray_mlops.orchestration.status import monitor_lines  # after parsing

    with _client(find_config(path, assignments)) as client:
        found = client.monitoring()
    if as_json:
        print_json(found)
    else:
        click.echo("\n".join(monitor_lines(found)))


@monitor.command("ack")
@unread_config_option
@click.argument("alarm")
@click.pass_obj
def monitor_ack(
    given: tuple[str | None, tuple[str, ...]], path: str | None, assignments: tuple[str, ...], alarm: str
) -> None:
    """Say that contract ALARM is understood, so that it no longer blocks retraining."""
    config = find_config(path or given[0], (*given[1], *assignments))
    with session(config, start="never"):
        from ray_mlops.orchestration.retrain import acknowledge  # after Ray's environment is set

        acknowledge(config, alarm, by=getpass.getuser())
    click.echo(f"acknowledged {alarm}")


@monitor.command("compare")
@click.argument("reference", type=click.Path(exists=True, dir_okay=False))
@click.argument("current", type=click.Path(exists=True, dir_okay=False))
@click.option("--column", "columns", multiple=True, help="Only this column; may be given several times.")
@click.option("--alpha", type=click.FloatRange(0, 0.5, min_open=True, max_open=True), help="Default: monitoring.alpha.")
@click.option("--tolerance", type=click.FloatRange(0, 1), help="Total variation that is tolerated.")
@json_option
def monitor_compare(
    reference: str,
    current: str,
    columns: tuple[str, ...],
    alpha: float | None,
    tolerance: float | None,
    as_json: bool,
) -> None:
    """Compare two files, column by column: what moved, by how much, and what chance alone would do.

    Needs no cluster and no configuration. REFERENCE and CURRENT are Parquet, CSV or JSON lines.
    """
    from ray_mlops.data.readers import file_format, read_file  # after parsing
    from ray_mlops.monitoring.comparison import compare

    given = {"alpha": alpha, "tolerance": tolerance}
    settings = MonitoringConfig.model_validate({name: value for name, value in given.items() if value is not None})
    before, after = (read_file(path, file_format(SourceConfig(path=path), path)) for path in (reference, current))
    report = compare(before, after, settings, columns or None)
    if as_json:
        print_json(report.to_json())
    else:
        click.echo(report.text())


@click.command()
@config_option
@click.argument("prediction_id")
@json_option
def explain(config: ProjectConfig, prediction_id: str, as_json: bool) -> None:
    """Everything that stands behind a prediction: data, code, parameters, gate, rollout step."""
    from ray_mlops.orchestration.explain import explain_lines, explainer  # after parsing

    found = explainer(config.store).explain(config.name, prediction_id)
    if as_json:
        print_json(found)
    else:
        click.echo("\n".join(explain_lines(found)))


@click.command()
@config_option
def replay(config: ProjectConfig) -> None:
    """Post rows of the past (demo.replay) to the running service, in event order."""
    if config.demo is None:
        raise ConfigError("no replay is configured", "demo.replay", "see configs/flights.yaml")
    from ray_mlops.demo.replay import run_replay  # after parsing

    with _client(config) as client, PhasePrinter() as phases:
        report = run_replay(config, client, phases)
    click.echo(f"posted {report.rows} rows in {report.requests} requests, {report.failed} failed")


@click.group()
def labels() -> None:
    """Labels that come in files."""


@labels.command("import")
@config_option
@click.argument("path")
@click.option("--id", "id_column", default="id", show_default=True, help="Column of prediction ids.")
@click.option("--label", "label_column", default="label", show_default=True, help="Column of labels.")
@click.option("--time", "time_column", help="Column of label times [default: none].")
def labels_import(config: ProjectConfig, path: str, id_column: str, label_column: str, time_column: str | None) -> None:
    """Send the labels in PATH (Parquet or CSV) to the running service; repeating it is harmless."""
    from ray_mlops.orchestration.labels_import import import_labels  # after parsing

    with _client(config) as client, PhasePrinter() as phases:
        counts: dict[str, Any] = import_labels(
            client, path, id_column=id_column, label_column=label_column, time_column=time_column, on_phase=phases
        )
    print_json(counts)
