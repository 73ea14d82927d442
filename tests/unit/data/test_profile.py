"""One pass, whatever the blocks; a reference of the newest windows."""

import itertools
import json
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.config import DataConfig, FeatureConfig, MonitoringConfig, ReferenceConfig, SourceConfig
from ray_mlops.data.inputs import resolve_inputs
from ray_mlops.data.profile import ReferenceProfile, fit_features_and_profile
from ray_mlops.data.statistics_pass import (
    PartialStatistics,
    PassPlan,
    block_statistics,
    merge_statistics,
    table_statistics,
    unpack_parts,
)
from ray_mlops.errors import BundleError, DataError, FeatureError
from ray_mlops.statistics.bins import CategoricalBins, ColumnCounts

DAY_US = 86_400_000_000
FEATURES = [
    FeatureConfig(name="x"),
    FeatureConfig(name="i", scale="quantile"),
    FeatureConfig(name="c"),
    FeatureConfig(name="b"),
    FeatureConfig(name="m", role="calendar"),
    FeatureConfig(name="at"),
]


def rows(n: int = 500, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    times = pa.array(rng.integers(0, 30 * DAY_US, n), pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    return pa.table(
        {
            "x": pa.array(rng.normal(size=n) * 10.0 ** rng.integers(-9, 9, n), mask=rng.random(n) < 0.1),
            "i": rng.integers(0, 1000, n),
            "c": pa.array(rng.choice(["u", "v", "w", "rare"], n, p=[0.5, 0.3, 0.195, 0.005]), mask=rng.random(n) < 0.1),
            "b": rng.random(n) < 0.3,
            "m": rng.integers(1, 13, n),
            "at": times,
            "t": times,
            "y": rng.integers(0, 2, n),
        }
    )


def config(**more: Any) -> DataConfig:
    known = {"event_time": "t", "features": FEATURES, **more}
    return DataConfig(source=SourceConfig(path="x"), task="binary", target="y", **known)


def monitoring(windows: int = 10, **more: Any) -> MonitoringConfig:
    reference = ReferenceConfig(windows=windows, min_windows=8)
    return MonitoringConfig(reference=reference, bins=8, top_categories=2, **more)


def test_statistics_blocks_in_any_cut_and_order_merge_to_the_same_bits() -> None:
    table = rows()
    inputs = resolve_inputs(table.schema, FEATURES)
    for sample_rows in (10_000, 100):
        plan = PassPlan(inputs, "t", len(table), None, sample_rows)
        whole = table_statistics(table, plan)
        for seed in range(3):
            rng = np.random.default_rng(seed)
            shuffled = table.take(rng.permutation(len(table)))
            cuts = [0, *sorted(rng.integers(0, 500, 6).tolist()), 500]
            blocks = [shuffled.slice(a, b - a) for a, b in itertools.pairwise(cuts)]
            packed = pa.concat_tables([block_statistics(block, plan).to_table() for block in blocks])
            merged = merge_statistics(unpack_parts(packed), plan)
            assert merged.sample == whole.sample
            for name, column in whole.columns.items():
                other = merged.columns[name]
                assert (other.mean, other.deviation) == (column.mean, column.deviation) or np.isnan(column.mean)
                assert other.counts == column.counts
                assert other.values.tobytes() == column.values.tobytes()
    assert not whole.is_exact
    assert 60 < len(whole.sample) < 140


def test_statistics_against_numpy() -> None:
    table = rows()
    statistics = table_statistics(table, PassPlan(resolve_inputs(table.schema, FEATURES), "t", len(table)))
    x = table["x"].drop_null().to_numpy()
    found = statistics.columns["x"]
    assert found.mean == pytest.approx(x.mean(), rel=1e-12)
    assert found.deviation == pytest.approx(x.std(), rel=1e-12)
    assert (found.minimum, found.maximum, found.missing) == (x.min(), x.max(), table["x"].null_count)
    assert sum(statistics.columns["c"].counts.values()) == len(table) - table["c"].null_count
    assert statistics.is_exact


def test_statistics_too_many_categories_are_counted_in_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_mlops.data.statistics_pass.MAX_DISTINCT", 2)
    table = rows()
    plan = PassPlan(resolve_inputs(table.schema, [FeatureConfig(name="c")]), None, len(table))
    parts = [block_statistics(table.slice(start, 100), plan) for start in range(0, 500, 100)]
    counts = merge_statistics(parts, plan).columns["c"].counts
    monkeypatch.undo()
    assert counts == table_statistics(table, plan).columns["c"].counts
    assert isinstance(parts[0], PartialStatistics)
    assert parts[0].columns["c"].counts is None


def test_fit_train_column_features_from_training_rows_reference_from_all() -> None:
    table = rows()
    train = table["t"].cast(pa.int64()).to_numpy() < 15 * DAY_US
    marked = table.append_column("train", pa.array(train))
    pipeline, profile, statistics = fit_features_and_profile(marked, config(), monitoring(), train_column="train")
    alone, _, _ = fit_features_and_profile(table.filter(pa.array(train)), config(), monitoring())
    assert pipeline == alone
    assert (statistics.rows, statistics.train_rows) == (500, int(train.sum()))
    assert profile.windows == tuple(range(20, 30))
    nobody = table.append_column("train", pa.array([False] * 500))
    with pytest.raises(FeatureError, match="no rows to fit"):
        fit_features_and_profile(nobody, config(), monitoring(), train_column="train")


def test_profile_windows_counts_and_roles() -> None:
    table = rows()
    pipeline, profile, _ = fit_features_and_profile(table, config(), monitoring())
    window = table["t"].cast(pa.int64()).to_numpy() // DAY_US
    kept = table.filter(pa.array(window >= 20))
    assert set(profile.columns) == {"x", "i", "c", "b", "m", "at"}
    assert {name for name, column in profile.columns.items() if column.role == "calendar"} == {"m", "at"}
    for column in profile.columns.values():
        assert [counts.n for counts in column.windows.values()] == [int((window == w).sum()) for w in range(20, 30)]
    counted = profile.count(pipeline.canonical_table(kept))
    for name, column in profile.columns.items():
        assert counted[name].counts.tolist() == column.total.counts.tolist()
    assert isinstance(profile.columns["b"].bins, CategoricalBins)
    assert set(profile.columns["b"].bins.top) == {"true", "false"}
    assert profile.importance == dict.fromkeys(profile.columns, 1 / 6)


def test_profile_counts_rows_as_serving_logs_them() -> None:
    table = rows()
    pipeline, profile, _ = fit_features_and_profile(table, config(), monitoring())
    odd = [{"x": None, "i": 10**9, "c": "never seen", "b": None, "m": 1, "at": "2031-01-01"}]
    counted = profile.count(pipeline.to_table(odd))
    assert counted["x"].nulls == 1
    assert counted["i"].counts[-2] == 1  # above
    assert counted["c"].counts[-2] == 1  # unseen
    assert counted["b"].nulls == 1


def test_profile_without_event_time_is_one_window() -> None:
    _, profile, _ = fit_features_and_profile(rows(), config(event_time=None), monitoring())
    assert profile.windows == (0,)
    assert profile.columns["x"].total.n == 500


def test_profile_json_round_trip() -> None:
    _, profile, _ = fit_features_and_profile(rows(), config(), monitoring())
    rng = np.random.default_rng(0)
    at = rng.integers(0, 30 * DAY_US, 200)
    full = profile.with_scores(rng.random(200), at, rng.random(200), monitoring=monitoring())
    full = full.with_importance({"x": 3.0, "c": 1.0, "i": -1.0})
    text = json.dumps(full.to_json(), allow_nan=False)
    again = ReferenceProfile.from_json(json.loads(text))
    assert json.dumps(again.to_json()) == text
    assert again.windows == full.windows
    assert again.importance == {"x": 0.75, "c": 0.25, "i": 0, "b": 0, "m": 0, "at": 0}
    with pytest.raises(BundleError, match="schema_version"):
        ReferenceProfile.from_json({**profile.to_json(), "schema_version": 9})
    with pytest.raises(BundleError, match="damaged"):
        ReferenceProfile.from_json({**profile.to_json(), "columns": {"x": {}}})


def test_with_scores_counts_scores_and_losses_by_window() -> None:
    _, profile, _ = fit_features_and_profile(rows(), config(), monitoring())
    at = np.array([1, 1, 2, 50]) * DAY_US
    full = profile.with_scores(
        np.array([0.1, 0.2, 0.3, 0.4]), at, np.array([0.5, 0.25, 1.0, 0.0]), monitoring=monitoring()
    )
    assert full.score is not None
    assert {window: counts.n for window, counts in full.score.windows.items()} == {1: 2, 2: 1, 50: 1}
    assert [(loss.n, loss.total, loss.total_squares) for loss in full.losses.values()] == [
        (2, 0.75, 0.3125),
        (1, 1.0, 1.0),
        (1, 0.0, 0.0),
    ]
    assert (full.losses[1] + full.losses[2]).total == 1.75
    with pytest.raises(DataError, match="unknown columns"):
        full.with_importance({"nothing": 1.0})


def test_from_counts_makes_a_reference_of_monitored_windows() -> None:
    pipeline, profile, _ = fit_features_and_profile(rows(), config(), monitoring())
    later = {window: profile.count(pipeline.canonical_table(rows(50, window))) for window in (103, 101, 102)}
    again = profile.from_counts(later, num_windows=2)
    assert again.windows == (102, 103)
    assert again.columns["x"].bins == profile.columns["x"].bins
    assert again.columns["x"].windows[103] == later[103]["x"]
    with pytest.raises(DataError, match="no windows"):
        profile.from_counts({}, num_windows=2)
    with pytest.raises(DataError, match="its bins"):
        profile.from_counts({1: {"x": ColumnCounts(np.zeros(3, np.int64), 0)}}, num_windows=2)


def test_fit_window_length_comes_from_the_configuration() -> None:
    _, profile, _ = fit_features_and_profile(rows(), config(), monitoring(window=timedelta(days=7)))
    assert profile.window_us == 7 * DAY_US
    assert profile.windows == (0, 1, 2, 3, 4)


def test_fit_no_rows_is_an_error() -> None:
    with pytest.raises(DataError, match="no rows"):
        fit_features_and_profile(rows().slice(0, 0), config(), monitoring())


def linked(n: int = 3000) -> pa.Table:
    rng = np.random.default_rng(3)
    hours = rng.uniform(1, 9, n)
    times = pa.array(rng.integers(0, 30 * DAY_US, n), pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    return pa.table({"hours": hours, "km": 500 * hours + rng.normal(0, 90, n), "again": hours + 1.0, "at": times})


def test_profile_freezes_how_columns_hang_together() -> None:
    features = [FeatureConfig(name="hours"), FeatureConfig(name="km"), FeatureConfig(name="again", role="calendar")]
    data = DataConfig(source=SourceConfig(path="x"), target="y", task="binary", event_time="at")
    _, profile, _ = fit_features_and_profile(linked(), data, MonitoringConfig(), features=features)
    (member,) = profile.joint.projections.members
    assert {member.target, *member.explained_by} == {"hours", "km"}  # no calendar column has a part in it
    assert sum(counts.n for counts in profile.joint.columns[member.name].windows.values()) == 3000
    assert profile.joint.without({"km"}).columns == {}
    off = MonitoringConfig(joint_projections=0)
    _, without, _ = fit_features_and_profile(linked(), data, off, features=features)
    assert without.joint.columns == {}


def test_profile_with_and_without_joint_part_is_read() -> None:
    features = [FeatureConfig(name="hours"), FeatureConfig(name="km")]
    data = DataConfig(source=SourceConfig(path="x"), target="y", task="binary", event_time="at")
    _, profile, _ = fit_features_and_profile(linked(), data, MonitoringConfig(), features=features)
    stored = json.loads(json.dumps(profile.to_json()))
    assert ReferenceProfile.from_json(stored).joint == profile.joint
    del stored["joint"]  # as an older release wrote it
    assert ReferenceProfile.from_json(stored).joint.columns == {}
