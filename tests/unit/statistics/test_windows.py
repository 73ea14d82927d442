"""Window-level evidence: exact under its null, quick on a known shift, quiet in a storm."""

import json
from math import exp, log

import numpy as np
import pytest
from scipy.stats import norm

from ray_mlops.statistics.windows import (
    NormalScores,
    Sums,
    conformal_log_e,
    decisive_run,
    independent_parts,
    persistence,
    restart_log_e,
    t_log_e,
)


def integrated(x, start, sd, upward):
    """The evidence by numerical integration of normal likelihoods over mean-free data, scale and effect."""
    n = len(x)
    moved = (np.arange(n) >= start).astype(float)
    basis = np.linalg.svd(np.ones((1, n)))[2][1:]  # contrasts: they do not know the mean
    y, c = basis @ x, basis @ moved
    scale = np.exp(np.linspace(-6, 6, 1001))[:, None]
    effect = np.linspace(0.0 if upward else -8 * sd, 8 * sd, 4001)
    residual = (y @ y) - 2 * effect * scale * (y @ c) + (effect * scale) ** 2 * (c @ c)
    marginal = (scale ** (1 - n) * np.exp(-residual / (2 * scale**2))).sum(axis=0)
    null = (scale ** (1 - n) * np.exp(-(y @ y) / (2 * scale**2))).sum()
    density = norm.pdf(effect, scale=sd) * (2.0 if upward else 1.0)
    return log(np.trapezoid(density * marginal / null, effect))


@pytest.mark.parametrize("upward", [False, True])
def test_t_log_e_equals_numerical_integration(upward):
    x = np.array([0.3, -0.5, 0.1, 0.9, 1.6, 1.1])
    expected = np.log(np.mean([exp(integrated(x, 4, sd, upward)) for sd in (1.0, 3.0, 9.0)]))
    assert t_log_e(x[:4], x[4:], upward=upward)[0] == pytest.approx(expected, abs=1e-3)


def test_t_log_e_does_not_change_with_the_unit():
    rng = np.random.default_rng(0)
    reference, current = rng.normal(size=12), rng.normal(1, 1, size=5)
    moved = t_log_e(32 + 1.8 * reference, 32 + 1.8 * current)
    assert np.allclose(moved, t_log_e(reference, current))


def test_t_log_e_of_several_series_is_their_average():
    rng = np.random.default_rng(1)
    reference, current = rng.normal(size=(9, 3)), rng.normal(size=(4, 3))
    single = [t_log_e(reference[:, j], current[:, j]) for j in range(3)]
    assert np.allclose(t_log_e(reference, current), np.log(np.mean(np.exp(single), axis=0)))


def test_t_log_e_edges():
    assert t_log_e([], []).tolist() == []
    assert t_log_e([1.0], [2.0]).tolist() == [0.0]
    assert np.isfinite(t_log_e([1.0] * 10, [1.0] * 3)).all()
    assert np.isfinite(t_log_e([1.0] * 10, [2.0] * 3)).all()
    assert t_log_e([], np.arange(5.0))[0] == pytest.approx(0.0)  # all have moved: nothing to compare with


@pytest.mark.parametrize("num_reference", [8, 60])
def test_t_false_alarms_stay_below_alpha_with_a_short_reference(num_reference):
    hits = 0
    for seed in range(100):
        x = np.random.default_rng(seed).normal(size=num_reference + 100)
        reference, current = x[:num_reference], x[num_reference:]
        hits += any(restart_log_e(t_log_e(reference, current[:n])) >= log(20) for n in range(2, 101, 4))
    assert hits <= 10  # binomial(100, .05) exceeds 10 with probability 1 %


def test_known_moments_would_have_alarmed_falsely():
    """The same bets with the reference's moments taken for the truth: the mistake that t_log_e avoids."""
    hits = 0
    for seed in range(100):
        x = np.random.default_rng(seed).normal(size=8 + 300)
        z = (x[8:] - x[:8].mean()) / x[:8].std(ddof=1)
        total, n = np.cumsum(z), np.arange(1, 301)
        hits += bool((-0.5 * np.log1p(n) + total**2 / (2 * (1 + n)) >= log(20)).any())
    assert hits >= 40


