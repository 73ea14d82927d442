"""What an event of the ledger says, as one line for people."""

from collections.abc import Mapping
from typing import Any

from ray_mlops.ledger import LedgerEvent

_SENTENCES = {
    "config.deployed": "configuration {hash}",
    "snapshot.created": "snapshot {snapshot}, {rows} rows",
    "delivery.given_up": "{target} was not told of {kind}: {reason}",
    "data.forgotten": "{by} had {ids} ids forgotten: {predictions} predictions, {labels} labels",
    "version.registered": "version {version} {gate_word}: {gate_reason}",
    "version.refused": "refused by the gate: {gate_reason}",
    "version.approved": "version {version} approved by {by}: {reason}",
    "alias.set": "{alias} is version {version}",
    "routes.committed": "routes {version}: champion {champion_version}{split}",
    "routes.withdrawn": "not served any more",
    "rollout.requested": "rollout of version {version} requested by {by}",
    "rollout.moved": "{from} \u2192 {to}: {reason}",
    "rollout.commanded": "{command} by {by}: {reason}",
    "shadow.started": "version {version} is a shadow, asked for by {by}",
    "shadow.stopped": "version {version} is no shadow any more, by {by}: {reason}",
    "retrain.requested": "retraining requested by {by}: {reason}",
    "retrain.decided": "retrain ({action}): {reason}",
    "retrain.withheld": "not retrained: {reason}",
    "retrain.submitted": "attempt {attempt} submitted",
    "retrain.finished": "retraining {outcome}: {reason}",
    "drill.finished": "version {version} was drilled with faults of {windows} windows",
    "monitor.epoch": "version {version} is watched from now on",
    "monitor.alarm": "{alarm} in window {window}: {reason}",
    "monitor.cleared": "{alarm} is over",
    "monitor.acknowledged": "{alarm} acknowledged by {by}",
}
_BAD_STATES = frozenset({"rolling_back", "rolled_back", "invalid"})
_MAX_VALUE = 160


class _Words(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "\u2013"


def describe_event(event: LedgerEvent) -> str:
    """Say in one line what happened.

    Example:
        >>> describe_event(LedgerEvent(1, "m/versions", 1, 0.0, None, "alias.set", "k", {"alias": "a", "version": "2"},
        ...     "", ""))
        'a is version 2'
    """
    sentence = _SENTENCES.get(event.kind)
    if sentence is None:
        return ", ".join(f"{name} {_short(value)}" for name, value in list(event.payload.items())[:6])
    return sentence.format_map(_Words({name: _short(value) for name, value in _words_of(event.payload).items()}))


def tone_of(event: LedgerEvent) -> str:
    """Return `good`, `bad` or an empty text."""
    payload = event.payload
    match event.kind:
        case "monitor.alarm" | "version.refused" | "delivery.given_up":
            return "bad"
        case "rollout.moved":
            return "bad" if payload.get("to") in _BAD_STATES else "good" if payload.get("to") == "promoted" else ""
        case "shadow.stopped":
            return "bad" if payload.get("failed") else ""
        case "retrain.finished":
            return "good" if payload.get("outcome") == "registered" else "bad"
        case "version.registered":
            return "good" if _gate(payload).get("passed") else "bad"
    return ""


def _words_of(payload: Mapping[str, Any]) -> dict[str, Any]:
    gate, candidate = _gate(payload), payload.get("candidate")
    champion = payload.get("champion")
    split = ""
    if isinstance(candidate, Mapping):
        split = f", candidate {candidate.get('version')} at {float(candidate.get('weight') or 0.0):.0%}"
    return {
        **payload,
        "reason": payload.get("reason") or "no reason given",
        "gate_word": "passed the gate" if gate.get("passed") else "was refused by the gate",
        "gate_reason": gate.get("reason") or "no reason given",
        "champion_version": champion.get("version") if isinstance(champion, Mapping) else champion,
        "split": split,
    }


def _gate(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    gate = payload.get("gate")
    return gate if isinstance(gate, Mapping) else {}


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= _MAX_VALUE else text[: _MAX_VALUE - 1] + "\u2026"
