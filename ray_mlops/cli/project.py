"""``init``, ``validate``, ``config``: the configuration file."""

import shlex
from pathlib import Path

import click
import yaml

from ray_mlops.cli import print_json
from ray_mlops.cli.options import DEFAULT_CONFIG, config_option, json_option
from ray_mlops.config import ProjectConfig, json_schema
from ray_mlops.errors import ConfigError, StoreError
from ray_mlops.runtime.files import write_atomically


@click.command()
@click.argument("data")
@click.option("--target", required=True, help="The column to predict.")
@click.option("--task", type=click.Choice(["binary", "multiclass", "regression"]), help="[default: by the target]")
@click.option("--event-time", help="Timestamp column [default: the only timestamp column, if there is one].")
@click.option("--name", help="The model's name [default: by the file's name].")
@click.option("-o", "--output", default=DEFAULT_CONFIG, show_default=True, help="Where to write the configuration.")
@click.option("--force", is_flag=True, help="Overwrite the output.")
def init(
    data: str, target: str, task: str | None, event_time: str | None, name: str | None, output: str, force: bool
) -> None:
    """Write a configuration for a Parquet, CSV or JSON-lines file.

    Looks at the rows, guesses what was not said, and writes the inferred contract so that it can be edited.
    """
    from ray_mlops.orchestration.start import propose_config  # after parsing: reads the data

    if Path(output).is_dir():
        raise ConfigError("is a directory", output, "give the name of a file with -o")
    if Path(output).exists() and not force:
        raise ConfigError("exists already", output, "give --force to overwrite it, or -o for another name")
    proposal = propose_config(data, target=target, task=task, event_time=event_time, name=name)
    text = yaml.safe_dump(proposal.content, sort_keys=False, allow_unicode=True)
    try:
        write_atomically(Path(output), text.encode())
    except OSError as error:
        raise StoreError(f"cannot be written: {error.strerror}", output, "give another place with -o") from error
    rows = proposal.content["data"]
    click.echo(f"wrote {output}: {rows['task']} model {proposal.content['name']!r}, {len(rows['features'])} features")
    for note in proposal.notes:
        click.echo(f"  {note}")
    option = "" if output == DEFAULT_CONFIG else f" -c {shlex.quote(output)}"
    click.echo(f"next: ray-mlops validate --data{option}, ray-mlops run{option}, ray-mlops serve{option}")


@click.command()
@config_option
@click.option("--data", "with_data", is_flag=True, help="Read the source and check the data contract, too.")
@json_option
def validate(config: ProjectConfig, with_data: bool, as_json: bool) -> None:
    """Check a configuration and, with --data, the rows behind it."""
    if not with_data:
        if as_json:
            print_json({"name": config.name, "task": config.data.task, "target": config.data.target})
        else:
            click.echo(f"ok: model {config.name!r}, {config.data.task} of {config.data.target!r}")
        return
    from ray_mlops.orchestration.start import check_data  # after parsing: reads the data

    report = check_data(config)
    if as_json:
        print_json(report.to_json())
    else:
        click.echo(f"rows: {report.rows}, good: {report.good}, quarantined: {report.quarantined}")
        for reason, count in sorted(report.reasons.items()):
            click.echo(f"  {count} rows: {reason}")
    report.raise_if_broken()
    click.echo("ok: the contract holds", err=as_json)


@click.group()
def config() -> None:
    """Show the configuration's JSON Schema or resolved values."""


@config.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of the configuration file, with each field's documentation."""
    print_json(json_schema())


@config.command("show")
@config_option
def config_show(config: ProjectConfig) -> None:
    """Print the configuration with every default filled in."""
    click.echo(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
