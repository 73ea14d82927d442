"""The first hour of a newcomer with data of their own, odd names included: one cluster, real processes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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


class Shell:
    """A directory in which commands are run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        self.environment.pop("RAY_ADDRESS", None)

    def run(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Run one command; returns its output and errors, and fails when the exit code is another."""
        done = subprocess.run(
            [sys.executable, "-m", "ray_mlops.cli", *arguments],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout, done.stderr


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    directory = tmp_path_factory.mktemp("newcomer")
    pq.write_table(make_rows(), directory / "rows.parquet")
    shell = Shell(directory)
    shell.run("init", "rows.parquet", "--target", "y")
    sections = {
        "training": {"epochs": 1},
        "gate": {"minimum": {"auc": 0.9999}, "parity": {"rows": 16}, "load": {"requests": 5}},
        "evaluation": {"bootstrap_samples": 50},
    }
    config = directory / "ray-mlops.yaml"
    config.write_text(
        config.read_text() + "".join(f"{name}: {json.dumps(value)}\n" for name, value in sections.items())
    )
    shell.run("cluster", "start")
    yield shell
    shell.run("cluster", "stop")


@pytest.fixture(scope="module")
def refused(shell: Shell) -> str:
    """What the pipeline says of a model that does not pass its gate."""
    out, _ = shell.run("run", code=3)
    return out


def test_refused_model_has_exit_code_3_and_is_on_record_but_is_not_served(shell: Shell, refused: str) -> None:
    assert "gate REFUSED" in refused
    assert "registered as version 1" in refused
    version = json.loads(shell.run("versions", "--json")[0])[0]
    assert (version["gate"], version["aliases"]) == ("refused", [])


def test_batch_prediction_keeps_columns_and_never_mixes_two_runs(shell: Shell, refused: str) -> None:
    inside = shell.directory / "elsewhere"
    inside.mkdir()
    there = Shell(inside)  # workers have other directories than the command
    arguments = ("batch-predict", "../rows.parquet", "out", "--version", "1", "--config", "../ray-mlops.yaml")
    store = ("--set", f"store.root={shell.directory / '.ray_mlops'}", "--set", "data.source.path=../rows.parquet")
    there.run(*arguments, *store)
    made = pq.read_table(inside / "out")
    assert made.num_rows == ROWS
    assert set(made["label"].to_pylist()) == {"a", "b", ""}
    assert set(made["predicted_label"].to_pylist()) <= {"yes", "no"}
    (inside / "out" / f"part-{'0' * 16}.parquet").write_bytes(b"of an earlier run")
    there.run(*arguments, *store, "--force")
    assert pq.read_table(inside / "out").num_rows == ROWS


def test_rows_of_a_wrong_type_are_one_clear_line_from_the_workers_too(shell: Shell) -> None:
    """Ray announces errors of its tasks at length; the user sees ours, and the phase in which it came."""
    _, err = shell.run("run", "--set", "data.features.0.type=numeric", code=1)
    lines = [line for line in err.splitlines() if line.strip() and not line.startswith("fail data")]
    assert lines == ["error: column 'label', row 0: expected a number, got " + lines[0].rpartition("got ")[2]]


def test_rows_that_cannot_be_split_are_refused_before_training(shell: Shell) -> None:
    """Equal rows stay together; of two kinds of rows there are not three parts."""
    few = pa.table({"b": [True, False] * 100, "y": [True, False] * 100})
    pq.write_table(few, shell.directory / "few.parquet")
    shell.run("init", "few.parquet", "--target", "y", "-o", "few.yaml")
    out, err = shell.run("run", "-c", "few.yaml", code=1)
    assert "error: data.split (by hash): no row falls into" in err
    assert "train " not in out + err.partition("error")[0]


def test_store_is_whole_after_all_that(shell: Shell, refused: str) -> None:
    assert "ok:" in shell.run("ledger", "verify")[0]
    assert not list((shell.directory / ".ray_mlops").rglob("*.tmp"))
