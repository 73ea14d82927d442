"""The command line on bad input: one line, the right exit code, nothing left behind. Nothing here starts Ray."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.exceptions import RayTaskError

from ray_mlops import cli
from ray_mlops.config import load_config
from ray_mlops.errors import ConfigError, DataError, GateRefusedError, MonitoringError, StoreError

ROWS = 200
Outcome = tuple[int, str, str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with rows.parquet, in which commands are run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_MLOPS_CONFIG", raising=False)
    x = np.random.default_rng(0).normal(size=ROWS)
    pq.write_table(pa.table({"x": x, "c": ["a", "b"] * (ROWS // 2), "y": x > 0}), "rows.parquet")
    return tmp_path


@pytest.fixture
def run(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs one command in this process; returns its exit code, output and errors."""

    def call(*arguments: str) -> Outcome:
        code: Any = 0
        try:
            cli.main(arguments)
        except SystemExit as left:
            code = left.code
        printed = capsys.readouterr()
        return int(code or 0), printed.out, printed.err

    return call


@pytest.fixture
def config(run: Callable[..., Outcome]) -> str:
    run("init", "rows.parquet", "--target", "y")
    return "ray-mlops.yaml"


def assert_one_line(outcome: Outcome, code: int, *texts: str) -> None:
    found, _, err = outcome
    assert found == code, outcome
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for text in texts:
        assert text in err


def test_init_writes_a_configuration_and_says_what_comes_next(run: Callable[..., Outcome], here: Path) -> None:
    code, out, _ = run("init", "rows.parquet", "--target", "y", "-o", "new dir/model.yaml")
    assert code == 0
    assert "ray-mlops run -c 'new dir/model.yaml'" in out
    assert load_config(here / "new dir/model.yaml").data.target == "y"


@pytest.mark.parametrize("place", ["rows.parquet/model.yaml", "/proc/none/model.yaml"])
def test_init_output_that_cannot_be_written_is_one_line(run: Callable[..., Outcome], here: Path, place: str) -> None:
    outcome = run("init", "rows.parquet", "--target", "y", "-o", place, "--force")
    assert_one_line(outcome, 1, "cannot be written", "-o")
    assert_one_line(run("init", "rows.parquet", "--target", "y", "-o", ".", "--force"), 2, ".: is a directory")
    assert sorted(os.listdir(here)) == ["rows.parquet"]


def test_init_keeps_what_is_there_unless_forced(run: Callable[..., Outcome], config: str) -> None:
    Path(config).write_text("mine")
    assert_one_line(run("init", "rows.parquet", "--target", "y"), 2, "exists already", "--force")
    assert Path(config).read_text() == "mine"
    assert run("init", "rows.parquet", "--target", "y", "--force")[0] == 0


def test_command_without_a_configuration_says_how_to_make_one(run: Callable[..., Outcome]) -> None:
    for command in (["validate"], ["retrain"], ["monitor"], ["monitor", "ack", "alarm"]):
        assert_one_line(run(*command), 2, "there is no ray-mlops.yaml here", "ray-mlops init")


def test_validate_with_data_tries_the_features(run: Callable[..., Outcome], config: str) -> None:
    assert run("validate", "--data")[0] == 0
    assert_one_line(run("validate", "--data", "--set", "data.features.1.type=numeric"), 1, "column 'c', row 0")
    assert_one_line(run("validate", "--data", "--set", "evaluation.slices=[nope]"), 1, "evaluation.slices", "'nope'")
    assert_one_line(run("validate", "--data", "--set", "data.source.path=gone.csv"), 1, "gone.csv: no such file")


def test_validate_json_is_json_without_data_too(run: Callable[..., Outcome], config: str) -> None:
    assert json.loads(run("validate", "--json")[1])["target"] == "y"
    assert json.loads(run("validate", "--data", "--json")[1])["good"] == ROWS


@pytest.mark.parametrize(
    ("ids", "code", "text"),
    [("", 2, "no ids were given"), ("@none.txt", 1, "none.txt: cannot be read"), ("@rows.parquet", 1, "not UTF-8")],
)
def test_forget_without_readable_ids_touches_nothing(
    run: Callable[..., Outcome], config: str, here: Path, ids: str, code: int, text: str
) -> None:
    assert_one_line(run("forget", "--ids", ids), code, text)
    assert not (here / ".ray_mlops").exists()


def test_predict_of_a_missing_file_is_one_line(run: Callable[..., Outcome], config: str) -> None:
    assert_one_line(run("predict", "none.jsonl"), 1, "none.jsonl: cannot be read")


@pytest.mark.parametrize("command", [["versions"], ["status"], ["gc"], ["forget", "--ids", "a"], ["explain", "a"]])
@pytest.mark.parametrize("root", ["/proc/none", "rows.parquet/store", "rows.parquet"])
def test_store_that_cannot_be_made_is_one_line(
    run: Callable[..., Outcome], config: str, command: list[str], root: str
) -> None:
    assert_one_line(run(*command, "--set", f"store.root={root}"), 1, root, "store.root")


