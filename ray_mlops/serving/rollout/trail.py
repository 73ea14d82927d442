"""The evidence of a rollout over time, thinned so that its size is bounded however long the rollout lasts.

Every look at the evidence adds a point. When there are too many, every second one goes, and from then on only every
second look is kept, and so on; points at which the state changed stay longest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ray_mlops.config import GuardsConfig
from ray_mlops.errors import StoreError
from ray_mlops.serving.rollout.evidence import Observation, UnitCounts
from ray_mlops.serving.rollout.guards import GuardVerdict, slo_bound
from ray_mlops.serving.rollout.transition import RolloutDecision

SCHEMA_VERSION = 1
MAX_POINTS = 300
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class TrailPoint:
    """What was known at one look."""

    time: float
    """Unix seconds."""
    event_us: int | None
    """The model's event time, microseconds since 1970 UTC."""
    state: str
    """Name of the state in which it was looked at."""
    weight: float
    """The candidate's share of traffic in that state."""
    candidate: int
    """Requests of the candidate under a split of traffic."""
    champion: int
    pairs: int
    """Labelled pairs of the shadow."""
    labels: int
    """Labelled requests of the split."""
    guards: Mapping[str, tuple[str, float | None]]
    """Verdict, and the evidence (or what is compared with a limit), by ``{question}:{name}``."""


def make_point(
    decision: RolloutDecision,
    observation: Observation,
    guards: GuardsConfig,
    weight: float,
    now: float,
) -> TrailPoint:
    """Take down a decision with its evidence; while a new champion bakes, the comparison is over, but not the limit."""
    counts, evidence = ("candidate", "champion"), decision.evidence
    is_over = decision.state == "baking"
    verdicts = [v for v in decision.verdicts if v.question == "limit" or not is_over]
    return TrailPoint(
        time=now,
        event_us=observation.event_now_us,
        state=decision.state,
        weight=weight,
        **{name: int(evidence.get(name, {}).get("requests", 0)) for name in counts},
        pairs=0 if is_over else int(evidence.get("pairs", 0)),
        labels=0 if is_over else int(evidence.get("split_labels", 0)),
        guards={guard_key(v): (v.verdict, _measured(v, observation, guards)) for v in verdicts},
    )


def guard_key(verdict: GuardVerdict) -> str:
    """Name a guard's question."""
    return f"{verdict.question}:{verdict.name}"


def _is_share(verdict: GuardVerdict) -> bool:
    """Whether a guard compares a share with a limit, and no evidence with a threshold."""
    return verdict.question == "limit" or verdict.name == "latency_slo"


def _measured(verdict: GuardVerdict, observation: Observation, guards: GuardsConfig) -> float | None:
    """What a guard compares with its threshold: the log evidence, or for a limit the share that it limits."""
    if verdict.log_e is not None:
        return verdict.log_e
    if verdict.question == "limit":
        recent = observation.recent
        return recent.errors / recent.requests if recent.requests else None
    if verdict.name == "latency_slo":
        units = (counts.candidate_units for counts in observation.counts if 0.0 < counts.weight < 1.0)
        total = sum(units, UnitCounts())
        return slo_bound(total, guards) if total.units else None
    return None


@dataclass(slots=True)
class _Kept:
    number: int
    """Which look it was, from 0."""
    is_pinned: bool
    point: TrailPoint


@dataclass(slots=True)
class Trail:
    """Points of one rollout, oldest first.

    Args:
        rollout_id: The rollout.
        by_window: Whether looks are windows of event time, so that event time is the axis.
        max_points: Points kept at most.
    """

    rollout_id: str
    by_window: bool = False
    max_points: int = MAX_POINTS
    guards: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name, question, threshold, whether dry and whether it is a limit of a share, by key."""
    _kept: list[_Kept] = field(default_factory=list)
    _stride: int = 1
    _looks: int = 0

    @property
    def points(self) -> list[TrailPoint]:
        return [kept.point for kept in self._kept]

    def add(self, decision: RolloutDecision, point: TrailPoint) -> None:
        """Take up the point of a decision."""
        for verdict in decision.verdicts:
            said = {"name": verdict.name, "question": verdict.question, "threshold": verdict.threshold}
            self.guards[guard_key(verdict)] = {**said, "dry_run": verdict.dry_run, "is_share": _is_share(verdict)}
        last = self._kept[-1] if self._kept else None
        is_new = last is None or last.point.state != point.state
        if last is not None and not (last.is_pinned or self._is_due(last.number)):
            self._kept.pop()  # it was there only as the newest
        self._kept.append(_Kept(self._looks, decision.moves or is_new, point))
        self._looks += 1
        while len(self._kept) > self.max_points:
            self._thin()

    def to_json(self) -> dict[str, Any]:
        """Return what is stored, and drawn."""
        return {
            "schema_version": SCHEMA_VERSION,
            "rollout_id": self.rollout_id,
            "by_window": self.by_window,
            "stride": self._stride,
            "looks": self._looks,
            "guards": self.guards,
            "points": [_to_json(kept) for kept in self._kept],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], max_points: int = MAX_POINTS) -> Self:
        """Rebuild what ``to_json`` wrote.

        Raises:
            StoreError: A newer release wrote it.
        """
        if content["schema_version"] > SCHEMA_VERSION:
            problem = f"schema_version {content['schema_version']}, this release reads up to {SCHEMA_VERSION}"
            raise StoreError(problem, "evidence of a rollout", "run the release that wrote it, or a newer one")
        trail = cls(content["rollout_id"], content["by_window"], max_points, dict(content["guards"]))
        trail._stride, trail._looks = content["stride"], content["looks"]
        trail._kept = [_from_json(entry) for entry in content["points"]]
        return trail

    def _is_due(self, number: int) -> bool:
        return number % self._stride == 0

    def _thin(self) -> None:
        """Keep every second of the looks that are kept now; where states change all the time, of those as well."""
        self._stride *= 2
        newest = self._kept[-1]
        self._kept = [kept for kept in self._kept if kept.is_pinned or self._is_due(kept.number) or kept is newest]
        if sum(kept.is_pinned for kept in self._kept) > self.max_points // 2:
            for kept in self._kept[: -self.max_points // 4]:
                kept.is_pinned = False


def _to_json(kept: _Kept) -> dict[str, Any]:
    point = kept.point
    return {
        "number": kept.number,
        "pinned": kept.is_pinned,
        "time": round(point.time, 3),
        "event_us": point.event_us,
        "state": point.state,
        "weight": point.weight,
        "counts": [point.candidate, point.champion, point.pairs, point.labels],
        "guards": {key: [verdict, _rounded(value)] for key, (verdict, value) in point.guards.items()},
    }


def _from_json(entry: Mapping[str, Any]) -> _Kept:
    candidate, champion, pairs, labels = entry["counts"]
    guards = {key: (verdict, value) for key, (verdict, value) in entry["guards"].items()}
    place = (entry["time"], entry["event_us"], entry["state"], entry["weight"])
    return _Kept(entry["number"], entry["pinned"], TrailPoint(*place, candidate, champion, pairs, labels, guards))


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")


def trail_path(model: str, rollout_id: str) -> str:
    """Where the evidence of a rollout is kept in the store."""
    return f"rollouts/{model}/{rollout_id}.json"
