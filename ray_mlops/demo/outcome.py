"""What the demo came to: its table, and whether it held what it promised."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from ray_mlops.config import DataConfig
from ray_mlops.data.target import TargetEncoder
from ray_mlops.demo.replay import ReplayReport
from ray_mlops.evaluation import compute_metrics
from ray_mlops.ledger import Ledger, LedgerEvent, registered_versions
from ray_mlops.training.bundle import ModelBundle

_DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Month:
    """One month of the replay."""

    month: str
    rows: int
    versions: str
    """Versions that answered, in order."""
    loop: Mapping[str, float]
    """Metrics of what the loop answered."""
    never: Mapping[str, float]
    """Metrics of what the first version would have answered."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision of the loop, in event time."""

    day: str
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The demo's result; the same on every run."""

    months: tuple[Month, ...]
    decisions: tuple[Decision, ...]
    versions: tuple[Mapping[str, Any], ...]
    promoted: tuple[str, ...]
    """Retrained versions that were promoted on evidence."""
    alarm_to_promotion_days: tuple[int, ...]
    sabotaged: str | None
    sabotage_stopped_by: str
    """The guard that rolled it back; empty where none did."""
    exposed_requests: int
    """Requests that the sabotaged version answered."""
    contract_alarms: tuple[str, ...]
    failed_requests: int
    requests: int
    rows: int

    def broken_promises(self) -> list[str]:
        """What the demo promises and did not hold; empty when all is well."""
        broken = []
        if not self.promoted:
            broken.append("no retrained candidate was promoted on evidence")
        if self.sabotaged is not None and not self.sabotage_stopped_by:
            broken.append("the sabotaged candidate was not rolled back by a guard")
        if self.contract_alarms:
            broken.append(f"declared-contract alarms: {', '.join(self.contract_alarms)}")
        if self.failed_requests:
            broken.append(f"{self.failed_requests} requests failed")
        return broken


def measure_months(
    table: pa.Table, data: DataConfig, report: ReplayReport, first: ModelBundle, encoder: TargetEncoder
) -> tuple[Month, ...]:
    """Compare, month by month, what the loop answered with what the first version would have.

    Args:
        table: The replayed source.
        data: Names of the columns.
        report: Answers by row id.
        first: The first version.
        encoder: The target's classes.
    """
    ids = table[data.id].to_pylist()
    answered = np.array([name in report.scores for name in ids])
    rows = table.filter(pa.array(answered))
    names = rows[data.id].to_pylist()
    target = encoder.encode(rows[data.target])
    loop = np.array([report.scores[name]["probability"] for name in names], dtype=np.float64)
    never = first.predict(rows).values
    months = np.array([f"{moment:%Y-%m}" for moment in rows[data.event_time].to_pylist()])
    versions = np.array([report.versions[name] for name in names])
    found = []
    for month in np.unique(months):
        inside = months == month
        order = list(dict.fromkeys(versions[inside].tolist()))
        measured = [compute_metrics(data.task, values[inside], target[inside]) for values in (loop, never)]
        found.append(Month(str(month), int(inside.sum()), ", ".join(order), measured[0], measured[1]))
    return tuple(found)


