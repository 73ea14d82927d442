"""Labels of a running monitor that come late, are corrected, or come later for one class: what is shown and tested."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.monitoring.breakdown import Slicing
from ray_mlops.monitoring.window_runs import WindowRuns
from ray_mlops.serving.protocol import LabelRecord
from ray_mlops.serving.slicing import SliceColumn

HOUR = 3_600_000_000
FIRST = 1000
SLICING = Slicing((SliceColumn("city", values=("a", "b")),), (SliceColumn("x", edges=(0.0,)),))


def shown(watched: Any, window: int) -> dict[str, Any]:
    return next(each for each in watched.monitor.view()["performance"] if each["window"] == window)


def labelled(watched: Any, window: int, share: slice = slice(None), **how: Any) -> list[LabelRecord]:
    """Labels of a window's rows, which say that the model was wrong."""
    records: list[LabelRecord] = watched.traffic.labels(watched.traffic.window(window), flip=True, **how)[share]
    return records


def test_label_that_comes_after_its_window_was_judged_changes_what_is_shown_and_no_evidence(watch: Any) -> None:
    watched = watch()
    watched.monitor.add_labels(labelled(watched, FIRST, slice(0, 24)))
    watched.run(range(FIRST, FIRST + 4))
    before, evidence = shown(watched, FIRST), watched.monitor.dataset.to_json()["loss"]
    assert (before["labelled"], before["judged"]) == (24, True)
    watched.monitor.add_labels(labelled(watched, FIRST, slice(24, 40)))
    assert shown(watched, FIRST) == before  # until the next window is closed
    watched.run([FIRST + 4])
    after = shown(watched, FIRST)
    assert (after["labelled"], after["judged"]) == (40, True)
    assert after["loss"] != before["loss"]
    assert watched.monitor.labelled_rows()[FIRST] == 40
    assert watched.monitor.dataset.to_json()["loss"] == evidence


def test_window_that_had_too_few_labels_is_not_judged_by_late_ones(watch: Any) -> None:
    watched = watch()
    watched.monitor.add_labels(labelled(watched, FIRST, slice(0, 5)))
    watched.run(range(FIRST, FIRST + 4))
    watched.monitor.add_labels(labelled(watched, FIRST, slice(5, 40)))
    watched.run([FIRST + 4])
    assert (shown(watched, FIRST)["labelled"], shown(watched, FIRST)["judged"]) == (40, False)
    assert watched.monitor.dataset.to_json()["loss"]["windows"] == []


def test_correction_is_shown_also_by_slice_and_after_a_restart(watch: Any) -> None:
    def monitor(watched: Any) -> Any:
        made = watched.make()
        made.watched = replace(made.watched, slicing=SLICING)
        return made

    watched = watch()
    log = [watched.traffic.window(window) for window in range(FIRST, FIRST + 6)]
    wrong = [replace(record, arrival=k) for k, record in enumerate(labelled(watched, FIRST))]
    right = [
        replace(record, arrival=1000 + k, is_correction=True)
        for k, record in enumerate(watched.traffic.labels(watched.traffic.window(FIRST)))
    ]
    watched.monitor = monitor(watched)
    watched.monitor.reference = replace(watched.monitor.reference, kept=("city", "x"))
    watched.monitor.add_labels(wrong)
    for part in log[:5]:
        watched.send(part)
    watched.close()
    before = watched.monitor.view()["realised"]["total"]
    content = json.loads(json.dumps(watched.monitor.checkpoint()))
    again = watch()
    again.monitor = monitor(again)
    again.monitor.reference = watched.monitor.reference
    again.monitor.restore(content, log[:5], [*wrong, *right])
    again.monitor.dataset.restore(content["dataset"])
    watched.monitor.add_labels(right)
    for each in (watched, again):
        each.send(log[5])
        each.close()
        after = {(line["by"], line["value"]): line for line in each.monitor.view()["realised"]["total"]}
        assert {by for by, _ in after} == {"arm", "version", "slice", "group"}
        for line in before:
            now = after[line["by"], line["value"]]
            assert line["accuracy"] in (0.0, None)
            assert now["accuracy"] in (1.0, None)
            assert now["loss"] is None or now["loss"] < line["loss"]
        assert each.monitor.view()["labels"]["corrected"] == 40
    assert again.monitor.view()["realised"] == watched.monitor.view()["realised"]


def late_class(watched: Any, window: int, rng: np.random.Generator) -> list[LabelRecord]:
    """True labels of calibrated predictions: those of the positive class take three times as long."""
    rows = watched.traffic.window(window)
    truth = rng.random(rows.num_rows) < rows["prediction"].to_numpy()
    event_us = rows["event_time"].cast(pa.int64()).to_numpy()
    delay_us = rng.exponential(np.where(truth, 3.0, 1.0) * HOUR).astype(np.int64)
    ids = rows["prediction_id"].to_pylist()
    return [
        LabelRecord(name, int(is_true), time=int(time), arrival=int(time))
        for name, is_true, time in zip(ids, truth, event_us + delay_us, strict=True)
    ]


@pytest.mark.parametrize("corrects", [True, False])
def test_class_whose_labels_come_late_biases_the_loss_unless_that_is_corrected(watch: Any, corrects: bool) -> None:
    rng = np.random.default_rng(0)
    watched = watch(labels={"delay": "2h", "min_coverage": 0.2, "correct_delay": corrects})
    watched.traffic.rows = 400
    watched.monitor.watched = replace(watched.monitor.watched, classes=("no", "yes"))
    coming: list[LabelRecord] = []
    everything: dict[str, int] = {}
    for window in range(FIRST, FIRST + 40):
        fresh = late_class(watched, window, rng)
        everything |= {record.id: record.label for record in fresh}
        coming += fresh
        now_us = (window + 1) * HOUR
        watched.monitor.add_labels([record for record in coming if record.time <= now_us])
        coming = [record for record in coming if record.time > now_us]
        watched.run([window])
    judged = watched.monitor.dataset.to_json()["loss"]
    errors = []
    windows = WindowRuns(judged["windows"])
    for place, mean in list(enumerate(judged["means"]))[8:]:
        index = windows[place]
        rows = watched.traffic.window(index)
        truth = np.array([everything[name] for name in rows["prediction_id"].to_pylist()])
        errors.append(mean - float(np.mean((rows["prediction"].to_numpy() - truth) ** 2)))
    assert len(errors) == 29
    bias, noise = float(np.mean(errors)), float(np.std(errors)) / np.sqrt(len(errors))
    assert bool(abs(bias) < 3 * noise) is corrects
    view = watched.monitor.view()
    assert any(each["weighting"] for each in view["performance"]) is corrects
    assert view["label_delays"]["delays_s"]["yes"]["0.5"] > 2 * view["label_delays"]["delays_s"]["no"]["0.5"]
    assert view["performance"][0]["labelled"] > 390  # late labels are shown


def test_windows_that_no_retraining_reaches_are_forgotten(watch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_mlops.monitoring.monitor_state._TRAINABLE", 3)
    watched = watch()
    watched.run(range(FIRST, FIRST + 9))
    assert sorted(watched.monitor.labelled_rows()) == [FIRST + 3, FIRST + 4, FIRST + 5]
