"""The running forms give, after each event, what the plain functions give for the events so far."""

import numpy as np
import pytest

from ray_mlops.statistics.betting import log_e_paired_noninferiority
from ray_mlops.statistics.confidence import error_upper_bound, log_e_rate_below
from ray_mlops.statistics.counts import log_e_noninferiority, log_e_regression, sample_ratio_log_e
from ray_mlops.statistics.running import RunningRateRatio, RunningSampleRatio, running_noninferiority

WEIGHTS = (0.05, 0.25, 0.5)


@pytest.mark.parametrize("margin", [None, 0.5])
def test_running_rate_ratio_equals_the_plain_one_after_each_event(margin: float | None) -> None:
    generator = np.random.default_rng(1)
    running, counts, path, plain = RunningRateRatio(margin), np.zeros((2, 3)), [], []
    for version, weight in enumerate(WEIGHTS):
        landed = generator.random(60) < 2 * weight
        path.extend(running.extend(weight, landed))
        for on_candidate in landed:
            counts[0 if on_candidate else 1, version] += 1
            arguments = (WEIGHTS, counts[0], counts[1])
            plain.append(log_e_regression(*arguments) if margin is None else log_e_noninferiority(*arguments, margin))
    assert path == pytest.approx(plain, abs=1e-9)
    assert running.log_e == pytest.approx(plain[-1])


def test_running_sample_ratio_equals_the_plain_one_after_each_unit() -> None:
    generator = np.random.default_rng(2)
    running, counts, path, plain = RunningSampleRatio(), np.zeros((3, 2)), [], []
    for version, weight in enumerate(WEIGHTS):
        landed = generator.random(50) < weight
        path.extend(running.extend(weight, landed))
        for on_candidate in landed:
            counts[version, 0 if on_candidate else 1] += 1
            plain.append(sample_ratio_log_e(counts, WEIGHTS))
    assert path == pytest.approx(plain, abs=1e-9)


def test_running_noninferiority_equals_the_plain_one_after_each_pair() -> None:
    differences = np.random.default_rng(3).normal(0.0, 0.1, 120).clip(-1, 1)
    plain = [log_e_paired_noninferiority(differences[: n + 1], 0.01) for n in range(120)]
    assert running_noninferiority(differences, 0.01).tolist() == pytest.approx(plain, abs=1e-9)


def test_nothing_new_changes_nothing() -> None:
    running = RunningRateRatio()
    assert len(running.extend(0.1, [])) == 0
    assert running.log_e == pytest.approx(0.0)


def test_rate_below_is_what_the_upper_bound_inverts() -> None:
    errors, n = np.array([0, 0, 3, 40]), np.array([328, 329, 2000, 4000])
    evidence = log_e_rate_below(errors, n, 0.01)
    bounds = [error_upper_bound(int(e), int(m), 0.05) for e, m in zip(errors, n, strict=True)]
    assert (evidence >= np.log(20)).tolist() == [bound < 0.01 for bound in bounds]
