"""How often rollouts decide wrongly, and how soon rightly: thousands of simulated ones, decided by the real code."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Any

import numpy as np
from scipy.stats import beta

from jobs.benchmarks.figures import Figure, Report, Rows
from jobs.benchmarks.options import Options
from jobs.benchmarks.simulated_losses import simulate_loss
from jobs.benchmarks.simulated_rollouts import RolloutEnd, SimulatedRollout
from jobs.benchmarks.simulated_traffic import Scenario, draw_traffic
from ray_mlops.config import GuardsConfig, RolloutConfig
from ray_mlops.config.serving import GuardName
from ray_mlops.serving.rollout.evidence import LossEvidence, Observation
from ray_mlops.serving.rollout.state import RolloutState
from ray_mlops.serving.rollout.transition import step
from ray_mlops.statistics.running import running_noninferiority

CLIMBING = RolloutConfig(steps=[0.01, 0.05, 0.1, 0.25, 0.5], min_requests=50, auto_promote=False)
"""Weights climb, and nothing ends the watch but a guard: the longest exposure to a false alarm."""
PROMOTING = RolloutConfig(steps=[0.1, 0.5], min_requests=50)
WATCHING = RolloutConfig(steps=[0.1], min_requests=1_000_000, auto_promote=False)
"""A weight of 10 %, until a guard speaks."""
STICKY = Scenario()
SLICED = Scenario(slices=(10, 20))
"""Two columns, one of the users and one of the requests, so that there are 30 slices."""
BROKEN_SLICE = replace(SLICED, users=None, slice_errors=30.0)
"""The candidate fails 30 % of one slice with 5 % of the traffic, where the champion fails 1 %."""
Measured = tuple[list[Figure], Rows]
STOPPED, PASSED = ("rolling_back", "invalid"), ("promoting",)
LOSS_PAIRS, LOSS_DEVIATION = 20_000, 0.1


@dataclass(frozen=True, slots=True)
class Study:
    """Many rollouts of one kind."""

    name: str
    scenario: Scenario
    config: RolloutConfig
    per_key: bool = True

    def one(self, index: int) -> RolloutEnd:
        """Run the rollout of a number; the same number gives the same rollout."""
        generator = np.random.default_rng([sum(self.name.encode()), index])
        return SimulatedRollout(draw_traffic(self.scenario, generator), self.config, per_key=self.per_key).run()


def run_study(study: Study, rollouts: int, workers: int) -> list[RolloutEnd]:
    """Run a study's rollouts, in processes of their own."""
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(study.one, range(rollouts), chunksize=max(1, rollouts // (8 * workers))))


def upper_bound(hits: int, n: int) -> float:
    """One-sided 95 % Clopper-Pearson bound of a probability.

    Example:
        >>> round(upper_bound(0, 100), 3)
        0.03
    """
    return 1.0 if hits == n else float(beta.ppf(0.95, hits + 1, n - hits))


def measure(options: Options, report: Report) -> None:
    """Run the studies whose figures are wanted."""
    rollouts = 200 if options.quick else 2_000
    for keys, study in (
        (("false_rollback",), false_rollback),
        (("false_promotion",), false_promotion),
        (("requests_to_rollback",), requests_to_rollback),
        (("false_rollback_slices",), false_rollback_slices),
        (("false_rollback_loss",), false_rollback_loss),
        (("requests_to_rollback_slice", "requests_to_rollback_slice_without"), requests_to_rollback_slice),
    ):
        if options.wants(keys):
            figures, rows = study(rollouts, options.workers)
            report.figures.extend(figure for figure in figures if options.wants({figure.key}))
            report.tables[f"{keys[0]}: simulated rollouts, at every look"] = rows


def false_rollback(rollouts: int, workers: int) -> Measured:
    """Identical arms, sticky heavy-tailed users, climbing weights."""
    few = max(50, rollouts // 10)
    by_request = Study("identical arms", STICKY, CLIMBING, per_key=False)
    muted = _without(CLIMBING, "sample_ratio")
    studies = [
        (Study("identical arms", STICKY, CLIMBING), rollouts),
        (Study("identical arms, requests alone", replace(STICKY, users=None), CLIMBING), few),
        (replace(by_request, name="identical arms, were each request a unit"), few),
        (replace(by_request, name="the same, without the sample ratio", config=muted), few),
    ]
    rows = [_row(study.name, run_study(study, number, workers)) for study, number in studies]
    share, bound = rows[0]["stopped"], rows[0]["95 % below"]
    detail = f"{rollouts} rollouts, 95 % below {bound:.4f}; sticky heavy-tailed users, weights climbing 1 to 50 %"
    return [Figure("false_rollback", share, at_most=CLIMBING.guards.alpha, detail=detail)], rows


def false_promotion(rollouts: int, workers: int) -> Measured:
    """A candidate that is exactly as bad as the margin allows, in errors or in loss; the worst case counts."""
    guards = PROMOTING.guards
    base = guards.error_limit / (1.0 + guards.error_margin)
    alone = Scenario(users=None, error_ratio=base, candidate_errors=1.0 + guards.error_margin)
    studies = (
        Study("errors at both margins, requests alone", alone, PROMOTING),
        Study("errors at both margins, sticky", replace(alone, users=STICKY.users), PROMOTING),
    )
    rows = [_row(study.name, run_study(study, rollouts, workers)) for study in studies]
    with ProcessPoolExecutor(workers) as pool:
        passed = list(pool.map(partial(_shadow_end, PROMOTING), range(rollouts), chunksize=16))
    rows.append(_row("loss at the margin, in the shadow", passed))
    worst = max(rows, key=lambda row: row["promoted"])
    hits = round(worst["promoted"] * rollouts)
    detail = f"{worst['rollouts of']}: {rollouts} rollouts, 95 % below {upper_bound(hits, rollouts):.4f}"
    return [Figure("false_promotion", worst["promoted"], at_most=guards.promote_alpha, detail=detail)], rows


def requests_to_rollback(rollouts: int, workers: int) -> Measured:
    """Five times the champion's errors, at 1 % and a weight of 10 %."""
    worse = Scenario(users=None, candidate_errors=5.0)
    alone = run_study(Study("five times the errors, requests alone", worse, WATCHING), rollouts, workers)
    sticky = replace(worse, users=STICKY.users)
    rows = [
        _row("five times the errors, requests alone", alone),
        _row(
            "five times the errors, sticky",
            run_study(Study("five times the errors, sticky", sticky, WATCHING), rollouts, workers),
        ),
    ]
    low, middle, high = _quartiles(alone)
    detail = f"{rollouts} rollouts, quartiles {low:.0f} to {high:.0f} requests to both arms"
    return [Figure("requests_to_rollback", middle, at_most=1300, detail=detail)], rows


def false_rollback_slices(rollouts: int, workers: int) -> Measured:
    """Identical arms as in ``false_rollback``, with slices, each tested for errors and slow requests."""
    few = max(50, rollouts // 10)
    studies = [
        (Study("identical arms, 30 slices", SLICED, _sliced(CLIMBING)), rollouts),
        (Study("identical arms, 30 slices, requests alone", replace(SLICED, users=None), _sliced(CLIMBING)), few),
        (Study("identical arms, 30 slices, were each request a unit", SLICED, _sliced(CLIMBING), per_key=False), few),
    ]
    rows = [_row(study.name, run_study(study, number, workers)) for study, number in studies]
    share, bound = rows[0]["stopped"], rows[0]["95 % below"]
    detail = f"{rollouts} rollouts, 95 % below {bound:.4f}; 30 slices of two columns, else as in false_rollback"
    return [Figure("false_rollback_slices", share, at_most=CLIMBING.guards.alpha, detail=detail)], rows


def requests_to_rollback_slice(rollouts: int, workers: int) -> Measured:
    """A candidate that fails on one slice only, with guards on slices and without."""
    sticky = replace(BROKEN_SLICE, users=STICKY.users)
    names = "30 % errors in 5 % of traffic", "the same, without slices", "the same with slices, sticky"
    studies = (
        Study(names[0], BROKEN_SLICE, _sliced(WATCHING)),
        Study(names[1], BROKEN_SLICE, WATCHING),
        Study(names[2], sticky, _sliced(WATCHING)),
    )
    ends = [run_study(study, rollouts, workers) for study in studies]
    figures = []
    for key, found in (("requests_to_rollback_slice", ends[0]), ("requests_to_rollback_slice_without", ends[1])):
        low, middle, high = _quartiles(found)
        named = sum("slice 10:" in end.reason for end in found) / len(found)
        detail = f"{rollouts} rollouts, quartiles {low:.0f} to {high:.0f} requests; names the slice in {named:.0%}"
        figures.append(Figure(key, middle, detail=detail))
    return figures, [_row(study.name, found) for study, found in zip(studies, ends, strict=True)]


def false_rollback_loss(rollouts: int, workers: int) -> Measured:
    """Identical arms whose labelled loss belongs to the user: by user as the service does it, and by request."""
    number = max(100, rollouts // 4)
    rows = []
    for name, per_key in (("loss of 400 sticky users, 30 slices", True), ("the same, were each request a unit", False)):
        with ProcessPoolExecutor(workers) as pool:
            ends = list(pool.map(partial(simulate_loss, _sliced(CLIMBING), per_key), range(number), chunksize=4))
        rows.append(_row(name, ends))
    share, bound = rows[0]["stopped"], rows[0]["95 % below"]
    detail = f"{number} rollouts, 95 % below {bound:.4f}; sticky heavy-tailed users, weights climbing, each window"
    return [Figure("false_rollback_loss", share, at_most=CLIMBING.guards.alpha, detail=detail)], rows


def _sliced(config: RolloutConfig) -> RolloutConfig:
    guards = GuardsConfig(**{**config.guards.model_dump(), "slices": ["column of users", "column of requests"]})
    return config.model_copy(update={"guards": guards})


def _without(config: RolloutConfig, name: GuardName) -> RolloutConfig:
    guards = GuardsConfig(**{**config.guards.model_dump(), "dry_run": [*config.guards.dry_run, name]})
    return config.model_copy(update={"guards": guards})


def _quartiles(ends: Sequence[RolloutEnd]) -> tuple[float, float, float]:
    """Requests until a rollout was stopped; infinite for those that were not."""
    stopped = [end.requests if end.state in STOPPED else inf for end in ends]
    low, middle, high = (float(np.quantile(stopped, share, method="lower")) for share in (0.25, 0.5, 0.75))
    return low, middle, high


def _row(name: str, ends: Sequence[RolloutEnd]) -> dict[str, Any]:
    states = Counter(end.state for end in ends)
    hits = sum(states[state] for state in STOPPED)
    return {
        "rollouts of": name,
        "number": len(ends),
        "stopped": hits / len(ends),
        "95 % below": round(upper_bound(hits, len(ends)), 4),
        "promoted": sum(states[state] for state in PASSED) / len(ends),
        "median requests": _quartiles(ends)[1],
        "ends": ", ".join(f"{state} {count}" for state, count in states.most_common()),
    }


def _shadow_end(config: RolloutConfig, index: int) -> RolloutEnd:
    """Whether the shadow ever lets a candidate pass whose loss is ``loss_margin`` higher, looking at every pair."""
    generator = np.random.default_rng([77, index])
    margin, state = config.shadow.loss_margin, RolloutState("m", "r", "2", "shadow")
    pairs = generator.normal(margin, LOSS_DEVIATION, LOSS_PAIRS).clip(margin - 0.9, margin + 0.9)
    reached = np.flatnonzero(running_noninferiority(pairs, margin) >= -np.log(config.guards.promote_alpha) - 1e-6)
    for last in reached[reached >= config.shadow.min_pairs - 1].tolist():
        losses = LossEvidence(paired=pairs[: last + 1])
        decision = step(state, Observation(candidate="ready", losses=losses), config, 0.0)
        if decision.moves:
            return RolloutEnd("promoting" if decision.to == "canary[0]" else decision.to, decision.reason, last + 1)
    return RolloutEnd("shadow", "the pairs are over", LOSS_PAIRS)
