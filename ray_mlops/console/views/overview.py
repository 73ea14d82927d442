"""The first page: every model, what answers, what is on trial, how it is, and what was decided last."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ray_mlops.console.address import Visit
from ray_mlops.console.events import describe_event, tone_of
from ray_mlops.console.render import Screen
from ray_mlops.console.sources import Away, ConsoleData, Document, ModelFacts
from ray_mlops.ledger import LedgerEvent
from ray_mlops.serving.rollout.state import OVER, parse_state

NUM_METRICS = 3
_READ = 60
_CONSEQUENCES = frozenset({"routes.committed", "alias.set", "retrain.submitted", "snapshot.created"})
"""Kinds that follow from a decision and say nothing new."""


async def show_overview(data: ConsoleData, visit: Visit) -> Screen:
    """Show every model, or one."""
    models = (visit.model,) if visit.model else visit.models
    sections = await asyncio.gather(*(_read(data, model) for model in models))
    return Screen("overview", visit.model or "Overview", partial(build_overview, sections, 20 if visit.model else 8))


async def _read(data: ConsoleData, model: str) -> tuple[ModelFacts, list[LedgerEvent], Document, Document]:
    return await asyncio.gather(
        data.facts(model), data.events(prefix=f"{model}/", limit=_READ), data.rollout(model), data.monitoring(model)
    )


def build_overview(
    sections: Sequence[tuple[ModelFacts, list[LedgerEvent], Document, Document]], num_decisions: int
) -> dict[str, Any]:
    """Return what the page shows.

    Args:
        sections: Of each model the ledger's facts, its newest events, the rollout and the monitor.
        num_decisions: How many of the newest decisions are shown of each.
    """
    return {"sections": [_section(*section, num_decisions) for section in sections]}


def _section(
    facts: ModelFacts, events: Sequence[LedgerEvent], rollout: Document, monitoring: Document, num_decisions: int
) -> dict[str, Any]:
    decisions = [event for event in events if event.kind not in _CONSEQUENCES][:num_decisions]
    metrics = _metric_names(facts.versions)
    return {
        "name": facts.model,
        "split": split_of(facts.routes),
        "routes": facts.routes,
        "rollout": _rollout(rollout),
        "monitor": _monitor(monitoring),
        "metrics": metrics,
        "versions": [_version(facts, version, metrics) for version in reversed(list(facts.versions))],
        "decisions": [{"event": e, "text": describe_event(e), "tone": tone_of(e)} for e in decisions],
    }


def split_of(routes: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return who answers which share of the traffic: champion, then candidate."""
    arms = [(name, (routes or {}).get(name)) for name in ("champion", "candidate")]
    return [{"arm": name, "version": arm["version"], "share": float(arm["weight"])} for name, arm in arms if arm]


def _metric_names(versions: Mapping[str, Mapping[str, Any]]) -> list[str]:
    newest = list(versions.values())[-1] if versions else {}
    return list(newest.get("metrics") or {})[:NUM_METRICS]


def _version(facts: ModelFacts, version: str, metrics: Sequence[str]) -> dict[str, Any]:
    payload = facts.versions[version]
    gate, found = payload.get("gate") or {}, payload.get("metrics") or {}
    has_to_wait = bool(gate.get("needs_approval")) and version not in facts.approved
    return {
        "version": version,
        "aliases": sorted(alias for alias, target in facts.aliases.items() if target == version),
        "passed": bool(gate.get("passed")),
        "waits": bool(gate.get("passed")) and has_to_wait,
        "reason": gate.get("reason") or "",
        "metrics": [found.get(name) for name in metrics],
        "parent": payload.get("parent"),
        "is_retrained": bool(payload.get("decision_id")),
        "snapshot": payload.get("snapshot") or "",
        "bundle_hash": payload.get("bundle_hash") or "",
        "registered_at": payload.get("registered_at") or "",
    }


def _rollout(document: Document) -> dict[str, Any]:
    if isinstance(document, Away):
        return {"away": document.reason, "state": "", "is_active": False, "version": None, "reason": ""}
    state = str(document.get("state") or "none")
    is_active = state != "none" and parse_state(state)[0] not in OVER
    shown = {"version": document.get("version"), "reason": document.get("reason") or ""}
    return {"away": "", "state": state, "is_active": is_active, **shown}


def _monitor(document: Document) -> dict[str, Any]:
    if isinstance(document, Away):
        return {"away": document.reason}
    retraining = document.get("retraining") or {}
    return {
        "away": "",
        "alarms": list(document.get("alarms") or ()),
        "breaches": list(document.get("breaches") or ()),
        "notices": list((document.get("drift") or {}).get("notices") or ()),
        "watermark": document.get("watermark"),
        "rows": document.get("rows"),
        "in_flight": retraining.get("in_flight"),
        "policy": retraining.get("policy") or "",
    }
