"""A monitor over a copy of the stream: the model's own channels, and which of them speak at a window."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ray_mlops.config import MonitoringConfig, ProjectConfig
from ray_mlops.data.reference import ReferenceProfile
from ray_mlops.monitoring.channels import ColumnEvidence
from ray_mlops.monitoring.drill.observing import Observed
from ray_mlops.monitoring.epoch import build_channels, declared_null_limits
from ray_mlops.monitoring.handover import LATENCY
from ray_mlops.monitoring.latency import LatencyWatch
from ray_mlops.monitoring.policy import NoRetrain, RetrainHistory, Signals, decide_retrain
from ray_mlops.statistics.accumulate import combine

MonitorName = Literal["any", "contract", "location", "shape", "range", "rows", "joint", "score", "loss", "latency"]
MONITORS: tuple[MonitorName, ...] = (
    "any",
    "contract",
    "location",
    "shape",
    "range",
    "rows",
    "joint",
    "score",
    "loss",
    "latency",
)
"""``any`` is what people hear of: a breach, an action-level alarm, or the notice on latency. The others are one kind
of channel each, over all columns and at the same level as if it were alone; ``rows`` is the fallback of a column
whose reference is too short."""
_CHANNELS: tuple[MonitorName, ...] = ("location", "shape", "range", "rows")


@dataclass(frozen=True, slots=True)
class Spoken:
    """What is up at the close of one window."""

    named: Mapping[MonitorName, tuple[str, ...]]
    """The monitors that speak, and the columns that each names, the foremost first; a projection as ``a~b``."""
    alarms: tuple[Mapping[str, Any], ...] = ()
    """What would be recorded: the payload of each alarm and breach, and so what a person would be sent."""
    policy: Mapping[str, Any] = field(default_factory=dict)
    """What the policy would record at the same moment, had it never retrained: `kind` and `payload`; empty without
    an alarm."""


class DrillWatch:
    """The channels of a model over one such stream; labels come as late as they do in reality.

    Args:
        profile: What is watched, and how important it is.
        reference: The windows of the reference, by place.
        config: Levels, tolerances, label delay, declared contract.
    """

    def __init__(self, profile: ReferenceProfile, reference: Mapping[int, Observed], config: ProjectConfig) -> None:
        self._monitoring, self._retraining, self._model = config.monitoring, config.retraining, config.name
        self._window_us = profile.window_us
        counts = {place: dict(seen.counts) for place, seen in reference.items()}
        scores = {place: seen.score for place, seen in reference.items() if seen.score is not None}
        losses = {place: seen.loss for place, seen in reference.items() if seen.loss is not None}
        own = profile.from_counts(counts, scores or None, losses, num_windows=len(reference))
        ratio = config.data.contract.max_quarantine_ratio
        limits = declared_null_limits(config)
        self._dataset = build_channels(own, counts, limits, self._monitoring, max_violation_ratio=ratio)
        self._latency = LatencyWatch(self._monitoring)
        for place, seen in reference.items():
            self._latency.update(place, seen.latency)
        self._waiting: list[tuple[int, Observed]] = []
        self._labelled = {place: loss.n for place, loss in losses.items()}

    @property
    def is_warming_up(self) -> bool:
        """Whether a column has too few reference windows for the window-level channels."""
        return any("rows" in found.channels for found in self._dataset.evidence().values())

    def update(self, place: int, seen: Observed) -> Spoken:
        """Close one window."""
        self._dataset.update(place, seen.counts, seen.score, violations=seen.violations)
        self._latency.update(place, seen.latency)
        self._waiting.append((place, seen))
        while len(self._waiting) > label_lag(self._monitoring):
            matured, labelled = self._waiting.pop(0)
            if labelled.loss is not None:
                self._labelled[matured] = labelled.loss.n
                self._dataset.update_loss(matured, (labelled.loss.n, labelled.loss.total, labelled.loss.total_squares))
        return self._spoken(place)

    def state(self) -> dict[str, Any]:
        """All that it has seen; see ``restore``."""
        return {
            "dataset": self._dataset.to_json(),
            "latency": self._latency.to_json(),
            "waiting": tuple(self._waiting),
            "labelled": dict(self._labelled),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state of its own."""
        self._dataset.restore(state["dataset"])
        self._latency.restore(state["latency"])
        self._waiting = list(state["waiting"])
        self._labelled = dict(state["labelled"])

    def _spoken(self, place: int) -> Spoken:
        dataset, named = self._dataset, dict[MonitorName, tuple[str, ...]]()
        breaches, alarms = dataset.breaches(), dataset.alarms()
        broken = tuple(dict.fromkeys(breach.rpartition(":")[0] for breach in breaches))
        is_slow = bool(self._latency.notices())
        if breaches or alarms or is_slow:
            guilty = dataset.guilty()
            named["any"] = (*broken, *guilty, *([LATENCY] if is_slow and not broken and not guilty else []))
        if breaches:
            named["contract"] = broken
        named |= channels_that_speak(dataset.evidence(), dataset.limit)
        if dataset.loss_log_e >= dataset.limit:
            named["loss"] = ()
        if is_slow:
            named["latency"] = ()
        raised = [("drift", name) for name in alarms] + [("contract", name) for name in breaches]
        payloads = tuple(self._payload(place, level, name) for level, name in raised)
        return Spoken(named, payloads, self._policy(place) if raised else {})

    def _policy(self, place: int) -> Mapping[str, Any]:
        """What the policy makes of it."""
        change = self._dataset.change_point()
        signals = Signals(
            model=self._model,
            champion="drill",
            config_hash="",
            watermark_us=(place + 1) * self._window_us,
            window_us=self._window_us,
            alarms=self._dataset.alarms(),
            breaches=self._dataset.breaches(),
            change_point_us=None if change is None else change * self._window_us,
            labelled_rows=self._labelled,
        )
        outcome = decide_retrain(signals, RetrainHistory(), self._monitoring, self._retraining)
        if isinstance(outcome, NoRetrain):
            return {"kind": "retrain.withheld", "payload": {"reason": outcome.reason, "blocked": outcome.blocked}}
        return {"kind": "retrain.decided", "payload": outcome.to_json()}

    def _payload(self, place: int, level: str, name: str) -> Mapping[str, Any]:
        payload = {"alarm": f"{level}:{name}", "level": level, "name": name, "window": place}
        return {**payload, "window_us": self._window_us, **self._dataset.describe(name)}


