"""Runs in MLflow."""

import math
import pickle
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from ray_mlops.config import StoreConfig, TrainingConfig
from ray_mlops.errors import RegistryError
from ray_mlops.registry import TrackedRun, Tracker


@pytest.fixture
def client(tracking_uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


@pytest.fixture
def tracker(tracking_uri: str, model: str) -> Tracker:
    return Tracker(tracking_uri, model)


def finished(client: MlflowClient, tracker: Tracker) -> Run:
    (run,) = client.search_runs([tracker.experiment_id])
    return run


def test_run_records_what_it_is_given(tracker: Tracker, client: MlflowClient) -> None:
    with tracker.run("first", {"training": TrainingConfig().model_dump(), "seed": 3}, {"snapshot": "abc"}) as run:
        run.log_metrics({"auc": 0.5, "left out": None}, step=2)
        run.log_params({"later": [1, 2]})
        run.log_tags({"verdict": True})
    stored = finished(client, tracker)
    assert stored.info.run_id == run.run_id
    assert (stored.info.run_name, stored.info.status) == ("first", "FINISHED")
    assert stored.data.params["training.epochs"] == "20"
    assert stored.data.params["training.model"] == "ray_mlops.training.models:tabular"
    assert (stored.data.params["seed"], stored.data.params["later"]) == ("3", "[1, 2]")
    assert stored.data.metrics == {"auc": 0.5}
    assert stored.data.tags["snapshot"] == "abc"
    assert stored.data.tags["verdict"] == "True"
    assert client.get_metric_history(run.run_id, "auc")[0].step == 2


def test_params_may_be_a_section(tracker: Tracker, client: MlflowClient) -> None:
    with tracker.run("first", TrainingConfig(epochs=7)):
        pass
    assert finished(client, tracker).data.params["epochs"] == "7"


def test_many_and_long_values_are_batched_and_cut(tracker: Tracker, client: MlflowClient) -> None:
    params = {f"p{number}": number for number in range(205)} | {"long": "x" * 10_000}
    history = [{f"m{number}": float(step) for number in range(60)} for step in range(20)]
    with tracker.run("first", params, {"long": "y" * 10_000}) as run:
        run.log_history(history, first_step=1)
    stored = finished(client, tracker)
    assert len(stored.data.params) == 206
    assert len(stored.data.params["long"]) == 6000
    assert stored.data.params["long"].endswith("x...")
    assert len(stored.data.tags["long"]) == 5000
    values = [(metric.step, metric.value) for metric in client.get_metric_history(run.run_id, "m59")]
    assert values == [(step + 1, float(step)) for step in range(20)]


def test_batches_fit_a_servers_limits() -> None:
    sizes: list[tuple[str, int]] = []

    class ListClient:
        def log_batch(self, run_id: str, **entities: Any) -> None:
            sizes.extend((name, len(batch)) for name, batch in entities.items())

    run = TrackedRun(ListClient(), "run")
    run.log_params({f"p{number}": number for number in range(205)})
    run.log_history([{f"m{number}": 0.0 for number in range(60)} for _ in range(20)])
    assert sizes == [("params", 100), ("params", 100), ("params", 5), ("metrics", 1000), ("metrics", 200)]


@pytest.mark.parametrize("name", ["auc@origin=JFK", "/abs", "a//b", "../up", ".", "", "é/ü&", "x" * 300, "..."])
def test_any_name_is_accepted(tracker: Tracker, client: MlflowClient, name: str) -> None:
    with tracker.run("first", {name: 1}, {name: 2}) as run:
        run.log_metrics({name: 3.0})
    stored = finished(client, tracker)
    assert list(stored.data.metrics.values()) == [3.0]
    assert list(stored.data.params.values()) == ["1"]


def test_metric_not_finite_does_not_fail_the_run(tracker: Tracker, client: MlflowClient) -> None:
    with tracker.run("first") as run:
        run.log_metrics({"loss": math.nan, "other": math.inf})
    stored = finished(client, tracker)
    assert math.isnan(stored.data.metrics["loss"])


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("bad rows"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(1), "KILLED")],
)
def test_run_that_raises_is_marked(tracker: Tracker, client: MlflowClient, error: BaseException, status: str) -> None:
    def train() -> None:
        with tracker.run("first") as run:
            run.log_metrics({"auc": 0.5})
            raise error

    with pytest.raises(type(error)):
        train()
    stored = finished(client, tracker)
    assert stored.info.status == status
    assert stored.info.end_time is not None
    assert stored.data.tags["ray_mlops.error"] == f"{type(error).__name__}: {error}"
    assert stored.data.metrics == {"auc": 0.5}