def collect_outcome(
    model: str,
    ledger: Ledger,
    months: tuple[Month, ...],
    report: ReplayReport,
    sabotaged: str | None,
    window_us: int,
) -> Outcome:
    """Read what happened from the ledger.

    Args:
        model: The model's name.
        ledger: The record of decisions.
        months: From ``measure_months``.
        report: What the client saw.
        sabotaged: Version of the bad candidate; None without one.
        window_us: The monitor's window.
    """
    moves = ledger.read(f"{model}/rollout", kind="rollout.moved")
    requests = ledger.read(f"{model}/rollout", kind="rollout.requested")
    requested = {e.payload["rollout_id"]: str(e.payload["version"]) for e in requests}
    commanded = {e.payload["rollout_id"] for e in ledger.read(f"{model}/rollout", kind="rollout.commanded")}
    alarms = ledger.read(f"{model}/monitor", kind="monitor.alarm")
    records = registered_versions(ledger, model)
    promotions = [e for e in moves if e.payload["to"] == "promoting" and e.payload["rollout_id"] not in commanded]
    promoted = tuple(v for v in (requested[e.payload["rollout_id"]] for e in promotions) if records[v]["decision_id"])
    stops = [e for e in moves if e.payload["to"] == "rolling_back" and requested[e.payload["rollout_id"]] == sabotaged]
    guard = stops[-1].payload["reason"] if stops and stops[-1].payload["rollout_id"] not in commanded else ""
    return Outcome(
        months=months,
        decisions=_decisions(model, ledger, moves, requested, alarms, window_us),
        versions=tuple({"version": v, **_short(r)} for v, r in records.items()),
        promoted=promoted,
        alarm_to_promotion_days=_delays(promotions, requested, records, ledger, window_us),
        sabotaged=sabotaged,
        sabotage_stopped_by=guard,
        exposed_requests=report.answered.get(sabotaged or "", 0),
        contract_alarms=tuple(e.payload["name"] for e in alarms if e.payload["level"] == "contract"),
        failed_requests=report.failed,
        requests=report.requests,
        rows=report.rows,
    )


def _short(record: Mapping[str, Any]) -> dict[str, Any]:
    gate = record["gate"]
    return {
        "gate": "passed" if gate["passed"] else "refused",
        "reason": gate["reason"],
        "bundle": record["bundle_hash"],
        "parent": record["parent"],
        "auc": record["metrics"].get("auc"),
        "log_loss": record["metrics"].get("log_loss"),
    }


def _decisions(
    model: str,
    ledger: Ledger,
    moves: Sequence[LedgerEvent],
    requested: Mapping[str, str],
    alarms: Sequence[LedgerEvent],
    window_us: int,
) -> tuple[Decision, ...]:
    found: list[tuple[int, Decision]] = []
    for event in alarms:
        guilty = ", ".join(event.payload.get("guilty") or [])
        why = event.payload.get("reason") or guilty
        found.append((event.seq, Decision(_day(event.event_time), f"alarm {event.payload['alarm']}", why)))
    for event in ledger.read(f"{model}/retrain"):
        if event.kind == "retrain.decided":
            found.append((event.seq, Decision(_day(event.event_time), "retraining", event.payload["reason"])))
        elif event.kind == "retrain.finished":
            what = f"candidate {event.payload['outcome']}"
            why = f"version {event.payload['version']}: {event.payload['reason']}"
            found.append((event.seq, Decision(_day(event.event_time), what, why)))
    for event in moves:
        version = requested[event.payload["rollout_id"]]
        window = event.payload.get("window")
        day = _day((window + 1) * window_us if window is not None else event.event_time)
        what = f"version {version}: {event.payload['from']} -> {event.payload['to']}"
        found.append((event.seq, Decision(day, what, event.payload["reason"])))
    return tuple(decision for _, decision in sorted(found, key=lambda item: item[0]))


def _delays(
    promotions: Sequence[LedgerEvent],
    requested: Mapping[str, str],
    records: Mapping[str, Mapping[str, Any]],
    ledger: Ledger,
    window_us: int,
) -> tuple[int, ...]:
    """Event days from the decision to retrain, taken at the alarm, to the promotion."""
    delays = []
    for event in promotions:
        decision_id = records[requested[event.payload["rollout_id"]]]["decision_id"]
        decision = ledger.get(decision_id) if decision_id else None
        window = event.payload.get("window")
        if decision is not None and decision.event_time is not None and window is not None:
            delays.append(round(((window + 1) * window_us - decision.event_time) / _DAY_US))
    return tuple(delays)


def _day(event_us: int | None) -> str:
    return "" if event_us is None else datetime.fromtimestamp(event_us / 1e6, UTC).date().isoformat()