def channels_that_speak(columns: Mapping[str, ColumnEvidence], limit: float) -> dict[MonitorName, tuple[str, ...]]:
    """Return the kinds of channels whose own evidence, over all columns, reaches the limit, and whom they name."""
    inputs = {n: c for n, c in columns.items() if (not c.derived_from or c.part_of) and not c.is_score}
    found: dict[MonitorName, tuple[str, ...]] = {}
    groups: dict[MonitorName, dict[str, tuple[float, float]]] = {
        kind: {n: (c.weight, c.channels[kind]) for n, c in inputs.items() if kind in c.channels} for kind in _CHANNELS
    }
    groups["joint"] = {n: (c.weight, c.log_e) for n, c in columns.items() if c.derived_from and not c.part_of}
    groups["score"] = {n: (c.weight, c.log_e) for n, c in columns.items() if c.is_score}
    for kind, members in groups.items():
        if members and combine(*zip(*members.values(), strict=True)) >= limit:
            most = sorted(members, key=lambda name: -members[name][1])
            found[kind] = () if kind == "score" else tuple(columns[name].part_of or name for name in most[:1])
    return found


def label_lag(config: MonitoringConfig) -> int:
    """Windows by which labels are judged later than their rows.

    Example:
        >>> label_lag(MonitoringConfig.model_validate({"window": "1d", "labels": {"delay": "36h"}}))
        2
    """
    return -(-config.labels.delay // config.window)


def is_named(column: str, named: Sequence[str]) -> bool:
    """Whether a column, or a projection of it, is what is named first."""
    return bool(named) and column in named[0].split("~")
