"""``notify``: whom a model tells of what happens to it."""

import click

from ray_mlops.cli import EXIT_FAILED, print_json
from ray_mlops.cli.options import config_option, json_option
from ray_mlops.config import ProjectConfig


@click.group()
def notify() -> None:
    """Show whom a model tells of what happens to it, or try it out."""


@notify.command("test")
@config_option
@click.option("--target", "targets", multiple=True, help="Only this target (repeatable) [default: all].")
@json_option
@click.pass_context
def notify_test(context: click.Context, config: ProjectConfig, targets: tuple[str, ...], as_json: bool) -> None:
    """Send a sample to each target, with the secrets of this shell; fails where one does not accept it.

    The monitor sends from the cluster: its secrets are those of the shell in which the cluster was started.
    """
    from ray_mlops.orchestration.notify import send_samples  # after parsing

    found = send_samples(config, targets)
    if as_json:
        print_json(found)
    else:
        lines = (f"{each['target']:16} {each['outcome']:10} {each['address']}: {each['detail']}" for each in found)
        click.echo("\n".join(lines))
    if any(each["outcome"] != "delivered" for each in found):
        context.exit(EXIT_FAILED)


@notify.command("show")
@config_option
@json_option
def notify_show(config: ProjectConfig, as_json: bool) -> None:
    """Each target: where it is, how far in the record of events, what it was sent last, what waits."""
    from ray_mlops.orchestration.notify import describe_targets, target_lines  # after parsing

    found = describe_targets(config)
    if as_json:
        print_json(found)
    else:
        click.echo("\n".join(target_lines(found)))
