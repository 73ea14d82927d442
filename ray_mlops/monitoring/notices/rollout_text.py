"""Every transition of a rollout, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from ray_mlops.config import Severity
from ray_mlops.ledger import LedgerEvent
from ray_mlops.monitoring.notices.notice import Notice, paragraphs
from ray_mlops.monitoring.notices.runbook import what_to_do
from ray_mlops.monitoring.notices.standing import Standing, model_of
from ray_mlops.serving.rollout.state import parse_state

_SEVERITIES: Mapping[str, Severity] = {
    "paused": "warning",
    "rolling_back": "critical",
    "rolled_back": "warning",
    "aborted": "warning",
    "invalid": "critical",
}
_WORDS = {
    "validating": "version {version}: gate and approval are looked at",
    "preparing": "version {version} is started and checked",
    "shadow": "version {version} scores the traffic in the shadow of the champion",
    "canary": "version {version} answers {weight:.3g} % of the traffic (canary step {step})",
    "paused": "the rollout of version {version} is paused at {weight:.3g} % of the traffic",
    "promoting": "version {version} becomes champion",
    "baking": "version {version} is champion, on probation; the one before stays warm",
    "promoted": "version {version} is champion for good",
    "rolling_back": "version {version} is rolled back",
    "rolled_back": "version {version} is rolled back; all traffic is with the champion",
    "aborted": "the rollout of version {version} was aborted",
    "invalid": "the rollout of version {version} is invalid: its traffic was not split as asked for",
}


def render_requested(event: LedgerEvent, standing: Standing, followed: Sequence[LedgerEvent] = ()) -> Notice:
    """A rollout that somebody, or the newest passed version, asks for."""
    payload = event.payload
    version, override = payload.get("version"), payload.get("override_reason")
    text = paragraphs(
        what=f"a rollout of version {version} was requested by {payload.get('by')}.",
        gate=f"overridden: {override}." if override else None,
        how_sure="without the shadow stage." if payload.get("skip_shadow") else None,
    )
    severity: Severity = "warning" if override else "info"
    return _notice(event, "rollout.requested", severity, f"rollout of version {version} requested", text)


def render_commanded(event: LedgerEvent, standing: Standing, followed: Sequence[LedgerEvent] = ()) -> Notice:
    """What a person asks of a rollout."""
    payload = event.payload
    version = standing.version(model_of(event), str(payload.get("rollout_id")))
    command, by = payload.get("command"), payload.get("by")
    reason = f" {payload['reason']}" if payload.get("reason") else " no reason was given."
    text = paragraphs(what=f"{by} asks to {command} the rollout of version {version}.", why=reason.strip())
    return _notice(event, "rollout.commanded", "info", f"{by} asks to {command} version {version}", text)


def render_shadow(event: LedgerEvent, standing: Standing, followed: Sequence[LedgerEvent] = ()) -> Notice:
    """A version that scores logged traffic and never answers, from now on or no longer."""
    payload = event.payload
    version, by = payload.get("version"), payload.get("by")
    begins = event.kind == "shadow.started"
    title = f"version {version} is {'a shadow' if begins else 'no shadow any more'}"
    reason = payload.get("reason") or "no reason was given"
    text = paragraphs(what=f"{title}, by {by}.", why=f"{reason}.")
    return _notice(event, event.kind, "warning" if payload.get("failed") else "info", title, text)


def render_moved(event: LedgerEvent, standing: Standing, followed: Sequence[LedgerEvent] = ()) -> Notice:
    """One transition. A stage that this module has no words for is told by its name."""
    payload = event.payload
    version = standing.version(model_of(event), str(payload.get("rollout_id")))
    before, after = str(payload.get("from")), str(payload.get("to"))
    stage, step = parse_state(after)
    resumes = before == "paused" and stage in ("shadow", "canary")
    kind = "rollout.resumed" if resumes else f"rollout.{stage}"
    weight = 100.0 * float(payload.get("weight") or 0.0)
    words = _WORDS.get(stage, "the rollout of version {version} is {stage}")
    title = words.format(version=version, weight=weight, step=step + 1, stage=stage)
    text = paragraphs(
        what=f"{title} ({before} -> {after}).",
        why=f"{payload.get('reason') or 'no reason was recorded'}.",
        how_sure=describe_guards(payload.get("evidence") or {}),
        traffic=_describe_arms(payload.get("evidence") or {}),
        to_do=what_to_do(kind, version=version, page="rollout"),
    )
    return _notice(event, kind, _SEVERITIES.get(stage, "info"), title + (" (resumed)" if resumes else ""), text)


def describe_guards(evidence: Mapping[str, Any]) -> str | None:
    """One sentence of each guard that has spoken; None where none has.

    Example:
        >>> guard = {"name": "errors", "question": "regression", "verdict": "fail", "detail": "9 of 40"}
        >>> describe_guards({"guards": [{**guard, "log_e": 5.2, "threshold": 4.1}]})
        'errors (regression) fail: 9 of 40, log evidence 5.2 of 4.1.'
    """
    sentences = []
    for guard in evidence.get("guards") or ():
        if guard.get("verdict") == "inconclusive":
            continue
        log_e, threshold = guard.get("log_e"), guard.get("threshold")
        sure = "" if log_e is None or threshold is None else f", log evidence {log_e:.1f} of {threshold:.1f}"
        shown = ", shown only" if guard.get("dry_run") else ""
        name = f"{guard.get('name')} ({guard.get('question')}{shown})"
        sentences.append(f"{name} {guard.get('verdict')}: {guard.get('detail')}{sure}.")
    return " ".join(sentences) or None


def _describe_arms(evidence: Mapping[str, Any]) -> str | None:
    arms = [(name, evidence.get(name) or {}) for name in ("candidate", "champion")]
    if not any(arm.get("requests") for _, arm in arms):
        return None
    shown = (f"{name} {arm.get('requests', 0)} requests, {arm.get('errors', 0)} errors" for name, arm in arms)
    return "; ".join(shown) + "."


def _notice(event: LedgerEvent, kind: str, severity: Severity, title: str, text: str) -> Notice:
    model = model_of(event)
    return Notice(
        event.key, kind, severity, model, event.time, f"{model}: {title}", text, event.event_time, event.payload,
        "rollout", event.seq,
    )  # fmt: skip
