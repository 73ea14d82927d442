"""How much traffic and how many labels a rollout will need, before it starts, and whether it can finish.

Each number is the least at which the guard would speak if everything went exactly as expected: an equal
candidate, events in proportion. Real rollouts scatter around it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite, log

import numpy as np

from ray_mlops.config import RolloutConfig
from ray_mlops.serving.rollout.evidence import FloatArray
from ray_mlops.serving.rollout.guards import ABSOLUTE_SHARE
from ray_mlops.statistics.betting import log_e_difference, log_e_paired_noninferiority
from ray_mlops.statistics.confidence import error_upper_bound
from ray_mlops.statistics.counts import log_e_noninferiority

MAX_UNITS = 1_000_000
"""Beyond this many requests or pairs a guard counts as never speaking."""
_SECONDS_PER_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What one step of a rollout is expected to need."""

    state: str
    weight: float
    requests: float
    """Requests to the model while it lasts; infinite when no number would do."""
    candidate_requests: float
    labels: float
    """Labelled requests that arrive meanwhile."""
    days: float
    limited_by: str
    """What it waits for longest."""
    finishes: bool
    """Whether it ends by itself, within ``max_duration_s``."""


def plan_rollout(
    config: RolloutConfig,
    *,
    requests_per_day: float,
    labels_per_day: float,
    error_rate: float = 0.0,
    slo_violation_rate: float = 0.0,
    loss: float = 0.15,
    loss_deviation: float = 0.15,
    paired_deviation: float = 0.05,
) -> list[StepPlan]:
    """Estimate what each step needs for a candidate that is as good as the champion.

    Args:
        config: The rollout's policy.
        requests_per_day: Requests to the model.
        labels_per_day: How many of them get a label.
        error_rate: Share of requests that fail, on either arm.
        slo_violation_rate: Share of requests above the latency objective.
        loss: Mean loss of a request, in [0, 1].
        loss_deviation: Standard deviation of a request's loss.
        paired_deviation: Standard deviation of the difference of the two versions' losses on one request.

    Example:
        >>> from ray_mlops.config import RolloutConfig
        >>> plan = plan_rollout(RolloutConfig(), requests_per_day=2000, labels_per_day=1500)
        >>> [step.state for step in plan]
        ['shadow', 'canary[0]', 'canary[1]', 'canary[2]', 'baking']
        >>> all(step.finishes for step in plan)
        True
    """
    has_shadow = config.shadow.enabled
    steps = [_plan_shadow(config, requests_per_day, labels_per_day, paired_deviation)] if has_shadow else []
    candidate_so_far = 0.0
    for index, weight in enumerate(config.steps):
        needs = {"min_requests": config.min_requests / weight}
        if index == len(config.steps) - 1:
            alpha = config.guards.promote_alpha
            errors = _bounded(error_rate, config.guards.error_limit, alpha * ABSOLUTE_SHARE)
            violations = _bounded(slo_violation_rate, config.guards.slo_limit, alpha)
            relative = _requests_for_noninferior_errors(config, error_rate, weight)
            needs["errors"] = min(max(errors - candidate_so_far, 0.0) / weight, relative)
            needs["latency_slo"] = max(violations - candidate_so_far, 0.0) / weight
            if not has_shadow:
                labelled = _units_for_split_loss(config, weight, loss, loss_deviation)
                needs["loss"] = _requests_for_labels(labelled, requests_per_day, labels_per_day)
        planned = _planned(f"canary[{index}]", weight, needs, config, requests_per_day, labels_per_day)
        candidate_so_far += planned.candidate_requests
        steps.append(planned)
    bake = {"bake_requests": float(config.bake_requests)}
    steps.append(_planned("baking", 0.0, bake, config, requests_per_day, labels_per_day, limited=False))
    return steps


