"""``predict`` and ``batch-predict``."""

from typing import Literal

import click

from ray_mlops.cli import print_json
from ray_mlops.cli.client import open_client
from ray_mlops.cli.given_rows import read_rows
from ray_mlops.cli.options import config_option, json_option
from ray_mlops.cli.progress import PhasePrinter
from ray_mlops.cli.session import session
from ray_mlops.config import ProjectConfig


@click.command()
@config_option
@click.argument("rows", default="-")
@click.option("--version", help="Ask this version, alias or bundle here, without a service.")
@click.option("--routing-key", help="Keep this caller on one arm.")
def predict(config: ProjectConfig, rows: str, version: str | None, routing_key: str | None) -> None:
    """Ask the running service, or a version, for predictions of ROWS.

    ROWS is a JSON object or a list of them, a file (JSON lines, Parquet or CSV), or '-' for JSON lines from standard
    input. What the configuration knows to be no input, such as the target, is left out of a Parquet or CSV file.
    """
    if version is not None and routing_key is not None:
        raise click.UsageError("--routing-key chooses an arm of the service, and --version asks none")
    data = config.data
    unused = {name for name in (data.target, data.id, data.weight, *data.exclude) if name is not None}
    instances = read_rows(rows, unused - {feature.name for feature in data.features or []})
    if version is None:
        with open_client(config) as client:
            print_json(client.predict(instances, routing_key=routing_key))
        return
    from ray_mlops.orchestration.quick_check import predict_rows  # after parsing: it loads torch

    print_json(predict_rows(config, instances, version))


@click.command("batch-predict")
@config_option
@click.argument("source")
@click.argument("output")
@click.option("--version", default="champion", show_default=True, help="A version, an alias or a bundle's path.")
@click.option("--keep", multiple=True, metavar="COLUMN", help="Carry this column (repeatable) [default: all].")
@click.option(
    "--id", "id_column", metavar="COLUMN", help="The column that tells which row is which [default: data.id]."
)
@click.option("--on-error", type=click.Choice(["fail", "skip"]), default="fail", show_default=True, help="Bad rows.")
@click.option("--gpus", type=click.FloatRange(min=0), default=0.0, help="GPUs of each worker, a fraction too.")
@click.option("--fresh", is_flag=True, help="Replace the predictions that lie in OUTPUT.")
@json_option
def batch_predict(
    config: ProjectConfig,
    source: str,
    output: str,
    version: str,
    keep: tuple[str, ...],
    id_column: str | None,
    on_error: Literal["fail", "skip"],
    gpus: float,
    fresh: bool,
    as_json: bool,
) -> None:
    """Predict the rows of SOURCE (Parquet, CSV or JSON lines; path, glob or URI) into Parquet files in OUTPUT.

    The same command goes on with a run that was killed: only what is missing is done. Rows that cannot be predicted
    are an error that names them; '--on-error skip' sets them aside in OUTPUT/_errors, with reasons.
    """
    with session(config), PhasePrinter() as phases:
        from ray_mlops.orchestration.batch import predict_dataset  # after Ray's environment is set

        summary = predict_dataset(
            config,
            source,
            output,
            version,
            keep=keep or None,
            id_column=id_column,
            on_error=on_error,
            gpus=gpus,
            fresh=fresh,
            on_phase=phases,
        )
    if as_json:
        print_json(summary.to_json())
        return
    click.echo(f"{summary.predicted} predictions of version {summary.version} in {summary.output}")
    if summary.units_before:
        click.echo(f"  {summary.units_before} of {summary.units} units were there already")
    if summary.refused:
        click.echo(f"  {summary.refused} rows could not be predicted: see {summary.output}/_errors")
