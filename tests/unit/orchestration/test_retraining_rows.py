"""The rows of a retraining: what may be used, and what must never get in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_mlops.config import DataConfig
from ray_mlops.data.snapshot import snapshot_table
from ray_mlops.data.target import TargetEncoder
from ray_mlops.errors import DataError
from ray_mlops.monitoring.policy import RetrainDecision
from ray_mlops.orchestration.retraining_rows import check_no_future, logged_rows, snapshot_for, unite
from ray_mlops.runtime.files import Files

DAY = 86_400_000_000
ENCODER = TargetEncoder("y", "binary", (False, True))
DECISION = RetrainDecision("d", "m", 20 * DAY, 0, 10 * DAY, 15 * DAY, "full", "inputs", "1", "c", "")


def data_config(directory: Path) -> DataConfig:
    content = {"source": {"path": str(directory / "source.parquet")}, "task": "binary", "target": "y"}
    return DataConfig.model_validate({**content, "event_time": "t", "id": "i"})


def moments(days: list[float]) -> pa.Array:
    return pa.array([int(day * DAY) for day in days]).cast(pa.timestamp("us", tz="UTC"))


@pytest.fixture
def store(tmp_path: Path) -> Files:
    """A source of four days, a log of four more, and labels; a prediction of the future among them."""
    source = {
        "i": ["s1", "s2", "a", "s9"],
        "t": moments([1, 2, 3, 17]),
        "x": [1.0, 2.0, -1.0, 9.0],
        "y": [True, False, True, True],
    }
    pq.write_table(pa.table(source), tmp_path / "source.parquet")
    files = Files(str(tmp_path / "store"))
    days = {"a": 3.0, "b": 4.0, "c": 12.0, "late": 16.0, "unlabelled": 5.0}
    for name, day in days.items():
        rows = {"prediction_id": [name], "event_time": moments([day]), "arrival_time": moments([day])}
        text = str(np.datetime64(int(day), "D"))
        files.write_table(f"predictions/m/day={text}/r-{name}.parquet", pa.table({**rows, "features.x": [day]}))
    labels = [
        {"id": "a", "label": False, "time": 5 * DAY, "arrival": 5 * DAY},
        {"id": "b", "label": True, "time": None, "arrival": 6 * DAY},
        {"id": "c", "label": True, "time": 25 * DAY, "arrival": 13 * DAY},
        {"id": "late", "label": True, "time": 17 * DAY, "arrival": 17 * DAY},
    ]
    files.write("labels/m/day=1970-01-05/r-1.jsonl", b"".join(json.dumps(label).encode() + b"\n" for label in labels))
    return files


def test_logged_rows_join_the_labels_known_by_the_decision(store: Files, tmp_path: Path) -> None:
    rows = logged_rows(DECISION, data_config(tmp_path), ENCODER, store)
    assert rows is not None
    assert {row["i"]: row["y"] for row in rows.to_pylist()} == {"a": False, "b": True}


def test_label_received_after_as_of_is_left_out(store: Files, tmp_path: Path) -> None:
    later = RetrainDecision(**{**DECISION.to_json(), "as_of_us": 30 * DAY})
    rows = logged_rows(later, data_config(tmp_path), ENCODER, store)
    assert rows is not None
    assert "c" in rows["i"].to_pylist()


def test_correction_counts_from_the_moment_it_was_known(store: Files, tmp_path: Path) -> None:
    """``a`` was False, and is said to be True on day 19: the decision of day 20 knows it, one of day 18 does not."""
    line = {"id": "a", "label": True, "time": 19 * DAY, "arrival": 6 * DAY, "is_correction": True}
    store.write("labels/m/day=1970-01-07/r-1.jsonl", json.dumps(line).encode() + b"\n")
    earlier = RetrainDecision(**{**DECISION.to_json(), "as_of_us": 18 * DAY})
    for decision, expected in ((DECISION, True), (earlier, False)):
        snapshot = snapshot_for(decision, data_config(tmp_path), ENCODER, store)
        rows = {row["i"]: row["y"] for row in snapshot_table(snapshot, store).to_pylist()}
        assert rows["a"] is expected


def test_snapshot_unites_source_and_log_and_the_log_wins(store: Files, tmp_path: Path) -> None:
    snapshot = snapshot_for(DECISION, data_config(tmp_path), ENCODER, store)
    rows = {row["i"]: row for row in snapshot_table(snapshot, store).to_pylist()}
    assert set(rows) == {"s1", "s2", "a", "b"}
    assert rows["a"]["y"] is False
    assert rows["a"]["x"] == 3.0
    assert snapshot.origin["decision"] == "d"


def test_same_decision_gives_the_same_snapshot(store: Files, tmp_path: Path) -> None:
    config = data_config(tmp_path)
    assert snapshot_for(DECISION, config, ENCODER, store).id == snapshot_for(DECISION, config, ENCODER, store).id


def test_row_from_the_future_is_refused(tmp_path: Path) -> None:
    planted = pa.table({"i": ["z"], "t": moments([15.0]), "x": [0.0], "y": [True]})
    with pytest.raises(DataError, match="beyond 1970-01-16"):
        check_no_future(planted, DECISION, data_config(tmp_path))
    check_no_future(planted.set_column(1, "t", moments([14.9])), DECISION, data_config(tmp_path))


def test_nothing_to_unite_is_none(tmp_path: Path) -> None:
    assert unite(None, None, data_config(tmp_path)) is None


def test_decision_without_rows_is_an_error(store: Files, tmp_path: Path) -> None:
    empty: dict[str, Any] = {**DECISION.to_json(), "train_start_us": 8 * DAY, "train_end_us": 9 * DAY}
    with pytest.raises(DataError, match="no labelled rows"):
        snapshot_for(RetrainDecision(**{**empty, "holdout_end_us": 10 * DAY}), data_config(tmp_path), ENCODER, store)
