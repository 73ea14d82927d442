"""Labels that come early, late, twice, wrong or never."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.monitoring.labels import LabelJoin, prediction_values
from ray_mlops.serving.protocol import LabelRecord
from ray_mlops.statistics.delays import delay_bins

DAY = 86_400_000_000


def encode(label: Any) -> float:
    if label not in (True, False):
        raise ValueError(label)
    return float(label)


def rows(*ids: str, day: int = 0, version: str = "1") -> pa.Table:
    n = len(ids)
    return pa.table(
        {
            "prediction_id": list(ids),
            "request_id": list(ids),
            "event_time": pa.array([day * DAY + i for i in range(n)]).cast(pa.timestamp("us", tz="UTC")),
            "arrival_time": pa.array([day * DAY + i for i in range(n)]).cast(pa.timestamp("us", tz="UTC")),
            "arm": ["champion"] * n,
            "version": [version] * n,
            "route_version": [1] * n,
            "pinned": [False] * n,
            "weight": [1.0] * n,
            "prediction": [0.5] * n,
        }
    )


def join(horizon_days: int = 30) -> LabelJoin:
    return LabelJoin(encode, DAY, horizon_days * DAY)


def test_label_joins_its_prediction() -> None:
    labels = join()
    labels.add_predictions(rows("a", "b"))
    assert labels.add_labels([LabelRecord("a", True)]) == {"accepted": 1, "duplicate": 0, "conflicting": 0}
    table = labels.labelled(-1, 0)
    assert table is not None
    assert table.select(["prediction_id", "label", "window"]).to_pylist() == [
        {"prediction_id": "a", "label": 1.0, "window": 0}
    ]
    assert labels.summary(0).coverage == 0.5


def test_label_before_its_prediction_is_kept_and_joined() -> None:
    labels = join()
    assert labels.add_labels([LabelRecord("a", False)])["accepted"] == 1
    labels.add_predictions(rows("a"))
    assert labels.summary(0).labelled == 1
    assert labels.waiting["early_labels"] == 0


@pytest.mark.parametrize("early", [True, False])
def test_repeated_label_is_duplicate_or_conflicting_and_the_first_wins(early: bool) -> None:
    labels = join()
    if not early:
        labels.add_predictions(rows("a"))
    taken = labels.add_labels([LabelRecord("a", True), LabelRecord("a", True), LabelRecord("a", False)])
    assert taken == {"accepted": 1, "duplicate": 1, "conflicting": 1}
    if early:
        labels.add_predictions(rows("a"))
    table = labels.labelled(-1, 0)
    assert table is not None
    assert table["label"].to_pylist() == [1.0]


def test_label_of_a_wrong_type_is_counted_and_not_joined() -> None:
    labels = join()
    labels.add_predictions(rows("a"))
    assert labels.add_labels([LabelRecord("a", "late")])["invalid"] == 1
    assert labels.summary(0).labelled == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("early", [True, False])
def test_label_that_is_no_number_is_counted_and_not_joined(value: float, early: bool) -> None:
    labels = LabelJoin(float, DAY, 30 * DAY)
    if not early:
        labels.add_predictions(rows("a"))
    assert labels.add_labels([LabelRecord("a", value)])["invalid"] == 1
    assert labels.add_labels([LabelRecord("a", 2.0)])["accepted"] == 1


def test_labelled_respects_its_range_and_event_order() -> None:
    labels = join()
    labels.add_predictions(rows("b", day=2))
    labels.add_predictions(rows("a", day=1))
    labels.add_labels([LabelRecord("a", True), LabelRecord("b", True)])
    table = labels.labelled(-1, 5)
    assert table is not None
    assert table["prediction_id"].to_pylist() == ["a", "b"]
    assert labels.labelled(2, 5) is None


def test_expired_predictions_and_labels_are_counted_once() -> None:
    labels = join(horizon_days=3)
    labels.add_predictions(rows("a", "b", day=0))
    labels.add_labels([LabelRecord("a", True), LabelRecord("stranger", True, time=0)])
    labels.expire(10 * DAY)
    labels.expire(10 * DAY)
    assert labels.counts["unlabelled"] == 1
    assert labels.counts["unknown"] == 1
    assert labels.waiting == {"early_labels": 0, "predictions": 0}


def test_known_names_only_what_is_held() -> None:
    labels = join()
    labels.add_predictions(rows("a"))
    assert labels.known(["a", "z"]) == ["a"]


def test_prediction_values_of_classes_keep_the_columns_order() -> None:
    table = pa.table({"prediction.x": [0.2], "prediction.y": [0.8]})
    assert prediction_values(table, "multiclass").tolist() == [[0.2, 0.8]]


@pytest.mark.parametrize("early", [True, False])
def test_correction_replaces_the_label_and_the_newest_stands(early: bool) -> None:
    labels = join()
    if not early:
        labels.add_predictions(rows("a"))
    told = [
        LabelRecord("a", True, arrival=1),
        LabelRecord("a", False, arrival=2),
        LabelRecord("a", False, arrival=4, is_correction=True),
        LabelRecord("a", True, arrival=3, is_correction=True),  # came later, was sent earlier
        LabelRecord("a", False, arrival=5, is_correction=True),
        LabelRecord("a", True, arrival=6),
    ]
    assert [next(n for n, k in labels.add_labels([record]).items() if k) for record in told] == [
        "accepted", "conflicting", "corrected", "conflicting", "duplicate", "conflicting",
    ]  # fmt: skip
    if early:
        labels.add_predictions(rows("a"))
    table = labels.labelled(-1, 0)
    assert table is not None
    assert table["label"].to_pylist() == [0.0]


def test_correction_of_nothing_is_a_label() -> None:
    labels = join()
    labels.add_predictions(rows("a"))
    assert labels.add_labels([LabelRecord("a", True, arrival=5, is_correction=True)])["accepted"] == 1
    assert labels.add_labels([LabelRecord("a", False)])["conflicting"] == 1
    assert labels.add_labels([LabelRecord("a", False, arrival=4, is_correction=True)])["conflicting"] == 1
    assert labels.add_labels([LabelRecord("a", False, arrival=6, is_correction=True)])["corrected"] == 1


def test_windows_whose_labels_changed_are_named_until_they_are_taken_in() -> None:
    labels = join()
    for day in (0, 1, 2):
        labels.add_predictions(rows(f"a{day}", f"b{day}", day=day))
    labels.add_labels([LabelRecord("a0", True), LabelRecord("a2", True), LabelRecord("stranger", True)])
    assert labels.touched(1) == [0]
    labels.take_touched(1, 9 * DAY)
    assert labels.touched(5) == [2]
    labels.add_labels([LabelRecord("a0", True), LabelRecord("a0", False)])
    assert labels.touched(1) == []
    labels.add_labels([LabelRecord("a0", False, is_correction=True), LabelRecord("b1", True, time=5 * DAY)])
    assert labels.touched(1) == [0, 1]
    labels.take_touched(1, 3 * DAY)  # one of them was not there by then
    assert labels.touched(1) == [1]
    assert [labels.summary(1, day * DAY).labelled for day in (4, 5)] == [0, 1]
    assert np.isnan(labels.rows(1, 4 * DAY)["label"].to_numpy()).all()


def test_delay_is_told_by_the_labels_own_time_else_by_the_arrivals() -> None:
    labels = LabelJoin(encode, DAY, 30 * DAY, num_classes=2)
    labels.add_predictions(rows("a", "b", "c"))
    second = 1_000_000
    labels.add_labels(
        [
            LabelRecord("a", True, time=90 * second, arrival=9 * DAY),
            LabelRecord("b", False, arrival=3 * second + 1),
            LabelRecord("c", False, time=-5),
        ]
    )
    [cohort] = labels.cohorts(2 * DAY)
    assert (cohort.rows, cohort.age_s) == (3, 86_400.0)
    assert np.flatnonzero(cohort.arrived[0]).tolist() == delay_bins(np.array([0.0, 3.0])).tolist()
    assert np.flatnonzero(cohort.arrived[1]).tolist() == delay_bins(np.array([89.9999])).tolist()
    assert labels.cohorts(DAY - 1) == []


def test_corrected_label_moves_to_its_class_and_keeps_its_delay() -> None:
    labels = LabelJoin(encode, DAY, 30 * DAY, num_classes=2)
    labels.add_predictions(rows("a"))
    labels.add_labels([LabelRecord("a", True, time=10_000_000)])
    before = labels.cohorts(DAY)[0].arrived
    labels.add_labels([LabelRecord("a", False, time=70_000_000, is_correction=True)])
    assert np.array_equal(labels.cohorts(DAY)[0].arrived, before[::-1])


def test_join_that_is_restored_has_the_same_labels_and_delays() -> None:
    records = [
        LabelRecord("a", True, arrival=1),
        LabelRecord("early", True, arrival=2),
        LabelRecord("a", False, arrival=3, is_correction=True),
        LabelRecord("b", True, arrival=4),
    ]
    first = LabelJoin(encode, DAY, 30 * DAY, num_classes=2)
    first.add_predictions(rows("a", "b"))
    first.add_labels(records[:3])
    again = LabelJoin(encode, DAY, 30 * DAY, num_classes=2)
    again.add_predictions(rows("a", "b"))
    again.restore(first.to_json(), records)
    first.add_labels(records[3:])
    assert again.to_json() == first.to_json()
    assert again.touched(0) == [0]
    ours, theirs = (each.labelled(-1, 0) for each in (again, first))
    assert ours is not None
    assert ours.equals(theirs)
    assert np.array_equal(again.cohorts(DAY)[0].arrived, first.cohorts(DAY)[0].arrived)
    assert again.add_labels([LabelRecord("a", True, arrival=2, is_correction=True)])["conflicting"] == 1
