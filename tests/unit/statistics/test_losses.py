"""Losses against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from ray_mlops.statistics.losses import bounded_loss, brier_rows, log_loss_rows


def test_binary_losses_agree_with_sklearn():
    rng = np.random.default_rng(0)
    p, y = rng.random(500), rng.integers(0, 2, 500).astype(float)
    assert bounded_loss("binary", p, y).mean() == pytest.approx(brier_score_loss(y, p))
    assert log_loss_rows(p, y).mean() == pytest.approx(log_loss(y, p))


def test_multiclass_losses_agree_with_sklearn_and_stay_in_range():
    rng = np.random.default_rng(1)
    p, y = rng.dirichlet(np.ones(4), 500), rng.integers(0, 4, 500).astype(float)
    one_hot = np.eye(4)[y.astype(int)]
    assert np.allclose(bounded_loss("multiclass", p, y), ((p - one_hot) ** 2).sum(axis=1) / 2)
    assert np.allclose(brier_rows(p, y), ((p - one_hot) ** 2).sum(axis=1))
    assert log_loss_rows(p, y).mean() == pytest.approx(log_loss(y, p, labels=range(4)), rel=1e-6)
    assert bounded_loss("multiclass", [[1.0, 0.0]], [1.0])[0] == 1.0


def test_regression_loss_is_cut_at_the_scale():
    assert bounded_loss("regression", [0.0, 3.0, 100.0], [0.0, 1.0, 0.0], scale=4.0).tolist() == [0.0, 0.5, 1.0]


def test_broken_predictions_lose_everything_and_missing_targets_are_nan():
    assert bounded_loss("binary", [np.nan, 0.5, 0.5], [1.0, np.nan, 0.0]).tolist()[::2] == [1.0, 0.25]
    assert np.isnan(bounded_loss("binary", [0.5], [np.nan])[0])
    assert bounded_loss("multiclass", [[np.nan, 1.0]], [1.0])[0] == 1.0
    assert np.isnan(bounded_loss("multiclass", [[0.5, 0.5]], [np.nan])[0])
    assert np.isnan(log_loss_rows([[0.5, 0.5]], [np.nan])[0])
    assert bounded_loss("regression", [np.inf], [0.0], scale=1.0)[0] == 1.0


def test_empty_input_gives_empty_losses():
    assert len(bounded_loss("binary", [], [])) == 0
    assert len(bounded_loss("multiclass", np.zeros((0, 3)), [])) == 0


def test_log_loss_is_finite_at_certainty():
    assert log_loss_rows([0.0], [1.0])[0] == pytest.approx(-np.log(1e-15))


@pytest.mark.parametrize(
    ("task", "prediction", "target", "scale"),
    [
        ("binary", [[0.5, 0.5]], [1.0], 1.0),
        ("binary", [0.5], [1.0, 0.0], 1.0),
        ("multiclass", [0.5], [1.0], 1.0),
        ("multiclass", [[0.5, 0.5]], [2.0], 1.0),
        ("regression", [1.0], [1.0], 0.0),
    ],
)
def test_inputs_that_do_not_fit_are_refused(task, prediction, target, scale):
    with pytest.raises(ValueError, match=r"fit|class|scale"):
        bounded_loss(task, prediction, target, scale)
