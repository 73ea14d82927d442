"""The drift benchmark counts as the monitor counts, changes what it says, and a small part of it holds in CI."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs.benchmarks import changes
from jobs.benchmarks.coded_rows import CodedColumn, bins_of, counts_of, windows_of
from jobs.benchmarks.drift_detection import DETECTIONS, find
from jobs.benchmarks.drift_false_alarms import CONFIG, STREAMS, lower_bound, monitored, run
from jobs.benchmarks.flight_days import flight_days
from jobs.benchmarks.monitored_streams import Stream, permuted_days
from jobs.benchmarks.suite import run_suite
from ray_mlops.statistics.bins import ColumnCounts


def coded(seed: int, numeric: bool) -> tuple[CodedColumn, pa.Array]:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 50, 600) / 4.0 if numeric else rng.choice(list("abcd"), 600)
    array = pa.array(values, mask=rng.random(600) < 0.1)
    return CodedColumn.of(array), array


@pytest.mark.parametrize("numeric", [True, False])
def test_counts_of_codes_are_those_of_the_rows(numeric: bool) -> None:
    column, array = coded(0, numeric)
    windows = windows_of([100] * 6)
    tally = column.tally(windows, 6)
    bins = bins_of(column, tally[:3])
    for window, counts in enumerate(counts_of(bins, column, tally)):
        direct = ColumnCounts.of(bins, array.filter(pa.array(windows == window)))
        assert counts.counts.tolist() == direct.counts.tolist()
        assert counts.n == direct.n
        if numeric:
            assert (counts.minimum, counts.maximum) == (direct.minimum, direct.maximum)
            assert counts.mean == pytest.approx(direct.mean)
            assert counts.sd == pytest.approx(direct.sd)


def test_changes_do_what_their_names_say() -> None:
    column, _ = coded(1, True)
    windows, rng = windows_of([100] * 6), np.random.default_rng(2)
    rows = windows >= 3
    numbers = column.numbers()

    mixed = changes.shuffled()(column, rows, rng, windows).numbers()
    assert np.array_equal(mixed[~rows], numbers[~rows], equal_nan=True)
    assert not np.array_equal(mixed[rows], numbers[rows], equal_nan=True)
    for window in range(6):
        assert np.array_equal(np.sort(mixed[windows == window]), np.sort(numbers[windows == window]), equal_nan=True)

    assert np.allclose(
        changes.times(1.6)(column, rows, rng, windows).numbers()[rows], 1.6 * numbers[rows], equal_nan=True
    )
    assert np.isnan(changes.nulls(0.2)(column, rows, rng, windows).numbers()[rows]).mean() == pytest.approx(
        0.28, abs=0.07
    )
    stuck = changes.frozen()(column, rows, rng, windows).numbers()[rows]
    assert set(stuck[~np.isnan(stuck)]) == {numbers[~rows & ~np.isnan(numbers)][-1]}

    names, _ = coded(3, False)
    more = changes.more_of(0.5, "zz")(names, rows, rng, windows)
    assert (more.codes[rows] >= len(names.values)).mean() > 0.4
    assert np.array_equal(more.codes[~rows] % 4, names.codes[~rows] % 4)


def test_stream_is_changed_after_its_clean_windows_only() -> None:
    column, _ = coded(4, True)
    stream = Stream({"x": column}, windows_of([100] * 6), num_reference=2)
    moved = stream.changed("x", changes.plus_deviations(1.0), 1, np.random.default_rng(0))
    differs = moved.columns["x"].numbers() - column.numbers() > 0.0
    assert set(stream.windows[differs]) == {3, 4, 5}


def test_permuted_days_hold_every_flight_once() -> None:
    days = flight_days()
    stream = permuted_days(days, np.random.default_rng(0))
    assert stream.num_windows == 365
    assert np.array_equal(np.sort(stream.columns["distance"].codes), np.sort(days.columns["distance"].codes))


def test_false_alarms_stay_in_their_band_where_nothing_changed() -> None:
    """The benchmark at CI size: real days, and losses at the tolerance; the level is that of production."""
    days = [monitored(permuted_days(flight_days(), np.random.default_rng(seed), 100), CONFIG) for seed in range(5)]
    losses = [run("loss at the tolerance", seed) for seed in range(8)]
    assert sum(quiet.alarm is not None for quiet in days) <= 1  # binomial(5, .01) exceeds 1 with probability 0.1 %
    assert sum(quiet.alarm is not None for quiet in losses) <= 1  # binomial(8, .01) exceeds 1 with probability 0.3 %


def test_shuffled_column_of_real_days_is_found_and_named() -> None:
    position = 4 + [case.name for case in DETECTIONS].index("joint shuffle, same marginals")
    found = next(found for seed in range(5) if (found := find(position, seed)) is not None)
    assert found.is_right
    assert found.delay <= 12


def test_bound_is_that_of_clopper_and_pearson() -> None:
    assert lower_bound(0, 500) == 0.0
    assert lower_bound(7, 500) == pytest.approx(0.0066, abs=1e-4)
    assert CONFIG.alpha == 0.01
    assert len(STREAMS) == 5


def test_part_that_breaks_leaves_its_figures_out_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {"jobs.benchmarks.no_such_module": ("false_alarms",)}
    run_suite("a benchmark", parts, ["--only", "false_alarms", "--json", str(tmp_path / "out.json")])
    assert "No module named" in capsys.readouterr().out
    assert '"false_alarms": null' in (tmp_path / "out.json").read_text()
