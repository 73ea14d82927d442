"""The arithmetic of features against numpy's, and the exact sums against Python's."""

import math
from datetime import UTC, datetime
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import norm

from ray_mlops.config import FeatureConfig
from ray_mlops.data.encoders import DatetimeEncoder, datetime_part, interpolate, sine_of_turns
from ray_mlops.data.exact import exact_sum, exact_sum_of_squares, mean_and_deviation, sum_to_float
from ray_mlops.data.features import FeaturePipeline


def test_sine_of_turns_close_to_numpy_and_bounded() -> None:
    turns = np.concatenate([np.linspace(-3, 3, 100_001), [0.25, 0.5, 0.75, 1e9 + 0.125, np.nextafter(1, 0)]])
    sine = sine_of_turns(turns)
    np.testing.assert_allclose(sine, np.sin(2 * np.pi * np.mod(turns, 1)), atol=2e-11)
    assert np.abs(sine).max() <= 1 + 1e-11


def test_sine_of_turns_one_value_alone_equal_to_the_bit() -> None:
    turns = np.random.default_rng(0).normal(size=1000) * 10
    together = sine_of_turns(turns)
    assert [float(sine_of_turns(np.array([turn]))[0]) for turn in turns] == together.tolist()


def test_interpolate_as_numpy() -> None:
    rng = np.random.default_rng(1)
    knots, levels = np.sort(rng.normal(size=20)), rng.normal(size=20)
    values = np.concatenate([rng.normal(size=500) * 3, knots])
    np.testing.assert_allclose(
        interpolate(values, knots, levels), np.interp(values, knots, levels), rtol=1e-9, atol=1e-12
    )
    assert interpolate(values, knots[:1], levels[:1]).tolist() == [levels[0]] * len(values)


def test_quantile_scale_makes_a_normal_distribution() -> None:
    values = np.random.default_rng(2).exponential(size=20_000)
    pipeline = FeaturePipeline.fit_table(pa.table({"x": values}), [FeatureConfig(name="x", scale="quantile")])
    scaled = np.sort(pipeline.transform(pa.table({"x": values})).numeric[:, 0])
    expected = norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    np.testing.assert_allclose(scaled[200:-200], expected[200:-200], atol=0.02)
    extreme = pipeline.transform_rows([{"x": -1e300}, {"x": 1e300}]).numeric[:, 0]
    assert extreme.tolist() == [scaled[0], scaled[-1]]


@pytest.mark.parametrize("moment", [datetime(1900, 2, 28, 23, 59), datetime(1969, 12, 31, 1, 2), datetime(2024, 2, 29)])
def test_datetime_part_as_python(moment: datetime) -> None:
    at = np.array([round((moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6)])
    found = {part: int(datetime_part(at, part)[0]) for part in ("year", "month", "day", "weekday", "hour", "minute")}
    assert found == {
        "year": moment.year,
        "month": moment.month - 1,
        "day": moment.day - 1,
        "weekday": moment.weekday(),
        "hour": moment.hour,
        "minute": moment.minute,
    }


def test_datetime_encoder_missing_is_zero_everywhere_and_flagged() -> None:
    encoder = DatetimeEncoder(("hour", "year"), 1970, indicator=True)
    assert encoder.names("t") == ["t:hour:sin", "t:hour:cos", "t:year", "t:missing"]
    inputs = encoder.encode(np.array([6 * 3_600_000_000, 0]), np.array([False, True]))
    np.testing.assert_allclose(inputs, [[1, 0, 0, 0], [0, 0, 0, 1]], atol=1e-11)


def test_exact_sum_equals_fsum_and_ignores_order() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=5000) * 10.0 ** rng.integers(-300, 300, 5000)
    values = np.concatenate([values, [5e-324, -5e-324, 1.7e308, -1.7e308, 0.0, -0.0, 1e16, 1.0, -1e16]])
    total = exact_sum(values)
    assert sum_to_float(total) == math.fsum(values)
    assert exact_sum(rng.permutation(values)) == total
    assert exact_sum(values[:100]) + exact_sum(values[100:]) == total
    assert exact_sum(np.array([])) == 0


def test_mean_and_deviation_no_cancellation() -> None:
    rng = np.random.default_rng(4)
    values = 1e9 + rng.normal(size=10_000)
    mean, deviation = mean_and_deviation(exact_sum(values), exact_sum_of_squares(values), len(values))
    assert mean == float(sum(map(Fraction, values.tolist())) / len(values))
    assert deviation == pytest.approx(float(np.std(values - 1e9)), rel=1e-6)
    assert all(math.isnan(value) for value in mean_and_deviation(0, 0, 0))
    huge = np.array([1e200, -1e200])
    assert math.isfinite(mean_and_deviation(exact_sum(huge), exact_sum_of_squares(huge), 2)[1])
