"""The notifier's Prometheus metrics."""

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ray_mlops.monitoring.notices.outbox import TargetState


class _NotifierMetrics(Collector):
    """What the targets' states show at one moment."""

    def __init__(self, states: Sequence[TargetState]) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family."""
        sent = CounterMetricFamily(
            "ray_mlops_notifications",
            "Notices delivered or given up, and attempts that failed.",
            labels=["model", "target", "outcome"],
        )
        failing = GaugeMetricFamily(
            "ray_mlops_notification_failures",
            "Attempts in a row that a target did not accept; 0 while it accepts.",
            labels=["model", "target"],
        )
        for state in self._states:
            name = [state.model, state.target]
            for outcome in ("delivered", "failed", "given_up"):
                sent.add_metric([*name, outcome], getattr(state, outcome))
            failing.add_metric(name, state.failures)
        yield sent
        yield failing


def expose_notifications(states: Sequence[TargetState]) -> str:
    """Write the metrics of all targets in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_NotifierMetrics(states))
    return generate_latest(registry).decode()
