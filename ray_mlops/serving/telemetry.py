"""What one replica counts: tallies for the rollout's tests, and totals and histograms for Prometheus.

On the request path this is a handful of increments on plain lists; nothing is locked, because all of it
happens on one event loop.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ray_mlops.serving.protocol import ArmName, ModelRoutes, Outcome, Tally

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histograms' buckets, seconds."""
KEPT_EPOCHS = 3600
"""Epochs of a model's tallies that a replica can still send again."""
TallyKey = tuple[str, int, int, ArmName]
Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Served:
    """How one request went."""

    routes: ModelRoutes
    arm: ArmName
    """The arm it was assigned to, whichever answered in the end."""
    version: str
    outcome: Outcome
    epoch: int
    model_s: float
    """Time in the assigned arm's model, seconds; 0 where it did not answer."""
    latency_s: float
    slo_s: float
    is_counted: bool = True
    """False for traffic that was not assigned at random: pinned, or sent while an arm was still loading."""


class Histogram:
    """Counts in fixed buckets, and their sum."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.total_s = 0.0

    def observe(self, value_s: float) -> None:
        """Count one value, seconds."""
        self.counts[bisect_left(BUCKETS_S, value_s)] += 1
        self.total_s += value_s

    def cumulative(self) -> list[tuple[str, int]]:
        """Upper bound and number of values up to it, for each bucket."""
        pairs, running = [], 0
        for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), self.counts, strict=True):
            running += count
            pairs.append((bound, running))
        return pairs


class Telemetry:
    """Counts of one replica since it started.

    Args:
        replica: Name of this incarnation of the replica.
        clock: Unix seconds.
    """

    def __init__(self, replica: str, clock: Callable[[], float] = time.time) -> None:
        self.replica = replica
        self.requests: dict[Labels, int] = {}
        """By model, assigned arm, its version, outcome."""
        self.latency: dict[Labels, Histogram] = {}
        """End to end, by model and assigned arm."""
        self.model_time: dict[Labels, Histogram] = {}
        self.refused: dict[Labels, int] = {}
        """Requests that were answered with an error, by model and HTTP status."""
        self.labels: dict[Labels, int] = {}
        """By model and what became of them."""
        self._clock = clock
        self._in_flight: dict[int, float] = {}
        self._last_token = 0
        self._latest_s = 0.0
        self._tallies: dict[str, dict[TallyKey, list[float]]] = {}
        self._sent: dict[TallyKey, list[float]] = {}

    def arrive(self) -> tuple[int, float]:
        """Note an arrival; returns a token for ``leave`` and the time, unix seconds, which never runs back."""
        self._latest_s = now = max(self._clock(), self._latest_s)
        self._last_token = token = self._last_token + 1
        self._in_flight[token] = now
        return token, now

    def leave(self, token: int) -> None:
        """Note that a request is resolved: booked, or none of the rollout's business."""
        self._in_flight.pop(token, None)

    @property
    def num_in_flight(self) -> int:
        """Requests that have arrived and are not resolved."""
        return len(self._in_flight)

    def book(self, served: Served) -> None:
        """Count a request that was assigned to an arm."""
        model = served.routes.model
        labels = (model, served.arm, served.version, served.outcome)
        self.requests[labels] = self.requests.get(labels, 0) + 1
        pair = (model, served.arm)
        if (histogram := self.latency.get(pair)) is None:
            histogram = self.latency[pair] = Histogram()
            self.model_time[pair] = Histogram()
        histogram.observe(served.latency_s)
        if served.outcome == "ok":
            self.model_time[pair].observe(served.model_s)
        if served.is_counted:
            self._tally(served)

    def book_refusal(self, model: str, status: int) -> None:
        """Count an answer that is an error."""
        labels = (model, str(status))
        self.refused[labels] = self.refused.get(labels, 0) + 1

    def book_labels(self, model: str, counts: Mapping[str, int]) -> None:
        """Count labels by what became of them."""
        for state, count in counts.items():
            self.labels[model, state] = self.labels.get((model, state), 0) + count

    def watermark_s(self) -> float:
        """Return the time before which every request that arrived is resolved, unix seconds."""
        self._latest_s = max(self._clock(), self._latest_s)
        return next(iter(self._in_flight.values()), self._latest_s)

    def changed(self) -> list[Tally]:
        """Return the totals that differ from what was last delivered."""
        return [
            _as_tally(key, counts)
            for tallies in self._tallies.values()
            for key, counts in tallies.items()
            if self._sent.get(key) != counts
        ]

    def delivered(self, tallies: Iterable[Tally]) -> None:
        """Note totals that the reconciler has received."""
        for tally in tallies:
            key = tally.key()
            self._sent[key] = [  # type: ignore[index]
                tally.weight, tally.requests, tally.errors, tally.slow, tally.slo_violations
            ]  # fmt: skip

    def forget_delivery(self) -> None:
        """Deliver every total that is still kept once more: the reconciler has lost some."""
        self._sent.clear()

    def _tally(self, served: Served) -> None:
        routes = served.routes
        tallies = self._tallies.setdefault(routes.model, {})
        key: TallyKey = (routes.model, routes.version, served.epoch, served.arm)
        counts = tallies.get(key)
        if counts is None:
            weight = routes.candidate.weight if routes.candidate else 0.0
            counts = tallies[key] = [weight, 0, 0, 0, 0]
            if len(tallies) > 2 * KEPT_EPOCHS:
                oldest = next(iter(tallies))
                del tallies[oldest]
                self._sent.pop(oldest, None)
        counts[1] += 1
        counts[2] += served.outcome != "ok"
        counts[3] += routes.slow_ms is not None and served.model_s * 1000.0 > routes.slow_ms
        counts[4] += served.latency_s > served.slo_s


def _as_tally(key: TallyKey, counts: list[float]) -> Tally:
    weight, *whole = counts
    return Tally(*key, weight, *(int(count) for count in whole))
