"""Counts are exact, additive, and total for any input."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.statistics.bins import CategoricalBins, ColumnCounts, NumericBins, as_numbers, bins_from_json


def test_count_of_odd_numbers_lands_in_documented_counters():
    bins = NumericBins([0.0, 1.0, 2.0])
    values = np.array([-np.inf, -1.0, 0.0, 0.5, 1.0, 2.0, np.nextafter(2.0, 3.0), np.inf, np.nan, 1e308, -1e308])
    assert bins.count(values).tolist() == [2, 2, 2, 2, 3]
    assert bins.index(values).tolist() == [4, 0, 1, 1, 2, 2, 3, 4, 4, 3, 0]
    assert len(bins.labels) == bins.size == 5


def test_count_agrees_with_index_and_numpy_histogram():
    rng = np.random.default_rng(0)
    bins = NumericBins.from_sample(rng.normal(size=5000), bins=16)
    values = np.concatenate((rng.normal(size=3000) * 2, [np.nan] * 7))
    counts = bins.count(values)
    assert counts.tolist() == np.bincount(bins.index(values), minlength=bins.size).tolist()
    assert counts[1:-2].tolist() == np.histogram(values[:-7], bins.edges)[0].tolist()
    assert counts.sum() == len(values)


@pytest.mark.parametrize(
    ("sample", "edges"),
    [
        ([], [0, 0]),
        ([None, np.nan], [0, 0]),
        ([7.0] * 9, [7, 7]),
        ([0, 1, 1, 0], [0, 0.5, 1]),
        ([1.0, np.inf, 2.0], [1, 1.5, 2]),
    ],
)
def test_from_sample_degenerate_gives_valid_layout(sample, edges):
    bins = NumericBins.from_sample(sample)
    assert bins.edges.tolist() == edges
    finite = [value for value in sample if value is not None and np.isfinite(value)]
    counts = bins.count(sample)
    assert counts[1:-2].sum() == len(finite)
    assert counts[-1] == len(sample) - len(finite)


def test_from_sample_continuous_bins_have_equal_mass():
    values = np.random.default_rng(1).lognormal(size=32_000)
    counts = NumericBins.from_sample(values, bins=32).count(values)
    assert len(counts) == 35
    assert counts[1:-2].min() >= 998
    assert counts[1:-2].max() <= 1002


def test_from_sample_mostly_zero_keeps_resolution_in_the_tail():
    rng = np.random.default_rng(2)
    values = np.where(rng.random(20_000) < 0.97, 0.0, rng.exponential(size=20_000))
    bins = NumericBins.from_sample(values, bins=32)
    counts = bins.count(values)
    assert len(counts) == 35
    assert counts[1] == (values == 0).sum()
    assert counts[2:-2].max() < 2 * counts[2:-2].min()


def test_edges_that_do_not_rise_are_refused():
    for edges in ([1.0], [1.0, 0.0], [0.0, 0.0, 1.0], [0.0, np.nan], []):
        with pytest.raises(ValueError, match="edges"):
            NumericBins(edges)


@pytest.mark.parametrize("make", [list, np.array, pa.array, lambda v: pa.chunked_array([v[:1], v[1:]])])
def test_categorical_counts_agree_across_containers(make):
    bins = CategoricalBins(("b", "a"), frozenset("abc"))
    values = ["a", "a", "b", "c", "zz"]
    assert bins.count(make(values)).tolist() == [1, 2, 1, 1, 0]
    assert bins.index(make(values)).tolist() == [1, 1, 0, 2, 3]


def test_categorical_nulls_and_other_types():
    bins = CategoricalBins.from_sample([True, True, None, False], top=1)
    assert bins.top == ("true",)
    assert bins.count([None, float("nan"), True, False, "x", 3]).tolist() == [1, 1, 2, 2]
    assert bins.count([]).tolist() == [0, 0, 0, 0]
    assert bins.count([None, None]).tolist() == [0, 0, 0, 2]
    assert bins.index([None, "true"]).tolist() == [3, 0]
    dictionary = pa.array(["false", "true", None]).dictionary_encode()
    assert bins.count(dictionary).tolist() == [1, 1, 0, 1]


def test_categorical_from_sample_orders_by_frequency_then_name_and_bounds_vocabulary():
    bins = CategoricalBins.from_sample(["c", "b", "b", "a", "d"], top=2, max_vocabulary=3)
    assert bins.top == ("b", "a")
    assert bins.vocabulary == frozenset("abc")
    assert bins.count(["d", "c"]).tolist() == [0, 0, 1, 1, 0]


def test_bins_survive_json_and_pickle():
    for bins in (NumericBins.from_sample([1.0, 5.0, 9.0]), CategoricalBins.from_sample(["x", "y"], top=1)):
        again = bins_from_json(json.loads(json.dumps(bins.to_json())))
        assert again == bins == pickle.loads(pickle.dumps(bins))
        assert hash(again) == hash(bins)
    with pytest.raises(ValueError, match="unknown kind"):
        bins_from_json({"kind": "spiral"})


def test_column_counts_merge_equals_counting_at_once():
    rng = np.random.default_rng(3)
    values = rng.normal(10, 2, size=1000)
    values[::50] = np.nan
    bins = NumericBins.from_sample(values)
    whole = ColumnCounts.of(bins, values)
    merged = ColumnCounts.empty(bins)
    for part in np.split(values, 8):
        merged = merged + ColumnCounts.of(bins, part)
    assert merged.counts.tolist() == whole.counts.tolist()
    assert (merged.n, merged.nulls, merged.minimum, merged.maximum) == (1000, 20, whole.minimum, whole.maximum)
    assert merged.null_ratio == 0.02
    assert whole.mean == pytest.approx(np.nanmean(values))
    assert whole.sd == pytest.approx(np.nanstd(values))
    assert merged.total == pytest.approx(whole.total)
    assert ColumnCounts.from_json(json.loads(json.dumps(whole.to_json()))) == whole


def test_column_counts_without_numbers_round_trip():
    empty = ColumnCounts.of(NumericBins([0.0, 1.0]), [None, np.inf])
    assert (empty.n, empty.nulls) == (2, 2)
    assert np.isnan(empty.mean)
    assert np.isnan(empty.minimum)
    assert ColumnCounts.from_json(json.loads(json.dumps(empty.to_json()))) == empty
    assert ColumnCounts.of(CategoricalBins(("a",), frozenset("a")), ["a", None]).counts.tolist() == [1, 0, 0, 1]


def test_as_numbers_takes_arrow_types():
    assert as_numbers(pa.array([1, None, 3])).tolist()[::2] == [1.0, 3.0]
    assert as_numbers(pa.array([True, False])).tolist() == [1.0, 0.0]
    assert as_numbers(pa.array([1, 2], pa.timestamp("s", tz="UTC"))).tolist() == [1e6, 2e6]
    assert np.isnan(as_numbers(pa.chunked_array([[1.0], [None]]))[1])


def test_counts_of_huge_numbers_stay_finite() -> None:
    bins = NumericBins(np.array([0.0, 1.0]))
    counts = ColumnCounts.of(bins, np.array([1e200, -1e300, 1.7e308, 1.7e308]))
    both = counts + counts
    assert np.isfinite([counts.total, counts.total_squares, both.total, both.total_squares]).all()
