"""A stretch of simulated traffic under one weight: who answered, what failed, and what was a unit's first."""

import numpy as np
import numpy.typing as npt

from jobs.benchmarks.simulated_traffic import BoolArray, Traffic
from ray_mlops.serving.rollout.evidence import ArmCounts, RouteCounts, UnitCounts


class Firsts:
    """Which units have been counted already: by a request, by a failure, by a slow request.

    Args:
        num_units: Units are numbered from 0.
        per_key: False counts every request as a unit of its own, as if routing were not sticky.
    """

    def __init__(self, num_units: int, *, per_key: bool = True) -> None:
        self._known = np.zeros((3, num_units), dtype=bool)
        self._per_key = per_key
        self._num_units = num_units
        self._slices: dict[int, Firsts] = {}

    def of_slice(self, number: int) -> "Firsts":
        """What has been counted in one slice: a unit is one in each slice that it comes to."""
        return self._slices.setdefault(number, Firsts(self._num_units, per_key=self._per_key))

    def mask(self, kind: int, unit: npt.NDArray[np.int64], happens: BoolArray) -> BoolArray:
        """Which of the requests [n] are their unit's first at which something happens."""
        if not self._per_key:
            return happens
        first = np.zeros(len(unit), dtype=bool)
        candidates = np.flatnonzero(happens & ~self._known[kind][unit])
        first[candidates[np.unique(unit[candidates], return_index=True)[1]]] = True
        return first

    def remember(self, kind: int, unit: npt.NDArray[np.int64]) -> None:
        """Note that these units have been counted."""
        self._known[kind][unit] = True


class Segment:
    """Requests from one on, all under one weight; arrays are [n].

    Args:
        traffic: All requests of the rollout.
        start: The first request.
        weight: The candidate's share.
        firsts: What was counted before.
    """

    def __init__(self, traffic: Traffic, start: int, weight: float, firsts: Firsts) -> None:
        self.weight = weight
        self.unit = traffic.unit[start:]
        self.on_candidate: BoolArray = traffic.position[start:] < weight
        on = self.on_candidate
        self.fails = np.where(on, traffic.fails_on_candidate[start:], traffic.fails_on_champion[start:])
        self.slow = np.where(on, traffic.slow_on_candidate[start:], traffic.slow_on_champion[start:])
        self._firsts = firsts
        self.first = firsts.mask(0, self.unit, np.ones(len(self.unit), dtype=bool))
        self.first_failure = firsts.mask(1, self.unit, self.fails)
        self.first_slow = firsts.mask(2, self.unit, self.slow)
        numbers = np.unique(traffic.slices).tolist()
        self.slices = {number: SliceOfSegment(self, traffic.slices[:, start:], number, firsts) for number in numbers}

    def __len__(self) -> int:
        return len(self.unit)

    def counts(self, route_version: int, num_requests: int) -> RouteCounts:
        """Totals of its first requests."""
        arms = [self._arm(arm, num_requests) for arm in (self.on_candidate, ~self.on_candidate)]
        (candidate, on_candidate), (champion, on_champion) = arms
        return RouteCounts(route_version, self.weight, candidate, champion, (on_candidate, on_champion))

    def close(self, num_requests: int) -> None:
        """Count its first requests for good."""
        for kind, first in enumerate((self.first, self.first_failure, self.first_slow)):
            self._firsts.remember(kind, self.unit[:num_requests][first[:num_requests]])
        for part in self.slices.values():
            part.close(num_requests)

    def _arm(self, is_here: BoolArray, num_requests: int) -> tuple[ArmCounts, UnitCounts]:
        mine = is_here[:num_requests]

        def count(*masks: BoolArray) -> int:
            return int(np.logical_and.reduce([mine, *(mask[:num_requests] for mask in masks)]).sum())

        requests = ArmCounts(int(mine.sum()), count(self.fails), count(self.slow))
        units = UnitCounts(
            units=count(self.first),
            first_errors=count(self.first, self.fails),
            errors=count(self.first_failure),
            slow=count(self.first_slow),
        )
        return requests, units


class SliceOfSegment:
    """The requests of a segment that lie in one slice; arrays are [n], over the segment's requests.

    Args:
        segment: The segment.
        slices: Slices of its requests [c, n].
        number: The slice.
        firsts: What was counted before.
    """

    def __init__(self, segment: Segment, slices: npt.NDArray[np.int64], number: int, firsts: Firsts) -> None:
        self._segment, self._firsts = segment, firsts.of_slice(number)
        is_inside: BoolArray = (slices == number).any(axis=0)
        self.first = self._firsts.mask(0, segment.unit, is_inside)
        self.first_failure = self._firsts.mask(1, segment.unit, is_inside & segment.fails)
        self.first_slow = self._firsts.mask(2, segment.unit, is_inside & segment.slow)

    def counts(self, route_version: int, num_requests: int) -> RouteCounts:
        """Totals of its units among the segment's first requests."""
        on = self._segment.on_candidate
        return RouteCounts(
            route_version,
            self._segment.weight,
            units=(self._units(on, num_requests), self._units(~on, num_requests)),
        )

    def close(self, num_requests: int) -> None:
        """Count its part of the segment's first requests for good."""
        for kind, first in enumerate((self.first, self.first_failure, self.first_slow)):
            self._firsts.remember(kind, self._segment.unit[:num_requests][first[:num_requests]])

    def _units(self, is_here: BoolArray, num_requests: int) -> UnitCounts:
        masks = (self.first, self.first_failure, self.first_slow)
        units, errors, slow = (int((is_here & mask)[:num_requests].sum()) for mask in masks)
        return UnitCounts(units=units, errors=errors, slow=slow)