def test_run_error_is_not_hidden_by_a_lost_database(tracker: Tracker, client: MlflowClient) -> None:
    def train() -> None:
        with tracker.run("first") as run:
            client.delete_run(run.run_id)
            raise ValueError("bad rows")

    with pytest.raises(ValueError, match="bad rows"):
        train()


def test_parent_holds_its_trials(tracker: Tracker, client: MlflowClient) -> None:
    with tracker.run("search") as search, tracker.run("trial", parent=search.run_id) as trial:
        pass
    assert client.get_parent_run(trial.run_id).info.run_id == search.run_id


def test_artifacts_lie_below_the_root(tracking_uri: str, model: str, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "a.html").write_text("A")
    (tmp_path / "b.txt").write_text("B")
    tracker = Tracker(tracking_uri, model, str(tmp_path / "artifacts"))
    with tracker.run("first") as run:
        run.log_artifact(tmp_path / "report", "evaluation")
        run.log_artifact(str(tmp_path / "b.txt"))
        run.log_text("C", "notes/c.txt")
    base = tmp_path / "artifacts" / model / run.run_id / "artifacts"
    found = {str(path.relative_to(base)): path.read_text() for path in base.rglob("*") if path.is_file()}
    assert found == {"evaluation/a.html": "A", "b.txt": "B", "notes/c.txt": "C"}


def test_artifacts_default_to_a_directory_beside_the_database(tracker: Tracker, mlflow_directory: Path) -> None:
    with tracker.run("first") as run:
        run.log_text("C", "c.txt")
    assert list((mlflow_directory / "mlflow" / tracker.experiment).rglob("c.txt"))


def test_artifact_missing_is_an_error(tracker: Tracker, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="no such file"), tracker.run("first") as run:
        run.log_artifact(tmp_path / "nothing")


def test_artifact_that_cannot_be_written_is_our_error(tracking_uri: str, model: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RegistryError, match="free space"),
        Tracker(tracking_uri, model, f"{tmp_path}/file").run("a") as run,
    ):
        run.log_text("C", "c.txt")


def test_dataset_is_the_snapshot(tracker: Tracker, client: MlflowClient) -> None:
    with tracker.run("first") as run:
        run.log_dataset("0123456789abcdef", "/store/snapshots/0123456789abcdef.json", context="evaluation")
    (given,) = finished(client, tracker).inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("snapshot", "0123456789abcdef")
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "evaluation")]


def test_experiment_is_shared_and_taken_back(tracker: Tracker, client: MlflowClient, tracking_uri: str) -> None:
    assert client.get_experiment(tracker.experiment_id).name == tracker.experiment
    assert Tracker(tracking_uri, tracker.experiment).experiment_id == tracker.experiment_id
    client.delete_experiment(tracker.experiment_id)
    with Tracker(tracking_uri, tracker.experiment).run("again"):
        pass
    assert client.get_experiment(tracker.experiment_id).lifecycle_stage == "active"


def test_experiment_made_by_another_process_meanwhile_is_used(
    tracker: Tracker, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = Tracker(tracking_uri, tracker.experiment)
    look, seen = late._client.get_experiment_by_name, []

    def look_too_early_once(name: str) -> Any:
        seen.append(name)
        return look(name) if len(seen) > 1 else None

    monkeypatch.setattr(late._client, "get_experiment_by_name", look_too_early_once)
    assert tracker.experiment_id == late.experiment_id


def test_open_uses_the_store(tmp_path: Path) -> None:
    tracker = Tracker.open(StoreConfig(root=str(tmp_path)), "flights")
    assert tracker.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracker.artifact_root == f"{tmp_path}/mlflow"
    again = pickle.loads(pickle.dumps(tracker))
    assert (again.tracking_uri, again.experiment, again.artifact_root) == (
        tracker.tracking_uri,
        "flights",
        tracker.artifact_root,
    )
