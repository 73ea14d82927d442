"""Every bundle carries what estimates its performance without labels, and one without it is still read."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ray_mlops.data.reference import ReferenceProfile
from ray_mlops.runtime.files import Files
from ray_mlops.statistics.estimators import RegressionEstimator
from ray_mlops.training.bundle import ModelBundle
from ray_mlops.training.estimator import fit_estimator


def fit_for(bundle: ModelBundle, problem: Any, unseen: tuple[str, ...] = ()) -> Any:
    prediction = bundle.predict(problem.table).values
    target = problem.encoder.encode(problem.table["y"])
    event_us = np.zeros(len(target), dtype=np.int64)
    return fit_estimator(bundle, problem.table, prediction, target, event_us, problem.config.monitoring, unseen)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_estimator_travels_in_the_bundles_profile_to_the_bit(
    make_problem: Callable[..., Any], make_bundle: Callable[..., ModelBundle], tmp_path: Any, task: str
) -> None:
    problem = make_problem(task)
    bundle = make_bundle(problem)
    estimator = fit_for(bundle, problem)
    assert estimator == fit_for(bundle, problem)
    saved = bundle.with_profile(replace(bundle.profile, estimator=estimator)).save(Files(str(tmp_path)))
    loaded = ModelBundle.load(saved.uri)
    assert loaded.profile.estimator == estimator
    assert loaded.hash == saved.hash
    assert sum(gap.excess.n for gap in estimator.windows.values()) == 600


def test_profile_without_an_estimator_is_read_and_keeps_its_hash(make_problem: Callable[..., Any]) -> None:
    content = make_problem().profile.to_json()
    assert "estimator" not in content
    again = ReferenceProfile.from_json(json.loads(json.dumps(content)))
    assert again.estimator is None
    assert again.to_json() == content


def test_error_model_takes_no_column_that_the_log_does_not_show(
    make_problem: Callable[..., Any], make_bundle: Callable[..., ModelBundle]
) -> None:
    problem = make_problem("regression")
    estimator = fit_for(make_bundle(problem), problem, unseen=("city",))
    assert isinstance(estimator, RegressionEstimator)
    assert estimator.columns == {"x", "noise"}
