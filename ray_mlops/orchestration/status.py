"""What runs and what is known, read from the ledger, the registry and, where it answers, the service."""

from collections.abc import Mapping, Sequence
from typing import Any

from ray_mlops.config import ProjectConfig
from ray_mlops.errors import RayMLOpsError
from ray_mlops.ledger import Ledger, aliases_in_force, current_routes, registered_versions
from ray_mlops.monitoring.attention import attention_words
from ray_mlops.orchestration.addresses import service_address
from ray_mlops.runtime.cluster import cluster_status
from ray_mlops.serving.client import Client
from ray_mlops.serving.rollout.plan import StepPlan


def read_status(config: ProjectConfig) -> dict[str, Any]:
    """Collect the status of a model's whole life."""
    ledger = Ledger.open(config.store)
    cluster = cluster_status(config.store)
    url, token = service_address(config)
    found: dict[str, Any] = {
        "model": config.name,
        "store": config.store.root_uri,
        "cluster": {
            "state": cluster.state,
            "address": cluster.record.address if cluster.record else None,
            "processes": len(cluster.processes),
        },
        "service": {"url": url, "answers": False},
        "routes": current_routes(ledger)["models"].get(config.name),
        "versions": list_versions(config),
        "retraining": _last(ledger, f"{config.name}/retrain"),
        "alarm": _last(ledger, f"{config.name}/monitor", "monitor.alarm"),
        "ledger_events": ledger.verify().events,
    }
    with Client(url, config.name, token, timeout_s=5.0) as client:
        try:
            found["rollout"] = client.rollout()
            found["monitoring"] = client.monitoring()
            found["service"]["answers"] = True
        except RayMLOpsError as error:
            found["service"]["problem"] = str(error)
    return found


def list_versions(config: ProjectConfig) -> list[dict[str, Any]]:
    """Every registered version with its gate, aliases and metrics."""
    ledger = Ledger.open(config.store)
    aliases = aliases_in_force(ledger, config.name)
    return [
        {
            "version": version,
            "aliases": sorted(alias for alias, target in aliases.items() if target == version),
            "gate": "passed" if record["gate"]["passed"] else "refused",
            "reason": record["gate"]["reason"],
            "parent": record["parent"],
            "decision": record["decision_id"],
            "metrics": record["metrics"],
            "snapshot": record["snapshot"],
            "bundle": record["bundle_hash"],
            "run": record["run_id"],
            "registered_at": record["registered_at"],
        }
        for version, record in registered_versions(ledger, config.name).items()
    ]


def status_lines(found: Mapping[str, Any]) -> list[str]:
    """The status for people."""
    cluster, service = found["cluster"], found["service"]
    lines = [
        f"model     {found['model']}",
        f"store     {found['store']} ({found['ledger_events']} ledger events)",
        f"cluster   {cluster['state']} {cluster['address'] or ''}",
        f"service   {service['url']} {'answers' if service['answers'] else 'does not answer'}",
    ]
    routes = found["routes"]
    if routes:
        candidate = routes.get("candidate")
        share = f", candidate {candidate['version']} at {candidate['weight']:.0%}" if candidate else ""
        lines.append(f"routes    champion {routes['champion']['version']}{share} (route version {routes['version']})")
    if found.get("rollout"):
        lines.append(f"rollout   {found['rollout']['state']} {found['rollout'].get('reason') or ''}")
    if found.get("monitoring"):
        seen = found["monitoring"]
        alarms = ", ".join([*seen.get("alarms", []), *seen.get("breaches", [])]) or "none"
        lines.append(f"monitor   watermark {seen.get('watermark')}, alarms: {alarms}")
        lines.append(f"policy    {seen.get('retraining', {}).get('policy') or '-'}")
    lines.append("versions")
    return lines + [f"  {line}" for line in version_lines(found["versions"])]


