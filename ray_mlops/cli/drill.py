"""``drill``."""

from dataclasses import replace
from typing import Any, get_args

import click

from ray_mlops.cli import print_json
from ray_mlops.cli.options import config_option, json_option
from ray_mlops.cli.progress import PhasePrinter
from ray_mlops.config import FaultName, ProjectConfig


@click.command()
@config_option
@click.option("--version", default="champion", show_default=True, help="A version, an alias or a bundle's path.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    type=click.Choice(get_args(FaultName)),
    help="Only this fault; may be given several times.",
)
@click.option(
    "--column", help="Hit this column only; not recorded then [default: each in turn, the most important first]."
)
@click.option("--repeats", type=click.IntRange(1), help="Runs of each fault [default: monitoring.drill.repeats].")
@click.option(
    "--windows", type=click.IntRange(1), help="Windows with the fault [default: monitoring.drill.within_windows]."
)
@click.option(
    "--clean-windows", type=click.IntRange(1), help="Windows before it [default: monitoring.drill.clean_windows]."
)
@click.option(
    "--rows",
    "rows_from",
    type=click.Choice(["auto", "log", "snapshot"]),
    default="auto",
    show_default=True,
    help="Served rows, the version's own snapshot, or the first where there are enough.",
)
@click.option("--rows-per-window", type=click.IntRange(1), default=1000, show_default=True, help="At most so many.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same drill.")
@click.option("--show-alarms", is_flag=True, help="Print what a person would be sent.")
@click.option("--no-record", is_flag=True, help="Do not tell the ledger.")
@json_option
def drill(
    config: ProjectConfig,
    version: str,
    faults: tuple[FaultName, ...],
    column: str | None,
    repeats: int | None,
    windows: int | None,
    clean_windows: int | None,
    rows_from: Any,
    rows_per_window: int,
    seed: int,
    show_alarms: bool,
    no_record: bool,
    as_json: bool,
) -> None:
    """Put known faults into a copy of the stream, and see what the monitor notices.

    Real windows in random order are the reference, a clean stretch, and a stretch with the fault, before the same
    channels that watch the version in service. Reports for each fault and each monitor how often it speaks, how soon,
    and whether the right column is named; and how often it speaks without a fault. Needs no running service and no
    cluster; monitor, prediction log and labels are not touched. What it finds is recorded, so that
    monitoring.drill.required_power can hold up the rollout of a version that is watched too badly.
    """
    from ray_mlops.monitoring.drill.messages import message_lines  # after parsing, as Ray is imported with it
    from ray_mlops.monitoring.drill.report import report_lines
    from ray_mlops.orchestration.drill import default_plan, drill_version

    usual = default_plan(config, faults, column)
    plan = replace(
        usual,
        repeats=repeats or usual.repeats,
        windows=windows or usual.windows,
        clean=clean_windows or usual.clean,
        seed=seed,
    )
    with PhasePrinter(quiet=as_json) as phases:
        found = drill_version(
            config,
            version,
            plan,
            rows_from=rows_from,
            rows_per_window=rows_per_window,
            record=not no_record,
            on_phase=phases,
        )
    if as_json:
        print_json({"version": found.version, "recorded": found.recorded, **found.report.to_json()})
        return
    click.echo("\n".join(report_lines(found.report)))
    if found.recorded:
        click.echo("recorded: this drill counts for monitoring.drill.required_power")
    else:
        click.echo("not recorded: only drills of a registered version, with all columns in turn, count for a rollout")
    if show_alarms:
        click.echo("\n".join(message_lines(found.report.faults, config.name, found.version)))
