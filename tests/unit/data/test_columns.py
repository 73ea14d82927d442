"""Raw values mean the same in every Arrow layout, and hash alike."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.data.columns import category_array, parse_times, time_values, to_canonical
from ray_mlops.data.hashing import hash_column, hash_rows, unit_interval
from ray_mlops.data.values import MISSING_US, category_key, time_us
from ray_mlops.errors import FeatureError


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2, None], pa.int8()),
        ([1, 2**62, None], pa.uint64()),
        ([0.1, 2.0, None, float("nan"), float("inf")], pa.float64()),
        ([0.5, 2.0], pa.float32()),
        ([True, False, None], pa.bool_()),
        ([Decimal("1.50"), Decimal("2.00"), None], pa.decimal128(5, 2)),
        ([date(2024, 2, 29), None], pa.date32()),
        (["a", "", None], pa.large_string()),
        (["a", "b", "a"], pa.dictionary(pa.int8(), pa.string())),
    ],
)
def test_category_array_same_as_value_by_value(values: list[Any], kind: pa.DataType) -> None:
    array = pa.array(values, kind)
    decoded = array.dictionary_decode() if pa.types.is_dictionary(kind) else array
    assert category_array(decoded, "c").to_pylist() == [category_key(value) for value in array.to_pylist()]


@pytest.mark.parametrize(
    "array",
    [
        pa.array(["2024-01-02T03:04:05.678901Z", None, "2024-01-02 03:04:05.678901"]),
        pa.array(["2024-01-02T05:04:05.678901+02:00", "", "2024-01-02T03:04:05.678901"]),
        pa.array([1704164645678901, None, 1704164645678901], pa.timestamp("us")),
        pa.array([1704164645678901999, None, 1704164645678901000], pa.timestamp("ns", tz="Europe/Vienna")),
    ],
)
def test_time_values_layouts_equal(array: pa.Array) -> None:
    assert time_values(array, "t").tolist() == [1704164645678901, MISSING_US, 1704164645678901]


def test_time_values_before_1970_round_down() -> None:
    assert time_values(pa.array([-1], pa.timestamp("ns")), "t").tolist() == [-1]
    assert time_values(pa.array([date(1969, 12, 31)]), "t").tolist() == [-86_400_000_000]
    assert time_us(datetime(1969, 12, 31, tzinfo=UTC)) == time_us(date(1969, 12, 31)) == -86_400_000_000


def test_parse_times_tells_which_failed() -> None:
    times, wrong = parse_times(pa.array(["2024-01-01", "soon", None, "", "soon"]))
    assert wrong.tolist() == [False, True, False, False, True]
    assert times.tolist() == [1704067200000000] + [MISSING_US] * 4


def test_to_canonical_names_the_first_wrong_row() -> None:
    with pytest.raises(FeatureError, match=r"column 'x', row 1: expected a number, got 'seven'"):
        to_canonical(pa.chunked_array([pa.array([None, "seven"]), pa.array(["8"])]), "numeric", "x")
    assert to_canonical(pa.array([None, None], pa.string()), "numeric", "x").null_count == 2
    with pytest.raises(FeatureError, match="column 'x', row 0: expected a string"):
        to_canonical(pa.array([[1]]), "categorical", "x")


def test_hash_column_layouts_of_the_same_values_equal() -> None:
    def hashes(*arguments: Any) -> list[int]:
        return hash_column(pa.array(*arguments)).tolist()

    assert hashes([1, 2, None], pa.int32()) == hashes([1.0, 2.0, None], pa.float64())
    assert hashes([0.0, None]) == hashes([-0.0, float("nan")])
    assert hashes(["a", None], pa.large_string()) == hashes(["a", None], pa.dictionary(pa.int8(), pa.string()))
    assert hashes([1, 2**60]) == hashes([1, 2**60], pa.uint64())
    assert len(set(hashes([2**60, 2**60 + 1, -(2**60)]))) == 3
    assert hashes([[1, 2], None])[0] != hashes([[1, 3], None])[0]


def test_hash_rows_columns_in_any_order_seeds_apart() -> None:
    table = pa.table({"a": [1, 2, 1], "b": ["x", "y", "x"], "c": [2, 1, 2]})
    hashes = hash_rows(table)
    assert hashes[0] == hashes[2] != hashes[1]
    assert hash_rows(table.select(["c", "a", "b"])).tolist() == hashes.tolist()
    assert hash_rows(table, seed=1)[0] != hashes[0]
    assert hash_rows(table, ["a"])[0] != hash_rows(table, ["c"])[1]  # 1 in another column is another row


def test_hashes_are_uniform_and_stable() -> None:
    uniform = unit_interval(hash_rows(pa.table({"id": np.arange(100_000)})))
    counts = np.histogram(uniform, 100, (0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 149  # chi-squared, 99 degrees, p = 0.001
    table = pa.table({"id": [1, 2], "name": ["a", None]})
    assert hash_rows(table, seed=7).tolist() == [13109049533083075803, 3304768904613967278]
