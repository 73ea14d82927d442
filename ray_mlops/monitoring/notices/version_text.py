"""Versions and retraining, in words: the gate, approvals, decisions and what they came to."""

from collections.abc import Mapping, Sequence
from typing import Any

from ray_mlops.config import Severity
from ray_mlops.ledger import LedgerEvent
from ray_mlops.monitoring.notices.notice import Notice, moment, paragraphs
from ray_mlops.monitoring.notices.runbook import what_to_do
from ray_mlops.monitoring.notices.standing import Standing, model_of

_NAMED = 8
"""Failed checks that are named in a text."""
_FINISHED: Mapping[str, Severity] = {"registered": "info", "refused": "warning", "failed": "critical"}


def render_registered(event: LedgerEvent, standing: Standing, followed: Sequence[LedgerEvent] = ()) -> Notice:
    """A version, and what the gate says of it."""
    payload = event.payload
    gate = payload.get("gate") or {}
    version = str(payload.get("version"))
    kind, severity, words = "gate.passed", "info", "passed the gate"
    if not gate.get("passed"):
        kind, severity, words = "gate.refused", "warning", "was refused by the gate"
    elif gate.get("needs_approval"):
        kind, severity, words = "approval.wanted", "warning", "passed the gate and waits for approval"
    text = paragraphs(
        what=f"version {version} {words}.",
        why=f"{gate.get('reason') or 'no reason was recorded'}.",
        failed_checks=describe_checks(gate),
        measured=_metrics(payload.get("metrics") or {}),
        made_by=f"retraining {payload['decision_id']}." if payload.get("decision_id") else None,
        report=payload.get("report"),
        to_do=what_to_do(kind, version=version),
    )
    return _notice(event, kind, severity, f"version {version} {words}", text)


def render_approved(event: LedgerEvent, standing: Standing, followed: Sequence[LedgerEvent] = ()) -> Notice:
    """A person's word for a version."""
    version, by = event.payload.get("version"), event.payload.get("by")
    text = paragraphs(what=f"{by} approves version {version}.", why=event.payload.get("reason") or None)
    return _notice(event, "approval.given", "info", f"version {version} was approved by {by}", text)


def render_requested(event: LedgerEvent, standing: Standing, followed: Sequence[LedgerEvent] = ()) -> Notice:
    """A retraining that a person asks for."""
    by = event.payload.get("by")
    text = paragraphs(what=f"{by} asks for a retraining.", why=event.payload.get("reason") or None)
    return _notice(event, "retrain.requested", "info", f"retraining requested by {by}", text, "")


def render_decided(event: LedgerEvent, standing: Standing, followed: Sequence[LedgerEvent] = ()) -> Notice:
    """A retraining that will happen."""
    payload = event.payload
    text = paragraphs(
        what=f"retraining {payload.get('decision_id')} ({payload.get('action')}) of version {payload.get('champion')}.",
        why=f"{payload.get('reason')}.",
        learns_from=f"{moment(payload.get('train_start_us'))} to {moment(payload.get('train_end_us'))}.",
        is_judged_on=f"{moment(payload.get('train_end_us'))} to {moment(payload.get('holdout_end_us'))}.",
        to_do=what_to_do("retrain.scheduled"),
    )
    title = f"retraining ({payload.get('action')}) because of {payload.get('trigger')}"
    return _notice(event, "retrain.scheduled", "info", title, text)


def render_withheld(event: LedgerEvent, standing: Standing, followed: Sequence[LedgerEvent] = ()) -> Notice:
    """A reason to retrain that nothing follows from."""
    payload = event.payload
    word = "retraining is blocked" if payload.get("blocked") else "no retraining"
    up = [*(payload.get("alarms") or ()), *(payload.get("breaches") or ())]
    text = paragraphs(
        what=f"{word}, although {', '.join(map(str, up)) or 'an alarm'} was raised.",
        why=f"{payload.get('reason')}.",
        to_do=what_to_do("retrain.withheld"),
    )
    severity: Severity = "warning" if payload.get("blocked") else "info"
    return _notice(event, "retrain.withheld", severity, f"{word}: {payload.get('reason')}", text, "drift")


def render_submitted(event: LedgerEvent, standing: Standing, followed: Sequence[LedgerEvent] = ()) -> Notice | None:
    """A further attempt; the first one is part of the decision."""
    payload = event.payload
    attempt = payload.get("attempt") or 1
    if attempt == 1:
        return None
    text = paragraphs(what=f"the job of {payload.get('decision_id')} died; attempt {attempt} was submitted.")
    return _notice(event, "retrain.retried", "warning", f"a retraining job died; attempt {attempt}", text)


def render_finished(event: LedgerEvent, standing: Standing, followed: Sequence[LedgerEvent] = ()) -> Notice:
    """What a retraining came to."""
    payload = event.payload
    outcome, version = str(payload.get("outcome")), payload.get("version")
    kind = f"retrain.{outcome}" if outcome in _FINISHED else "retrain.failed"
    candidate = f" Its candidate is version {version}." if version else ""
    text = paragraphs(
        what=f"retraining {payload.get('decision_id')} ended: {outcome}.{candidate}",
        why=f"{payload['reason']}." if payload.get("reason") else None,
        to_do=what_to_do(kind),
    )
    return _notice(event, kind, _FINISHED.get(outcome, "critical"), f"retraining {outcome}", text)


def describe_checks(gate: Mapping[str, Any]) -> str | None:
    """Name the failed checks of a gate; None where none failed.

    Example:
        >>> checks = [{"name": "auc", "passed": False, "detail": "0.61 < 0.70"}, {"name": "load", "passed": True}]
        >>> describe_checks({"checks": checks})
        'auc: 0.61 < 0.70.'
    """
    failed = [check for check in gate.get("checks") or () if not check.get("passed")]
    more = f" (and {len(failed) - _NAMED} more)" if len(failed) > _NAMED else ""
    shown = "; ".join(f"{check.get('name')}: {check.get('detail')}" for check in failed[:_NAMED])
    return f"{shown}{more}." if failed else None


def _metrics(metrics: Mapping[str, Any]) -> str | None:
    shown = [f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, int | float)]
    return ", ".join(shown[:_NAMED]) or None


def _notice(event: LedgerEvent, kind: str, severity: Any, title: str, text: str, page: str = "") -> Notice:
    model = model_of(event)
    return Notice(
        event.key, kind, severity, model, event.time, f"{model}: {title}", text, event.event_time, event.payload, page,
        event.seq,
    )  # fmt: skip
