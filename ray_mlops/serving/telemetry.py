"""What one replica counts: tallies for the rollout's tests, and totals and histograms for Prometheus.

On the request path this is a handful of increments on plain lists; nothing is locked, because all of it
happens on one event loop.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ray_mlops.serving.protocol import ArmName, ModelRoutes, Outcome, Tally
from ray_mlops.serving.rollout.units import KeyNews, KnownKeys
from ray_mlops.serving.slice_counter import SliceCounter, SliceTotals

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histograms' buckets, seconds."""
WAITING_VALUES = 512
"""Values of a histogram that wait to be sorted into buckets together."""
KEPT_EPOCHS = 3600
"""Epochs of a model's tallies that a replica can still send again."""
TallyKey = tuple[str, int, int, ArmName]
Labels = tuple[str, ...]


@dataclass(slots=True)
class Served:
    """How one request went. (Not frozen: freezing alone would take a microsecond of each request.)"""

    routes: ModelRoutes
    arm: ArmName
    """The arm it was assigned to, whichever answered in the end."""
    version: str
    outcome: Outcome
    epoch: int
    model_s: float
    """Time in the assigned arm's model, seconds; 0 where it did not answer (or the client did not wait for it)."""
    latency_s: float
    slo_s: float
    is_counted: bool = True
    """False for traffic that was not assigned at random: pinned, or sent while an arm was still loading."""
    key_hash: int | None = None
    """Of the routing key that decided; None: the request did."""
    rows: Sequence[Mapping[str, Any]] = ()
    """Raw inputs, for slices."""


class Histogram:
    """Counts in fixed buckets, and their sum.

    Values are sorted into their buckets a few hundred at a time, which costs a tenth of doing it one by one.
    """

    __slots__ = ("_counts", "_total_s", "_waiting")

    def __init__(self) -> None:
        self._counts = np.zeros(len(BUCKETS_S) + 1, np.int64)
        self._total_s = 0.0
        self._waiting: list[float] = []

    def observe(self, value_s: float) -> None:
        """Count one value, seconds."""
        self._waiting.append(value_s)
        if len(self._waiting) >= WAITING_VALUES:
            self._sort()

    @property
    def total_s(self) -> float:
        """Sum of the values, seconds."""
        self._sort()
        return self._total_s

    def cumulative(self) -> list[tuple[str, int]]:
        """Upper bound and number of values up to it, for each bucket."""
        self._sort()
        running = np.cumsum(self._counts).tolist()
        return list(zip((*map(str, BUCKETS_S), "+Inf"), running, strict=True))

    def _sort(self) -> None:
        values = np.array(self._waiting)
        self._waiting.clear()
        self._counts += np.bincount(np.searchsorted(BUCKETS_S, values), minlength=len(self._counts))
        self._total_s += float(values.sum())


