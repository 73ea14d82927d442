"""``retrain backtest``."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ray_mlops.cli import print_json
from ray_mlops.cli.options import find_config, json_option, unread_config_option
from ray_mlops.cli.progress import PhasePrinter
from ray_mlops.config import SourceConfig

if TYPE_CHECKING:
    from ray_mlops.orchestration.backtest.replay import PolicyReport

DEFAULT_POLICIES = ("configured", "never", "weekly", "monthly")


@click.command()
@unread_config_option
@click.option(
    "--policy",
    "policies",
    multiple=True,
    default=DEFAULT_POLICIES,
    show_default=True,
    metavar="NAME",
    help="configured, never, weekly, monthly, a duration (10d) or a cron expression (repeatable).",
)
@click.option(
    "--from", "start", type=click.DateTime(["%Y-%m-%d"]), help="First day that is served [after retraining.window]."
)
@click.option(
    "--rows",
    type=click.Path(exists=True, path_type=Path),
    help="A file or directory of labelled rows instead of the source and the prediction log.",
)
@json_option
@click.pass_obj
def backtest(
    given: tuple[str | None, tuple[str, ...]],
    path: str | None,
    assignments: tuple[str, ...],
    policies: tuple[str, ...],
    start: datetime | None,
    rows: Path | None,
    as_json: bool,
) -> None:
    """Replay the past under the retraining policy, and under calendars, and compare.

    Rows before --from train the first model. From there on the rows are served window by window, labels come
    monitoring.labels.delay later, the monitor watches, and every retraining really trains (in this process, on one
    thread) and is judged by all of the gate that needs no running service; one that passes is champion at once,
    without shadow and canary. 'configured' is the policy as if retraining.enabled were on. Nothing is written to the
    store, and no cluster is started. A rung 'tune' of the ladder trains without a search.
    """
    from ray_mlops.data.source import source_table  # after parsing, as Ray is imported with it
    from ray_mlops.orchestration.backtest.history import History, read_history
    from ray_mlops.orchestration.backtest.replay import Backtest, check_policies

    check_policies(policies)
    config = find_config(path or given[0], (*given[1], *assignments))
    with PhasePrinter(quiet=as_json) as phases:
        phases("history", "reading rows and labels")
        if rows is None:
            history = read_history(config)
        else:
            source = SourceConfig(path=str(rows))
            history = History.of_table(source_table(source, event_time=config.data.event_time), config)
        start_us = None if start is None else round(start.replace(tzinfo=UTC).timestamp()) * 1_000_000
        phases("first model", f"{len(history)} rows")
        replayed = Backtest(config, history, start_us)
        found = replayed.compare(policies, lambda name, done, total: phases(name, f"window {done} of {total}"))
    if as_json:
        print_json([report.to_json() for report in found])
    else:
        click.echo("\n".join(lines(found)))


def lines(reports: "list[PolicyReport]") -> list[str]:
    """A table of the policies, and below it what the first of them did."""
    head = f"{'policy':14} {'retrainings':>11} {'refused':>7} {'loss':>9} {'training s':>10}"
    rows = [
        f"{report.policy:14} {len(report.retrainings):>11} "
        f"{sum(not retraining.became_champion for retraining in report.retrainings):>7} "
        f"{report.loss:>9.5f} {report.seconds:>10.1f}"
        for report in reports
    ]
    first = reports[0]
    told = [
        f"  {each.as_of[:10]}  {each.action:11} {'champion' if each.became_champion else 'refused ':8}  {each.reason}"
        for each in first.retrainings
    ]
    span = f"{len(first.windows)} windows, {sum(first.rows)} rows served"
    return [head, *rows, "", f"{first.policy}: {span}", *told]
