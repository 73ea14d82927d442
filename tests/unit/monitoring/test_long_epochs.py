"""An epoch that goes on for ever: channels give up what is long past, stay valid, and find what is new."""

import json
from typing import Any

import numpy as np
import pytest

from ray_mlops.monitoring.channels import DatasetMonitor
from ray_mlops.monitoring.window_runs import WindowRuns
from tests.unit.monitoring.test_channels import REFERENCE, Stream, feed, first_alarm, losses, plus

MOST = 20


@pytest.fixture
def few_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("window_channels", "loss_channel"):
        monkeypatch.setattr(f"ray_mlops.monitoring.{module}.MOST_STARTS", MOST)


def channels_of(content: Any, name: str) -> Any:
    return content["columns"][name]["monitor"]["channels"]


def watched(seed: int, known_losses: Any = ()) -> tuple[Stream, DatasetMonitor]:
    stream = Stream(seed)
    return stream, stream.monitor(known_losses, with_score=True)


@pytest.mark.usefixtures("few_starts")
def test_state_has_the_same_size_however_long_the_epoch_is() -> None:
    rng = np.random.default_rng(0)
    stream, monitor = watched(1, losses(rng, REFERENCE, 0.12))
    sizes = []
    for first in range(0, 160, 40):
        feed(monitor, stream, 40, first=first)
        for window, loss in enumerate(losses(rng, 40, 0.12), first):
            monitor.update_loss(window, loss)
        content = json.loads(json.dumps(monitor.to_json()))
        for name in content["columns"]:
            del channels_of(content, name)["shape"]["seen"]  # a grid of scores, which fills up
        sizes.append(len(json.dumps(content)))
    assert sizes[-1] - sizes[1] < 0.02 * sizes[1]
    content = monitor.to_json()
    assert {len(channels_of(content, name)["location"]["scores"]) for name in content["columns"]} == {MOST}


@pytest.mark.usefixtures("few_starts")
def test_drift_is_found_and_dated_long_after_starts_were_given_up() -> None:
    stream, monitor = watched(2)
    assert first_alarm(feed(monitor, stream, 60)) is None
    verdicts = feed(monitor, stream, 12, {"temp": plus(30.0)}, first=60)
    assert first_alarm(verdicts) is not None
    assert "temp" in verdicts[-1].guilty
    assert 58 <= (monitor.change_point() or 0) <= 63


@pytest.mark.usefixtures("few_starts")
def test_decay_is_found_and_dated_long_after_starts_were_given_up() -> None:
    rng = np.random.default_rng(3)
    _, monitor = watched(3, losses(rng, REFERENCE, 0.12))
    for window, loss in enumerate(losses(rng, 70, 0.12)):
        monitor.update_loss(window, loss)
    assert "loss" not in monitor.alarms()
    for window, loss in enumerate(losses(rng, 25, 0.19), 70):
        monitor.update_loss(window, loss)
    assert "loss" in monitor.alarms()
    assert 66 <= (monitor.change_point() or 0) <= 76


@pytest.mark.usefixtures("few_starts")
def test_restored_state_goes_on_to_the_bit() -> None:
    rng = np.random.default_rng(4)
    known = losses(rng, REFERENCE, 0.12)
    (stream, monitor), again = watched(4, known), watched(4, known)[1]
    feed(monitor, stream, 45)
    for window, loss in enumerate(losses(rng, 45, 0.12)):
        monitor.update_loss(window, loss)
    again.restore(json.loads(json.dumps(monitor.to_json())))
    day, loss = stream.count(stream.day()), losses(rng, 1, 0.12)[0]
    for each in (monitor, again):
        each.update(45, {name: counts for name, counts in day.items() if name != "score"}, day["score"])
        each.update_loss(45, loss)
    assert again.to_json() == monitor.to_json()
    assert again.view() == monitor.view()


def test_state_of_an_older_release_is_taken_up() -> None:
    stream, monitor = watched(5)
    feed(monitor, stream, 10)
    content = json.loads(json.dumps(monitor.to_json()))
    older = json.loads(json.dumps(content))
    for name, column in older["columns"].items():
        column["monitor"]["tested"] = list(range(10))
        shape = channels_of(older, name)["shape"]
        shape["scores"] = [score for score, times in shape.pop("seen") for _ in range(times)]
    again = watched(5)[1]
    again.restore(older)
    assert json.loads(json.dumps(again.to_json())) == content


def test_runs_tell_each_window_also_beyond_gaps() -> None:
    windows = [3, 4, 5, 9, 10, 20]
    runs = WindowRuns(windows)
    runs.append(21)
    assert [runs[place] for place in range(len(runs))] == [*windows, 21]
    again = WindowRuns(json.loads(json.dumps(runs.to_json())))
    assert again.to_json() == runs.to_json() == [[3, 3], [9, 2], [20, 2]]
    for place in (-1, 7):
        with pytest.raises(IndexError):
            again[place]
