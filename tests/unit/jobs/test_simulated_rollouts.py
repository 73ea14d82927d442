"""The simulation counts as the service counts, and decides as ``step`` asked after each request decides."""

from dataclasses import replace

import numpy as np
import pytest

from jobs.benchmarks.segments import Firsts, Segment
from jobs.benchmarks.simulated_rollouts import SimulatedRollout
from jobs.benchmarks.simulated_traffic import Scenario, Traffic, draw_traffic
from ray_mlops.config import GuardsConfig, RolloutConfig
from ray_mlops.serving.protocol import Arm, ModelRoutes
from ray_mlops.serving.rollout.evidence import RouteCounts
from ray_mlops.serving.rollout.tally_book import TallyBook
from ray_mlops.serving.rollout.transition import step
from ray_mlops.serving.telemetry import Served, Telemetry

SMALL = Scenario(requests=1500, users=80, error_ratio=0.05, slow_ratio=0.1)
CONFIG = RolloutConfig(steps=[0.1, 0.25, 0.5], min_requests=60, auto_promote=False)


def served_by_replicas(traffic: Traffic, weights: dict[int, float]) -> tuple[RouteCounts, ...]:
    """Book each request on one of three replicas, an epoch for each, and merge their totals."""
    replicas, book = [Telemetry(name) for name in "abc"], TallyBook()
    weight, version = 0.0, 0
    for index in range(len(traffic)):
        if index in weights:
            weight, version = weights[index], version + 1
        candidate = Arm("2", "b", "y", "isolated", weight)
        routes = ModelRoutes("m", version, Arm("1", "a", "x"), candidate, rollout_id="r", slow_ms=5.0)
        on = bool(traffic.position[index] < weight)
        fails = (traffic.fails_on_candidate if on else traffic.fails_on_champion)[index]
        slow = (traffic.slow_on_candidate if on else traffic.slow_on_champion)[index]
        arm = "candidate" if on else "champion"
        times = {"model_s": 0.01 if slow else 0.001, "latency_s": 0.01, "slo_s": 1.0}
        outcome, key = ("error" if fails else "ok"), int(traffic.unit[index])
        replicas[index % 3].book(Served(routes, arm, "", outcome, index, **times, key_hash=key))  # type: ignore[arg-type]
    for replica in replicas:
        book.add(replica.replica, replica.changed())
    book.close(len(traffic))
    return book.counts()


def test_segments_count_what_three_replicas_and_the_book_count() -> None:
    traffic = draw_traffic(SMALL, np.random.default_rng(5))
    weights = {0: 0.1, 500: 0.25, 1100: 0.5}
    firsts, counts = Firsts(80), []
    for version, (start, end) in enumerate([(0, 500), (500, 1100), (1100, 1500)], start=1):
        segment = Segment(traffic, start, weights[start], firsts)
        counts.append(segment.counts(version, end - start))
        segment.close(end - start)
    assert tuple(counts) == served_by_replicas(traffic, weights)


@pytest.mark.parametrize("seed", range(6))
def test_simulation_decides_as_step_does_after_each_request(seed: int) -> None:
    guards = GuardsConfig(alpha=0.4, sample_ratio_alpha=0.09)  # so that a guard speaks in some of them
    config = CONFIG.model_copy(update={"guards": guards})
    scenario = replace(SMALL, candidate_errors=3.0 if seed % 2 else 1.0)
    traffic = draw_traffic(scenario, np.random.default_rng(seed))
    fast = SimulatedRollout(traffic, config)
    ended = fast.run()
    slow = SimulatedRollout(traffic, config)
    start, version = 0, 0
    while start < len(traffic) and slow.state.stage in ("canary", "paused"):
        version += 1
        segment = Segment(traffic, start, slow.state.weight, slow._firsts)
        for used in range(1, len(segment) + 1):
            decision = step(slow.state, slow._observe(segment, version, used), config, 0.0)
            if decision.moves:
                break
        slow._close(segment, version, used)
        start += used
        if decision.moves:
            slow._move(decision, version)
    assert (ended.state, ended.requests) == (slow.state.name, start)


def test_traffic_is_heavy_tailed_and_sticky() -> None:
    traffic = draw_traffic(Scenario(), np.random.default_rng(1))
    counts = np.sort(np.bincount(traffic.unit))[::-1]
    assert counts[:20].sum() > 0.1 * len(traffic)
    assert len(np.unique(traffic.position)) == len(np.unique(traffic.unit))
    alone = draw_traffic(Scenario(users=None), np.random.default_rng(1))
    assert len(np.unique(alone.unit)) == len(alone)
    assert alone.fails_on_champion.mean() == pytest.approx(0.01, abs=0.003)
