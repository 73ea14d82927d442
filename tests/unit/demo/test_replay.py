"""The replay's order of events, against a service that keeps a diary."""

from collections.abc import Mapping
from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from ray_mlops.config import DataConfig, ReplayConfig
from ray_mlops.demo.replay import Replay, replay_days
from ray_mlops.errors import DeadlineError, OverloadError

DAY = 86_400_000_000
DATA = DataConfig.model_validate(
    {"source": {"path": "x"}, "task": "binary", "target": "y", "event_time": "t", "id": "i", "exclude": ["z"]}
)


def config(**changes: Any) -> ReplayConfig:
    content = {"start": "1970-01-01", "end": "1970-01-04", "rows_per_day": 4, "rows_per_request": 2, "concurrency": 1}
    return ReplayConfig.model_validate({**content, "label_delay": "1d", "day_timeout_s": 5, **changes})


def table(days: int = 4, rows: int = 6) -> pa.Table:
    n = days * rows
    return pa.table(
        {
            "i": [f"r{k}" for k in range(n)],
            "t": pa.array([k // rows * DAY + k % rows for k in range(n)]).cast(pa.timestamp("us", tz="UTC")),
            "x": [float(k) for k in range(n)],
            "y": [k % 2 == 0 for k in range(n)],
            "z": [1] * n,
        }
    )


class Diary:
    """A service that closes windows as rows come, and can lag or fail."""

    def __init__(self, lag: int = 0, fail: bool = False) -> None:
        self.entries: list[tuple[str, Any]] = []
        self.newest = -1
        self.lag, self.fail = lag, fail
        self.state = "promoted"

    def predict(self, instances: list[dict[str, Any]], *, ids: list[str]) -> Mapping[str, Any]:
        if self.fail:
            raise OverloadError("no")
        self.entries.append(("predict", (instances, ids)))
        self.newest = max(int(i["t"][8:10]) - 1 for i in instances)
        return {"version": "1", "predictions": [{"label": 1, "probability": 0.5}] * len(ids)}

    def feedback(self, labels: list[dict[str, Any]]) -> Mapping[str, Any]:
        self.entries.append(("feedback", [label["id"] for label in labels]))
        return {}

    def rollout(self) -> Mapping[str, Any]:
        return {"evaluated_through": self.newest - 1 - self.lag, "state": self.state}

    def monitoring(self) -> Mapping[str, Any]:
        self.entries.append(("monitoring", self.newest))
        return {"closed_window": self.newest - 1, "retraining": {"in_flight": None}}


def test_days_are_sampled_in_order_and_carry_no_target() -> None:
    days = list(replay_days(table(), DATA, config()))
    assert [d.day for d in days] == [date(1970, 1, k) for k in (1, 2, 3, 4)]
    assert all(len(ids) == 2 for d in days for ids, _ in d.requests)
    ids, instances = days[0].requests[0]
    assert set(instances[0]) == {"x", "t"}
    assert len(days[0].labels) == 4
    assert ids[0] < ids[1]


def test_same_seed_gives_the_same_days() -> None:
    assert list(replay_days(table(), DATA, config())) == list(replay_days(table(), DATA, config()))
    assert list(replay_days(table(), DATA, config(seed=1))) != list(replay_days(table(), DATA, config()))


def test_barrier_stands_after_the_first_request_of_each_day() -> None:
    service = Diary()
    report = Replay(service, config(), DAY).run(replay_days(table(), DATA, config()))
    kinds = [kind for kind, _ in service.entries]
    assert kinds[:3] == ["predict", "monitoring", "predict"]
    assert report.failed == 0
    assert report.rows == 16
    assert report.answered == {"1": 8}


def test_labels_come_after_their_delay() -> None:
    service = Diary()
    Replay(service, config(), DAY).run(replay_days(table(), DATA, config()))
    sent = [content for kind, content in service.entries if kind == "feedback"]
    assert len(sent) == 3  # the fourth day's labels are due after the end
    position = next(k for k, (kind, _) in enumerate(service.entries) if kind == "feedback")
    before = [content for kind, content in service.entries[:position] if kind == "predict"]
    assert before[-1][0][0]["t"].startswith("1970-01-02")


def test_loop_that_lags_is_an_error_that_names_the_window() -> None:
    replay = Replay(Diary(lag=1), config(day_timeout_s=0.1), DAY)
    with pytest.raises(DeadlineError, match="did not pass window -1"):
        replay.run(replay_days(table(), DATA, config()))


def test_failed_requests_are_counted() -> None:
    report = Replay(Diary(fail=True), config(pace="wall"), DAY).run(replay_days(table(), DATA, config()))
    assert report.failed == report.requests == 8


def test_operator_acts_between_days() -> None:
    service = Diary()
    acted: list[date] = []
    Replay(service, config(), DAY).run(replay_days(table(), DATA, config()), lambda day: acted.append(day) or False)
    assert acted == [date(1970, 1, k) for k in (1, 2, 3, 4)]
