"""Delay curves from labels of which many have not come yet."""

import numpy as np
import pytest

from ray_mlops.statistics.delays import EDGES_S, NUM_BINS, Cohort, delay_bins, fit_delays

DAY = 86_400.0


def cohort(age_s: float, delays_s: list[np.ndarray], never: int = 0) -> Cohort:  # type: ignore[type-arg]
    """Rows of an age whose labels take these delays, by class; what has not come by the age is missing."""
    arrived = np.zeros((len(delays_s), NUM_BINS), dtype=np.int64)
    for index, each in enumerate(delays_s):
        np.add.at(arrived[index], delay_bins(each[each < age_s]), 1)
    return Cohort(age_s, sum(map(len, delays_s)) + never, arrived)


def drawn(rng: np.random.Generator, means_days: tuple[float, ...], rows: int = 400) -> list[np.ndarray]:  # type: ignore[type-arg]
    return [np.minimum(rng.exponential(mean * DAY, rows), 29 * DAY) for mean in means_days]


def test_bins_cover_all_delays() -> None:
    assert delay_bins(np.array([-5.0, 0.0, 1.0, 1e12])).tolist() == [0, 0, 1, NUM_BINS - 1]
    assert (np.diff(EDGES_S) > 0.0).all()


def test_share_of_each_class_is_found_although_half_of_the_cohorts_are_young() -> None:
    rng = np.random.default_rng(0)
    cohorts = [cohort(age * DAY, drawn(rng, (1.0, 5.0), rows=2000)) for age in (*range(1, 11), 29, 30)]
    curves = fit_delays(cohorts, 2)
    assert curves is not None
    days = np.array([1.0, 3.0, 7.0])
    for index, mean in ((0, 1.0), (1, 5.0)):
        found = curves.share(days * DAY, np.full(3, index))
        assert found == pytest.approx(1.0 - np.exp(-days / mean), abs=0.03)
    come = sum(each.arrived[1] for each in cohorts)
    assert come[: delay_bins(np.array([DAY]))[0]].sum() / come.sum() > 0.22  # what has come is quicker: it is 0.18


def test_coverage_counts_rows_that_never_get_a_label() -> None:
    rng = np.random.default_rng(1)
    curves = fit_delays([cohort(age * DAY, drawn(rng, (2.0,)), never=100) for age in range(1, 21)], 1)
    assert curves is not None
    at = [int(np.searchsorted(EDGES_S, day * DAY)) for day in (2.0, 15.0)]
    expected = [0.8 * (1.0 - np.exp(-EDGES_S[place] / DAY / 2.0)) for place in at]
    assert curves.coverage[at] == pytest.approx(expected, abs=0.03)
    assert np.isnan(curves.coverage[-1])  # nothing is that old


def test_labels_that_all_take_equally_long_are_all_there_beyond_that() -> None:
    delays = [np.full(50, 7 * DAY), np.full(30, 7 * DAY)]
    curves = fit_delays([cohort(age * DAY, delays) for age in range(1, 20)], 2)
    assert curves is not None
    ages = np.array([6.0, 7.3, 9.0]) * DAY
    for index in (0, 1):
        assert np.array_equal(curves.share(ages, np.full(3, index)), curves.share(ages))
    assert curves.share(ages)[[0, 2]].tolist() == [0.0, 1.0]
    assert 6 * DAY < curves.quantile_s(0.5) < 8.5 * DAY


def test_nothing_is_known_without_labels_nor_of_a_class_that_has_none() -> None:
    assert fit_delays([], 2) is None
    assert fit_delays([Cohort(DAY, 10, np.zeros((2, NUM_BINS), np.int64))], 2) is None
    curves = fit_delays([cohort(5 * DAY, [np.full(9, DAY), np.zeros(0)])], 2)
    assert curves is not None
    assert curves.labels.tolist() == [9, 0]
    assert np.isnan(curves.quantile_s(0.5, 1))
    assert not curves.share(np.array([DAY]), np.array([1])).any()