def _planned(
    state: str,
    weight: float,
    needs: dict[str, float],
    config: RolloutConfig,
    requests_per_day: float,
    labels_per_day: float,
    limited: bool = True,
) -> StepPlan:
    limited_by = max(needs, key=lambda name: needs[name])
    requests = needs[limited_by]
    days = requests / requests_per_day if requests_per_day > 0 else inf
    if limited and days * _SECONDS_PER_DAY < config.min_duration_s:
        limited_by, days = "min_duration_s", config.min_duration_s / _SECONDS_PER_DAY
        requests = max(requests, days * requests_per_day)
    finishes = isfinite(days) and not (limited and days * _SECONDS_PER_DAY > config.max_duration_s)
    on_candidate = requests * weight if weight else 0.0
    labels = days * labels_per_day if labels_per_day > 0 else 0.0
    return StepPlan(state, weight, requests, on_candidate, labels, days, limited_by, finishes)


def _plan_shadow(
    config: RolloutConfig, requests_per_day: float, labels_per_day: float, paired_deviation: float
) -> StepPlan:
    threshold = log(1.0 / config.guards.promote_alpha)
    margin = config.shadow.loss_margin

    def speaks(n: int) -> bool:
        return log_e_paired_noninferiority(_two_points(n, 0.0, paired_deviation), margin) >= threshold

    pairs = max(_least(speaks, config.shadow.max_pairs), float(config.shadow.min_pairs))
    pairs = inf if pairs > config.shadow.max_pairs else pairs
    name = "loss" if pairs > config.shadow.min_pairs else "min_pairs"
    needs = {name: _requests_for_labels(pairs, requests_per_day, labels_per_day)}
    return _planned("shadow", 0.0, needs, config, requests_per_day, labels_per_day)


def _requests_for_labels(labels: float, requests_per_day: float, labels_per_day: float) -> float:
    return labels * requests_per_day / labels_per_day if labels_per_day > 0 else inf


def _bounded(rate: float, limit: float, alpha: float) -> float:
    """Requests until the rate is shown to lie below a limit."""
    if rate >= limit:
        return inf
    return _least(lambda n: error_upper_bound(round(rate * n), n, alpha) < limit, MAX_UNITS)


def _requests_for_noninferior_errors(config: RolloutConfig, error_rate: float, weight: float) -> float:
    """Requests to both arms until errors are shown to be not much more frequent than the champion's."""
    if error_rate <= 0.0:
        return inf
    threshold = log(1.0 / config.guards.promote_alpha)

    def speaks(n: int) -> bool:
        events = error_rate * n
        on_candidate, on_champion = [events * weight], [events * (1.0 - weight)]
        return log_e_noninferiority([weight], on_candidate, on_champion, config.guards.error_margin) >= threshold

    return _least(speaks, MAX_UNITS)


def _units_for_split_loss(config: RolloutConfig, weight: float, loss: float, deviation: float) -> float:
    """Labelled requests to both arms until the loss is shown to be not much worse, without pairs."""
    threshold = log(1.0 / config.guards.promote_alpha)

    def speaks(n: int) -> bool:
        losses = np.clip(_two_points(n, loss, deviation), 0.0, 1.0)
        is_candidate = np.floor(np.arange(1, n + 1) * weight / 2) > np.floor(np.arange(n) * weight / 2)
        is_candidate = is_candidate | np.roll(is_candidate, 1)  # both loss values equally often on either arm
        evidence = log_e_difference(losses, ~is_candidate, 1.0 - is_candidate.mean(), -config.shadow.loss_margin)
        return evidence >= threshold

    return _least(speaks, 200_000)


def _two_points(n: int, mean: float, deviation: float) -> FloatArray:
    """The simplest numbers [n] of a given mean and standard deviation."""
    return np.resize(np.array([mean + deviation, mean - deviation]), n)


def _least(speaks: Callable[[int], bool], most: int) -> float:
    """Return the least number, to within 2 %, from which a test speaks; infinite beyond ``most``."""
    high = 16
    while not speaks(high):
        if high >= most:
            return inf
        high = min(2 * high, most)
    low = high // 2
    while high - low > max(1, high // 50):
        middle = (low + high) // 2
        low, high = (low, middle) if speaks(middle) else (middle, high)
    return float(high)
