import numpy as np
import pyarrow as pa

from ray_mlops.config import EvaluationConfig
from ray_mlops.evaluation.compare import compare_slices, find_worse_slices
from ray_mlops.evaluation.slices import slice_table

CONFIG = EvaluationConfig(min_support=100)


def cut(groups: np.ndarray) -> list:
    return slice_table(pa.table({"g": groups}), ["g"], 50, "")


def test_one_bad_slice_is_found_and_named() -> None:
    generator = np.random.default_rng(0)
    groups = generator.choice([f"g{index}" for index in range(8)], 8000)
    worse = generator.normal(0.0, 0.2, 8000) + np.where(groups == "g3", 0.1, 0.0)
    slices = compare_slices(worse, np.ones(8000), cut(groups), CONFIG)
    assert [item.label for item in slices if item.p_worse < 0.05] == ["g3"]
    [(found, p_value)] = find_worse_slices(slices, 0.05, 0.95)
    assert found.label == "g3"
    assert p_value < 0.05


def test_slice_within_the_limit_is_not_named() -> None:
    generator = np.random.default_rng(1)
    groups = generator.choice(["a", "b"], 5000)
    worse = generator.normal(0.03, 0.2, 5000)
    slices = compare_slices(worse, np.ones(5000), cut(groups), CONFIG)
    assert all(item.p_worse < 0.05 for item in slices)  # worse, but
    assert find_worse_slices(slices, 0.05, 0.95) == []  # by less than allowed


def test_small_slice_is_shown_but_not_judged() -> None:
    groups = np.array(["big"] * 500 + ["small"] * 99)
    worse = np.where(groups == "small", 0.5, 0.0) + np.random.default_rng(2).normal(0, 0.01, 599)
    slices = {item.label: item for item in compare_slices(worse, np.ones(599), cut(groups), CONFIG)}
    assert not slices["small"].is_judged
    assert np.isnan(slices["small"].p_worse)
    assert slices["small"].difference.value > 0.4
    assert find_worse_slices(list(slices.values()), 0.05, 0.95) == []
    alone = compare_slices(worse[:500], np.ones(500), cut(groups[:500]), CONFIG)
    assert alone == (slices["big"],)  # a slice that is not judged costs the others nothing


def test_family_wise_error_is_controlled_over_many_slices() -> None:
    generator = np.random.default_rng(3)
    groups = np.repeat([f"g{index}" for index in range(20)], 100)
    false_alarms = 0
    for _ in range(100):
        slices = compare_slices(generator.normal(0.05, 0.2, 2000), np.ones(2000), cut(groups), CONFIG)
        false_alarms += bool(find_worse_slices(slices, 0.05, 0.95))
    assert false_alarms <= 12  # at most 5 % expected; without correction more than 60 %


def test_equal_models_differ_by_nothing() -> None:
    groups = np.array(["a"] * 200)
    [only] = compare_slices(np.zeros(200), np.ones(200), cut(groups), CONFIG)
    assert (only.difference.value, only.difference.low, only.difference.high, only.p_worse) == (0.0, 0.0, 0.0, 1.0)


def test_simultaneous_interval_is_wider_than_a_single_one() -> None:
    generator = np.random.default_rng(4)
    worse = generator.normal(size=1000)
    one = compare_slices(worse, np.ones(1000), cut(np.repeat("a", 1000)), CONFIG)
    pieces = compare_slices(worse, np.ones(1000), cut(np.repeat(["a", "b", "c", "d"], 250)), CONFIG)
    widths = [item.difference.high - item.difference.low for item in (*one, *pieces)]
    assert min(widths[1:]) > widths[0] * 2 * 1.1  # twice the standard error, and the price of four looks
