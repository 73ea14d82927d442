"""When to retrain, on what, and why not: a pure decision over signals, history and event time."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Any, Literal

from ray_mlops.config import MonitoringConfig, RetrainingConfig, format_duration
from ray_mlops.config.monitoring import RetrainAction
from ray_mlops.ledger import LedgerEvent
from ray_mlops.monitoring.ladder import Trigger, choose_rung
from ray_mlops.monitoring.schedule import is_due

Outcome = Literal["registered", "refused", "failed"]


@dataclass(frozen=True, slots=True)
class Signals:
    """What the monitor knows at the close of a window. Times are event time, microseconds."""

    model: str
    champion: str
    config_hash: str
    watermark_us: int
    window_us: int
    alarms: tuple[Trigger, ...] = ()
    """Action-level alarms of the current reference epoch."""
    breaches: tuple[str, ...] = ()
    """Declared-contract alarms that nobody has acknowledged."""
    change_point_us: int | None = None
    """Where the change is estimated to have begun."""
    labelled_rows: Mapping[int, int] = field(default_factory=dict)
    """Matured labelled rows by window."""
    source_rows: Mapping[int, int] = field(default_factory=dict)
    """Labelled rows of the training source by window, for the time before serving began."""
    rollout_active: bool = False


@dataclass(frozen=True, slots=True)
class RetrainDecision:
    """A retraining that shall happen, with all that its job needs. Its id is the job's submission id."""

    decision_id: str
    model: str
    as_of_us: int
    """Nothing after this event time may be used."""
    train_start_us: int
    train_end_us: int
    """End of the training window, exclusive; the holdout begins here."""
    holdout_end_us: int
    """End of the holdout, exclusive: as-of less the label delay."""
    action: RetrainAction
    trigger: Trigger
    champion: str
    config_hash: str
    reason: str
    schema_version: int = 1

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "RetrainDecision":
        return cls(**content)


@dataclass(frozen=True, slots=True)
class NoRetrain:
    """Why nothing is retrained now."""

    reason: str
    blocked: bool = False
    """Whether a declared-contract breach stands in the way."""


@dataclass(frozen=True, slots=True)
class RetrainHistory:
    """The fold of stream ``{model}/retrain``."""

    decisions: tuple[RetrainDecision, ...] = ()
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    manual: tuple[str, ...] = ()
    """Keys of manual requests that no decision has served yet."""
    manual_action: RetrainAction | None = None
    """What the newest of them asks for."""
    attempts: Mapping[str, int] = field(default_factory=dict)

    @property
    def in_flight(self) -> RetrainDecision | None:
        """The decision whose job has not finished."""
        return next((d for d in self.decisions if d.decision_id not in self.outcomes), None)

    def num_tried(self, champion: str) -> int:
        """How many candidates there were for a champion that is still in force: none of them replaced it."""
        of_champion = (decision.decision_id for decision in self.decisions if decision.champion == champion)
        return sum(self.outcomes.get(decision_id) in ("registered", "refused") for decision_id in of_champion)

    @property
    def refusals(self) -> int:
        """How many of the newest decisions in a row were refused or failed."""
        count = 0
        for decision in reversed(self.decisions):
            outcome = self.outcomes.get(decision.decision_id)
            if outcome == "registered":
                break
            count += outcome is not None
        return count


def fold_history(events: Iterable[LedgerEvent]) -> RetrainHistory:
    """Fold the events of stream ``{model}/retrain``."""
    decisions: list[RetrainDecision] = []
    outcomes: dict[str, Outcome] = {}
    attempts: dict[str, int] = {}
    manual: list[str] = []
    manual_action: RetrainAction | None = None
    for event in events:
        match event.kind:
            case "retrain.requested":
                manual.append(event.key)
                manual_action = event.payload.get("action")
            case "retrain.decided":
                decisions.append(RetrainDecision.from_json(event.payload))
                manual.clear()
                manual_action = None
            case "retrain.submitted":
                attempts[event.payload["decision_id"]] = event.payload["attempt"]
            case "retrain.finished":
                outcomes[event.payload["decision_id"]] = event.payload["outcome"]
            case _:
                pass
    return RetrainHistory(tuple(decisions), outcomes, tuple(manual), manual_action, attempts)


