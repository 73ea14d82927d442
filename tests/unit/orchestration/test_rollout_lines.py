"""What people read about a model's rollout."""

from ray_mlops.orchestration.rollout_lines import rollout_lines


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
