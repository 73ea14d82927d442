"""``serve``, ``undeploy``, ``status``, ``monitor``, ``explain``, ``replay``, ``labels``."""

import getpass
import time
from contextlib import closing
from dataclasses import asdict
from datetime import timedelta
from typing import Any, cast

import click

from ray_mlops.cli import EXIT_FAILED, print_json
from ray_mlops.cli.client import open_client
from ray_mlops.cli.options import config_option, find_config, json_option, unread_config_option
from ray_mlops.cli.progress import PhasePrinter
from ray_mlops.cli.session import session
from ray_mlops.config import MonitoringConfig, ProjectConfig, SourceConfig
from ray_mlops.config.section import parse_duration
from ray_mlops.errors import ConfigError


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


@click.group(invoke_without_command=True)
@unread_config_option
@json_option
@click.pass_context
def monitor(context: click.Context, path: str | None, assignments: tuple[str, ...], as_json: bool) -> None:
    """Show what the monitor sees, look into an alarm, acknowledge one, or print alert rules and a dashboard."""
    context.obj = (path, assignments)
    if context.invoked_subcommand is not None:
        return
    from ray_mlops.orchestration.status import monitor_lines  # after parsing

    with open_client(find_config(path, assignments)) as client:
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


@monitor.command("diagnose")
@unread_config_option
@click.argument("alarm", required=False)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same diagnosis.")
@json_option
@click.pass_obj
def monitor_diagnose(
    given: tuple[str | None, tuple[str, ...]],
    path: str | None,
    assignments: tuple[str, ...],
    alarm: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Look into ALARM [default: the newest]: can a classifier tell the rows apart, what does the loss owe to which
    column, and which slices moved. Needs no running service.
    """
    from ray_mlops.orchestration.diagnosis import answer_lines, diagnose_alarm  # after parsing

    config = find_config(path or given[0], (*given[1], *assignments))
    with PhasePrinter(quiet=as_json) as phases:
        found = diagnose_alarm(config, alarm, seed=seed, on_phase=phases)
    if as_json:
        print_json(found.to_json())
    else:
        click.echo("\n".join(answer_lines(found)))


@monitor.command("rules")
def monitor_rules() -> None:
    """Print recording and alerting rules for Prometheus."""
    from ray_mlops.monitoring.prometheus import read_rules  # after parsing

    click.echo(read_rules(), nl=False)


@monitor.command("dashboard")
def monitor_dashboard() -> None:
    """Print a dashboard for Grafana; import it and choose the Prometheus that scrapes the service."""
    from ray_mlops.monitoring.prometheus import read_dashboard  # after parsing

    click.echo(read_dashboard(), nl=False)


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
@click.option("--failed", is_flag=True, help="Send again the requests that failed, instead of rows of the past.")
@click.option("--version", help="With --failed: ask this version [default: the one that failed].")
@click.option("--bundle", metavar="ADDRESS", help="With --failed: ask this bundle here, and no service.")
@click.option("--since", metavar="DURATION", help="With --failed: only those of the last 2h, 7d, ...")
@json_option
@click.pass_context
def replay(
    context: click.Context,
    config: ProjectConfig,
    failed: bool,
    version: str | None,
    bundle: str | None,
    since: str | None,
    as_json: bool,
) -> None:
    """Post rows of the past (demo.replay) to the running service, in event order.

    With --failed: send the failed requests that were kept (serving.log.failed_requests) once more to the version
    that failed, and say which still fail; exit code 1 if any does.
    """
    if not failed and any((version, bundle, since)):
        raise click.UsageError("--version, --bundle and --since need --failed")
    if version and bundle:
        raise click.UsageError("--version asks the service, --bundle asks none: give one of them")
    if failed:
        _replay_failed(context, config, version, bundle, since, as_json)
        return
    if config.demo is None:
        raise ConfigError("no replay is configured", "demo.replay", "see configs/flights.yaml")
    from ray_mlops.demo.replay import run_replay  # after parsing

    with open_client(config) as client, PhasePrinter(quiet=as_json) as phases:
        report = run_replay(config, client, phases)
    if as_json:
        print_json({name: getattr(report, name) for name in ("rows", "requests", "failed", "labels", "seconds")})
    else:
        click.echo(f"posted {report.rows} rows in {report.requests} requests, {report.failed} failed")


def _replay_failed(
    context: click.Context,
    config: ProjectConfig,
    version: str | None,
    bundle: str | None,
    since: str | None,
    as_json: bool,
) -> None:
    from ray_mlops.orchestration.addresses import service_address  # after parsing
    from ray_mlops.orchestration.failed_replay import BundleAsker, ServiceAsker, replay_failures, report_lines
    from ray_mlops.runtime.files import Files
    from ray_mlops.serving.failed_requests import failures_since
    from ray_mlops.serving.loaded import trusted_modules
    from ray_mlops.training.bundle import ModelBundle

    since_us = 0 if since is None else int((time.time() - _duration(since).total_seconds()) * 1e6)
    failures = failures_since(Files(config.store.root_uri), config.name, since_us)
    if bundle is not None:
        report = replay_failures(failures, BundleAsker(ModelBundle.load(bundle, trusted_modules(config))))
    else:
        with closing(ServiceAsker(*service_address(config), version)) as asker:
            report = replay_failures(failures, asker)
    if as_json:
        print_json(asdict(report))
    else:
        click.echo("\n".join(report_lines(report)))
    if report.failing:
        context.exit(EXIT_FAILED)


def _duration(text: str) -> timedelta:
    try:
        return cast(timedelta, parse_duration(text))
    except ValueError as error:
        raise ConfigError(f"expected a duration like '2h' or '7d', got {text!r}", "--since") from error


@click.group()
def labels() -> None:
    """Import labels from files, or show how labels come and what they say."""


@labels.command("show")
@config_option
@json_option
def labels_show(config: ProjectConfig, as_json: bool) -> None:
    """How labels come (delays by class, coverage), and what they say by arm, version, slice and group."""
    from ray_mlops.orchestration.label_lines import label_lines  # after parsing

    with open_client(config) as client:
        found = client.monitoring()
    if as_json:
        print_json({name: found.get(name) for name in ("model", "labels", "label_delays", "performance", "realised")})
    else:
        click.echo("\n".join(label_lines(found)))


@labels.command("import")
@config_option
@click.argument("paths", nargs=-1, required=True)
@click.option("--id", "id_column", default="id", show_default=True, help="Column of prediction ids.")
@click.option("--label", "label_column", default="label", show_default=True, help="Column of labels.")
@click.option("--time", "time_column", help="Column of label times [default: none].")
@click.option("--correction", is_flag=True, help="The labels replace those that are in force.")
@click.option("--correction-column", help="Column that says, true or false, which labels are corrections.")
@click.option("--from-row", type=click.IntRange(min=1), default=1, show_default=True, help="Go on from this row.")
@click.option("--rejects", help="Write rows that cannot be taken to this CSV file, and go on.")
@click.option("--in-flight", type=click.IntRange(1, 64), default=4, show_default=True, help="Requests at once.")
def labels_import(config: ProjectConfig, paths: tuple[str, ...], **options: Any) -> None:
    """Send the labels in PATHS (Parquet, CSV or JSON lines; files, directories, globs) to the running service.

    Repeating it is harmless. An error names the row that --from-row goes on from; rows are counted over all files.
    """
    from ray_mlops.orchestration.labels_import import import_labels  # after parsing

    with open_client(config) as client, PhasePrinter() as phases:
        counts = import_labels(client, paths, on_phase=phases, **options)
    print_json(counts)
