"""The exposition is read by Prometheus' own parser."""

import math
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ray_mlops.monitoring.exposition import exposition

HOUR = 3_600_000_000
RETRAINING = {"in_flight": None, "decisions": 0, "outcomes": {}, "policy": ""}


def samples(views: dict[str, Any]) -> dict[tuple[str, ...], float]:
    """Values by name, model, and the other label values in the order of their names."""
    return {
        (
            sample.name.removeprefix("ray_mlops_"),
            sample.labels["model"],
            *(value for name, value in sorted(sample.labels.items()) if name != "model"),
        ): sample.value
        for family in text_string_to_metric_families(exposition(views))
        for sample in family.samples
    }


def test_exposition_of_a_watched_model_parses_and_says_what_the_view_says(watch: Any) -> None:
    watched = watch()
    for window in range(1000, 1012):
        rows = watched.traffic.window(window, shift=3.0)
        watched.send(rows)
        watched.monitor.add_labels(watched.traffic.labels(rows, flip=True))
        watched.close()
    view = {**watched.monitor.view(), "retraining": {**RETRAINING, "in_flight": "d"}}
    found = samples({"m": view, 'we"ird\n': view})
    assert found["monitor_rows", "m"] == 480
    assert found["monitor_late_rows", "m"] == 0
    assert found["monitor_quarantined_rows", "m"] == 0
    assert found["monitor_closed_window", "m"] == 1010
    assert found["monitor_alarm", "m", "drift", "loss"] == 1
    assert found["monitor_labels", "m", "accepted"] == 480
    assert found["monitor_loss_ratio", "m", "realised"] == view["performance"][-1]["loss"]
    assert view["performance"][-1]["estimated"]["is_shown"] is False
    assert ("monitor_loss_ratio", "m", "estimated") not in found
    assert found["monitor_log_evidence", "m", "x"] == view["drift"]["features"]["x"]["log_e"]
    assert found["retraining_in_flight", "m"] == 1
    assert found["monitor_rows", 'we"ird\n'] == 480


def test_exposition_before_the_first_row_parses(watch: Any) -> None:
    found = samples({"m": {**watch().monitor.view(), "retraining": RETRAINING}})
    assert found["monitor_rows", "m"] == 0
    assert math.isnan(found["monitor_closed_window", "m"])
    assert found["retraining_in_flight", "m"] == 0


@pytest.mark.parametrize("estimated", [True, False])
def test_exposition_has_an_estimate_where_one_is_shown(watch: Any, estimated: bool) -> None:
    watched = watch("regression", estimated=estimated)
    for window in range(1000, 1004):
        rows = watched.traffic.window(window)
        watched.send(rows)
        watched.monitor.add_labels(watched.traffic.labels(rows))
        watched.close()
    found = samples({"m": {**watched.monitor.view(), "retraining": RETRAINING}})
    assert ("monitor_loss_ratio", "m", "realised") in found
    assert (("monitor_loss_ratio", "m", "estimated") in found) is estimated


def test_exposition_without_models_is_empty_of_samples() -> None:
    assert samples({}) == {}
