"""Like with like: night is compared with nights, and a change is still found."""

import json

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from ray_mlops.config import MonitoringConfig
from ray_mlops.data.inputs import InputColumn
from ray_mlops.data.reference import build_profile
from ray_mlops.monitoring.epoch import build_channels
from ray_mlops.monitoring.feature import FeatureMonitor, FeatureReference
from ray_mlops.monitoring.magnitudes import StratifiedMagnitudes
from ray_mlops.monitoring.strata import num_strata, stratum_of
from ray_mlops.statistics.bins import ColumnCounts, NumericBins

HOUR = 3_600_000_000
WEEKS = 20


def config(**settings: object) -> MonitoringConfig:
    content = {"window": "1d", "strata": "day_of_week", "reference": {"windows": WEEKS, "min_windows": 12}, **settings}
    return MonitoringConfig.model_validate(content)


def day(window: int, bins: NumericBins, shift: float = 0.0, seed: int = 0) -> ColumnCounts:
    """Sundays are another world."""
    generator = np.random.default_rng((seed, window))
    centre = 8.0 if stratum_of(window, 24 * HOUR, "day_of_week") == 6 else 0.0
    return ColumnCounts.of(bins, generator.normal(centre + generator.normal(0, 0.2) + shift, 1.0, 200))


def monitor(settings: MonitoringConfig, seed: int = 0) -> tuple[FeatureMonitor, NumericBins]:
    bins = NumericBins(np.linspace(-6, 14, 33))
    windows = range(7 * WEEKS)
    counts = tuple(day(window, bins, seed=seed) for window in windows)
    strata = tuple(stratum_of(w, 24 * HOUR, settings.strata) for w in windows) if settings.strata != "none" else ()
    return FeatureMonitor(FeatureReference("x", bins, counts, strata=strata), settings), bins