def test_t_finds_a_shift_and_when_it_began():
    delays = []
    for seed in range(20):
        x = np.random.default_rng(seed).normal(size=130)
        x[90:] += 3.0
        known, current = x[:60], x[60:]
        delay = next((n for n in range(1, 31) if restart_log_e(t_log_e(known, current[: 30 + n])) >= log(100)), 99)
        delays.append(delay)
        starts = np.arange(1, 71)
        assert abs(int(np.argmax(t_log_e(known, current) - np.log(starts * (starts + 1.0)))) - 30) <= 2
    assert np.median(delays) <= 4


def test_upward_ignores_an_improvement():
    x = np.random.default_rng(2).normal(size=40)
    assert t_log_e(x, x[:10] - 5.0, upward=True)[0] < 0 < t_log_e(x, x[:10] - 5.0)[0]


def test_normal_scores_are_normal_inside_and_bounded_outside():
    reference = np.exp(np.random.default_rng(3).normal(size=200))
    z = NormalScores(reference, floor=0.0).of(reference)
    assert abs(z.mean()) < 1e-9
    assert z.std() == pytest.approx(1.0, abs=0.03)
    assert NormalScores(reference, 0.0).of([1e12, -1e12]).tolist() == [z.max() + 1.6, z.min() - 1.6]
    assert np.all(np.diff(NormalScores(reference, 0.0).of(np.linspace(-1, 20, 100))) >= 0)


def test_normal_scores_of_a_constant_reference_respect_the_floor():
    assert NormalScores([5.0] * 9, floor=0.1).of([5.0, 5.01]).tolist() == pytest.approx([0.0, 0.1])
    assert NormalScores([5.0] * 9, floor=0.0).of([4.0, 5.0, 6.0]).tolist() == [-1.6, 0.0, 1.6]
    quiet = NormalScores([0.50, 0.501, 0.499], floor=0.05).of([0.502])
    assert quiet[0] < 0.2


def test_one_storm_is_no_proof():
    reference = np.random.default_rng(4).normal(size=60)
    raw = restart_log_e(t_log_e(reference, [0.1] * 10 + [12.0]))
    scale = NormalScores(reference, 0.0)
    tame = restart_log_e(t_log_e(scale.of(reference), scale.of([0.1] * 10 + [12.0])))
    assert raw > log(100) > log(20) > tame


def largest(reference, current):
    return max(restart_log_e(t_log_e(reference, current[:n])) for n in range(2, len(current) + 1, 4))


@pytest.mark.parametrize("draw", ["standard_exponential", "standard_cauchy", "lognormal"])
@pytest.mark.parametrize("num_reference", [20, 60])
def test_scores_keep_alpha_whatever_windows_are_distributed_like(draw, num_reference):
    tame, raw = 0, 0
    for seed in range(60):
        rng = np.random.default_rng([seed, num_reference])
        x = getattr(rng, draw)(size=num_reference + 100)
        reference, current = x[:num_reference], x[num_reference:]
        scale = NormalScores(reference, 0.0)
        tame += largest(scale.of(reference), scale.of(current)) >= log(20)
        raw += largest(reference, current) >= log(20)
    assert tame <= 7  # binomial(60, .05) exceeds 7 with probability 1 %
    assert raw > 7 or draw == "standard_exponential"  # believing in normal tails does not


def test_persistent_windows_would_alarm_and_their_new_parts_do_not():
    whole, parts = 0, 0
    for seed in range(100):
        x = np.random.default_rng(seed).normal(size=140)
        for i in range(1, len(x)):
            x[i] = 0.6 * x[i - 1] + 0.8 * x[i]
        new = independent_parts(x[:, None], persistence(x[:40, None]))
        whole += largest(x[:40], x[40:]) >= log(20)
        parts += largest(new[:40], new[40:]) >= log(20)
    assert whole > 25
    assert parts <= 10


