"""Runs in MLflow: what a training was given, how it went, what came out."""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.exceptions import MlflowException
from pydantic import BaseModel

from ray_mlops.config import StoreConfig
from ray_mlops.errors import RayMLOpsError, RegistryError
from ray_mlops.registry.connection import connect, explained, normalize_tracking_uri
from ray_mlops.registry.parameters import (
    MAX_DIGEST_LENGTH,
    MAX_METRICS_PER_BATCH,
    MAX_PARAMETERS_PER_BATCH,
    MAX_TAG_LENGTH,
    accepted_name,
    flatten_parameters,
    truncate,
)

logger = logging.getLogger(__name__)

ERROR_TAG = "ray_mlops.error"
"""Tag of a failed run: what it failed with."""
_PARENT_TAG = "mlflow.parentRunId"
_CONTEXT_TAG = "mlflow.data.context"


class TrackedRun:
    """One run that is going on. Made by ``Tracker.run``."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.run_id = run_id
        self._client = client

    def log_params(self, params: Mapping[str, Any] | BaseModel) -> None:
        """Record settings as flat, dotted names; a value that is too long is cut."""
        entities = [Param(name, value) for name, value in flatten_parameters(params).items()]
        with explained(f"run {self.run_id}"):
            for batch in _batches(entities, MAX_PARAMETERS_PER_BATCH):
                self._client.log_batch(self.run_id, params=batch)

    def log_metrics(self, metrics: Mapping[str, float | None], step: int = 0) -> None:
        """Record metrics of one step; None is left out."""
        self._log([(step, metrics)])

    def log_history(self, history: Sequence[Mapping[str, float | None]], first_step: int = 0) -> None:
        """Record metrics of many steps at once."""
        self._log(list(enumerate(history, first_step)))

    def log_tags(self, tags: Mapping[str, Any]) -> None:
        """Record tags; a text that is too long is cut."""
        with explained(f"run {self.run_id}"):
            for name, value in tags.items():
                self._client.set_tag(self.run_id, accepted_name(name), truncate(str(value), MAX_TAG_LENGTH))

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Copy a file, or all in a directory, to the run's artifacts.

        Raises:
            RegistryError: There is nothing at the path, or it cannot be copied.
        """
        source = Path(path)
        if not source.exists():
            raise RegistryError("no such file or directory", str(path))
        log = self._client.log_artifacts if source.is_dir() else self._client.log_artifact
        with self._writing_artifacts():
            log(self.run_id, str(source), folder)

    def log_text(self, text: str, name: str) -> None:
        """Write a text as an artifact (``report.html``)."""
        with self._writing_artifacts():
            self._client.log_text(self.run_id, text, name)

    def log_dataset(self, snapshot: str, source: str, *, name: str = "snapshot", context: str = "training") -> None:
        """Record which snapshot of the data went in.

        Args:
            snapshot: Its id.
            source: Its address.
            name: What it is called in MLflow.
            context: What it was used for: `training`, `evaluation`.
        """
        dataset = Dataset(name=name, digest=snapshot[:MAX_DIGEST_LENGTH], source_type="ray_mlops", source=source)
        with explained(f"run {self.run_id}"):
            self._client.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag(_CONTEXT_TAG, context)])])

    def _log(self, steps: Sequence[tuple[int, Mapping[str, float | None]]]) -> None:
        now_ms = int(time.time() * 1000)
        entities = [
            Metric(accepted_name(name), float(value), now_ms, step)
            for step, metrics in steps
            for name, value in metrics.items()
            if value is not None
        ]
        with explained(f"run {self.run_id}"):
            for batch in _batches(entities, MAX_METRICS_PER_BATCH):
                self._client.log_batch(self.run_id, metrics=batch)

    @contextlib.contextmanager
    def _writing_artifacts(self) -> Iterator[None]:
        try:
            with explained(f"run {self.run_id}"):
                yield
        except OSError as error:
            remedy = "check permissions and free space"
            raise RegistryError(f"artifacts cannot be written: {error}", f"run {self.run_id}", remedy) from error


