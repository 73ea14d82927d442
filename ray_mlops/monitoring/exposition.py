"""The monitor's Prometheus metrics, rendered from its views."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from ray_mlops.monitoring.policy import Outcome


def exposition(views: Mapping[str, Mapping[str, Any]]) -> str:
    """Render the views of all models, ``{model: MonitorService.view(model)}``, in Prometheus' text format."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"ray_mlops_{name}", text, ["model", *labels], registry=registry)

    rows = gauge("monitor_rows", "Rows that the monitor has counted.")
    late = gauge("monitor_late_rows", "Rows that came after their window was closed.")
    quarantined = gauge("monitor_quarantined_rows", "Rows too far ahead of their arrival.")
    closed = gauge("monitor_closed_window", "Index of the newest closed window.")
    alarms = gauge("monitor_alarm", "1 for an alarm that is up.", "level", "name")
    labels = gauge("monitor_labels", "Labels by what became of them.", "state")
    loss = gauge("monitor_loss_ratio", "Mean bounded loss of the newest matured window.", "kind")
    evidence = gauge("monitor_log_evidence", "Log e-value against no drift, by feature.", "feature")
    coverage = gauge("monitor_label_coverage_ratio", "Share of labelled rows in the newest matured window.")
    flight = gauge("retraining_in_flight", "1 while a retraining job runs.")
    blocked = gauge("retraining_blocked", "1 while a contract breach that nobody has acknowledged blocks retraining.")
    outcomes = gauge("retrainings", "Retrainings by what they came to, since the model's beginning.", "outcome")
    stage = gauge("rollout_stage", "1 for the stage of the newest rollout.", "version", "stage")
    weight = gauge("candidate_weight_ratio", "The candidate's share of traffic.")
    for model, view in views.items():
        rows.labels(model).set(view["rows"])
        late.labels(model).set(view["late_rows"])
        quarantined.labels(model).set(view["quarantined_rows"])
        closed.labels(model).set(view["closed_window"] if view["closed_window"] is not None else float("nan"))
        for level, key in (("drift", "alarms"), ("contract", "breaches")):
            for name in view[key]:
                alarms.labels(model, level, name).set(1)
        for state, count in view["labels"].items():
            labels.labels(model, state).set(count)
        _set_loss(loss, model, view["performance"])
        for name, feature in view["drift"].get("features", {}).items():
            evidence.labels(model, name).set(feature["log_e"])
        _set_coverage(coverage, model, view["performance"])
        retraining, rollout = view["retraining"], view.get("rollout")
        flight.labels(model).set(retraining["in_flight"] is not None)
        blocked.labels(model).set(bool(retraining.get("blocked")))
        ended = Counter(retraining["outcomes"].values())
        for outcome in get_args(Outcome):
            outcomes.labels(model, outcome).set(ended[outcome])
        weight.labels(model).set(0.0 if rollout is None else rollout["weight"])
        if rollout is not None:
            stage.labels(model, rollout["version"], rollout["stage"]).set(1)
    return generate_latest(registry).decode()


def _set_coverage(gauge: Gauge, model: str, performance: list[dict[str, Any]]) -> None:
    matured = [window for window in performance if window["rows"]]
    if matured:
        gauge.labels(model).set(matured[-1]["labelled"] / matured[-1]["rows"])


def _set_loss(gauge: Gauge, model: str, performance: list[dict[str, Any]]) -> None:
    judged = [window for window in performance if window["loss"] is not None]
    if judged:
        gauge.labels(model, "realised").set(judged[-1]["loss"])
        estimated = judged[-1]["estimated"]["bounded_loss"]
        if estimated is not None:
            gauge.labels(model, "estimated").set(estimated)