def test_new_parts_of_independent_windows_keep_most_of_a_shift():
    kept = []
    for seed in range(50):
        x = np.random.default_rng(seed).normal(size=60)[:, None]
        rho = persistence(x)
        kept.append(float((1.0 - rho[0]) / np.sqrt(1.0 - rho[0] ** 2)))
    assert np.median(kept) > 0.9
    assert persistence(np.ones((9, 2))).tolist() == pytest.approx([0.5 / 3 + 1 / 9] * 2)  # a constant: no evidence


def test_decisive_run_is_as_rare_as_it_says():
    rng = np.random.default_rng(0)
    for num_windows, rank, steps in ((10, 1, 50), (12, 3, 50)):
        length = decisive_run(num_windows, rank, steps)
        x = rng.random((40_000, num_windows + length))
        limit = np.sort(x[:, :num_windows], axis=1)[:, -rank]
        for run, is_rare in ((length, True), (length - 1, False)):
            share = float((x[:, num_windows : num_windows + run].min(axis=1) > limit).mean())
            assert (share <= 1.08 / steps) == is_rare


def test_conformal_e_value_has_expectation_one():
    p = (np.arange(200_000) + 0.5) / 200_000
    e = [exp(conformal_log_e(0.0, [], u)) for u in p[::10]]
    assert np.mean(e) == pytest.approx(1.0, abs=0.12)  # the integral converges slowly near p = 0
    assert conformal_log_e(0.0, [1.0] * 99, 1.0) == pytest.approx(log(0.5))


def test_conformal_evidence_is_bounded_by_the_calibration():
    p = 0.01  # 1 / (99 + 1)
    assert conformal_log_e(9.0, np.zeros(99), 1.0) == pytest.approx(log((1 - p + p * log(p)) / (p * log(p) ** 2)))
    assert conformal_log_e(9.0, np.zeros(9), 0.5) < conformal_log_e(9.0, np.zeros(99), 0.5)


def test_conformal_false_alarms_stay_below_alpha():
    hits = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        scores = rng.pareto(1.5, size=130)  # as heavy as they come
        total, best = 0.0, 0.0
        for t in range(30, 130):
            total += conformal_log_e(scores[t], scores[:t], 1.0 - rng.random())
            best = max(best, total)
        hits += best >= log(20)
    assert hits <= 10


@pytest.mark.parametrize("upward", [True, False])
def test_windows_that_are_given_up_leave_the_evidence_of_later_starts_as_it_was(upward: bool) -> None:
    rng = np.random.default_rng(5)
    reference, current = rng.normal(size=(20, 2)), rng.normal(0.4, 1.0, (30, 2))
    given_up = Sums.empty(2)
    for oldest in current[:12]:
        given_up = given_up.plus(oldest)
    again = Sums.from_json(json.loads(json.dumps(given_up.to_json())))
    found = t_log_e(reference, current[12:], upward=upward, between=again)
    assert np.allclose(found, t_log_e(reference, current, upward=upward)[12:])


def test_mixture_that_gave_up_starts_is_no_more_than_the_whole() -> None:
    evidence = np.random.default_rng(0).normal(0.0, 3.0, 40)
    whole = restart_log_e(evidence)
    steps = np.arange(11, 41)
    kept = np.append(evidence[10:] - np.log(steps * (steps + 1.0)), -log(41.0))
    assert restart_log_e(evidence[10:], before=10) == pytest.approx(float(np.logaddexp.reduce(kept)))
    assert restart_log_e(evidence[10:], before=10) <= whole


def test_calibration_with_counts_is_that_of_the_repeated_scores() -> None:
    for score in (-1.0, 1.0, 2.0, 9.0):
        once = conformal_log_e(score, [1.0, 1.0, 1.0, 2.0, 3.0, 3.0], 0.3)
        assert conformal_log_e(score, [3.0, 1.0, 2.0], 0.3, [2, 3, 1]) == once