def test_monitor_ack_takes_the_configuration_before_or_after(run: Callable[..., Outcome], config: str) -> None:
    os.rename(config, "other.yaml")
    for arguments in (["monitor", "-c", "other.yaml", "ack", "a"], ["monitor", "ack", "a", "-c", "other.yaml"]):
        assert_one_line(run(*arguments), 1, "no cluster runs for this store")


def test_rollout_plan_is_readable_and_refuses_negative_traffic(run: Callable[..., Outcome], config: str) -> None:
    code, out, _ = run("rollout", "plan", "--requests-per-day", "5000", "--labels-per-day", "3000")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()][:2] == ["shadow", "canary[0]"]
    assert "it does not finish" in run("rollout", "plan", "--requests-per-day", "0", "--labels-per-day", "0")[1]
    assert run("rollout", "plan", "--requests-per-day", "-1", "--labels-per-day", "0")[0] == 2


@pytest.fixture
def run_raising(run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], Outcome]:
    """Runs a command that raises what it is given."""

    def call(error: Exception) -> Outcome:
        @click.command()
        def failing() -> None:
            raise error

        monkeypatch.setattr(cli._LazyGroup, "get_command", lambda self, context, name: failing)
        return run("failing")

    return call


def test_error_of_the_operating_system_is_one_line_that_names_the_file(
    run_raising: Callable[[Exception], Outcome],
) -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/part.parquet")
    assert_one_line(run_raising(error), 1, "/data/part.parquet: No space left on device", "free space")


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("a", "b"), 2), (GateRefusedError("a", "b"), 3), (StoreError("a\n  b", "c"), 1), (DataError("a"), 1)],
)
def test_error_of_ours_is_one_line_with_the_exit_code_of_its_kind(
    run_raising: Callable[[Exception], Outcome], error: Exception, code: int
) -> None:
    assert_one_line(run_raising(error), code, "a")


def test_error_that_came_through_ray_is_told_without_its_traceback(
    run_raising: Callable[[Exception], Outcome],
) -> None:
    error = RayTaskError("acknowledge", "Traceback ...", MonitoringError("no alarm 'x'", "model 'm'"))
    assert_one_line(run_raising(error.as_instanceof_cause()), 1, "error: model 'm': no alarm 'x'\n")


@pytest.mark.parametrize("code", [1, 3])
def test_exit_code_that_a_command_chose_reaches_the_shell(
    run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    @click.command()
    @click.pass_context
    def refusing(context: click.Context) -> None:
        context.exit(code)

    monkeypatch.setattr(cli._LazyGroup, "get_command", lambda self, context, name: refusing)
    assert run("refusing")[0] == code


def test_json_for_machines_has_null_for_numbers_that_json_has_not(capsys: pytest.CaptureFixture[str]) -> None:
    cli.print_json({"auc": float("nan"), "all": [1.5, (float("inf"), "x")]})
    printed = capsys.readouterr().out
    assert json.loads(printed, parse_constant=pytest.fail) == {"auc": None, "all": [1.5, [None, "x"]]}


def test_reader_that_goes_away_leaves_no_traceback(here: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    command = f"{sys.executable} -m ray_mlops.cli config schema | head -c 10"
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


def test_compare_prints_a_report_of_two_files_without_configuration_or_cluster(
    here: Path, run: Callable[..., Outcome]
) -> None:
    x = np.random.default_rng(1).normal(3.0, 1.0, size=ROWS)
    pq.write_table(pa.table({"x": x, "c": ["a", "b"] * (ROWS // 2)}), "later.parquet")
    code, printed, _ = run("monitor", "compare", "rows.parquet", "later.parquet", "--json")
    report = json.loads(printed)
    assert (code, report["drifted"], report["faults"]) == (0, ["x"], ["y"])
    code, printed, _ = run("monitor", "compare", "rows.parquet", "later.parquet", "--column", "c", "--tolerance", "0.2")
    assert (code, printed.splitlines()[1].split()[:3]) == (0, ["c", "categorical", "no"])
    assert run("monitor", "compare", "rows.parquet", "later.parquet", "--alpha", "0.9")[0] == 2
    (here / "torn.parquet").write_bytes(b"PAR1")
    assert_one_line(run("monitor", "compare", "rows.parquet", "torn.parquet"), 1, "torn.parquet", "parquet")


def test_options_of_failed_requests_are_refused_without_failed(run: Callable[..., Outcome], config: str) -> None:
    for option in ("--version", "--bundle", "--since"):
        code, _, err = run("replay", option, "1")
        assert code == 2
        assert "need --failed" in err
    code, _, err = run("replay", "--failed", "--version", "1", "--bundle", "x")
    assert (code, "give one of them" in err) == (2, True)


def test_options_before_a_subcommand_count(run: Callable[..., Outcome], config: str) -> None:
    assert_one_line(run("retrain", "--set", "training.epochs=bogus", "backtest"), 2, "training.epochs")
    assert_one_line(run("retrain", "--config", "none.yaml", "backtest"), 2, "none.yaml")
    code, _, err = run("retrain", "--action", "full", "backtest")
    assert (code, "not for 'backtest'" in err) == (2, True)
