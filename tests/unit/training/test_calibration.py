"""Temperature and the scale of the loss."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from ray_mlops.training.calibration import compute_loss_scale, fit_temperature


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_fit_temperature_finds_the_factor_that_logits_are_off_by(true_temperature: float) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(20_000, 1)) * 2
    target = (generator.random(20_000) < expit(logits[:, 0])).astype(float)
    assert fit_temperature("binary", logits * true_temperature, target) == pytest.approx(true_temperature, rel=0.05)


def test_fit_temperature_of_several_classes() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(20_000, 4)) * 2
    target = (generator.random((20_000, 1)) > softmax(logits, axis=1).cumsum(1)).sum(1).astype(float)
    assert fit_temperature("multiclass", logits * 2.0, target) == pytest.approx(2.0, rel=0.05)


def test_fit_temperature_weighs_rows() -> None:
    generator = np.random.default_rng(0)
    logits = np.repeat(generator.normal(size=(5000, 1)) * 2, 2, axis=0)
    sharp, flat = (generator.random(5000) < expit(logits[::2, 0] / t) for t in (0.5, 4.0))
    target = np.stack([sharp, flat], 1).reshape(-1).astype(float)
    only_sharp, only_flat = np.tile([1.0, 0.0], 5000), np.tile([0.0, 1.0], 5000)
    assert fit_temperature("binary", logits, target, only_sharp) < 0.7
    assert fit_temperature("binary", logits, target, only_flat) > 2.5


def test_fit_temperature_of_a_perfect_model_stays_in_bounds() -> None:
    target = np.array([0.0, 1.0])
    assert fit_temperature("binary", np.array([[-9.0], [9.0]]), target) >= np.exp(-2.5)
    assert fit_temperature("regression", np.zeros((2, 1)), target) == 1.0
    assert fit_temperature("binary", np.zeros((0, 1)), np.zeros(0)) == 1.0


def test_loss_scale_is_the_error_that_one_row_in_twenty_passes() -> None:
    errors = np.linspace(0, 100, 101)
    assert compute_loss_scale("regression", errors, np.zeros(101)) == pytest.approx(95.0)
    assert compute_loss_scale("regression", np.array([1.0, 3.0]), np.array([1.0, 3.0])) == 1.0
    assert compute_loss_scale("regression", np.ones(2), np.ones(2)) == 1.0
    assert compute_loss_scale("binary", errors / 100, np.zeros(101)) == 1.0
