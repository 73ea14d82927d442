"""Batch prediction with Ray Data: the same bundle and the same features as in serving, and a run that can be resumed.

One task reads, predicts and writes one unit (see ``batch_plan``). Whatever kills a run, the same command does only
what is missing: units that are done are known by their files, and one that is done twice gives the same file.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
import torch

from ray_mlops.config import ProjectConfig, SourceConfig
from ray_mlops.config.store import base_directory
from ray_mlops.data.distributed import MAX_BLOCKS, carry_errors, within_deadline
from ray_mlops.data.readers import open_filesystem, read_file
from ray_mlops.data.source_files import SourceDescription, describe_files
from ray_mlops.errors import FeatureError, ResourceError, SourceError, StoreError
from ray_mlops.orchestration.batch_output import BatchOutput
from ray_mlops.orchestration.batch_plan import BatchPlan, BatchUnit, OnError, make_plan
from ray_mlops.orchestration.batch_rows import predict_unit
from ray_mlops.orchestration.phases import OnPhase, silent
from ray_mlops.orchestration.versions import find_version, load_bundle
from ray_mlops.runtime.cluster import available
from ray_mlops.runtime.files import Files
from ray_mlops.training.bundle import ModelBundle
from ray_mlops.training.bundle_files import MANIFEST, bundle_hash


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """What a run came to."""

    model: str
    version: str
    bundle: str
    output: str
    rows: int
    """Rows of the input."""
    predicted: int
    refused: int
    """Rows that were set aside with their reasons, in ``_errors``."""
    units: int
    units_before: int
    """Done already, by an earlier run."""

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class BatchJob:
    """What a worker needs besides the unit."""

    bundle: ModelBundle
    plan: BatchPlan
    schema: pa.Schema
    """Of what is read."""
    output: BatchOutput


def predict_dataset(
    config: ProjectConfig,
    source: str,
    output: str,
    version: str = "champion",
    *,
    keep: Sequence[str] | None = None,
    id_column: str | None = None,
    on_error: OnError = "fail",
    gpus: float = 0.0,
    fresh: bool = False,
    on_phase: OnPhase = silent,
) -> BatchSummary:
    """Predict the rows of a Parquet, CSV or JSON-lines source into Parquet files, in the order of the rows.

    Args:
        config: The configuration.
        source: A path, glob or URI.
        output: A directory or URI; files are written whole or not at all.
        version: A version, an alias or a bundle's path.
        keep: Columns of the source that the output carries; None: all.
        id_column: The column that tells which row is which; None: ``data.id`` where the source has it, else the
            output numbers the rows in ``source_row``.
        on_error: Fail at a row that cannot be predicted, or set it aside with its reason.
        gpus: GPUs of one worker, a fraction too; 0 predicts on CPUs.
        fresh: Replace the predictions that lie in the output.
        on_phase: Progress.

    Raises:
        FeatureError: A column is missing, or a row has a value of the wrong type; names file and row.
        SourceError: The source is missing, unreadable, or changes while it is predicted.
        StoreError: The output cannot be written, or holds something else.
        ResourceError: The cluster has no such GPU.
    """
    output = _absolute(output)
    options = worker_options(gpus, available()[0].get("GPU", 0.0))
    on_phase("read", source)
    found = describe_files(SourceConfig(path=source), hashed=True)
    _check_apart(source, output)
    name, address = find_version(config, version)
    on_phase("load", f"version {name}")
    bundle = load_bundle(address, config)
    _check_inputs(found, bundle, source)
    if id_column is None and config.data.id in found.schema.names:
        id_column = config.data.id
    digest = bundle_hash(Files(address).read(MANIFEST))
    plan = make_plan(
        found, model=bundle.name, version=name, bundle=digest, keep=keep, id_column=id_column, on_error=on_error
    )
    target = BatchOutput(output)
    done = target.prepare(plan, fresh=fresh)
    schema = _read_schema(found, bundle, plan)
    refused = dict(done)
    job = BatchJob(bundle, plan, schema, target)
    missing = [unit for unit in plan.units if unit.index not in done]
    total, rows = len(plan.units), sum(unit.rows for unit in plan.units)
    on_phase("predict", f"{len(done)} of {total} units")
    for index, count in _run(job, missing, options, config.cluster.step_timeout_s):
        refused[index] = count
        ready = sum(plan.units[index].rows for index in refused)
        on_phase("predict", f"{len(refused)} of {total} units, {ready} of {rows} rows")
    away = sum(refused.values())
    summary = BatchSummary(plan.model, name, digest, output, rows, rows - away, away, total, len(done))
    target.finish({**summary.to_json(), "digest": plan.digest})
    return summary


def worker_options(gpus: float, cluster_gpus: float) -> dict[str, Any]:
    """What Ray Data is asked for: a task for each unit on CPUs; on GPUs a pool of actors that hold the model.

    Args:
        gpus: GPUs of one worker.
        cluster_gpus: Those of the cluster. Ray would wait for ever for one that is not there.

    Raises:
        ResourceError: The cluster has fewer.

    Example:
        >>> worker_options(0.0, 0.0), worker_options(0.5, 2.0)
        ({}, {'num_gpus': 0.5, 'concurrency': (1, 4)})
    """
    if gpus <= 0:
        return {}
    workers = math.floor(cluster_gpus / gpus + 1e-9)
    if not workers:
        problem = f"asked for {gpus:g} GPUs for each worker, the cluster has {cluster_gpus:g}"
        raise ResourceError(problem, "--gpus", "leave it out to predict on CPUs, or join a cluster with GPUs")
    return {"num_gpus": gpus, "concurrency": (1, workers)}


def on_device(bundle: ModelBundle, device: str) -> ModelBundle:
    """The same bundle with its model on a device; features are made on the CPU as ever.

    Raises:
        ResourceError: There is no such device in this process.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        problem = "Ray gave this worker a GPU, but torch finds none"
        raise ResourceError(problem, "--gpus", "install torch with CUDA on the workers, or leave --gpus out")
    return replace(bundle, model=bundle.model.to(device))


