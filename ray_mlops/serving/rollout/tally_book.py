"""Merges what replicas have counted, and knows how far they have counted.

Replicas report cumulative totals, so that a lost, repeated or reordered report changes nothing. An epoch
enters a decision only when every live replica has answered all that arrived in it: errors that surface
later on one arm than on the other would otherwise pass for evidence.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from math import inf
from typing import Any

import numpy as np

from ray_mlops.errors import StoreError
from ray_mlops.serving.protocol import ArmName, Outcome, Tally
from ray_mlops.serving.rollout.evidence import ArmCounts, RouteCounts, UnitCounts
from ray_mlops.serving.rollout.units import (
    FAILED,
    FIRST,
    FIRST_FAILED,
    FIRST_OVER_SLO,
    MAX_SLICE_KEYS,
    SLOW,
    KnownKeys,
)

SCHEMA_VERSION = 3
"""Of a checkpoint; version 1 had no units, version 2 no slices."""
_Total = tuple[int, float, ArmName]
"""Route version, the candidate's weight under it, arm."""


class TallyBook:
    """Merges replicas' cumulative tallies of one rollout.

    Args:
        first_route_version: Tallies of earlier route versions belong to an earlier rollout.
        keep_requests: How many of each arm's newest requests ``recent`` can tell apart from the rest.
    """

    def __init__(self, first_route_version: int = 0, keep_requests: int = 100) -> None:
        self.first_route_version = first_route_version
        self.closed_through: int | None = None
        self._keep_requests = keep_requests
        self._open: dict[tuple[str, int, int, ArmName], Tally] = {}
        self._closed: dict[_Total, ArmCounts] = {}
        self._units: dict[_Total, UnitCounts] = {}
        self._keys = KnownKeys()
        self._slices: dict[tuple[_Total, int], UnitCounts] = {}
        """By slice as well."""
        self._slice_keys = KnownKeys(MAX_SLICE_KEYS)
        self._failures: dict[tuple[int, ArmName, Outcome], int] = {}
        self._newest: dict[ArmName, list[tuple[int, int, ArmCounts]]] = {"champion": [], "candidate": []}

    def add(self, replica: str, tallies: Iterable[Tally]) -> None:
        """Take a replica's totals; of two reports about the same epoch and arm the larger counts stand.

        Totals of an epoch that is closed already come too late, and are left out.
        """
        for tally in tallies:
            if tally.route_version < self.first_route_version or self._is_closed(tally.epoch):
                continue
            key = (replica, tally.route_version, tally.epoch, tally.arm)
            known = self._open.get(key)
            if known is None or _size(tally) >= _size(known):
                self._open[key] = tally

    def close(self, epoch: int) -> None:
        """Fold every epoch up to this one into the totals by route version.

        Epochs go in one after the other, so that a routing key counts by what it did first, whichever replica
        it came to.
        """
        if self._is_closed(epoch):
            return
        for key in sorted((key for key in self._open if key[2] <= epoch), key=_by_time):
            tally = self._open.pop(key)
            total = (tally.route_version, tally.weight, tally.arm)
            self._closed[total] = self._closed.get(total, ArmCounts()) + _counts(tally)
            self._units[total] = self._units.get(total, UnitCounts()) + self._new_units(tally)
            self._add_slices(total, tally)
            for outcome, count in tally.failures:
                kind = (tally.route_version, tally.arm, outcome)
                self._failures[kind] = self._failures.get(kind, 0) + count
            self._newest[tally.arm].append((tally.epoch, tally.route_version, _counts(tally)))
        self.closed_through = epoch
        for arm, entries in self._newest.items():
            self._newest[arm] = _trimmed(sorted(entries, key=_age), self._keep_requests)

    def open_epochs(self) -> set[int]:
        """Epochs with traffic that are not closed."""
        return {tally.epoch for tally in self._open.values()}

    def counts(self) -> tuple[RouteCounts, ...]:
        """Closed epochs, by rising route version."""
        found: dict[tuple[int, float], dict[ArmName, ArmCounts]] = {}
        for (version, weight, arm), counts in self._closed.items():
            found.setdefault((version, weight), {})[arm] = counts
        return tuple(
            RouteCounts(version, weight, **arms, units=self._units_of(version, weight, arms))
            for (version, weight), arms in sorted(found.items())
        )

    def slice_counts(self) -> dict[int, tuple[RouteCounts, ...]]:
        """Units of closed epochs by the number of their slice, by rising route version; only where there are any."""
        found: dict[int, dict[tuple[int, float], dict[ArmName, UnitCounts]]] = {}
        for ((version, weight, arm), number), counts in sorted(self._slices.items()):
            found.setdefault(number, {}).setdefault((version, weight), {})[arm] = counts
        nothing = UnitCounts()
        return {
            number: tuple(
                RouteCounts(*route, units=(arms.get("candidate", nothing), arms.get("champion", nothing)))
                for route, arms in routes.items()
            )
            for number, routes in found.items()
        }

    def recent(self, arm: ArmName, after_route_version: int = 0) -> ArmCounts:
        """Count the newest ``keep_requests`` requests of an arm, open epochs included.

        Epochs are taken whole, newest first, until there are enough.
        """
        entries = [(t.epoch, t.route_version, _counts(t)) for t in self._open.values() if t.arm == arm]
        entries = [entry for entry in (*self._newest[arm], *entries) if entry[1] > after_route_version]
        counts = [counts for _, _, counts in _trimmed(sorted(entries, key=_age), self._keep_requests)]
        return sum(counts, ArmCounts())

    def failures(self, arm: ArmName, after_route_version: int = 0) -> dict[Outcome, int]:
        """Count an arm's failures by kind, open epochs included, the most frequent first."""
        found: Counter[Outcome] = Counter()
        for (version, name, outcome), count in self._failures.items():
            if name == arm and version > after_route_version:
                found[outcome] += count
        for tally in self._open.values():
            if tally.arm == arm and tally.route_version > after_route_version:
                found.update(dict(tally.failures))
        return dict(found.most_common())

    def to_json(self) -> dict[str, Any]:
        """Closed totals, for a checkpoint; replicas send again what is open."""
        return {
            "schema_version": SCHEMA_VERSION,
            "first_route_version": self.first_route_version,
            "keep_requests": self._keep_requests,
            "closed_through": self.closed_through,
            "closed": [[*key, *astuple(counts)] for key, counts in sorted(self._closed.items())],
            "newest": {arm: [[e, v, *astuple(c)] for e, v, c in entries] for arm, entries in self._newest.items()},
            "units": [[*key, *astuple(counts)] for key, counts in sorted(self._units.items())],
            "known_keys": self._keys.to_json(),
            "slices": [[*total, number, *astuple(counts)] for (total, number), counts in sorted(self._slices.items())],
            "slice_keys": self._slice_keys.to_json(),
            "failures": [[*key, count] for key, count in sorted(self._failures.items())],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "TallyBook":
        """Rebuild what ``to_json`` wrote; what version 1 counted by request stays counted by request.

        Slices of a rollout that an earlier release began are counted from here on.

        Raises:
            StoreError: A newer release wrote it.
        """
        version = content.get("schema_version", 1)
        if version > SCHEMA_VERSION:
            problem = f"schema_version {version}, this release reads up to {SCHEMA_VERSION}"
            raise StoreError(problem, "checkpoint of a rollout", "run the release that wrote it, or a newer one")
        book = cls(content["first_route_version"], content["keep_requests"])
        book.closed_through = content["closed_through"]
        book._closed = {(v, weight, arm): ArmCounts(*counts) for v, weight, arm, *counts in content["closed"]}
        book._newest = {arm: [(e, v, ArmCounts(*c)) for e, v, *c in rows] for arm, rows in content["newest"].items()}
        if version == 1:
            book._units = {total: UnitCounts.of_requests(counts) for total, counts in book._closed.items()}
        else:
            book._units = {(v, weight, arm): UnitCounts(*counts) for v, weight, arm, *counts in content["units"]}
            book._keys = KnownKeys.from_json(content["known_keys"])
        if version >= 3:
            book._slices = {((v, w, arm), number): UnitCounts(*row) for v, w, arm, number, *row in content["slices"]}
            book._slice_keys = KnownKeys.from_json(content["slice_keys"], MAX_SLICE_KEYS)
        book._failures = {(v, arm, kind): count for v, arm, kind, count in content.get("failures", [])}
        return book

    def _is_closed(self, epoch: int) -> bool:
        return self.closed_through is not None and epoch <= self.closed_through

    def _new_units(self, tally: Tally) -> UnitCounts:
        """Units of a tally: its requests without a key, and the keys that no replica had told of before."""
        keyless = (every - keyed for every, keyed in zip(_size(tally), tally.keyed, strict=True))
        news = self._keys.merge(tally.keys)
        return UnitCounts.of_requests(ArmCounts(*keyless)) + UnitCounts(
            *(sum(bool(new & kind) for new in news) for kind in (FIRST, FIRST_FAILED, FIRST_OVER_SLO, FAILED, SLOW))
        )

    def _add_slices(self, total: _Total, tally: Tally) -> None:
        found = {number: np.array(counts) for number, *counts in tally.slices}
        news = self._slice_keys.merge((key, said) for _, key, said in tally.slice_keys)
        for (number, _, _), new in zip(tally.slice_keys, news, strict=True):
            if new:
                counts = found.setdefault(number, np.zeros(3, np.int64))
                counts += [bool(new & kind) for kind in (FIRST, FAILED, SLOW)]
        for number, (units, errors, slow) in ((number, counts.tolist()) for number, counts in found.items()):
            known = self._slices.get((total, number), UnitCounts())
            self._slices[total, number] = known + UnitCounts(units=units, errors=errors, slow=slow)

    def _units_of(
        self, version: int, weight: float, arms: Mapping[ArmName, ArmCounts]
    ) -> tuple[UnitCounts, UnitCounts] | None:
        """Units of candidate and champion; None where each request is one."""
        names: tuple[ArmName, ArmName] = ("candidate", "champion")
        candidate, champion = (self._units.get((version, weight, arm), UnitCounts()) for arm in names)
        plain = tuple(UnitCounts.of_requests(arms.get(arm, ArmCounts())) for arm in names)
        return None if (candidate, champion) == plain else (candidate, champion)


@dataclass(slots=True)
class _Replica:
    sequence: int
    watermark_s: float
    heard_s: float
    route_version: int | None


class Watermarks:
    """How far each replica has answered what it was asked.

    Args:
        deadline_s: A replica that is silent for longer counts as dead, and is waited for no more.
    """

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self._replicas: dict[str, _Replica] = {}

    def report(
        self, replica: str, sequence: int, watermark_s: float, now: float, route_version: int | None = None
    ) -> bool:
        """Note a report; returns whether the replica's reports so far have all been heard.

        After a gap the watermark does not rise: the replica must first send its totals again.

        Args:
            replica: Name of the replica's incarnation.
            sequence: Rises by 1 from report to report, from 1.
            watermark_s: Every request that arrived before this is answered and in the totals; unix seconds.
            now: Unix seconds.
            route_version: The route version that it applies; None when it does not say.
        """
        known = self._replicas.get(replica) or _Replica(0, -inf, now, None)
        is_next = sequence <= known.sequence + 1
        reached = max(watermark_s, known.watermark_s) if is_next else known.watermark_s
        self._replicas[replica] = _Replica(max(sequence, known.sequence), reached, now, route_version)
        return is_next

    def closed_through(self, now: float) -> float | None:
        """Return the time before which all live replicas have answered everything; None without replicas."""
        alive = [r.watermark_s for r in self._replicas.values() if now - r.heard_s <= self.deadline_s]
        return min(alive, default=None)

    def has_applied(self, route_version: int, now: float) -> bool:
        """Whether every live replica that tells what it applies has this route version."""
        alive = [r.route_version for r in self._replicas.values() if now - r.heard_s <= self.deadline_s]
        return all(applied is None or applied >= route_version for applied in alive)

    def remove_silent(self, now: float) -> list[str]:
        """Forget replicas that are past the deadline, and name them.

        What they had answered stays counted; what was in flight in them is for the caller to book.
        """
        silent = [name for name, r in self._replicas.items() if now - r.heard_s > self.deadline_s]
        for name in silent:
            del self._replicas[name]
        return silent


def _counts(tally: Tally) -> ArmCounts:
    return ArmCounts(tally.requests, tally.errors, tally.slow, tally.slo_violations)


def _size(tally: Tally) -> tuple[int, int, int, int]:
    return tally.requests, tally.errors, tally.slow, tally.slo_violations


def _by_time(key: tuple[str, int, int, ArmName]) -> tuple[int, int, str, ArmName]:
    replica, route_version, epoch, arm = key
    return epoch, route_version, replica, arm


def _age(entry: tuple[int, int, ArmCounts]) -> tuple[int, int]:
    return entry[0], entry[1]


def _trimmed(entries: list[tuple[int, int, ArmCounts]], requests: int) -> list[tuple[int, int, ArmCounts]]:
    """Keep the newest entries that together hold enough requests; entries are ordered by age."""
    total = 0
    for index in range(len(entries) - 1, -1, -1):
        total += entries[index][2].requests
        if total >= requests:
            return entries[index:]
    return entries
