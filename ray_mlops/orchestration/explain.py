"""What stands behind a prediction: data, code, parameters, gate evidence, rollout step."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ray_mlops.config import StoreConfig
from ray_mlops.data.snapshot import load_snapshot
from ray_mlops.errors import NotFoundError, SnapshotError
from ray_mlops.ledger import Ledger, LedgerEvent, registered_versions
from ray_mlops.runtime.files import Files
from ray_mlops.serving.label_log import read_labels
from ray_mlops.serving.labels_in_force import labels_in_force
from ray_mlops.serving.prediction_log.files import find_row


@dataclass(frozen=True, slots=True)
class LedgerExplainer:
    """Implements ``serving.protocol.Explainer`` over the ledger and the logs."""

    ledger: Ledger
    files: Files

    def explain(self, model: str, prediction_id: str) -> dict[str, Any]:
        """Trace one prediction back to its causes.

        Raises:
            NotFoundError: No prediction of this model has this id.
        """
        row = self._find(model, prediction_id)
        route_version = row["route_version"]
        record = registered_versions(self.ledger, model).get(str(row["version"]), {})
        return {
            "prediction": _prediction(row),
            "label": self._label(model, prediction_id),
            "version": {
                key: record.get(key)
                for key in ("version", "bundle", "bundle_hash", "run_id", "parent", "code", "metrics", "report")
            },
            "data": self._data(record),
            "parameters": {"config_hash": record.get("config_hash"), "overrides": record.get("overrides", {})},
            "gate": record.get("gate"),
            "retraining": self._retraining(model, record.get("decision_id")),
            "route": self._route(model, route_version),
            "rollout": self._rollout(model, route_version),
        }

    def _find(self, model: str, prediction_id: str) -> dict[str, Any]:
        row = find_row(self.files, model, prediction_id)
        if row is not None:
            return row
        remedy = "ids are returned by /predict; rows are logged within a second"
        raise NotFoundError(f"no prediction {prediction_id!r} is logged", f"model {model!r}", remedy)

    def _label(self, model: str, prediction_id: str) -> Any:
        found = labels_in_force(read_labels(self.files, model, prediction_id)).to_pylist()
        return found[0] if found else None

    def _data(self, record: Mapping[str, Any]) -> dict[str, Any]:
        snapshot_id = record.get("snapshot")
        if snapshot_id is None:
            return {}
        try:
            snapshot = load_snapshot(self.files, snapshot_id)
        except SnapshotError as error:
            return {"snapshot": snapshot_id, "problem": str(error)}
        return {
            "snapshot": snapshot.id,
            "rows": snapshot.rows,
            "event_range": snapshot.event_range,
            "origin": snapshot.origin,
            "files": len(snapshot.files),
        }

    def _retraining(self, model: str, decision_id: str | None) -> dict[str, Any] | None:
        event = self.ledger.get(decision_id) if decision_id else None
        if event is None:
            return None
        alarms = [e for e in self.ledger.read(f"{model}/monitor", kind="monitor.alarm") if e.seq < event.seq]
        return {**event.payload, "alarms": [_short(alarm) for alarm in alarms[-5:]]}

    def _route(self, model: str, route_version: int) -> dict[str, Any] | None:
        for event in self.ledger.read(f"{model}/routes", kind="routes.committed"):
            if event.version == route_version:
                return {"seq": event.seq, "time": _iso(event.time), **event.payload}
        return None

    def _rollout(self, model: str, route_version: int) -> list[dict[str, Any]]:
        """The transitions of the rollout that the route belongs to, up to it."""
        committed = {e.version: e for e in self.ledger.read(f"{model}/routes", kind="routes.committed")}
        route = committed.get(route_version)
        if route is None or not route.payload.get("rollout_id"):
            return []
        after = committed.get(route_version + 1)
        moves = self.ledger.read(f"{model}/rollout")
        return [
            _short(event)
            for event in moves
            if event.payload.get("rollout_id") == route.payload["rollout_id"]
            and (after is None or event.seq < after.seq)
        ]


def explainer(store: StoreConfig) -> LedgerExplainer:
    """Factory named in ``serving.protocol.Hooks``."""
    return LedgerExplainer(Ledger.open(store), Files(store.root_uri))


def explain_lines(found: Mapping[str, Any]) -> list[str]:
    """The explanation as lines for people."""
    prediction, version, data = found["prediction"], found["version"], found["data"]
    lines = [
        f"prediction {prediction['prediction_id']}: {prediction['outputs']}",
        f"  at {prediction['event_time']} (event time), answered by version {prediction['version']}"
        f" as {prediction['arm']}, outcome {prediction['outcome']}",
    ]
    if found["label"] is not None:
        corrected = " (a correction)" if found["label"].get("is_correction") else ""
        lines.append(f"  label {found['label']['label']}{corrected}")
    lines.append(f"version {version['version']}: bundle {version['bundle_hash']}, run {version['run_id']}")
    lines.append(f"  code {version['code']}, follows version {version['parent'] or '(none)'}")
    lines.append(f"data: snapshot {data.get('snapshot')}, {data.get('rows')} rows, {data.get('origin')}")
    lines.append(f"parameters: configuration {found['parameters']['config_hash']} {found['parameters']['overrides']}")
    gate = found["gate"] or {"passed": None, "reason": "not recorded", "checks": []}
    lines.append(f"gate: {'passed' if gate['passed'] else 'NOT passed'}: {gate['reason']}")
    for check in gate["checks"]:
        lines.append(f"  {'ok  ' if check['passed'] else 'FAIL'} {check['name']}: {check['value']} ({check['detail']})")
    if found["retraining"] is not None:
        lines.append(f"retraining {found['retraining']['decision_id']}: {found['retraining']['reason']}")
        lines += [f"  alarm {a.get('alarm')} in window {a.get('window')}" for a in found["retraining"]["alarms"]]
    if found["route"] is not None:
        route = found["route"]
        candidate = route.get("candidate")
        share = f", candidate {candidate['version']} at {candidate['weight']:.0%}" if candidate else ""
        lines.append(f"route version {route['version']}: champion {route['champion']['version']}{share}")
    lines += [
        f"  {m['kind']} {m.get('from', '')} -> {m.get('to', '')}: {m.get('reason', '')}" for m in found["rollout"]
    ]
    return lines


def _prediction(row: Mapping[str, Any]) -> dict[str, Any]:
    inputs = {name.removeprefix("features."): value for name, value in row.items() if name.startswith("features.")}
    outputs = {name: value for name, value in row.items() if name.split(".")[0] == "prediction"}
    keys = ("prediction_id", "event_time", "arrival_time", "arm", "version", "route_version", "outcome", "weight")
    return {**{key: row[key] for key in keys}, "inputs": inputs, "outputs": outputs}


def _short(event: LedgerEvent) -> dict[str, Any]:
    keep = ("from", "to", "reason", "weight", "alarm", "window", "by", "command", "version")
    detail = {key: event.payload[key] for key in keep if key in event.payload}
    return {"seq": event.seq, "time": _iso(event.time), "kind": event.kind, **detail}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
