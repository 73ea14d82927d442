"""Splits keep together what belongs together, and do not depend on the order of rows."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.config import DataConfig, SourceConfig, SplitConfig
from ray_mlops.data.split import SPLIT_COLUMN, assign_split, plan_split, split_table
from ray_mlops.errors import DataError


def config(event_time: str | None = None, id: str | None = None, **split: Any) -> DataConfig:
    source = SourceConfig(path="x")
    return DataConfig(
        source=source, task="binary", target="y", event_time=event_time, id=id, split=SplitConfig(**split)
    )


def times(values: Any) -> pa.Array:
    return pa.array(values, pa.int64()).cast(pa.timestamp("us", tz="UTC"))


def test_by_time_newest_rows_are_held_out_and_equal_times_stay_together() -> None:
    rng = np.random.default_rng(0)
    at = rng.integers(0, 40, 1000)
    table = pa.table({"t": times(at), "y": np.arange(1000)})
    splits = split_table(table, config("t", validation=0.2, holdout=0.1))
    ranges = [part["t"].cast(pa.int64()).to_numpy() for part in (splits.train, splits.validation, splits.holdout)]
    assert ranges[0].max() < ranges[1].min() <= ranges[1].max() < ranges[2].min()
    sizes = [len(part) for part in ranges]
    assert sum(sizes) == 1000
    assert abs(sizes[2] - 100) <= 25
    assert abs(sizes[1] - 200) <= 25


def test_by_time_one_big_tie_at_the_boundary_moves_as_a_whole() -> None:
    at = [1, 2, 3, 4] + [5] * 20 + [6]
    splits = split_table(pa.table({"t": times(at), "y": at}), config("t", holdout=0.3, validation=0.3))
    assert set(splits.holdout["y"].to_pylist()) == {6}
    assert set(splits.validation["y"].to_pylist()) == {5}


def test_by_time_big_tie_at_the_start_stays_in_training() -> None:
    at = [1] * 40 + [2] * 15 + list(range(3, 48))
    splits = split_table(pa.table({"t": times(at), "y": at}), config("t", holdout=0.45, validation=0.45))
    assert set(splits.train["y"].to_pylist()) == {1}
    assert set(splits.validation["y"].to_pylist()) == {2}


def test_by_time_given_holdout_start() -> None:
    table = pa.table({"t": times(range(100)), "y": range(100)})
    splits = split_table(table, config("t"), holdout_start_us=40)
    assert splits.holdout["y"].to_pylist() == list(range(40, 100))
    assert len(splits.validation) == 7  # 0.15 / 0.85 of 40


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"t": times([1, 2, None]), "y": [1, 2, 3]}), "1 rows have no event time"),
        (pa.table({"t": times([5] * 50), "y": range(50)}), "same event time"),
        (pa.table({"t": times([5] * 50 + [6]), "y": range(51)}), "lie before the holdout"),
        (pa.table({"t": times([]), "y": pa.array([], pa.int64())}), "same event time"),
    ],
)
def test_by_time_impossible_is_an_error_with_a_remedy(table: pa.Table, message: str) -> None:
    with pytest.raises(DataError, match=f"{message}.*; "):
        split_table(table, config("t"))


def test_by_hash_same_rows_same_side_in_any_order_and_layout() -> None:
    table = pa.table({"x": np.arange(2000), "y": [f"n{i}" for i in range(2000)]})
    data = config(seed=3)
    plan = plan_split(table, data)
    codes = dict(zip(range(2000), assign_split(table, plan)[SPLIT_COLUMN].to_pylist(), strict=True))
    order = np.random.default_rng(1).permutation(2000)
    shuffled = table.take(order).select(["y", "x"])
    blocks = [assign_split(shuffled.slice(start, 300), plan) for start in range(0, 2000, 300)]
    again = pa.concat_tables(blocks)
    assert dict(zip(again["x"].to_pylist(), again[SPLIT_COLUMN].to_pylist(), strict=True)) == codes
    assert assign_split(again, plan)[SPLIT_COLUMN] == again[SPLIT_COLUMN]  # the column itself is not hashed
    counts = np.bincount(list(codes.values()))
    assert abs(counts[1] - 300) < 60
    assert abs(counts[2] - 300) < 60
    other = assign_split(table, plan_split(table, config(seed=4)))[SPLIT_COLUMN].to_pylist()
    assert 0.3 < np.mean(np.array(other) == np.array(list(codes.values()))) < 0.8


def test_by_hash_goes_by_the_id_where_there_is_one() -> None:
    first = pa.table({"id": range(1000), "x": np.zeros(1000), "y": np.zeros(1000)})
    second = pa.table({"id": range(1000), "x": np.ones(1000), "y": np.zeros(1000)})
    data = config(id="id")
    split = [assign_split(table, plan_split(table, data))[SPLIT_COLUMN] for table in (first, second)]
    assert split[0] == split[1]


def test_by_key_keeps_rows_of_one_key_together() -> None:
    rng = np.random.default_rng(2)
    table = pa.table({"user": rng.integers(0, 50, 1000), "y": np.arange(1000)})
    splits = split_table(table, config(by="key", key="user"))
    users = [set(part["user"].to_pylist()) for part in (splits.train, splits.validation, splits.holdout)]
    assert sum(len(group) for group in users) == len(set.union(*users))
    with pytest.raises(DataError, match=r"data\.split: who: no such column"):
        split_table(table, config(by="key", key="who"))


def test_empty_part_is_an_error_with_a_remedy() -> None:
    with pytest.raises(DataError, match=r"no row falls into .*give more rows"):
        split_table(pa.table({"y": [1, 2]}), config())