class Telemetry:
    """Counts of one replica since it started.

    Args:
        replica: Name of this incarnation of the replica.
        clock: Unix seconds.
    """

    def __init__(self, replica: str, clock: Callable[[], float] = time.time) -> None:
        self.replica = replica
        self.latency: dict[Labels, Histogram] = {}
        """End to end, by model and assigned arm."""
        self.model_time: dict[Labels, Histogram] = {}
        self._series: dict[Labels, _Series] = {}
        """By model, assigned arm, its version, outcome."""
        self.refused: dict[Labels, int] = {}
        """Requests that were answered with an error, by model and HTTP status."""
        self.labels: dict[Labels, int] = {}
        """By model and what became of them."""
        self._clock = clock
        self._in_flight: dict[int, float] = {}
        self._last_token = 0
        self._latest_s = 0.0
        self._tallies: dict[str, dict[TallyKey, _Counts]] = {}
        self._newest: dict[ArmName, _Counts] = {}
        """Where the last request of each arm was counted."""
        self._changed: list[_Counts] = []
        """What differs from what was last delivered."""
        self._keys: dict[str, tuple[str, KnownKeys]] = {}
        """By model, for one rollout."""
        self._slices = SliceCounter()

    def arrive(self) -> tuple[int, float]:
        """Note an arrival; returns a token for ``leave`` and the time, unix seconds, which never runs back."""
        now = self._clock()
        if now < self._latest_s:
            now = self._latest_s
        self._latest_s = now
        self._last_token = token = self._last_token + 1
        self._in_flight[token] = now
        return token, now

    def leave(self, token: int) -> None:
        """Note that a request is resolved: booked, or none of the rollout's business."""
        self._in_flight.pop(token, None)

    @property
    def requests(self) -> dict[Labels, int]:
        """Requests by model, assigned arm, its version, outcome."""
        return {labels: series.requests for labels, series in self._series.items()}

    @property
    def num_in_flight(self) -> int:
        """Requests that have arrived and are not resolved."""
        return len(self._in_flight)

    def book(self, served: Served) -> None:
        """Count a request that was assigned to an arm."""
        labels = (served.routes.model, served.arm, served.version, served.outcome)
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = self._open_series(labels)
        series.requests += 1
        series.latency.observe(served.latency_s)
        if served.model_s > 0.0:
            series.model_time.observe(served.model_s)
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
        self._slices.count()
        return [counts.tally() for counts in self._changed if counts.is_changed]

    def delivered(self, tallies: Iterable[Tally]) -> None:
        """Note totals that the reconciler has received; what has been counted since is still to be delivered."""
        for tally in tallies:
            key: TallyKey = (tally.model, tally.route_version, tally.epoch, tally.arm)
            counts = self._tallies.get(tally.model, {}).get(key)
            if counts is not None and counts.requests == tally.requests:
                counts.is_changed = False
        self._changed = [counts for counts in self._changed if counts.is_changed]

    def forget_delivery(self) -> None:
        """Deliver every total that is still kept once more: the reconciler has lost some."""
        self._changed = [counts for tallies in self._tallies.values() for counts in tallies.values()]
        for counts in self._changed:
            counts.is_changed = True

    def _open_series(self, labels: Labels) -> "_Series":
        pair = labels[:2]
        latency, model_time = (times.setdefault(pair, Histogram()) for times in (self.latency, self.model_time))
        return _Series(latency, model_time)

    def _tally(self, served: Served) -> None:
        routes = served.routes
        counts = self._newest.get(served.arm)
        if (
            counts is None or counts.routes is not routes or counts.epoch != served.epoch
        ):  # most requests have the epoch of the one before
            counts = self._newest[served.arm] = self._counts(served)
        if not counts.is_changed:
            counts.is_changed = True
            self._changed.append(counts)
        failed = served.outcome != "ok"
        slow = routes.slow_ms is not None and served.model_s * 1000.0 > routes.slow_ms
        over_slo = served.latency_s > served.slo_s
        counts.requests += 1
        if failed or slow or over_slo:
            if failed:
                counts.errors += 1
                counts.failures[served.outcome] = counts.failures.get(served.outcome, 0) + 1
            counts.slow += slow
            counts.slo_violations += over_slo
        if served.key_hash is not None and counts.is_split:
            news = self._known_keys(routes).note(served.key_hash, failed, slow, over_slo)
            counts.add_key(served.key_hash, news, failed, slow, over_slo)
        if counts.slices is not None:
            self._slices.add(routes, counts.slices, served.rows, served.key_hash, failed, slow)

    def _counts(self, served: Served) -> "_Counts":
        routes = served.routes
        tallies = self._tallies.setdefault(routes.model, {})
        key: TallyKey = (routes.model, routes.version, served.epoch, served.arm)
        counts = tallies.get(key)
        if counts is None:
            counts = tallies[key] = _Counts(key, routes)
            if len(tallies) > 2 * KEPT_EPOCHS:
                oldest = tallies.pop(next(iter(tallies)))
                oldest.is_changed = False
        counts.routes = routes
        return counts

    def _known_keys(self, routes: ModelRoutes) -> KnownKeys:
        """The keys of the rollout that is under way: the next one deals them to the arms anew."""
        rollout_id, keys = self._keys.get(routes.model, ("", None))
        if keys is None or rollout_id != routes.rollout_id:
            keys = KnownKeys()
            self._keys[routes.model] = (routes.rollout_id, keys)
        return keys


@dataclass(slots=True)
class _Series:
    """What is counted of requests that went alike."""

    latency: Histogram
    model_time: Histogram
    requests: int = 0


class _Counts:
    """What a ``Tally`` is made of, while it still grows."""

    __slots__ = (
        *("key", "routes", "epoch", "weight", "is_split", "is_changed"),
        *("requests", "errors", "slow", "slo_violations", "keyed", "keys", "slices", "failures"),
    )

    def __init__(self, key: TallyKey, routes: ModelRoutes) -> None:
        self.key, self.routes, self.epoch = key, routes, key[2]
        self.weight = routes.candidate.weight if routes.candidate else 0.0
        self.is_split = 0.0 < self.weight < 1.0
        self.is_changed = False
        self.requests = self.errors = self.slow = self.slo_violations = 0
        self.keyed = [0, 0, 0, 0]
        self.keys: list[KeyNews] = []
        self.slices = SliceTotals() if self.is_split and routes.slices else None
        self.failures: dict[Outcome, int] = {}

    def add_key(self, key_hash: int, news: int, failed: bool, slow: bool, over_slo: bool) -> None:
        """Count a request that has a routing key."""
        keyed = self.keyed
        keyed[0] += 1
        if failed or slow or over_slo:
            keyed[1] += failed
            keyed[2] += slow
            keyed[3] += over_slo
        if news:
            self.keys.append((key_hash, news))

    def tally(self) -> Tally:
        """The counts of this moment."""
        counted = (self.requests, self.errors, self.slow, self.slo_violations)
        a, b, c, d = self.keyed
        failures = tuple(self.failures.items())
        tally = Tally(*self.key, self.weight, *counted, keyed=(a, b, c, d), keys=tuple(self.keys), failures=failures)
        if self.slices is None:
            return tally
        return replace(tally, slices=self.slices.counts(), slice_keys=tuple(self.slices.keys))
