"""``ledger``, ``reproduce``, ``gc``, ``forget``."""

import getpass
from dataclasses import asdict
from datetime import UTC, datetime

import click

from ray_mlops.cli import EXIT_FAILED, print_json
from ray_mlops.cli.options import config_option, json_option
from ray_mlops.cli.progress import PhasePrinter
from ray_mlops.cli.session import session
from ray_mlops.cli.text_files import read_text
from ray_mlops.config import ProjectConfig
from ray_mlops.errors import ConfigError
from ray_mlops.ledger import Ledger, registered_versions
from ray_mlops.runtime.files import Files


@click.group()
def ledger() -> None:
    """Show or verify the record of decisions."""


@ledger.command("show")
@config_option
@click.option("--stream", help="Only this stream, as MODEL/rollout.")
@click.option("--kind", help="Only this kind, as rollout.moved.")
@click.option("-n", "--last", "limit", type=click.IntRange(min=1), default=50, show_default=True, help="The newest N.")
@json_option
def ledger_show(config: ProjectConfig, stream: str | None, kind: str | None, limit: int, as_json: bool) -> None:
    """Print the newest events, oldest first."""
    events = Ledger.open(config.store).read(stream, kind=kind, limit=limit, newest_first=True)[::-1]
    if as_json:
        print_json([asdict(event) for event in events])
        return
    for event in events:
        moment = datetime.fromtimestamp(event.time, UTC).isoformat(timespec="seconds")
        reason = event.payload.get("reason") or ""
        click.echo(f"{event.seq:5} {moment} {event.stream:24} {event.kind:22} {reason}")


@ledger.command("verify")
@config_option
@click.pass_context
def ledger_verify(context: click.Context, config: ProjectConfig) -> None:
    """Recompute the hash chain; exit code 1 if an event was changed or removed."""
    report = Ledger.open(config.store).verify()
    if report.ok:
        click.echo(f"ok: {report.events} events, head {report.head}")
        return
    click.echo(f"broken at event {report.broken_seq}: {report.reason}", err=True)
    context.exit(EXIT_FAILED)


@click.command()
@config_option
@click.argument("version")
@click.pass_context
def reproduce(context: click.Context, config: ProjectConfig, version: str) -> None:
    """Train VERSION again from its recorded snapshot, configuration and seed, and compare the hashes."""
    with session(config), PhasePrinter() as phases:
        from ray_mlops.orchestration.fit import code_version  # after Ray's environment is set
        from ray_mlops.orchestration.pipeline import reproduce_version

        recorded, made = reproduce_version(config, version, on_phase=phases)
    click.echo(f"recorded {recorded}\nmade     {made}\n{'equal' if recorded == made else 'DIFFERENT'}")
    if recorded != made:
        then, now = registered_versions(Ledger.open(config.store), config.name)[version]["code"], code_version()
        if then != now:
            click.echo(f"the code is another: {then} then, {now} now; a bundle names its code, so its hash must differ")
        context.exit(EXIT_FAILED)


@click.command()
@config_option
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def gc(config: ProjectConfig, dry_run: bool) -> None:
    """Delete what store.retention lets go, and compact the prediction log's days that are over.

    Bundles of registered versions stay."""
    from ray_mlops.orchestration.housekeeping import collect  # after parsing

    files = Files(config.store.root_uri)
    report = collect(
        config.name,
        config.store.retention,
        files,
        Ledger.open(config.store),
        failed_requests=config.serving.log.failed_requests.retention,
        late=config.monitoring.allowed_lateness,
        dry=dry_run,
    )
    print_json(asdict(report))


@click.command()
@config_option
@click.option("--ids", required=True, help="Comma-separated prediction ids, or @FILE with one a line.")
def forget(config: ProjectConfig, ids: str) -> None:
    """Delete what is logged of prediction ids: rows, labels, failed requests."""
    from ray_mlops.orchestration.housekeeping import forget as forget_ids  # after parsing

    parts = read_text(ids[1:]).splitlines() if ids.startswith("@") else ids.split(",")
    wanted = [part.strip() for part in parts if part.strip()]
    if not wanted:
        raise ConfigError("no ids were given", "--ids", "give --ids a,b or --ids @FILE")
    files = Files(config.store.root_uri)
    report = forget_ids(config.name, wanted, files, Ledger.open(config.store), by=getpass.getuser())
    print_json(asdict(report))
