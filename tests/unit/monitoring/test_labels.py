"""Labels that come early, late, twice, wrong or never."""

from typing import Any

import pyarrow as pa
import pytest

from ray_mlops.monitoring.labels import LabelJoin, prediction_values
from ray_mlops.serving.protocol import LabelRecord

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