def decide_retrain(
    signals: Signals, history: RetrainHistory, monitoring: MonitoringConfig, retraining: RetrainingConfig
) -> RetrainDecision | NoRetrain:
    """Decide whether to retrain now; ``now`` is the watermark.

    The order of the rules is the order of the questions a person would ask: is the data sound, is there a
    reason, is one under way already, is it too soon, is there enough to learn from?

    Args:
        signals: What the monitor knows.
        history: What was decided before.
        monitoring: Label delay and window.
        retraining: Cool-down, budget, schedule, windows.

    Returns:
        The decision, or why there is none.
    """
    if not retraining.enabled:
        return NoRetrain("retraining is switched off")
    if signals.breaches:
        return NoRetrain(f"contract broken: {', '.join(signals.breaches)}", blocked=True)
    trigger = _trigger(signals, history, retraining)
    if trigger is None:
        return NoRetrain("no alarm, no schedule due, no request")
    obstacle = _obstacle(signals, history, monitoring, retraining, trigger)
    if obstacle:
        return NoRetrain(f"{trigger}: {obstacle}")
    action = history.manual_action or choose_rung(retraining.ladder, trigger, history.num_tried(signals.champion))
    if action is None:
        return NoRetrain(f"{trigger}: no rung of {retraining.ladder} helps against it")
    windows = _windows(signals, monitoring, retraining)
    if isinstance(windows, NoRetrain):
        return windows
    start_us, split_us, end_us, basis = windows
    identity = f"{signals.model}|{signals.champion}|{trigger}|{signals.watermark_us}|{len(history.decisions)}"
    decision_id = f"retrain-{signals.model}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    return RetrainDecision(
        decision_id=decision_id,
        model=signals.model,
        as_of_us=signals.watermark_us,
        train_start_us=start_us,
        train_end_us=split_us,
        holdout_end_us=end_us,
        action=action,
        trigger=trigger,
        champion=signals.champion,
        config_hash=signals.config_hash,
        reason=f"{_because(trigger, signals)}; {_WORDS[action]} on {basis}",
    )


_WORDS: Mapping[RetrainAction, str] = {
    "recalibrate": "recalibrated",
    "fine_tune": "fine-tuned",
    "full": "trained",
    "tune": "searched and trained",
}


def _because(trigger: Trigger, signals: Signals) -> str:
    words = {"manual": "a person asked for it", "schedule": "the schedule is due"}
    return words.get(trigger) or f"action-level alarm on {', '.join(signals.alarms)}"


def cool_down(history: RetrainHistory, monitoring: MonitoringConfig, retraining: RetrainingConfig) -> timedelta:
    """The cool-down in force: never below the label delay plus a window, doubled by each refusal in a row."""
    least = monitoring.labels.delay + monitoring.window
    return max(retraining.cool_down, least) * 2 ** min(history.refusals, 6)


def _trigger(signals: Signals, history: RetrainHistory, retraining: RetrainingConfig) -> Trigger | None:
    if history.manual:
        return "manual"
    alarms: tuple[Trigger, ...] = ("loss", "score", "inputs")
    for alarm in alarms:
        if alarm in signals.alarms:
            return alarm
    if retraining.schedule is None or not (history.decisions or signals.labelled_rows):
        return None
    first_us = min(signals.labelled_rows, default=0) * signals.window_us
    since_us = history.decisions[-1].as_of_us if history.decisions else first_us
    return "schedule" if is_due(retraining.schedule, since_us, signals.watermark_us) else None


def _obstacle(
    signals: Signals,
    history: RetrainHistory,
    monitoring: MonitoringConfig,
    retraining: RetrainingConfig,
    trigger: Trigger,
) -> str | None:
    if history.in_flight is not None:
        return f"{history.in_flight.decision_id} is in flight"
    if signals.rollout_active:
        return "a rollout is under way"
    if trigger == "manual" or not history.decisions:
        return None
    pause = cool_down(history, monitoring, retraining)
    since_us = signals.watermark_us - history.decisions[-1].as_of_us
    if since_us < _us(pause):
        ago = format_duration(timedelta(microseconds=since_us))
        return f"cooling down for {format_duration(pause)} since the last retraining, {ago} ago"
    recent = [d for d in history.decisions if signals.watermark_us - d.as_of_us < _us(retraining.budget.per)]
    if len(recent) >= retraining.budget.count:
        return f"budget of {retraining.budget.count} per {format_duration(retraining.budget.per)} is spent"
    return None


def _windows(
    signals: Signals, monitoring: MonitoringConfig, retraining: RetrainingConfig
) -> tuple[int, int, int, str] | NoRetrain:
    """Training and holdout windows, and what they rest on; whole monitoring windows."""
    window = signals.window_us
    end_us = (signals.watermark_us - _us(monitoring.labels.delay)) // window * window
    split_us = end_us - max(window, _us(retraining.holdout) // window * window)
    rows = {**signals.source_rows, **signals.labelled_rows}

    def count(start_us: int) -> int:
        return sum(n for index, n in rows.items() if start_us <= index * window < split_us)

    change = signals.change_point_us
    if change is not None and count(change) >= retraining.min_rows:
        return change // window * window, split_us, end_us, "the rows since the change point"
    start_us = split_us - _us(retraining.window)
    if count(start_us) < retraining.min_rows:
        found = count(start_us)
        return NoRetrain(f"{found} matured labelled rows in the training window, {retraining.min_rows} are needed")
    return start_us, split_us, end_us, "a rolling window"


def _us(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1)


def with_attempt(decision: RetrainDecision, attempt: int) -> str:
    """The submission id of an attempt: the decision's id, with a suffix from the second on.

    Example:
        >>> d = RetrainDecision("retrain-m-1", "m", 0, 0, 0, 0, "full", "manual", "1", "h", "")
        >>> with_attempt(d, 1), with_attempt(d, 2)
        ('retrain-m-1', 'retrain-m-1-attempt2')
    """
    return decision.decision_id if attempt == 1 else f"{decision.decision_id}-attempt{attempt}"


def without_rows(signals: Signals) -> Signals:
    """The signals without their row counts, short enough for a log line."""
    return replace(signals, labelled_rows={}, source_rows={})
