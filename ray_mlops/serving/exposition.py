"""This replica's metrics in Prometheus text, merged with the monitor's."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ray_mlops.serving.telemetry import Telemetry

_HEADER = re.compile(r"# (?:HELP|TYPE) (\S+)")
_SAMPLE = re.compile(r"([A-Za-z_:][\w:]*)(\{.*\})?\s")


@dataclass(frozen=True, slots=True, eq=False)
class ReplicaMetrics(Collector):
    """What a replica shows at one moment; ``collect`` is called by ``prometheus_client``."""

    telemetry: Telemetry
    log_rows: Mapping[str, int]
    """Rows of the prediction log by state: accepted, written, spooled, dropped, lost."""
    log_retries: int
    route_versions: Mapping[str, int]
    sink_failures: int
    is_monitor_up: bool
    spilled_bytes: int = 0
    failed_requests: Mapping[str, int] = field(default_factory=dict)
    """Failed requests `noted`, `written`, `dropped`, and their files `evicted`."""

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family."""
        replica = self.telemetry.replica
        requests = CounterMetricFamily(
            "ray_mlops_requests", "Requests by assigned arm.", labels=["replica", "model", "arm", "version", "outcome"]
        )
        for labels, count in sorted(self.telemetry.requests.items()):
            requests.add_metric([replica, *labels], count)
        yield requests
        refused = CounterMetricFamily(
            "ray_mlops_refused_requests", "Requests answered with an error.", labels=["replica", "model", "status"]
        )
        for labels, count in sorted(self.telemetry.refused.items()):
            refused.add_metric([replica, *labels], count)
        yield refused
        labelled = CounterMetricFamily("ray_mlops_labels", "Labels received.", labels=["replica", "model", "state"])
        for labels, count in sorted(self.telemetry.labels.items()):
            labelled.add_metric([replica, *labels], count)
        yield labelled
        yield from self._histograms()
        yield from self._log()
        yield from self._gauges()

    def _histograms(self) -> Iterator[Metric]:
        pairs = (
            ("ray_mlops_request_seconds", "Latency end to end.", self.telemetry.latency),
            ("ray_mlops_model_seconds", "Time in the assigned arm's model.", self.telemetry.model_time),
        )
        for name, documentation, histograms in pairs:
            family = HistogramMetricFamily(name, documentation, labels=["replica", "model", "arm"])
            for labels, histogram in sorted(histograms.items()):
                buckets = [(bound, float(count)) for bound, count in histogram.cumulative()]
                family.add_metric([self.telemetry.replica, *labels], buckets, histogram.total_s)
            yield family

    def _log(self) -> Iterator[Metric]:
        rows = CounterMetricFamily("ray_mlops_log_rows", "Rows of the prediction log.", labels=["replica", "state"])
        for state, count in self.log_rows.items():
            rows.add_metric([self.telemetry.replica, state], count)
        yield rows
        for name, documentation, count in (
            ("ray_mlops_log_retries", "Rows whose prediction id was logged before.", self.log_retries),
            ("ray_mlops_sink_failures", "Flushes that the monitor's sink did not take.", self.sink_failures),
        ):
            family = CounterMetricFamily(name, documentation, labels=["replica"])
            family.add_metric([self.telemetry.replica], count)
            yield family
        spilled = GaugeMetricFamily(
            "ray_mlops_log_spilled_bytes", "Local disk that rows take which memory had no room for.", labels=["replica"]
        )
        spilled.add_metric([self.telemetry.replica], self.spilled_bytes)
        yield spilled
        failed = CounterMetricFamily(
            "ray_mlops_failed_requests", "Failed requests kept for a replay.", labels=["replica", "state"]
        )
        for state in ("noted", "written", "dropped"):
            failed.add_metric([self.telemetry.replica, state], self.failed_requests.get(state, 0))
        yield failed
        evicted = CounterMetricFamily(
            "ray_mlops_failed_request_files_evicted", "Files of failed requests that gave way.", labels=["replica"]
        )
        evicted.add_metric([self.telemetry.replica], self.failed_requests.get("evicted", 0))
        yield evicted

    def _gauges(self) -> Iterator[Metric]:
        routes = GaugeMetricFamily(
            "ray_mlops_route_version", "Route version in force in this replica.", labels=["replica", "model"]
        )
        for model, version in sorted(self.route_versions.items()):
            routes.add_metric([self.telemetry.replica, model], version)
        yield routes
        in_flight = GaugeMetricFamily("ray_mlops_requests_in_flight", "Requests not yet answered.", labels=["replica"])
        in_flight.add_metric([self.telemetry.replica], self.telemetry.num_in_flight)
        yield in_flight
        up = GaugeMetricFamily("ray_mlops_monitor_up", "Whether this replica reaches the monitor.", labels=["replica"])
        up.add_metric([self.telemetry.replica], float(self.is_monitor_up))
        yield up


def expose(metrics: ReplicaMetrics) -> str:
    """Write metrics in the text format."""
    registry = CollectorRegistry()
    registry.register(metrics)
    return generate_latest(registry).decode()


def merge_expositions(own: str, other: str) -> str:
    """Merge two expositions so that each family has one header and each series one sample; ``own`` wins.

    Example:
        >>> print(merge_expositions("# TYPE a gauge\\na 1\\n", "# TYPE a gauge\\na 2\\na{x=\\"1\\"} 3\\n"), end="")
        # TYPE a gauge
        a 1
        a{x="1"} 3
    """
    families = _families(own)
    for name, (header, samples) in _families(other).items():
        known_header, known = families.get(name, (header, {}))
        families[name] = (known_header, {**known, **_without(samples, known)})
    lines = (line for header, samples in families.values() for line in (*header, *samples.values()))
    return "".join(f"{line}\n" for line in lines)


def _without(samples: dict[str, str], known: dict[str, str]) -> dict[str, str]:
    return {series: line for series, line in samples.items() if series not in known}


def _families(text: str) -> dict[str, tuple[list[str], dict[str, str]]]:
    families: dict[str, tuple[list[str], dict[str, str]]] = {}
    current = ""
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = header[1]
            families.setdefault(current, ([], {}))[0].append(line)
        elif sample := _SAMPLE.match(line):
            name = current if current and sample[1].startswith(current) else sample[1]
            families.setdefault(name, ([], {}))[1][sample[1] + (sample[2] or "")] = line
    return families
