"""What goes in: rows, weights, search spaces; and which columns matter."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.config import SpaceConfig, TrainingConfig, TuneConfig
from ray_mlops.data.features import FeatureMatrix
from ray_mlops.errors import ConfigError, TrainingError
from ray_mlops.training.assemble import label_rows
from ray_mlops.training.bundle import ModelBundle
from ray_mlops.training.importance import feature_importance
from ray_mlops.training.models import ModelSpec
from ray_mlops.training.rows import LabelledRows, to_tensors
from ray_mlops.training.scaling import TargetScaling
from ray_mlops.training.shards import from_block, to_block
from ray_mlops.training.space import current_sample, search_space, to_distribution, to_overrides
from ray_mlops.training.tune import sample_rows


def rows(numeric: int = 2, categorical: int = 1, count: int = 5, *, weight: bool = True) -> LabelledRows:
    generator = np.random.default_rng(0)
    features = FeatureMatrix(
        generator.normal(size=(count, numeric)).astype(np.float32), generator.integers(0, 3, (count, categorical))
    )
    return LabelledRows(features, generator.normal(size=count), np.arange(count) * 1.0 if weight else None)


@pytest.mark.parametrize(("numeric", "categorical"), [(2, 1), (0, 2), (3, 0)])
@pytest.mark.parametrize("weight", [True, False])
def test_a_block_gives_its_rows_back_in_order(numeric: int, categorical: int, weight: bool) -> None:
    given = rows(numeric, categorical, weight=weight)
    spec = ModelSpec("regression", numeric, (3,) * categorical, 1)
    blocks = [to_block(given, slice(3, 5)), to_block(given, slice(0, 3))]
    got = from_block(pa.concat_tables(blocks), spec)
    np.testing.assert_array_equal(got.features.numeric, given.features.numeric)
    np.testing.assert_array_equal(got.features.categorical, given.features.categorical)
    np.testing.assert_array_equal(got.target, given.target)
    assert (got.weight is None) == (not weight)


def test_rows_with_a_missing_target_or_a_bad_weight_are_refused() -> None:
    features = rows().features
    with pytest.raises(TrainingError, match="1 of 5 targets are missing"):
        LabelledRows(features, np.array([0, 1, np.nan, 1, 0]))
    with pytest.raises(TrainingError, match="do not fit 4 targets"):
        LabelledRows(features, np.zeros(4))
    with pytest.raises(TrainingError, match="not negative"):
        LabelledRows(features, np.zeros(5), np.array([1, 1, -1, 1, 1.0]))


def test_tensors_have_standardised_targets_and_weights_of_mean_one() -> None:
    given = rows()
    scaling = TargetScaling.fit("regression", given.target)
    tensors = to_tensors(given, scaling, given.mean_weight)
    assert tensors.target.mean().item() == pytest.approx(0, abs=1e-6)
    assert tensors.target.std(correction=0).item() == pytest.approx(1)
    np.testing.assert_allclose(tensors.weight, [0, 0.5, 1, 1.5, 2])
    assert TargetScaling.fit("regression", np.ones(3)) == TargetScaling(1.0, 1.0)


def test_tensors_of_read_only_rows_are_copies() -> None:
    given = rows()
    given.features.numeric.flags.writeable = False
    tensors = to_tensors(given, TargetScaling(), 1.0)
    tensors.numeric[0, 0] = 99.0
    assert given.features.numeric[0, 0] != 99.0


def test_label_rows_reads_weights_and_takes_a_missing_one_for_zero(make_problem: Callable[..., Any]) -> None:
    problem = make_problem()
    table = problem.table.slice(0, 3).append_column("w", pa.array([2, None, 4]))
    labelled = label_rows(table, problem.features, problem.encoder, "w")
    assert labelled.weight is not None
    assert labelled.weight.tolist() == [2.0, 0.0, 4.0]
    assert label_rows(table, problem.features, problem.encoder).weight is None


def test_search_space_defaults_to_what_the_model_has() -> None:
    own = TrainingConfig(model="shop.models:net")
    assert set(search_space({}, own)) == {"learning_rate", "weight_decay"}
    space = search_space({}, TrainingConfig())
    assert {"learning_rate", "params.hidden", "params.dropout"} <= set(space)
    first = current_sample(space, TrainingConfig())
    assert first is not None
    overrides = to_overrides(first, space)
    assert overrides["training.params.hidden"] == 64
    assert overrides["training.learning_rate"] == TrainingConfig().learning_rate
    assert all(to_distribution(space[key])._contains(value) for key, value in first.items())


def test_search_space_refuses_keys_that_are_not_a_trial_s_to_choose() -> None:
    space = {"seed": SpaceConfig(type="int", low=0, high=9)}
    with pytest.raises(ConfigError, match=r"cannot search over 'seed'.*learning_rate"):
        search_space(space, TrainingConfig())


def test_current_sample_outside_the_space_is_none() -> None:
    narrow = {"learning_rate": SpaceConfig(type="loguniform", low=0.1, high=1.0)}
    assert current_sample(narrow, TrainingConfig()) is None
    unknown = {"params.width": SpaceConfig(type="choice", values=[1])}
    assert current_sample(unknown, TrainingConfig(model="shop.models:net")) is None


def test_sample_rows_is_seeded_and_keeps_the_order() -> None:
    given = rows(count=100)
    sampled = sample_rows(given, TuneConfig(sample_ratio=0.3, seed=1))
    assert len(sampled) == 30
    assert sampled.weight is not None
    assert (np.diff(sampled.weight) > 0).all()
    again, other = (sample_rows(given, TuneConfig(sample_ratio=0.3, seed=seed)) for seed in (1, 2))
    np.testing.assert_array_equal(again.target, sampled.target)
    assert not np.array_equal(other.target, sampled.target)
    assert sample_rows(given, TuneConfig()) is given


def test_feature_importance_finds_the_columns_that_matter(
    make_problem: Callable[..., Any], make_bundle: Callable[..., ModelBundle]
) -> None:
    problem = make_problem()
    target = problem.encoder.encode(problem.table["y"])
    found = feature_importance(make_bundle(problem), problem.table, target)
    assert list(found) == ["x", "noise", "city"]
    assert sum(found.values()) == pytest.approx(1.0)
    assert found["x"] > found["city"] > found["noise"]
    assert found == feature_importance(make_bundle(problem), problem.table, target)
