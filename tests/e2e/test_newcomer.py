"""The first hour of a newcomer with data of their own, odd names included: one cluster, real processes."""

import json
import signal
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.e2e.commands import CHECKOUT, Project

ROWS = 600


def make_rows() -> pa.Table:
    """Rows with odd names and every kind of missing value, without an event time."""
    generator = np.random.default_rng(1)
    x = generator.normal(size=ROWS)
    return pa.table(
        {
            "id": range(ROWS),
            "label": generator.choice(["a", "b", ""], ROWS),
            "my col": np.where(x > 1.5, np.inf, x),
            "größe.cm": pa.array([None if value > 1 else value for value in x]),
            "empty": pa.nulls(ROWS),
            "tags": [["t"]] * ROWS,
            "y": np.where(x + generator.normal(size=ROWS) > 0, "yes", "no"),
        }
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    directory = tmp_path_factory.mktemp("newcomer")
    pq.write_table(make_rows(), directory / "rows.parquet")
    project = Project(directory)
    project.run("init", "rows.parquet", "--target", "y")
    project.configure(
        {
            "training": {"epochs": 1},
            "gate": {"minimum": {"auc": 0.9999}, "parity": {"rows": 16}, "load": {"requests": 5}},
            "evaluation": {"bootstrap_samples": 50},
        }
    )
    project.run("cluster", "start")
    yield project
    project.run("cluster", "stop")


@pytest.fixture(scope="module")
def refused(project: Project) -> str:
    """What the pipeline says of a model that does not pass its gate."""
    return project.run("run", code=3)


def test_refused_model_has_exit_code_3_and_is_on_record_but_is_not_served(project: Project, refused: str) -> None:
    assert "gate REFUSED" in refused
    assert "registered as version 1" in refused
    version = project.json("versions")[0]
    assert (version["gate"], version["aliases"]) == ("refused", [])


def test_batch_prediction_goes_on_after_a_kill_and_never_mixes_two_runs(project: Project, refused: str) -> None:
    inside = project.directory / "elsewhere"
    inside.mkdir()
    there = Project(inside)  # workers have other directories than the command
    many = pa.concat_tables([make_rows()] * 2)
    for part in range(12):
        pq.write_table(many.slice(part * 100, 100), project.directory / f"part{part:02d}.parquet")
    store = ("--set", f"store.root={project.directory / '.ray_mlops'}", "--set", "data.source.path=../rows.parquet")
    config = ("--version", "1", "--config", "../ray-mlops.yaml", *store)
    command = ("batch-predict", "../part*.parquet", "out", *config)
    killed = there.start(*command)
    deadline = time.monotonic() + 120
    while len(list((inside / "out").glob("part-*"))) < 2 and time.monotonic() < deadline and killed.poll() is None:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL, "it was done before it could be killed"
    summary = there.json(*command)
    assert (summary["rows"], summary["predicted"], summary["units"]) == (1200, 1200, 12)
    assert 2 <= summary["units_before"] < 12
    made = pq.read_table(inside / "out")
    assert made["id"].to_pylist() == many["id"].to_pylist(), "each row once, in the order of the input"
    assert set(made["label"].to_pylist()) == {"a", "b", ""}
    assert set(made["predicted_label"].to_pylist()) <= {"yes", "no"}

    pq.write_table(make_rows().slice(0, 50), project.directory / "part00.parquet")
    assert "the input has changed: part00.parquet has other content; give --fresh" in there.run(*command, code=1)
    job = str(CHECKOUT / "jobs" / "batch_predict.py")
    out, _ = there.python(job, *command[1:], "--fresh", "--keep", "label", "--json")
    assert json.loads(out)["rows"] == 1150
    assert pq.read_table(inside / "out").column_names == ["id", "label", "prediction", "predicted_label"]


def test_prediction_of_a_version_needs_no_service(project: Project, refused: str) -> None:
    found = json.loads(project.call("predict", "rows.parquet", "--version", "1")[0])["predictions"]
    assert len(found) == ROWS
    assert {prediction["label"] for prediction in found} <= {"yes", "no"}


def test_rows_of_a_wrong_type_are_one_clear_line_from_the_workers_too(project: Project) -> None:
    """Ray announces errors of its tasks at length; the user sees ours, and the phase in which it came."""
    _, err = project.call("run", "--set", "data.features.0.type=numeric", code=1)
    lines = [line for line in err.splitlines() if line.strip() and not line.startswith("fail data")]
    assert lines == ["error: column 'label', row 0: expected a number, got " + lines[0].rpartition("got ")[2]]


def test_rows_that_cannot_be_split_are_refused_before_training(project: Project) -> None:
    """Equal rows stay together; of two kinds of rows there are not three parts."""
    few = pa.table({"b": [True, False] * 100, "y": [True, False] * 100})
    pq.write_table(few, project.directory / "few.parquet")
    project.run("init", "few.parquet", "--target", "y", "-o", "few.yaml")
    out, err = project.call("run", "-c", "few.yaml", code=1)
    assert "error: data.split (by hash): no row falls into" in err
    assert "train " not in out + err.partition("error")[0]


def test_store_is_whole_after_all_that(project: Project, refused: str) -> None:
    assert "ok:" in project.run("ledger", "verify")
    assert not list((project.directory / ".ray_mlops").rglob("*.tmp"))