def version_lines(versions: Sequence[Mapping[str, Any]]) -> list[str]:
    """The versions for people."""
    if not versions:
        return ["none registered; train one with 'ray-mlops run'"]
    lines = []
    for entry in versions:
        shown = [(name, value) for name, value in entry["metrics"].items() if value is not None]
        metrics = "  ".join(f"{name} {value:.4f}" for name, value in shown[:4])
        aliases = f" [{', '.join(entry['aliases'])}]" if entry["aliases"] else ""
        lines.append(f"{entry['version']:>3} {entry['gate']:8}{aliases} {metrics}  {entry['registered_at']}")
        if entry["gate"] == "refused":
            lines.append(f"      {entry['reason']}")
    return lines


def monitor_lines(found: Mapping[str, Any]) -> list[str]:
    """The monitor for people: alarms, drift by column, performance."""
    alarms, breaches = (", ".join(found.get(name, [])) for name in ("alarms", "breaches"))
    watched = f"{found.get('model')} version {found.get('version')}"
    lines = [
        f"{watched}: watermark {found.get('watermark')}, {found.get('rows')} rows",
        f"alarms: {alarms or 'none'}; contract: {breaches or 'ok'}",
        f"policy: {found.get('retraining', {}).get('policy') or '-'}",
    ]
    lines += [f"attention: {words}" for words in attention_words(found)]
    parts = found.get("drift", {}).get("loss_parts")
    if parts and "loss" in found.get("alarms", []):
        lines.append(f"loss: {parts['kind_reason']}")
    features = found.get("drift", {}).get("features", {})
    for name, feature in sorted(features.items(), key=lambda item: -item[1]["log_e"]):
        distance = feature.get("total_variation")
        shown = "" if distance is None else f"TV {distance:.3f} (no drift: {feature['expected']:.3f})"
        lines.append(f"  {name:20} log e {feature['log_e']:8.2f}  {feature['status']:11} {shown}")
        if feature.get("caveat") and feature["status"] != "calendar":
            lines.append(f"  {'':20} {feature['caveat']}")
    for window in found.get("performance", [])[-7:]:
        loss = "-" if window["loss"] is None else f"{window['loss']:.4f}"
        labels = f"labels {window['labelled']}/{window['rows']} loss {loss}"
        lines.append(f"  {window['start'][:10]} {labels} {_estimate_words(window)}")
    for window in found.get("unlabelled", [])[-7:]:
        lines.append(f"  {window['start'][:10]} no labels yet {_estimate_words(window)}")
    newest = [window["estimated"] for window in (*found.get("performance", []), *found.get("unlabelled", []))]
    if newest and newest[-1].get("is_shown") is False:
        lines.append(f"  no estimate: {newest[-1]['reason']}")
    if record := found.get("estimates"):
        lines.append(f"  estimates: {record['words']}")
    return lines


def _estimate_words(window: Mapping[str, Any]) -> str:
    """An estimated loss with its band, and by how much the estimate of the labelled rows was off."""
    estimated, error = window["estimated"], window.get("estimate_error", {}).get("bounded_loss")
    if estimated["bounded_loss"] is None:
        return "estimated -"
    band = estimated.get("metrics", {}).get("bounded_loss")
    words = f"estimated {estimated['bounded_loss']:.4f}"
    words += "" if band is None else f" ({band['lower']:.4f} to {band['upper']:.4f})"
    return words if error is None else f"{words} off by {error:+.4f}"


def plan_lines(steps: Sequence[StepPlan]) -> list[str]:
    """A rollout's plan for people: what each step needs, how long that takes, and whether it ends by itself."""
    lines = []
    for step in steps:
        if not step.finishes:
            fate = f"never ends by itself on this traffic: {step.limited_by}"
        else:
            fate = f"{step.days:.2f} days, limited by {step.limited_by}"
        needs = f"requests {step.requests:10.0f}  labels {step.labels:8.0f}"
        lines.append(f"{step.state:12} weight {step.weight:4.0%}  {needs}  {fate}")
    days = sum(step.days for step in steps)
    return [*lines, f"{'in all':12} {days:.2f} days" if all(s.finishes for s in steps) else "it does not finish"]


def _last(ledger: Ledger, stream: str, kind: str | None = None) -> dict[str, Any] | None:
    event = ledger.last(stream, kind)
    return None if event is None else {"kind": event.kind, "seq": event.seq, **event.payload}
