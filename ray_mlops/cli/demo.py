"""``demo``."""

import os
import shutil
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path

import click
from rich.console import Console

from ray_mlops.cli import EXIT_FAILED
from ray_mlops.cli.progress import PhasePrinter
from ray_mlops.cli.session import quiet_libraries
from ray_mlops.config import DemoConfig, ProjectConfig, load_config, parse_overrides
from ray_mlops.demo.clock import BUDGET_S, Clock
from ray_mlops.errors import ConfigError
from ray_mlops.runtime.cluster import connect, stop_cluster

_OF_A_STORE = (
    *(
        "accounting",
        "bundles",
        "checkpoints",
        "cluster",
        "cluster.json",
        "cluster.lock",
        "cluster.users",
        "labels",
        "ledger.db*",
    ),
    *("mlflow", "mlflow.db*", "predictions", "predictions-shadow", "quarantine", "redaction.key", "reports"),
    *("rollouts", "service.json", "service.lock", "snapshots", "tokens.json"),
)
"""Everything that lies in a store; nothing else is deleted."""


def demo_config() -> str:
    """The shipped configuration of the demo: in a wheel beside the package, in a checkout in ``configs/``."""
    package = Path(str(files("ray_mlops")))
    for place in (package / "configs", package.parent / "configs"):
        if (place / "flights.yaml").exists():
            return str(place / "flights.yaml")
    raise ConfigError("the demo's configuration is missing", "configs/flights.yaml", "reinstall ray-mlops")


@click.command()
@click.option("-c", "--config", "path", help="Another configuration with a 'demo' section.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Replace one value, by dotted path.")
@click.option("--pace", type=click.Choice(["barrier", "wall"]), help="'wall' posts without waiting for the loop.")
@click.option("--keep", is_flag=True, help="Leave the service and its cluster running.")
@click.option("--fresh/--no-fresh", default=True, show_default=True, help="Start from an empty store.")
@click.option("--report", default="report.html", show_default=True, help="Where to write the report page.")
@click.pass_context
def demo(
    context: click.Context,
    path: str | None,
    assignments: tuple[str, ...],
    pace: str | None,
    keep: bool,
    fresh: bool,
    report: str,
) -> None:
    """A year of flights through the loop: train, serve, go stale, notice, retrain, judge, roll out, roll back.

    Ends with a table and report.html; exit code 0 only if a retrained candidate was promoted on evidence, the
    sabotaged one was rolled back by a guard, no declared-contract alarm was raised, and no request failed.
    """
    overrides = parse_overrides(assignments)
    if pace:
        overrides["demo.replay.pace"] = pace
    config = load_config(path or demo_config(), overrides)
    if config.demo is None:
        raise ConfigError("has no 'demo' section", path or "", "see configs/flights.yaml")
    check_report_path(Path(report))
    if fresh:
        clear_store(config)
    if not _run(config, config.demo, keep, report):
        context.exit(EXIT_FAILED)


def check_report_path(path: Path) -> None:
    """Find out now, not after minutes, that the report cannot be written.

    Raises:
        ConfigError: It is a directory, or in a directory that is missing or not writable.
    """
    directory = path.absolute().parent
    if path.is_dir() or not directory.is_dir() or not os.access(directory, os.W_OK):
        problem = "is a directory" if path.is_dir() else f"cannot be written: {directory} is missing or not writable"
        raise ConfigError(problem, f"--report {path}", "name a file in a directory that you may write to")


def clear_store(config: ProjectConfig) -> None:
    """Stop the store's cluster and delete what a store consists of; whatever else is in the directory stays.

    Raises:
        ConfigError: The store is remote, or the directory holds something else.
    """
    root = config.store.local_root
    if not config.store.is_local:
        raise ConfigError("the demo empties its store, and this one is remote", "store.root", "use --no-fresh")
    if not root.exists():
        return
    stop_cluster(config.store)
    entries = list(root.iterdir())
    ours = [entry for entry in entries if any(fnmatch(entry.name, pattern) for pattern in _OF_A_STORE)]
    if entries and not ours:
        raise ConfigError(f"{root} is not a store", "store.root", "choose another directory, or --no-fresh")
    for entry in ours:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _run(config: ProjectConfig, demo: DemoConfig, keep: bool, report: str) -> bool:
    console = Console(highlight=False)
    quiet_libraries()
    clock = Clock()
    clock.enter("start")
    with PhasePrinter(budget=BUDGET_S) as phases:
        phases("start", "cluster")
        with connect(config, keep=keep) as connection:
            from ray_mlops.demo.memory import PeakMemory  # after Ray's environment is set
            from ray_mlops.demo.page import write_page
            from ray_mlops.demo.run import DemoRun
            from ray_mlops.demo.table import print_outcome, print_times

            with PeakMemory(config.store) as memory:
                outcome, deployment = DemoRun(config, demo, clock, phases, phases.note).run()
            clock.enter("")
            write_page(Path(report), outcome, demo.replay)
            phases("stop", "")
            urls = deployment.urls()
            kept = keep or not connection.owned
    print_outcome(console, outcome, demo.replay)
    print_times(console, clock.seconds, memory.bytes)
    console.print(f"report: {Path(report).resolve()}", soft_wrap=True)
    if kept:
        for name, url in urls.items():
            console.print(f"{name:10} {url}", soft_wrap=True)
    broken = outcome.broken_promises()
    for promise in broken:
        console.print(f"[red]FAILED[/]: {promise}")
    if not broken:
        console.print("[green]the loop held[/]: drift noticed, model renewed, bad candidate stopped, no request failed")
    return not broken
