"""Requests of a service as a simulation sees them: users who come often or seldom, and fail often or seldom."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Scenario:
    """What the two arms are like."""

    requests: int = 20_000
    """To both arms together."""
    users: int | None = 2_000
    """Routing is sticky to so many users; None: each request is routed by itself."""
    activity_tail: float = 1.1
    """Pareto index of how often a user comes; below 2 a few users make most of the traffic."""
    error_ratio: float = 0.01
    """The champion's."""
    error_shape: float = 0.2
    """First shape of the Beta distribution of a user's own error ratio; small: few users make most errors."""
    slow_ratio: float = 0.05
    slow_shape: float = 0.5
    candidate_errors: float = 1.0
    """The candidate's error ratio is so many times the champion's, for every user."""
    candidate_slow: float = 1.0
    slices: tuple[int, ...] = ()
    """Columns that define slices: how many values each has. A value of the first belongs to a user, those of the
    others change from request to request."""
    slice_share: float = 0.05
    """Share of requests in the first value of each column; the rest is spread evenly over its other values."""
    slice_errors: float = 1.0
    """What ``candidate_errors`` is in the first value of the last column; elsewhere the candidate is an equal."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """One rollout's requests in order of arrival; each array is [n]."""

    unit: npt.NDArray[np.int64]
    """The user, or the request itself."""
    position: FloatArray
    """Where the unit lies in [0, 1): the candidate answers where that is below its weight."""
    fails_on_champion: BoolArray
    fails_on_candidate: BoolArray
    slow_on_champion: BoolArray
    slow_on_candidate: BoolArray
    slices: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 0), np.int64))
    """Number of the slice of each column that a request lies in, counted over all columns [c, n]."""

    def __len__(self) -> int:
        return len(self.unit)


def draw_traffic(scenario: Scenario, generator: np.random.Generator) -> Traffic:
    """Draw one rollout's requests."""
    n = scenario.requests
    if scenario.users is None:
        unit = np.arange(n)
        fails, slow = np.full(n, scenario.error_ratio), np.full(n, scenario.slow_ratio)
        position = generator.random(n)
    else:
        activity = generator.pareto(scenario.activity_tail, scenario.users) + 1.0
        unit = generator.choice(scenario.users, n, p=activity / activity.sum())
        fails = _propensity(scenario.users, scenario.error_ratio, scenario.error_shape, generator)[unit]
        slow = _propensity(scenario.users, scenario.slow_ratio, scenario.slow_shape, generator)[unit]
        position = generator.random(scenario.users)[unit]
    luck = generator.random((2, n))
    slices = _draw_slices(scenario, unit, generator)
    worse = np.full(n, scenario.candidate_errors)
    if scenario.slices:
        worse[slices[-1] == sum(scenario.slices[:-1])] *= scenario.slice_errors
    return Traffic(
        unit=unit,
        position=position,
        fails_on_champion=luck[0] < fails,
        fails_on_candidate=luck[0] < fails * worse,
        slow_on_champion=luck[1] < slow,
        slow_on_candidate=luck[1] < slow * scenario.candidate_slow,
        slices=slices,
    )


def _draw_slices(
    scenario: Scenario, unit: npt.NDArray[np.int64], generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """The slice of each request in each column [c, n]."""
    found, first = [], 0
    for column, size in enumerate(scenario.slices):
        shares = np.full(size, (1.0 - scenario.slice_share) / (size - 1))
        shares[0] = scenario.slice_share
        is_users = column == 0 and scenario.users is not None
        values = generator.choice(size, int(unit.max()) + 1 if is_users else len(unit), p=shares)
        found.append(first + (values[unit] if is_users else values))
        first += size
    return np.array(found, dtype=np.int64).reshape(len(found), len(unit))


def _propensity(users: int, mean: float, shape: float, generator: np.random.Generator) -> FloatArray:
    """Each user's own ratio [users]."""
    return generator.beta(shape, shape * (1.0 - mean) / mean, users)