class Tracker:
    """Records runs of one experiment. Connects on first use, and pickles as its arguments.

    Args:
        tracking_uri: ``sqlite:///PATH``, ``postgresql://...`` or the address of an MLflow server.
        experiment: Its name: the model's.
        artifact_root: Directory or URI below which a new experiment keeps its artifacts. None means
            beside the file of an SQLite database, else what the server chooses.

    Raises:
        RegistryError: In every method, if MLflow cannot be reached or refuses.
    """

    def __init__(self, tracking_uri: str, experiment: str, artifact_root: str | None = None) -> None:
        self.tracking_uri = normalize_tracking_uri(tracking_uri)
        self.experiment = experiment
        self.artifact_root = artifact_root

    @classmethod
    def open(cls, store: StoreConfig, experiment: str) -> "Tracker":
        """Return the store's tracker; artifacts go to ``mlflow/`` in the store."""
        return cls(store.tracking_uri, experiment, f"{store.root_uri}/mlflow")

    def __reduce__(self) -> tuple[type["Tracker"], tuple[str, str, str | None]]:
        return Tracker, (self.tracking_uri, self.experiment, self.artifact_root)

    @contextlib.contextmanager
    def run(
        self,
        name: str,
        params: Mapping[str, Any] | BaseModel | None = None,
        tags: Mapping[str, Any] | None = None,
        *,
        parent: str | None = None,
    ) -> Iterator[TrackedRun]:
        """Track the body of a ``with`` statement as one run.

        The run is FINISHED at the end, FAILED when the body raises, KILLED when it is interrupted; the
        exception goes on.

        Args:
            name: What it is called in MLflow.
            params: Settings, or a section of the configuration.
            tags: Texts by name.
            parent: ``run_id`` of the run that this one is part of (a trial of a search).
        """
        with explained(self.tracking_uri):
            created = self._client.create_run(self.experiment_id, run_name=name)
        run = TrackedRun(self._client, created.info.run_id)
        try:
            run.log_tags({**(tags or {}), **({_PARENT_TAG: parent} if parent else {})})
            run.log_params(params or {})
            yield run
        except BaseException as error:
            self._end_unfinished(run, error)
            raise
        self._end(run, "FINISHED")

    @cached_property
    def experiment_id(self) -> str:
        """MLflow's id of the experiment, which is made, or taken back from the deleted ones, if need be."""
        with explained(self.tracking_uri):
            found = self._client.get_experiment_by_name(self.experiment)
            if found is None:
                return self._create_experiment()
            if found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)

    @cached_property
    def _client(self) -> MlflowClient:
        return connect(self.tracking_uri)

    def _create_experiment(self) -> str:
        root = self.artifact_root or _beside_database(self.tracking_uri)
        location = f"{root.rstrip('/')}/{self.experiment}" if root else None
        try:
            return str(self._client.create_experiment(self.experiment, artifact_location=location))
        except MlflowException as error:
            found = self._client.get_experiment_by_name(self.experiment)  # another process may have been first
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
            return str(found.experiment_id)

    def _end(self, run: TrackedRun, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        with explained(f"run {run.run_id}"):
            self._client.set_terminated(run.run_id, status)

    def _end_unfinished(self, run: TrackedRun, error: BaseException) -> None:
        """Say how it ended, without getting in the way of the error that ended it."""
        try:
            run.log_tags({ERROR_TAG: f"{type(error).__name__}: {error}"})
            self._end(run, "FAILED" if isinstance(error, Exception) else "KILLED")
        except RayMLOpsError as failure:
            logger.warning("left run open run=%s error=%s", run.run_id, failure)


def _beside_database(uri: str) -> str | None:
    if not uri.startswith("sqlite"):
        return None
    return str(Path(sa.make_url(uri).database or "").parent / "mlflow")


def _batches(entities: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (entities[start : start + size] for start in range(0, len(entities), size))
