"""Recalibration: the order of rows stays, the level follows the newer rows."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ray_mlops.errors import TrainingError
from ray_mlops.runtime.files import Files
from ray_mlops.statistics.losses import log_loss_rows
from ray_mlops.training.bundle import ModelBundle
from ray_mlops.training.recalibration import MIN_ROWS, fit_level, fit_temperature_and_shift, recalibrate
from ray_mlops.training.rows import LabelledRows, joined


def test_other_base_rate_is_answered_and_the_order_stays(
    make_problem: Callable[..., Any], make_bundle: Callable[..., ModelBundle]
) -> None:
    problem = make_problem("binary")
    bundle, rows = make_bundle(problem), problem.data.train
    before = bundle.predict_matrix(rows.features).values
    generator = np.random.default_rng(1)
    newer = replace(rows, target=np.where(generator.random(len(rows)) < 0.3, 1.0, rows.target))  # more of the positive
    manifest = recalibrate(bundle, newer)
    after = replace(bundle, manifest=manifest).predict_matrix(rows.features).values
    assert after.mean() == pytest.approx(newer.target.mean(), abs=0.01)
    assert log_loss_rows(after, newer.target).mean() < log_loss_rows(before, newer.target).mean() - 0.01
    assert np.array_equal(np.argsort(before, kind="stable"), np.argsort(after, kind="stable"))
    assert manifest.lineage == bundle.manifest.lineage


def test_multiclass_base_rates_are_found() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(6000, 3))
    true = logits * 0.5 + np.array([0.0, 1.0, -1.0])
    shares = np.exp(true) / np.exp(true).sum(axis=1, keepdims=True)
    target = (generator.random(6000)[:, None] > shares.cumsum(axis=1)).sum(axis=1).astype(float)
    temperature, shift = fit_temperature_and_shift("multiclass", logits, target)
    assert temperature == pytest.approx(2.0, rel=0.1)
    assert shift == pytest.approx((0.0, 1.0, -1.0), abs=0.1)


def test_weights_count() -> None:
    outputs, target = np.zeros((400, 1)), np.repeat([0.0, 1.0], 200)
    weight = np.where(target == 1.0, 3.0, 1.0)
    _, (shift,) = fit_temperature_and_shift("binary", outputs, target, weight)
    assert 1.0 / (1.0 + np.exp(-shift)) == pytest.approx(0.75, abs=1e-3)


def test_regression_follows_level_and_spread(
    make_problem: Callable[..., Any], make_bundle: Callable[..., ModelBundle]
) -> None:
    problem = make_problem("regression")
    bundle, rows = make_bundle(problem), problem.data.train
    newer = replace(rows, target=3.0 * rows.target + 100.0)
    after = replace(bundle, manifest=recalibrate(bundle, newer)).predict_matrix(rows.features).values
    assert after.mean() == pytest.approx(newer.target.mean(), rel=1e-6)
    assert np.abs(after - newer.target).mean() < 0.5 * newer.target.std()


@pytest.mark.parametrize("outputs", [[1.0, 1.0, 1.0], [3.0, 2.0, 1.0]])
def test_level_alone_moves_where_outputs_say_nothing(outputs: list[float]) -> None:
    mean, scale = fit_level(np.array(outputs), np.array([5.0, 6.0, 7.0]))
    assert scale == 1.0
    assert mean + np.mean(outputs) == pytest.approx(6.0)


def test_too_few_rows_and_missing_classes_are_refused(
    make_problem: Callable[..., Any], make_bundle: Callable[..., ModelBundle]
) -> None:
    problem = make_problem("binary")
    bundle, rows = make_bundle(problem), problem.data.train
    with pytest.raises(TrainingError, match=f"a recalibration needs {2 * MIN_ROWS}"):
        recalibrate(bundle, rows.take(np.arange(2 * MIN_ROWS - 1)))
    with pytest.raises(TrainingError, match="no row of class yes"):
        recalibrate(bundle, replace(rows, target=np.zeros(len(rows))))


def test_recalibrated_bundle_survives_the_disk_and_an_old_one_keeps_its_hash(
    make_problem: Callable[..., Any], make_bundle: Callable[..., ModelBundle], tmp_path: Any
) -> None:
    problem = make_problem("binary")
    bundle = make_bundle(problem)
    assert b'"shift"' not in bundle._contents()["bundle.json"]
    renewed = replace(bundle, manifest=recalibrate(bundle, problem.data.train)).with_parity(problem.table.slice(0, 20))
    loaded = ModelBundle.load(renewed.save(Files(str(tmp_path))).uri)
    assert b'"schema_version":2' in renewed._contents()["bundle.json"].replace(b" ", b"")
    assert b'"schema_version":1' in bundle._contents()["bundle.json"].replace(b" ", b"")
    assert loaded.manifest.shift == renewed.manifest.shift != ()
    assert loaded.hash == renewed.hash != bundle.hash
    assert np.array_equal(loaded.predict(problem.table).values, renewed.predict(problem.table).values)


def test_joined_rows_keep_order_and_weights(make_problem: Callable[..., Any]) -> None:
    data = make_problem("binary").data
    plain, other = data.train, data.validation
    weighed = LabelledRows(other.features, other.target, np.full(len(other), 2.0))
    both = joined(plain, weighed)
    assert len(both) == len(plain) + len(weighed)
    assert np.array_equal(both.target, np.concatenate([plain.target, weighed.target]))
    assert both.weight is not None
    assert (both.weight[0], both.weight[-1]) == (1.0, 2.0)
    assert joined(plain, plain).weight is None
