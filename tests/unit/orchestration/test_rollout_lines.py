"""What people read about a model's rollout."""

from typing import Any

from ray_mlops.orchestration.rollout_lines import rollout_lines
from ray_mlops.orchestration.status import monitor_lines


def test_rollout_lines_show_the_worst_slices_below_their_guard() -> None:
    found = {"slice": "carrier=AA", "kind": "errors", "verdict": "fail", "log_e": 9.41, "threshold": 7.5}
    found["detail"] = "14 of 60 against the champion's 3 of 540"
    guard = {"name": "slices", "question": "regression", "verdict": "fail", "detail": "carrier=AA", "slices": [found]}
    plain = {"name": "errors", "question": "regression", "verdict": "pass", "detail": "0 of 9"}
    lines = rollout_lines({"rollout_id": "m-v2", "state": "canary[0]", "weight": 0.1, "guards": [plain, guard]})
    assert [" ".join(line.split()) for line in lines[1:]] == [
        "pass errors regression 0 of 9",
        "fail slices regression carrier=AA",
        "fail errors on carrier=AA: 14 of 60 against the champion's 3 of 540 (log e 9.4 of 7.5)",
    ]


def _window(window: int, estimated: dict[str, Any], **labelled: Any) -> dict[str, Any]:
    return {"window": window, "start": f"2013-01-0{window}T00:00:00Z", "estimated": estimated, **labelled}


def test_monitor_shows_estimates_beside_truth_and_why_there_is_none() -> None:
    band = {"value": 0.12, "lower": 0.1, "upper": 0.14}
    shown = {"bounded_loss": 0.12, "metrics": {"bounded_loss": band}, "is_shown": True, "reason": "fine"}
    hidden = {"bounded_loss": None, "metrics": {}, "is_shown": False, "reason": "labels contradict it: off"}
    labelled = {"rows": 9, "labelled": 8, "loss": 0.13, "estimate_error": {"bounded_loss": -0.01}}
    found = {
        "model": "m",
        "alarms": ["loss"],
        "drift": {"loss_parts": {"kind": "concept", "kind_reason": "concept drift: labels no longer follow"}},
        "performance": [_window(1, shown, **labelled)],
        "unlabelled": [_window(2, shown), _window(3, hidden)],
    }
    lines = monitor_lines(found)
    assert "loss: concept drift: labels no longer follow" in lines
    assert "  2013-01-01 labels 8/9 loss 0.1300 estimated 0.1200 (0.1000 to 0.1400) off by -0.0100" in lines
    assert "  2013-01-02 no labels yet estimated 0.1200 (0.1000 to 0.1400)" in lines
    assert lines[-2:] == ["  2013-01-03 no labels yet estimated -", "  no estimate: labels contradict it: off"]
    assert monitor_lines({**found, "estimates": {"words": "off by 0.1"}})[-1] == "  estimates: off by 0.1"
    assert not any(line.startswith("loss:") for line in monitor_lines({**found, "alarms": []}))
