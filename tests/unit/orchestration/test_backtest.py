"""A backtest: the policy's own code on a history whose truth changes on a known day."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from ray_mlops.cli import cli
from ray_mlops.config import ProjectConfig, build_config
from ray_mlops.errors import ConfigError, DataError
from ray_mlops.monitoring.policy import RetrainDecision
from ray_mlops.orchestration.backtest.history import History
from ray_mlops.orchestration.backtest.policies import Calendar, Watched
from ray_mlops.orchestration.backtest.replay import Backtest, check_policies

DAY = 86_400_000_000
DAYS, ROWS, CHANGE, START = 70, 60, 40, 25
"""Days, rows of each, the day on which the meaning of x turns round, the first day that is served."""
CONTENT: dict[str, Any] = {
    "name": "m",
    "data": {"source": {"path": "rows.parquet"}, "task": "binary", "target": "y", "event_time": "time", "id": "id"},
    "training": {"epochs": 3, "batch_size": 64, "learning_rate": 0.02, "params": {"hidden": 8, "members": 2}},
    "evaluation": {"bootstrap_samples": 50},
    "monitoring": {
        "window": "1d",
        "min_window_rows": 20,
        "reference": {"windows": 25, "min_windows": 8},
        "labels": {"delay": "2d"},
    },
    "retraining": {"cool_down": "5d", "window": "15d", "holdout": "3d", "min_rows": 100, "budget": {"count": 99}},
}


def table(days: int = DAYS) -> pa.Table:
    generator = np.random.default_rng(0)
    n = days * ROWS
    event_us = np.sort(generator.integers(0, days * DAY, n))
    x, z = generator.normal(size=n), generator.normal(size=n)
    sign = np.where(event_us < CHANGE * DAY, 1.0, -1.0)
    y = (generator.random(n) < 1.0 / (1.0 + np.exp(-3.0 * sign * x))).astype(int)
    stamps = pa.array(event_us, pa.timestamp("us", tz="UTC"))
    return pa.table({"id": [f"r{i}" for i in range(n)], "time": stamps, "x": x, "z": z, "y": y})


@pytest.fixture(scope="module")
def config() -> ProjectConfig:
    return build_config(CONTENT, {})


@pytest.fixture(scope="module")
def backtest(config: ProjectConfig) -> Backtest:
    return Backtest(config, History.of_table(table(), config), START * DAY)


def test_monitor_notices_the_change_and_its_policy_beats_never(backtest: Backtest) -> None:
    configured, never = backtest.compare(["configured", "never"])
    assert never.retrainings == ()
    promoted = [each for each in configured.retrainings if each.became_champion]
    assert promoted
    assert all(each.as_of >= "1970-02-10" for each in promoted), "nothing changed before day 40"
    assert promoted[0].trigger == "loss"
    assert configured.loss < never.loss - 0.1
    assert configured.windows == never.windows == tuple(range(START, DAYS))
    assert configured.losses[: CHANGE - START] == never.losses[: CHANGE - START]
    assert sum(configured.rows) == sum(never.rows)


def test_same_history_gives_the_same_report(config: ProjectConfig, backtest: Backtest) -> None:
    again = Backtest(config, History.of_table(table(), config), START * DAY)
    first, second = (each.compare(["configured"])[0] for each in (backtest, again))
    assert first.losses == second.losses
    assert [each.as_of for each in first.retrainings] == [each.as_of for each in second.retrainings]


def test_calendar_retrains_by_the_calendar(backtest: Backtest, config: ProjectConfig) -> None:
    every = backtest.compare(["10d"])[0]
    assert [each.as_of[:10] for each in every.retrainings] == ["1970-02-05", "1970-02-15", "1970-02-25", "1970-03-07"]
    assert {each.trigger for each in every.retrainings} == {"schedule"}
    counts = backtest.history.counts()
    late = Calendar("late", timedelta(days=10), config, counts, phase=timedelta(days=3), at_most=2)
    assert [each.as_of[:10] for each in backtest.run(late).retrainings] == ["1970-02-08", "1970-02-18"]


@pytest.mark.parametrize("make", ["configured", "7d"])
def test_nothing_from_the_future_is_used(
    backtest: Backtest, make: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[RetrainDecision, int]] = []
    train = backtest.trainer.candidate

    def watched(decision: RetrainDecision, champion: Any) -> Any:
        rows = backtest.history.part(decision.train_start_us, decision.holdout_end_us)
        seen.append((decision, int(rows.event_us.max())))
        return train(decision, champion)

    monkeypatch.setattr(backtest.trainer, "candidate", watched)
    backtest.run(backtest.policy(make, tmp_path / "store"))
    assert seen
    for decision, newest_us in seen:
        assert newest_us < decision.holdout_end_us <= decision.as_of_us - 2 * DAY


def test_rung_that_cannot_be_done_is_followed_by_the_next(
    backtest: Backtest, config: ProjectConfig, tmp_path: Path
) -> None:
    ladder = config.retraining.model_copy(update={"ladder": ["recalibrate", "full"]})
    (tmp_path / "store").mkdir()
    policy = Watched("ladder", config, backtest.history, tmp_path / "store", ladder)
    done = [(each.action, each.became_champion) for each in backtest.run(policy).retrainings]
    assert done[0] == ("recalibrate", False), "the meaning of x has turned round, its level has not"
    assert ("full", True) in done[1:]


def test_what_is_trained_twice_is_trained_once(backtest: Backtest, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    fit = backtest.trainer._fit
    monkeypatch.setattr(backtest.trainer, "_fit", lambda *arguments: (calls.append(1), fit(*arguments))[1])
    first = backtest.compare(["8d"])[0]
    trained = len(calls)
    assert trained == len(first.retrainings) > 0
    assert backtest.compare(["8d"])[0] == first
    assert len(calls) == trained


def test_monitor_alarms_are_kept(backtest: Backtest, config: ProjectConfig, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    policy = Watched("configured", config, backtest.history, tmp_path / "store")
    backtest.run(policy)
    assert "drift:loss" in [alarm["alarm"] for alarm in policy.alarms]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.drop_columns(["y"]), "no column 'y'"),
        (lambda rows: rows.slice(0, 0), "no row has a label"),
    ],
)
def test_history_that_cannot_be_replayed_is_refused(
    config: ProjectConfig, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        History.of_table(change(table(3)), config)


def test_beginning_after_the_last_row_or_before_the_first_is_refused(config: ProjectConfig) -> None:
    history = History.of_table(table(30), config)
    with pytest.raises(DataError, match="begin earlier"):
        Backtest(config, history, 40 * DAY)
    with pytest.raises(DataError, match="no row before the backtest begins"):
        Backtest(config, history, 0)


def test_unknown_policy_names_those_there_are() -> None:
    check_policies(["configured", "weekly", "3d", "0 3 * * 1"])
    with pytest.raises(ConfigError, match="configured, never, weekly, monthly"):
        check_policies(["wekly"])


def test_command_prints_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(table(40), tmp_path / "rows.parquet")
    (tmp_path / "ray-mlops.yaml").write_text(yaml.safe_dump(CONTENT))
    arguments = ["retrain", "backtest", "--from", "1970-01-26", "--policy", "never", "--policy", "7d"]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [line[0] for line in lines[:3]] == ["policy", "never", "7d"]
    assert lines[1][1:3] == ["0", "0"]
    assert int(lines[2][1]) == 2
    assert not (tmp_path / ".ray_mlops").exists()
