"""The command line as a user has it: real processes, a real cluster, from a data file to a forgotten prediction."""

import json
import re
from collections.abc import Iterator

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.e2e.commands import CHECKOUT, Project

ROWS = 1500


def make_rows(seed: int = 0) -> pa.Table:
    """Rows whose target follows from two of the columns, with nulls and a category now and then."""
    generator = np.random.default_rng(seed)
    x, z = generator.normal(size=ROWS), generator.normal(size=ROWS)
    colour = generator.choice(["red", "green", "blue"], ROWS)
    chance = 1 / (1 + np.exp(-(2 * x + (colour == "red") * 1.5 - 0.5)))
    return pa.table(
        {
            "x": pa.array(np.where(generator.random(ROWS) < 0.05, np.nan, x), from_pandas=True),
            "z": pa.array(z),
            "colour": pa.array(colour),
            "y": pa.array(generator.random(ROWS) < chance),
        }
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    directory = tmp_path_factory.mktemp("life")
    pq.write_table(make_rows(), directory / "rows.parquet")
    project = Project(directory)
    project.run("init", "rows.parquet", "--target", "y")
    project.configure(
        {
            "training": {"epochs": 2},
            "tune": {"num_trials": 0},
            "serving": {"port": 0, "flush_interval_s": 0.05},
            "gate": {"parity": {"rows": 16}, "load": {"requests": 10}},
            "evaluation": {"bootstrap_samples": 50, "slices": ["colour"]},
        }
    )
    yield project
    project.run("cluster", "stop")


@pytest.fixture(scope="module")
def served(project: Project) -> str:
    """The pipeline has run and the service is up; returns its address."""
    project.run("cluster", "start")
    assert "gate passed" in project.run("run", "--no-tune")
    out = project.run("serve")
    return next(line.split()[-1] for line in out.splitlines() if line.strip().startswith("predict"))


def test_init_writes_a_configuration_that_holds_for_its_own_data(project: Project) -> None:
    assert "ok: the contract holds" in project.run("validate", "--data")
    assert "exists already" in project.run("init", "rows.parquet", "--target", "y", code=2)


def test_typo_in_the_configuration_is_a_usage_error_that_names_it(project: Project) -> None:
    out = project.run("validate", "--set", "training.epoch=3", code=2)
    assert "training.epoch: unknown key 'epoch'; did you mean 'epochs'?" in out


def test_unknown_target_is_an_error_that_lists_the_columns(project: Project) -> None:
    out = project.run("init", "rows.parquet", "--target", "nope", "-o", "other.yaml", code=2)
    assert "no column 'nope'" in out
    assert "colour" in out


def test_prediction_is_answered_logged_labelled_and_explained(project: Project, served: str) -> None:
    body = {"instances": [{"x": 2.0, "z": 0.0, "colour": "red"}, {"x": None, "z": 0.0, "colour": "new"}]}
    answer = httpx.post(served, json={**body, "ids": ["a", "b"]}, trust_env=False).json()
    assert answer["predictions"][0]["probability"] > answer["predictions"][1]["probability"]
    pq.write_table(pa.table({"id": ["a", "b", "c"], "label": [True, False, True]}), project.directory / "l.parquet")
    counts = json.loads(
        project.run("labels", "import", "l.parquet").split("done")[0].strip().rpartition("\n}")[0] + "\n}"
    )
    assert counts["accepted"] == 3
    (project.directory / "fix.csv").write_text("id,label\na,false\nb,maybe\n")
    out = project.run("labels", "import", "fix.csv", "--correction", "--rejects", "rejects.csv")
    assert '"rejected": 1' in out
    assert "got 'maybe'" in (project.directory / "rejects.csv").read_text()
    assert "fix.csv, row 2: label: expected one of" in project.run("labels", "import", "fix.csv", code=1)
    found = project.json("explain", "a")
    assert (found["label"]["label"], found["label"]["is_correction"]) == ("false", True)
    assert found["prediction"]["version"] == answer["version"]
    assert found["gate"]["passed"]
    assert found["data"]["rows"] == ROWS


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"{not json", 400, "JSON"),
        (b'{"instances": [{"x": "high", "z": 1, "colour": "red"}]}', 400, "x"),
        (b'{"instances": [{"x": 1, "z": 1, "color": "red"}]}', 400, "colour"),
        (b'{"instances": []}', 400, "instances"),
        (b" " * 17_000_000, 413, "body"),
    ],
)
def test_bad_request_is_a_4xx_that_says_what_is_wrong(served: str, body: bytes, status: int, text: str) -> None:
    answer = httpx.post(served, content=body, trust_env=False)
    assert answer.status_code == status
    assert text in answer.text


def test_operating_needs_the_token(served: str) -> None:
    answer = httpx.post(served.replace("predict", "rollout/pause"), json={}, trust_env=False)
    assert answer.status_code == 401


def test_status_and_versions_tell_what_is_in_force(project: Project, served: str) -> None:
    found = project.json("status")
    assert found["service"]["answers"]
    assert found["routes"]["champion"]["version"] == "1"
    assert [entry["aliases"] for entry in project.json("versions")] == [["champion"]]


def test_second_serve_restarts_nothing(project: Project, served: str) -> None:
    assert served in project.run("serve")


def test_bundle_is_registered_through_the_same_gate(project: Project, served: str) -> None:
    bundle = project.json("versions")[0]["bundle"]
    out = project.run("register", f"./.ray_mlops/bundles/{bundle}", code=0)
    assert "registered as version 2" in out


def readme_blocks() -> list[str]:
    """The Python blocks of the README: a script, a module with a user's own model, and a stranger reading the log."""
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_script_of_the_readme_trains_serves_and_predicts_with_the_model_of_the_readme(
    project: Project, served: str
) -> None:
    script, module, _ = readme_blocks()
    (project.directory / "my_models.py").write_text(module)
    (project.directory / "script.py").write_text(
        script.replace('{"a": 1.5, "b": "x"}', '{"x": 1.5, "z": 0.0, "colour": "red"}').replace(
            'load_config("ray-mlops.yaml")', 'load_config("ray-mlops.yaml", {"training.model": "my_models:wide"})'
        )
    )
    out, _ = project.python("script.py")
    assert "gate passed" in out
    assert "'version': '1'" in out, "the champion stays until a rollout replaces it"


def test_reader_of_the_readme_counts_the_rows_of_the_log(project: Project, served: str) -> None:
    (model,) = (project.directory / ".ray_mlops" / "predictions").iterdir()
    (project.directory / "reader.py").write_text(readme_blocks()[2].replace("flights", model.name))
    out, _ = project.python("reader.py")
    assert re.search(r"\d{4}-\d\d-\d\d │ +[1-9]", out), out