def test_stratum_of_a_window_is_the_hour_or_day_in_which_it_begins() -> None:
    monday_noon = (4 * 24 + 12) * HOUR  # 1970-01-05
    for kind, expected in (("none", 0), ("hour_of_day", 12), ("day_of_week", 0), ("hour_of_week", 12)):
        assert stratum_of(monday_noon // HOUR, HOUR, kind) == expected  # type: ignore[arg-type]
        assert stratum_of(2 * monday_noon // HOUR, HOUR // 2, kind) == expected  # type: ignore[arg-type]
    assert stratum_of(-1, HOUR, "hour_of_day") == 23
    assert [num_strata(kind) for kind in ("none", "hour_of_day", "day_of_week", "hour_of_week")] == [1, 24, 7, 168]  # type: ignore[arg-type]


def test_window_longer_than_its_stratum_is_refused() -> None:
    with pytest.raises(ValidationError, match="must divide"):
        config(window="1d", strata="hour_of_day")
    with pytest.raises(ValidationError, match="must divide"):
        config(window="7h", strata="day_of_week")
    assert config(window="15m", strata="hour_of_week").reference_windows == WEEKS * 168


def test_missing_stratum_is_found_at_once_with_strata_and_hidden_without() -> None:
    """Sundays that look like weekdays: each of them is a usual window, but not a usual Sunday."""

    def run(settings: MonitoringConfig) -> float:
        watched, bins = monitor(settings)
        for window in range(7 * WEEKS, 7 * (WEEKS + 5)):
            is_sunday = stratum_of(window, 24 * HOUR, "day_of_week") == 6
            watched.update(window, day(window, bins, shift=-8.0 if is_sunday else 0.0))
        return watched.log_e

    assert run(config()) > np.log(100)
    assert run(config(strata="none")) < np.log(100)


def test_no_false_alarm_over_many_streams_and_a_shift_is_dated() -> None:
    most = []
    for seed in range(20):
        watched, bins = monitor(config(), seed)
        for window in range(7 * WEEKS, 7 * WEEKS + 60):
            watched.update(window, day(window, bins, seed=seed))
        most.append(watched.log_e)
    assert max(most) < np.log(100)
    first = 7 * WEEKS + 60
    for window in range(first, first + 42):
        watched.update(window, day(window, bins, shift=2.0, seed=19))
    assert watched.log_e > np.log(100)
    assert watched.change_window() is not None
    assert abs(watched.change_window() - first) <= 7  # type: ignore[operator]
    assert set(watched.channels()) == {"location", "shape", "range"}


def test_stratum_with_too_few_windows_warms_up_and_an_unused_one_is_not_waited_for() -> None:
    settings = config()
    watched, bins = monitor(settings)
    assert not watched.is_warming_up
    weekdays = [w for w in range(7 * WEEKS) if stratum_of(w, 24 * HOUR, "day_of_week") < 5]
    counts = tuple(day(w, bins) for w in weekdays)
    strata = tuple(stratum_of(w, 24 * HOUR, "day_of_week") for w in weekdays)
    closed_at_weekends = FeatureMonitor(FeatureReference("x", bins, counts, strata=strata), settings)
    assert not closed_at_weekends.is_warming_up
    saturday = next(w for w in range(7 * WEEKS, 7 * WEEKS + 7) if stratum_of(w, 24 * HOUR, "day_of_week") == 5)
    closed_at_weekends.update(saturday, day(saturday, bins))
    assert closed_at_weekends.is_warming_up
    assert closed_at_weekends.num_reference_windows == len(weekdays) + 1


def test_state_survives_a_restart_and_the_reference_survives_json() -> None:
    settings = config()
    watched, bins = monitor(settings)
    for window in range(7 * WEEKS, 7 * WEEKS + 20):
        watched.update(window, day(window, bins, shift=0.5))
    reference = FeatureReference.from_json(json.loads(json.dumps(watched.reference.to_json())))
    again = FeatureMonitor(reference, settings)
    again.restore(json.loads(json.dumps(watched.to_json())))
    for one in (watched, again):
        one.update(7 * WEEKS + 20, day(7 * WEEKS + 20, bins))
    assert again.log_e == watched.log_e
    assert again.log_r == watched.log_r


def test_magnitude_of_a_usual_sunday_is_noise_only_against_sundays() -> None:
    settings = config()
    watched, bins = monitor(settings)
    sunday = next(w for w in range(7 * WEEKS, 7 * WEEKS + 7) if stratum_of(w, 24 * HOUR, "day_of_week") == 6)
    reference = watched.reference
    like = StratifiedMagnitudes(bins, reference.windows, reference.strata, settings).at(sunday)
    unlike = StratifiedMagnitudes(bins, reference.windows, (), config(strata="none")).at(sunday)
    assert like.total_variation(day(sunday, bins)).is_noise
    assert not unlike.total_variation(day(sunday, bins)).is_noise


def test_epoch_gives_each_reference_window_its_stratum_and_keeps_as_many_of_each() -> None:
    settings = MonitoringConfig.model_validate(
        {"window": "1h", "strata": "hour_of_day", "reference": {"windows": 9, "min_windows": 8}}
    )
    generator = np.random.default_rng(0)
    hours = np.repeat(np.arange(24 * 12), 30)
    x = generator.normal(np.where(hours % 24 < 6, 10.0, 0.0), 1.0)
    sample = pa.table({"x": x})
    profile = build_profile([InputColumn("x", "numeric", "numeric")], sample, hours * HOUR + 1, settings)
    assert profile.windows == tuple(range(24 * 3, 24 * 12))
    windows = {w: {"x": profile.columns["x"].windows[w]} for w in profile.windows}
    dataset = build_channels(profile, windows, {}, settings)
    first = 24 * 12
    for window in range(first, first + 24):
        level = 10.0 if window % 24 < 6 else 0.0
        counts = ColumnCounts.of(profile.columns["x"].bins, generator.normal(level, 1.0, 60))
        verdict = dataset.update(window, {"x": counts})
        assert verdict.status == "testing"
        assert verdict.features["x"]["is_noise"], window
    assert verdict.alarms == ()
    night_at_noon = ColumnCounts.of(profile.columns["x"].bins, generator.normal(10.0, 1.0, 60))
    verdict = dataset.update(first + 36, {"x": night_at_noon})
    assert verdict.features["x"]["total_variation"] > 0.9
