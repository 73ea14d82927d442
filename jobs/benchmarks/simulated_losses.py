"""Labelled losses of a canary with equal arms, through the code that turns labelled rows into evidence.

What a user loses is the user's own, and a few users come often: the hardest case for a test on losses. Labels come
in by window, as the monitor hands them over, and a decision is asked for after each.
"""

from functools import partial
from math import ceil

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.benchmarks.simulated_rollouts import RolloutEnd
from jobs.benchmarks.simulated_traffic import Scenario, Traffic, draw_traffic
from ray_mlops.config import RolloutConfig
from ray_mlops.serving.rollout.evidence import Observation, SliceEvidence
from ray_mlops.serving.rollout.shadow import BundleFacts, gather_losses
from ray_mlops.serving.rollout.slice_losses import losses_by_slice
from ray_mlops.serving.rollout.state import RolloutState
from ray_mlops.serving.rollout.transition import step
from ray_mlops.serving.slicing import SliceColumn, slice_labels

WINDOWS, WINDOW_REQUESTS = 12, 250
SCENARIO = Scenario(requests=WINDOWS * WINDOW_REQUESTS, users=400, slices=(10, 20))
USER_SHAPE, REQUEST_DEVIATION = 0.5, 0.1
"""A user's mean loss is from Beta(1/2, 1/2): most are near 0 or near 1."""
FACTS = BundleFacts("regression", (), 1.0)


def simulate_loss(config: RolloutConfig, per_key: bool, index: int) -> RolloutEnd:
    """Run one canary of an equal candidate.

    Args:
        config: Its steps last equally many windows.
        per_key: Rows have their routing key; without it each request counts as a unit.
        index: Number of the rollout; the same gives the same.
    """
    generator = np.random.default_rng([len("loss"), index])
    traffic = draw_traffic(SCENARIO, generator)
    columns = [SliceColumn(f"c{i}", values=tuple(map(str, range(size)))) for i, size in enumerate(SCENARIO.slices)]
    shares = np.array(config.steps)[np.arange(WINDOWS) // ceil(WINDOWS / len(config.steps))]
    rows = labelled_rows(traffic, shares, per_key, generator)
    weights = dict(enumerate(shares.tolist()))
    gather = partial(gather_losses, scored={}, facts=FACTS, champion="1", after_us=0, weights=weights)
    state, state_labels = RolloutState("m", "r", "2", "canary", loss_is_proven=True), slice_labels(columns)
    for window in range(WINDOWS):
        told = rows.slice(0, (window + 1) * WINDOW_REQUESTS)
        losses = losses_by_slice(told, columns, gather) if config.guards.slices else ()
        slices = tuple(SliceEvidence(label, losses=found) for label, found in zip(state_labels, losses, strict=False))
        observation = Observation(candidate="ready", losses=gather(told), slices=slices)
        decision = step(state, observation, config, 0.0)
        if decision.moves:
            return RolloutEnd(decision.to, decision.reason, told.num_rows)
    return RolloutEnd(state.name, "the requests are over", rows.num_rows)


def labelled_rows(
    traffic: Traffic, shares: npt.NDArray[np.float64], per_key: bool, generator: np.random.Generator
) -> pa.Table:
    """Labelled rows as ``MonitorView.labelled`` gives them; window and route version are one.

    Args:
        traffic: The requests.
        shares: The candidate's share of traffic in each window.
        per_key: Whether rows have their routing key.
        generator: Draws losses.
    """
    n, window = len(traffic), np.arange(len(traffic)) // WINDOW_REQUESTS
    on = traffic.position < shares[window]
    level = generator.beta(USER_SHAPE, USER_SHAPE, int(traffic.unit.max()) + 1)[traffic.unit]
    first = np.cumsum([0, *SCENARIO.slices])
    values = {
        f"features.c{i}": pa.array((numbers - first[i]).astype(str).tolist())
        for i, numbers in enumerate(traffic.slices)
    }
    return pa.table(
        {
            "prediction_id": [f"p{index}" for index in range(n)],
            "request_id": [f"r{index}" for index in range(n)],
            "window": window,
            "event_time": pa.array(np.arange(1, n + 1), pa.timestamp("us", tz="UTC")),
            "arm": np.where(on, "candidate", "champion").tolist(),
            "version": np.where(on, "2", "1").tolist(),
            "route_version": window,
            "routing_key_hash": pa.array(traffic.unit.astype(np.uint64), mask=np.full(n, not per_key)),
            "pinned": np.zeros(n, dtype=bool),
            "weight": np.where(on, shares[window], 1.0 - shares[window]),
            "label": (level + generator.normal(0.0, REQUEST_DEVIATION, n)).clip(0.0, 1.0),
            "prediction": np.zeros(n),
            **values,
        }
    )
