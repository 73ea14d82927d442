"""Counts of whole tables: the same as column by column, merged from any number of replicas in any order."""

import pickle

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.statistics.bins import CategoricalBins, ColumnCounts, NumericBins
from ray_mlops.statistics.table import TableBins, TableCounts, bin_sums


def rows(n: int = 3000, seed: int = 0) -> pa.Table:
    generator = np.random.default_rng(seed)
    numbers = generator.integers(-50, 50, n) / 4.0  # sums of these are exact
    return pa.table(
        {
            "x": pa.array(numbers, mask=generator.random(n) < 0.1),
            "city": pa.array(generator.choice(["a", "b", "c", "zz"], n), mask=generator.random(n) < 0.1),
            "open": pa.array(generator.random(n) < 0.5),
            "time": pa.array(generator.integers(0, 2**20, n)).cast(pa.timestamp("us", "UTC")),
        }
    )


def frozen(table: pa.Table) -> TableBins:
    return TableBins(
        {
            "x": NumericBins.from_sample(table["x"], 8),
            "city": CategoricalBins.from_sample(["a", "b", "c"], top=2),
            "open": CategoricalBins.from_sample(table["open"]),
            "time": NumericBins.from_sample(table["time"], 8),
        }
    )


def test_table_counts_are_those_of_each_column() -> None:
    table = rows()
    bins = frozen(table)
    counted = bins.count(table)
    assert list(counted) == ["x", "city", "open", "time"]
    for name, column in counted.items():
        assert column == ColumnCounts.of(bins.bins[name], table[name])
    assert pickle.loads(pickle.dumps(counted)) == counted
    assert TableCounts.of_columns(dict(counted)) == counted


def test_thousand_replicas_merge_to_what_one_would_have_counted_in_any_order() -> None:
    table = rows(4000)
    bins = frozen(table)
    parts = [bins.count(table.slice(start, 4)) for start in range(0, 4000, 4)]
    merged = TableCounts.merged(parts)
    whole = bins.count(table)
    assert merged == whole
    np.random.default_rng(1).shuffle(parts)  # type: ignore[arg-type]
    assert TableCounts.merged(parts) == whole
    assert merged.nbytes == whole.nbytes == parts[0].nbytes


def test_merge_takes_an_iterator_and_leaves_its_parts_alone() -> None:
    bins = frozen(rows())
    part = bins.count(rows(10))
    before = part.counts.copy()
    TableCounts.merged(iter([part, part]))
    assert part.counts.tolist() == before.tolist()
    with pytest.raises(ValueError, match="no counts"):
        TableCounts.merged([])


def test_columns_that_only_one_part_has_keep_their_rows() -> None:
    bins, table = frozen(rows()), rows(100)
    both = bins.count(table.drop_columns(["city"])) + bins.count(table.drop_columns(["x"]))
    assert set(both) == {"x", "city", "open", "time"}
    assert both["x"] == ColumnCounts.of(bins.bins["x"], table["x"])
    assert both["open"].n == 200
    with pytest.raises(KeyError):
        both["nothing"]


def test_values_of_another_type_count_as_null_and_never_raise() -> None:
    bins = TableBins({"x": NumericBins([0.0, 1.0]), "city": CategoricalBins(("a",), frozenset("a"))})
    counted = bins.count({"x": ["1", "two"], "city": [["a"], {"b": 1}]})
    assert counted["x"].null_ratio == 1.0
    assert counted["city"].counts.tolist() == [0, 0, 2, 0]
    assert bins.count({"x": ["1", "0.5"]})["x"].nulls == 2  # text is never parsed
    assert bins.count({"x": pa.array([[1.0], None])})["x"].nulls == 2
    assert bins.count({"x": [1, "a", None, True, 10**400]})["x"].counts.tolist() == [0, 2, 0, 3]
    assert len(bins.count({})) == 0


def test_infinite_and_huge_numbers_keep_sums_finite() -> None:
    bins = TableBins({"x": NumericBins([0.0, 1.0])})
    counted = bins.count({"x": np.array([np.inf, -np.inf, np.nan, 1e200, -1e308, 0.5])})
    column = (counted + counted)["x"]
    assert column.counts.tolist() == [2, 2, 2, 6]
    assert np.isfinite([column.total, column.total_squares, column.mean]).all()
    assert (column.minimum, column.maximum) == (-1e308, 1e200)


def test_hundred_thousand_categories_are_counted_in_bounded_space() -> None:
    words = [f"id-{k}" for k in range(100_000)]
    bins = TableBins({"id": CategoricalBins.from_sample(words)})
    counted = bins.count({"id": words})
    assert counted["id"].n == 100_000
    assert len(counted["id"].counts) == 35
    assert counted["id"].counts[-2] == 90_000  # beyond the vocabulary


def test_bin_sums_are_the_sums_of_each_bins_numbers() -> None:
    bins = NumericBins([0.0, 1.0, 2.0])
    numbers = np.sort(np.array([-3.0, -np.inf, 0.25, 0.5, 5.0, 7.0, np.nan, np.inf]))
    assert bin_sums(numbers, bins.count_sorted(numbers)).tolist() == [-3.0, 0.75, 0.0, 12.0]
    assert bin_sums(np.array([np.nan]), [0, 0, 0, 0, 1]).tolist() == [0.0] * 4
