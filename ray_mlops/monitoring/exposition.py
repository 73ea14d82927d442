"""The monitor's Prometheus metrics, rendered from its views."""

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest


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
    flight = gauge("retraining_in_flight", "1 while a retraining job runs.")
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
        flight.labels(model).set(view["retraining"]["in_flight"] is not None)
    return generate_latest(registry).decode()


def _set_loss(gauge: Gauge, model: str, performance: list[dict[str, Any]]) -> None:
    judged = [window for window in performance if window["loss"] is not None]
    if judged:
        gauge.labels(model, "realised").set(judged[-1]["loss"])
        estimated = judged[-1]["estimated"]["bounded_loss"]
        if estimated is not None:
            gauge.labels(model, "estimated").set(estimated)