class UnitWorker:
    """Reads, predicts and writes units: what Ray Data calls, once for each.

    Args:
        job: A reference to the job: the model travels once to each node.
        device: Torch device that predicts.
    """

    def __init__(self, job: "ray.ObjectRef[BatchJob]", device: str = "cpu") -> None:
        self._ref, self._device = job, device
        self._job: BatchJob | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Do the units that a batch describes; returns the index and the number of refused rows of each."""
        return carry_errors(self._predict)(batch)

    def _predict(self, batch: pa.Table) -> pa.Table:
        if self._job is None:
            job: BatchJob = ray.get(self._ref)
            self._job = replace(job, bundle=on_device(job.bundle, self._device))
        job, indices, refused = self._job, batch["unit"].to_pylist(), []
        for index in indices:
            unit = job.plan.units[index]
            result = predict_unit(read_unit(unit, job.plan.format, job.schema), job.bundle, job.plan, unit)
            job.output.write_unit(job.plan, unit, result)
            refused.append(len(result.refused))
        return pa.table({"unit": pa.array(indices, pa.int64()), "refused": pa.array(refused, pa.int64())})


def read_unit(unit: BatchUnit, format: str, schema: pa.Schema) -> pa.Table:
    """Read the rows of a unit.

    Raises:
        SourceError: The file is gone, unreadable, or not the one that was planned for.
    """
    filesystem, path = open_filesystem(unit.path)
    is_same = filesystem.exists(path) and int(filesystem.size(path)) == unit.bytes
    table = read_file(unit.path, format, schema=schema, columns=schema.names, row_groups=unit.row_groups)
    if not is_same or len(table) != unit.rows:
        raise SourceError("has changed since the run began", unit.path, "let it be, and give --fresh")
    return table


def _run(
    job: BatchJob, units: Sequence[BatchUnit], options: dict[str, Any], timeout_s: float
) -> Iterator[tuple[int, int]]:
    """Do units; yields the index and the number of refused rows of each that is done. A deadline holds for each."""
    if not units:
        return
    items = [{"unit": unit.index} for unit in units]
    dataset: ray.data.Dataset = ray.data.from_items(items, override_num_blocks=min(len(items), MAX_BLOCKS))
    shared = ray.put(job)
    batches: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": 1}
    if options:
        arguments = (shared, "cuda")
        dataset = dataset.map_batches(UnitWorker, fn_constructor_args=arguments, **batches, **options)
    else:
        dataset = dataset.map_batches(UnitWorker(shared).__call__, **batches)
    results = iter(dataset.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=0))
    while (table := within_deadline(lambda: next(results, None), "predicting", timeout_s)) is not None:
        yield from zip(table["unit"].to_pylist(), table["refused"].to_pylist(), strict=True)


def _read_schema(found: SourceDescription, bundle: ModelBundle, plan: BatchPlan) -> pa.Schema:
    """What is read: inputs of the model and columns to carry. An id in CSV is text: ``007`` is not ``7``."""
    inputs = {column.name for column in bundle.features.columns}
    fields = [field for field in found.schema if field.name in inputs or field.name in plan.columns]
    if plan.format == "csv":
        is_id = {plan.id} - inputs
        fields = [pa.field(field.name, pa.string()) if field.name in is_id else field for field in fields]
    return pa.schema(fields)


def _check_inputs(found: SourceDescription, bundle: ModelBundle, source: str) -> None:
    missing, _ = bundle.features.check_columns(found.schema.names)
    if missing:
        problem = f"the model's input {missing[0]!r} is not there"
        raise FeatureError(problem, source, f"it has {', '.join(found.schema.names)}")


def _check_apart(source: str, output: str) -> None:
    """An output inside the source would be read as input by the next run."""
    inside = source.rstrip("/") if "://" in source else str(Path(source).absolute())
    if f"{output}/".startswith(f"{inside}/"):
        raise StoreError(f"lies inside the source {source}", output, "give a directory outside of it")


def _absolute(output: str) -> str:
    """Workers have directories of their own, and Ray deletes an uploaded one."""
    return output.rstrip("/") if "://" in output else str(base_directory(Path.cwd()) / output)
