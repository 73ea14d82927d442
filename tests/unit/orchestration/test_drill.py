"""Rows for drills and diagnoses, from a store to a report. No Ray, no service, no registry."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_mlops.config import ProjectConfig, build_config
from ray_mlops.data.profile import fit_features_and_profile
from ray_mlops.data.snapshot import create_snapshot
from ray_mlops.data.target import TargetEncoder
from ray_mlops.errors import DataError, NotFoundError
from ray_mlops.ledger import Ledger
from ray_mlops.monitoring.drill.run import Plan
from ray_mlops.orchestration.diagnosis import answer_lines, diagnose_alarm, find_alarm
from ray_mlops.orchestration.drill import append_drill, drill_bundle
from ray_mlops.orchestration.past_rows import logged_past, snapshot_past, stretch_of_newest
from ray_mlops.runtime.files import Files
from ray_mlops.serving.rollout.drills import read_drill
from ray_mlops.training.bundle import Manifest, ModelBundle
from ray_mlops.training.factory import build_model
from ray_mlops.training.models import ModelSpec

DAY = 86_400_000_000
PAST, SERVED, ROWS = 30, 10, 60
PLAN = Plan(("null_column", "latency"), repeats=2, clean=5, windows=5)


def rows(first: int, days: int, shift: float = 0.0) -> pa.Table:
    rng = np.random.default_rng(first)
    n = days * ROWS
    event_us = np.repeat(np.arange(first, first + days), ROWS) * DAY + np.sort(rng.integers(0, DAY, n))
    x = rng.normal(size=n) + shift
    y = (rng.random(n) < 1.0 / (1.0 + np.exp(-3.0 * x))).astype(int)
    city = rng.choice(["Oslo", "Rome"], n)
    stamps = pa.array(np.sort(event_us), pa.timestamp("us", tz="UTC"))
    return pa.table({"id": [f"{first}-{i}" for i in range(n)], "time": stamps, "x": x, "city": city, "y": y})


class Store:
    """A snapshot, a bundle, a log of rows that have moved, their labels, and an alarm."""

    def __init__(self, root: Path, **redact: str) -> None:
        past = rows(0, PAST)
        pq.write_table(past, root / "rows.parquet")
        content: dict[str, Any] = {
            "name": "m",
            "store": {"root": str(root / "store")},
            "data": {"source": {"path": str(root / "rows.parquet")}, "task": "binary", "target": "y"},
            "serving": {"log": {"redact": redact}},
            "monitoring": {"min_window_rows": 20, "reference": {"windows": 40, "min_windows": 8}},
        }
        content["data"] |= {"event_time": "time", "id": "id", "features": [{"name": "x"}, {"name": "city"}]}
        self.config: ProjectConfig = build_config(content, {})
        self.files, self.ledger = Files(self.config.store.root_uri), Ledger.open(self.config.store)
        snapshot = create_snapshot(self.config.data, self.files)
        features, profile, _ = fit_features_and_profile(past, self.config.data, self.config.monitoring)
        encoder = TargetEncoder.fit(past, self.config.data)
        spec = ModelSpec("binary", len(features.numeric_names), features.categorical_sizes, 1)
        params, factory = {"hidden": 4, "members": 1, "depth": 1}, "ray_mlops.training.models:tabular"
        manifest = Manifest("m", "binary", "y", encoder.classes, factory, params, spec, snapshot=snapshot.id)
        made = ModelBundle(manifest, features, build_model(factory, spec, params), profile, None)  # type: ignore[arg-type]
        self.bundle = made.with_parity(past.slice(0, 32))
        self.address = self.bundle.save(self.files).uri
        self.serve(rows(PAST, SERVED, shift=1.5))

    def serve(self, served: pa.Table) -> None:
        n = len(served)
        columns = {"prediction_id": served["id"], "event_time": served["time"], "arrival_time": served["time"]}
        columns |= {"pinned": [False] * n, "model_time_us": [900] * n}
        columns |= {"features.x": served["x"], "features.city": served["city"]}
        self.files.write_table("predictions/m/day=1970-02-01/r-1.parquet", pa.table(columns))
        pairs = zip(served["id"].to_pylist(), served["y"].to_pylist(), strict=True)
        labels = [{"id": name, "label": y, "time": 1, "arrival": 1} for name, y in pairs if int(name.split("-")[1]) % 2]
        text = "".join(f"{json.dumps(label)}\n" for label in labels)
        self.files.write("labels/m/day=1970-02-01/r-1.jsonl", text.encode())

    def contents(self) -> dict[str, bytes]:
        names = [name for name in self.files.names("") if not name.startswith("ledger.db")]
        return {name: self.files.read(name) for name in names}

    def alarm(self, name: str, window: int, change: int) -> None:
        payload = {"alarm": f"drift:{name}", "level": "drift", "name": name, "window": window}
        payload |= {"version": self.address, "reference": "r", "window_us": DAY, "change_point": change}
        self.ledger.append("m/monitor", "monitor.alarm", f"m/monitor/{name}/{window}", payload)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_served_rows_come_with_their_labels_and_times(store: Store) -> None:
    past = logged_past(store.config, store.bundle, store.files)
    assert past is not None
    assert len(past) == SERVED * ROWS
    assert np.isfinite(past.target).mean() == 0.5
    assert (np.diff(past.event_us) >= 0).all()
    assert set(past.model_time_us) == {900.0}
    assert len(past.between(31 * DAY, 33 * DAY)) == 2 * ROWS
    assert len(past.followed_by(past)) == 2 * len(past)


def test_corrected_label_of_a_served_row_is_its_truth(store: Store) -> None:
    def targets() -> np.ndarray:
        past = logged_past(store.config, store.bundle, store.files)
        assert past is not None
        return past.target[np.isfinite(past.target)]

    before = targets()
    name = "labels/m/day=1970-02-01/r-1.jsonl"
    first = json.loads(store.files.read(name).splitlines()[0])
    line = {**first, "label": 1 - first["label"], "is_correction": True}
    store.files.write(name, store.files.read(name) + json.dumps(line).encode() + b"\n")
    assert int((targets() != before).sum()) == 1


def test_hidden_input_makes_the_log_useless_and_the_snapshot_is_taken(tmp_path: Path) -> None:
    store = Store(tmp_path, city="hash")
    assert logged_past(store.config, store.bundle, store.files) is None
    with pytest.raises(DataError, match="--rows snapshot"):
        drill_bundle(store.config, "1", store.bundle, PLAN, rows_from="log")


def test_stretch_takes_the_newest_windows_and_no_more_rows_than_asked_for(store: Store) -> None:
    past = snapshot_past(store.config, store.bundle, store.files)
    found = stretch_of_newest(past, store.config, store.bundle, num_windows=7, rows_per_window=25, seed=0)
    assert found.windows == tuple(range(PAST - 7, PAST))
    assert np.bincount(found.window)[PAST - 7 :].tolist() == [25] * 7
    assert (found.latency_us > 0).all(), "timed here, since the snapshot does not say"
    assert np.isfinite(found.target).all()


def test_drill_takes_the_snapshot_where_too_little_was_served_and_touches_nothing(store: Store) -> None:
    assert store.ledger.read() == []
    before = store.contents()
    drilled = drill_bundle(store.config, "1", store.bundle, PLAN)
    assert drilled.report.rows == "rows of its own snapshot"
    assert {each.fault: each.monitors["any"].power for each in drilled.report.faults}["null_column"] == 1.0
    assert not drilled.recorded, "no version 1 is registered"
    assert store.contents() == before
    assert store.ledger.read() == []
    with pytest.raises(DataError, match="a drill needs 18"):
        drill_bundle(store.config, "1", store.bundle, PLAN, rows_from="log")


def test_each_drill_of_a_registered_version_is_recorded(store: Store) -> None:
    store.ledger.append("m/versions", "version.registered", "m/versions/1", {"version": "1", "gate": {"passed": True}})
    assert drill_bundle(store.config, "1", store.bundle, PLAN).recorded
    drilled = drill_bundle(store.config, "1", store.bundle, PLAN)
    assert not drill_bundle(store.config, "1", store.bundle, PLAN, record=False).recorded
    append_drill(store.ledger, "m", "1", drilled.report)
    events = store.ledger.read("m/drill", kind="drill.finished")
    assert len(events) == 3
    found = read_drill(events[0].payload)
    assert found["null_column"].delays == (1, 1)
    assert found["null_column"].windows == 5


def test_drill_of_one_column_says_nothing_of_the_model(store: Store) -> None:
    store.ledger.append("m/versions", "version.registered", "m/versions/1", {"version": "1", "gate": {"passed": True}})
    plan = Plan(("null_column",), repeats=1, clean=5, windows=5, column="city")
    assert not drill_bundle(store.config, "1", store.bundle, plan).recorded


def test_diagnosis_of_an_alarm_compares_the_rows_since_the_change(store: Store) -> None:
    store.alarm("inputs", window=36, change=32)
    found = diagnose_alarm(store.config)
    assert found.question.current_us == (32 * DAY, 37 * DAY)
    assert found.question.reference_us == (0, PAST * DAY)
    assert (found.reference_rows, found.current_rows) == (PAST * ROWS, 5 * ROWS)
    assert found.diagnosis.classifier is not None
    assert found.diagnosis.classifier.features[0][0] == "x"
    assert found.diagnosis.classifier.p_value < 0.01
    text = "\n".join(answer_lines(found))
    assert "drift:inputs" in text
    assert "1970-02-02 00:00 UTC to 1970-02-07 00:00 UTC" in text
    assert json.dumps(found.to_json())


def test_alarm_is_found_by_either_name_and_an_unknown_one_lists_those_there_were(store: Store) -> None:
    assert find_alarm(store.ledger, "m", None) is None
    store.alarm("inputs", window=36, change=32)
    store.alarm("loss", window=37, change=35)
    newest = find_alarm(store.ledger, "m", None)
    assert newest is not None
    assert newest.payload["name"] == "loss"
    for name in ("inputs", "drift:inputs"):
        event = find_alarm(store.ledger, "m", name)
        assert event is not None
        assert event.payload["window"] == 36
    with pytest.raises(NotFoundError, match="drift:loss, drift:inputs"):
        find_alarm(store.ledger, "m", "gremlins")
