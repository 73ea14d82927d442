"""``cluster`` and ``doctor``."""

import click

from ray_mlops.cli import EXIT_FAILED, print_json
from ray_mlops.cli.options import config_option, json_option
from ray_mlops.config import ProjectConfig


@click.group()
def cluster() -> None:
    """Start or stop a local cluster: a real head process, recorded in the store."""


@cluster.command()
@config_option
def start(config: ProjectConfig) -> None:
    """Start a head with the right settings, or say that one is running."""
    from ray_mlops.runtime.cluster import start_cluster  # after parsing

    record = start_cluster(config.cluster, config.store)
    click.echo(f"running: {record.address}")
    click.echo(f"dashboard: {record.dashboard_url}")
    click.echo("stop it with: ray-mlops cluster stop")


@cluster.command()
@config_option
def stop(config: ProjectConfig) -> None:
    """End exactly the processes that the store's record names."""
    from ray_mlops.runtime.cluster import stop_cluster  # after parsing

    ended = stop_cluster(config.store)
    click.echo(f"ended {len(ended)} processes" if ended else "nothing was running")


@click.command()
@config_option
@json_option
@click.pass_context
def doctor(context: click.Context, config: ProjectConfig, as_json: bool) -> None:
    """Check the machine and the cluster, and what each finding costs."""
    from dataclasses import asdict

    from ray_mlops.runtime.doctor import diagnose  # after parsing

    findings = diagnose(config.cluster, config.store)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            click.echo(f"{'ok  ' if finding.ok else 'MEND'} {finding.name}: {finding.found}")
            if not finding.ok:
                click.echo(f"     expected: {finding.expected}; costs: {finding.cost}; do: {finding.remedy}")
    if any(not finding.ok for finding in findings):
        context.exit(EXIT_FAILED)
