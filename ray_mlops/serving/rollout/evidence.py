"""What a rollout knows: counts of both arms, losses, and what else a decision may look at.

Two kinds of counts. *Requests*, for limits and for people. *Units*, for the tests: what chance assigned to an
arm independently of everything else, which is a routing key where clients send one, and a request otherwise.
A user who fails often fails on one arm only, so that a test on requests would find the luck of that draw.
"""

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
ArmHealth = Literal["absent", "starting", "ready", "failed"]
GateStanding = Literal["passed", "waiting", "refused"]


@dataclass(frozen=True, slots=True)
class ArmCounts:
    """Requests of one arm, and what went wrong with them."""

    requests: int = 0
    errors: int = 0
    slow: int = 0
    slo_violations: int = 0

    def __add__(self, other: "ArmCounts") -> "ArmCounts":
        return ArmCounts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class UnitCounts:
    """Units of one arm, each counted once in a rollout: where it was, and under which weight, at the time."""

    units: int = 0
    """By their first request under a split of traffic."""
    first_errors: int = 0
    """Units whose first request failed: one independent trial each, as a test of a *rate* needs it."""
    first_slo_violations: int = 0
    errors: int = 0
    """Units by their first failure, be it their first request or a later one: all that a test of *which arm*
    needs. (Not for rates: in the end every unit has failed once.)"""
    slow: int = 0
    """Units by their first slow request."""

    def __add__(self, other: "UnitCounts") -> "UnitCounts":
        return UnitCounts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @classmethod
    def of_requests(cls, counts: ArmCounts) -> "UnitCounts":
        """Requests without a routing key: each is a unit."""
        return cls(counts.requests, counts.errors, counts.slo_violations, counts.errors, counts.slow)


@dataclass(frozen=True, slots=True)
class RouteCounts:
    """Both arms under one route version."""

    route_version: int
    weight: float
    """The candidate's share of traffic."""
    candidate: ArmCounts = ArmCounts()
    champion: ArmCounts = ArmCounts()
    units: tuple[UnitCounts, UnitCounts] | None = None
    """Of candidate and champion; None: each request is one."""

    @property
    def candidate_units(self) -> UnitCounts:
        return UnitCounts.of_requests(self.candidate) if self.units is None else self.units[0]

    @property
    def champion_units(self) -> UnitCounts:
        return UnitCounts.of_requests(self.champion) if self.units is None else self.units[1]


def _nothing() -> FloatArray:
    return np.empty(0)


@dataclass(frozen=True, slots=True)
class LossEvidence:
    """Losses in [0, 1] of labelled units (the mean over a unit's rows in the first window that has any)."""

    paired: FloatArray = field(default_factory=_nothing)
    """Candidate's loss minus the champion's on the same rows of a unit, in [-1, 1] [n]."""
    losses: FloatArray = field(default_factory=_nothing)
    """Loss of each unit answered under a split of traffic, by event time [m]."""
    is_candidate: BoolArray = field(default_factory=lambda: np.empty(0, dtype=np.bool_))
    """Whether the candidate was assigned each of those units [m]."""
    weights: FloatArray = field(default_factory=_nothing)
    """The candidate's share of traffic when each of them was routed [m]."""
    scores: FloatArray = field(default_factory=_nothing)
    """Mean prediction of each of them [m]; empty for multiclass models."""
    problem: str = ""
    """Why losses cannot be had, if so."""


@dataclass(frozen=True, slots=True)
class SliceEvidence:
    """What is known of one slice of traffic."""

    name: str
    counts: tuple[RouteCounts, ...] = ()
    """Units of the slice: a routing key is one in each slice that it comes to. Only their ``units`` are filled in."""
    losses: LossEvidence = field(default_factory=LossEvidence)


@dataclass(frozen=True, slots=True)
class Room:
    """What the candidate's replicas suffice for."""

    ready_for: float = 1.0
    """Share of traffic, in [0, 1]."""
    problem: str = ""
    """Why more replicas did not start: what was asked for, and what was free."""
    detail: str = ""
    """How far they are."""
    carries_champion: bool = False
    """As champion, the version goes on answering in the same replicas (``serving.placement: deployment``)."""


@dataclass(frozen=True, slots=True)
class Observation:
    """All that a decision may look at, besides the rollout's own events and the clock."""

    candidate: ArmHealth = "absent"
    """How the process that holds the candidate is."""
    candidate_detail: str = ""
    room: Room = Room()
    gate: GateStanding = "passed"
    """`waiting` is for a person's approval."""
    gate_detail: str = ""
    is_settled: bool = True
    """Live routes, aliases and arms are as the state wants them."""
    route_version: int = 0
    """The route version in force."""
    counts: tuple[RouteCounts, ...] = ()
    """Closed epochs since the rollout began, by rising route version."""
    recent: ArmCounts = ArmCounts()
    """The newest requests of the version on trial, open epochs included, for hard limits."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Failures of the version on trial since the rollout began by kind, the most frequent first."""
    losses: LossEvidence = field(default_factory=LossEvidence)
    slices: tuple[SliceEvidence, ...] = ()
    """Every slice that was defined when the rollout began, whether anything came of it or not."""
    slice_problem: str = ""
    """Why a column has no slices, if so."""
    closed_through: int | None = None
    """The last epoch in ``counts``."""
    event_now_us: int | None = None
    """How far event time has come, microseconds since 1970 UTC."""
