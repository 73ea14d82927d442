"""The simulation counts as the service counts, and decides as ``step`` asked after each request decides."""

from dataclasses import replace

import numpy as np
import pytest

from jobs.benchmarks.segments import Firsts, Segment
from jobs.benchmarks.simulated_losses import simulate_loss
from jobs.benchmarks.simulated_rollouts import SimulatedRollout
from jobs.benchmarks.simulated_traffic import Scenario, Traffic, draw_traffic
from ray_mlops.config import GuardsConfig, RolloutConfig
from ray_mlops.serving.protocol import Arm, ModelRoutes
from ray_mlops.serving.rollout.evidence import RouteCounts, UnitCounts
from ray_mlops.serving.rollout.tally_book import TallyBook
from ray_mlops.serving.rollout.transition import step
from ray_mlops.serving.slicing import SliceColumn
from ray_mlops.serving.telemetry import Served, Telemetry

SMALL = Scenario(requests=1500, users=80, error_ratio=0.05, slow_ratio=0.1)
CONFIG = RolloutConfig(steps=[0.1, 0.25, 0.5], min_requests=60, auto_promote=False)


SLICED = replace(SMALL, slices=(3, 4), slice_share=0.2)
COLUMNS = (SliceColumn("user", values=("0", "1", "2")), SliceColumn("request", values=("3", "4", "5", "6")))


def served_by_replicas(traffic: Traffic, weights: dict[int, float]) -> TallyBook:
    """Book each request on one of three replicas, an epoch for each, and merge their totals."""
    replicas, book = [Telemetry(name) for name in "abc"], TallyBook()
    weight, version = 0.0, 0
    for index in range(len(traffic)):
        if index in weights:
            weight, version = weights[index], version + 1
        candidate = Arm("2", "b", "y", "isolated", weight)
        routes = ModelRoutes("m", version, Arm("1", "a", "x"), candidate, rollout_id="r", slow_ms=5.0, slices=COLUMNS)
        on = bool(traffic.position[index] < weight)
        fails = (traffic.fails_on_candidate if on else traffic.fails_on_champion)[index]
        slow = (traffic.slow_on_candidate if on else traffic.slow_on_champion)[index]
        arm = "candidate" if on else "champion"
        times = {"model_s": 0.01 if slow else 0.001, "latency_s": 0.01, "slo_s": 1.0}
        outcome, key = ("error" if fails else "ok"), int(traffic.unit[index])
        row = dict(zip(("user", "request"), map(str, traffic.slices[:, index].tolist()), strict=False))
        served = Served(routes, arm, "", outcome, index, **times, key_hash=key, rows=[row])  # type: ignore[arg-type]
        replicas[index % 3].book(served)
    for replica in replicas:
        book.add(replica.replica, replica.changed())
    book.close(len(traffic))
    return book


def test_segments_count_what_three_replicas_and_the_book_count() -> None:
    traffic = draw_traffic(SLICED, np.random.default_rng(5))
    weights = {0: 0.1, 500: 0.25, 1100: 0.5}
    firsts, counts = Firsts(80), []
    of_slices: dict[int, list[RouteCounts]] = {}
    for version, (start, end) in enumerate([(0, 500), (500, 1100), (1100, 1500)], start=1):
        segment = Segment(traffic, start, weights[start], firsts)
        counts.append(segment.counts(version, end - start))
        for number, part in segment.slices.items():
            of_slices.setdefault(number, []).append(part.counts(version, end - start))
        segment.close(end - start)
    book = served_by_replicas(traffic, weights)
    assert tuple(counts) == book.counts()
    numbers = {number: number if number < 3 else number + 2 for number in range(7)}  # other and missing come between
    found = {number: book.slice_counts()[place] for number, place in numbers.items()}
    told = {number: [c for c in each if c.units != (UnitCounts(), UnitCounts())] for number, each in of_slices.items()}
    assert {number: list(each) for number, each in found.items()} == told


@pytest.mark.parametrize("slices", [[], ["user", "request"]])
@pytest.mark.parametrize("seed", range(6))
def test_simulation_decides_as_step_does_after_each_request(seed: int, slices: list[str]) -> None:
    guards = GuardsConfig(
        alpha=0.4, sample_ratio_alpha=0.09, slices=slices, min_slice_units=30
    )  # so that a guard speaks in some of them
    config = CONFIG.model_copy(update={"guards": guards})
    worse = {"slice_errors": 12.0} if slices else {"candidate_errors": 3.0}
    scenario = replace(replace(SLICED, requests=600) if slices else SMALL, **(worse if seed % 2 else {}))
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


def test_candidate_that_fails_on_one_slice_is_found_sooner_with_slices_and_named() -> None:
    scenario = Scenario(requests=12_000, users=None, slices=(10, 20), slice_errors=30.0)
    plain = RolloutConfig(steps=[0.1], min_requests=1_000_000)
    guards = GuardsConfig(slices=["a", "b"])
    requests, named = [], 0
    for seed in range(12):
        traffic = draw_traffic(scenario, np.random.default_rng(seed))
        ends = [SimulatedRollout(traffic, plain.model_copy(update={"guards": g})).run() for g in (guards, plain.guards)]
        named += "slices: errors on slice 10: " in ends[0].reason
        requests.append([end.requests for end in ends])
    assert np.median(requests, axis=0)[0] < 0.8 * np.median(requests, axis=0)[1]
    assert named >= 6


def test_identical_arms_with_slices_are_rolled_back_at_most_alpha_of_the_time() -> None:
    scenario = Scenario(requests=4_000, users=500, error_ratio=0.03, slices=(5, 10))
    config = CONFIG.model_copy(update={"guards": GuardsConfig(alpha=0.2, slices=["a", "b"], min_slice_units=1)})
    ends = [SimulatedRollout(draw_traffic(scenario, np.random.default_rng(seed)), config).run() for seed in range(60)]
    assert sum(end.state == "rolling_back" for end in ends) <= 19  # binomial(60, 0.2) exceeds it with probability 1 %


def test_loss_that_belongs_to_the_user_stops_an_equal_candidate_only_if_requests_are_units() -> None:
    config = CONFIG.model_copy(update={"guards": GuardsConfig(slices=["a", "b"])})
    by_key, by_request = (
        [simulate_loss(config, per_key, seed).state for seed in range(4)].count("rolling_back")
        for per_key in (True, False)
    )
    assert (by_key, by_request > 0) == (0, True)
