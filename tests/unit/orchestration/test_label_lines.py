"""What ``ray-mlops labels show`` says."""

from typing import Any

from ray_mlops.orchestration.label_lines import label_lines


def view() -> dict[str, Any]:
    windows: list[dict[str, Any]] = [
        {"start": f"2013-01-0{day}T00:00:00Z", "rows": 100, "labelled": labelled, "loss": loss, "judged": judged}
        for day, labelled, loss, judged in ((1, 90, 0.125, True), (2, 10, 0.2, False), (3, 0, None, False))
    ]
    cell = {"rows": 300, "labelled": 100, "coverage": 1 / 3, "loss": 0.13, "accuracy": 0.85, "log_loss": None}
    return {
        "model": "flights",
        "labels": {"accepted": 100, "corrected": 3, "conflicting": 0, "early_labels": 2},
        "label_delays": {
            "delays_s": {"all": {"labels": 100, "0.5": 7200.0, "0.9": 259_200.0}, "late": {"labels": 0}},
            "advice": "decay cannot be judged",
        },
        "performance": windows,
        "unlabelled": [{"start": "2013-01-04T00:00:00Z", "rows": 100, "labelled": 1}],
        "realised": {
            "windows": [1, 2, 3],
            "total": [{"by": "arm", "value": "champion", **cell}, {"by": "slice", "value": "origin=JFK", **cell}],
            "problems": {"sex": "it is not an input of the champion"},
        },
    }


def test_lines_tell_delays_coverage_and_cells() -> None:
    assert label_lines(view()) == [
        "labels of flights: 100 accepted, 3 corrected, 2 early labels",
        "  delay, all: 100 labels, 50% by 2.0 h, 90% by 3.0 days",
        "  delay, late: 0 labels",
        "note: decay cannot be judged",
        "window                  rows  labelled  coverage  loss",
        "2013-01-01T00:00:00Z     100        90       90%  0.1250",
        "2013-01-02T00:00:00Z     100        10       10%  0.2000 (not tested)",
        "2013-01-03T00:00:00Z     100         0        0%  - (not tested)",
        "2013-01-04T00:00:00Z     100         1        1%  waits for labels",
        "realised, newest 3 windows with labels due:",
        "  by     value       rows  labelled  loss  accuracy",
        "  arm    champion     300       100  0.13      0.85",
        "  slice  origin=JFK   300       100  0.13      0.85",
        "not broken down by sex: it is not an input of the champion",
    ]


def test_model_without_labels_says_so() -> None:
    assert label_lines({"model": "m"}) == ["labels of m: none yet"]
