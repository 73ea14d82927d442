"""Traffic with a known truth, a monitor over it, and a service with a ledger, a store and two bundles."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_mlops.config import MonitoringConfig, ProjectConfig, build_config, config_hash
from ray_mlops.data.profile import fit_features_and_profile
from ray_mlops.data.target import TargetEncoder
from ray_mlops.ledger import Ledger
from ray_mlops.monitoring.channels import DatasetMonitor
from ray_mlops.monitoring.epoch import build_parts
from ray_mlops.monitoring.feature import FeatureReference
from ray_mlops.monitoring.handover import SCORE, Reference, build_handover, count_columns
from ray_mlops.monitoring.labels import prediction_values
from ray_mlops.monitoring.monitor import ModelMonitor, Watched, WindowReport
from ray_mlops.monitoring.service import MonitorService
from ray_mlops.monitoring.submission import JobState
from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log.listing import log_path
from ray_mlops.serving.protocol import Arm, LabelRecord, ModelRoutes
from ray_mlops.serving.routes import commit_routes
from ray_mlops.statistics.bins import Bins, CategoricalBins, NumericBins
from ray_mlops.statistics.estimator_fit import fit_classification, fit_regression
from ray_mlops.statistics.estimators import Estimator
from ray_mlops.statistics.losses import bounded_loss
from ray_mlops.training.bundle import BundleRef, Manifest, ModelBundle
from ray_mlops.training.factory import build_model
from ray_mlops.training.models import ModelSpec

HOUR = 3_600_000_000
FIRST = 1000
"""First window that is served."""
NUM_REFERENCE = 30
MODEL = "m"
CLASSES = ("low", "mid", "top")
MONITORING: dict[str, Any] = {
    "window": "1h",
    "min_window_rows": 20,
    "reference": {"windows": NUM_REFERENCE, "min_windows": 8},
    "labels": {"delay": "2h", "horizon": "30h", "min_coverage": 0.5},
}


@dataclass
class Traffic:
    """Rows as the prediction log has them, and their labels; a window's rows are the same whenever they are made."""

    task: str = "binary"
    rows: int = 40
    classes: tuple[str, ...] = CLASSES
    is_text: bool = False
    """Whether x is logged as text."""
    reference: Mapping[str, Any] = field(default_factory=dict)
    """What replaces columns (or ``rows``) in the windows of the reference."""
    num_reference: int = NUM_REFERENCE

    def window(self, window: int, shift: float = 0.0, **columns: Any) -> pa.Table:
        """The rows of one window; ``shift`` moves the number x, columns replace what is generated."""
        generator = np.random.default_rng(window)
        n = columns.pop("rows", self.rows)
        x = generator.normal(generator.normal(0, 0.3), 1.0, n) + shift
        event_us = window * HOUR + np.sort(generator.integers(0, HOUR, n))
        stamp = pa.timestamp("us", tz="UTC")
        table = {
            "prediction_id": [f"{window}-{i}" for i in range(n)],
            "request_id": [f"{window}-{i // 4}" for i in range(n)],
            "event_time": pa.array(event_us, stamp),
            "arrival_time": pa.array(event_us + 1000, stamp),
            "arm": ["champion"] * n,
            "version": ["1"] * n,
            "route_version": [1] * n,
            "pinned": [False] * n,
            "weight": [1.0] * n,
            "features.x": self._x(x, generator.random(n) < 0.05),
            "features.city": generator.choice(["a", "b", "c"], n),
            **self._predictions(generator, n),
        }
        for name, value in columns.items():
            whole = value if isinstance(value, list | pa.Array | np.ndarray) else [value] * n
            table[name.replace("features_", "features.")] = whole
        return pa.table(table)

    def windows(self, windows: Iterable[int], **columns: Any) -> pa.Table:
        return pa.concat_tables([self.window(window, **columns) for window in windows])

    def labels(self, rows: pa.Table, flip: bool = False, time_us: int | None = None) -> list[LabelRecord]:
        """Labels that fit the predictions, or (``flip``) that do not."""
        names = [name for name in rows.column_names if name.startswith("prediction") and name != "prediction_id"]
        values = np.column_stack([rows[name].to_numpy() for name in names])
        found = []
        for name, value in zip(rows["prediction_id"].to_pylist(), values, strict=True):
            label: Any = value[0] + (500.0 if flip else 1.0)
            if self.task == "binary":
                label = int((value[0] > 0.5) != flip)
            elif self.task == "multiclass":
                label = self.classes[int(np.argmin(value) if flip else np.argmax(value))]
            found.append(LabelRecord(name, label, time_us, arrival=int(name.split("-")[0]) * HOUR + 5))
        return found

    def _x(self, x: np.ndarray[Any, Any], is_null: np.ndarray[Any, Any]) -> pa.Array:
        if self.is_text:
            return pa.array(np.where(x > 0, "more", "less"), pa.string(), mask=is_null)
        return pa.array(x, mask=is_null)

    def _predictions(self, generator: np.random.Generator, n: int) -> dict[str, Any]:
        if self.task == "binary":
            return {"prediction": generator.beta(2, 3, n)}
        if self.task == "regression":
            return {"prediction": generator.normal(100, 10, n)}
        shares = generator.dirichlet([2] * len(self.classes), n)
        return {f"prediction.{name}": shares[:, i] for i, name in enumerate(self.classes)}


def encode(task: str, classes: tuple[str, ...] = CLASSES) -> Callable[[Any], float]:
    encoder = {
        "binary": TargetEncoder("y", "binary", (0, 1)),
        "multiclass": TargetEncoder("y", "multiclass", classes),
        "regression": TargetEncoder("y", "regression"),
    }[task]
    return encoder.encode_value


@dataclass
class Watch:
    """One monitor, and the shortest ways to feed it."""

    traffic: Traffic
    monitor: ModelMonitor
    make: Callable[[], ModelMonitor]
    sequence: int = 0

    def send(self, rows: pa.Table) -> Any:
        self.sequence += 1
        return self.monitor.handover(build_handover(MODEL, "r", self.sequence, rows, self.monitor.reference))

    def close(self) -> list[WindowReport]:
        """Close all windows that are due."""
        return list(iter(self.monitor.advance, None))

    def run(self, windows: Iterable[int], **columns: Any) -> list[WindowReport]:
        """Send windows one by one, closing what is due."""
        reports = []
        for window in windows:
            assert self.send(self.traffic.window(window, **columns)).accepted
            reports += self.close()
        return reports


@pytest.fixture
def watch() -> Callable[..., Watch]:
    """Makes a monitor of a task, with settings changed."""

    def make(task: str = "binary", start_window: int | None = None, estimated: bool = True, **settings: Any) -> Watch:
        labels = {**MONITORING["labels"], **settings.pop("labels", {})}
        config = MonitoringConfig.model_validate({**MONITORING, **settings, "labels": labels})
        traffic = Traffic(task)
        past = [traffic.window(window) for window in range(NUM_REFERENCE)]
        everything = pa.concat_tables(past)
        bins: dict[str, Bins] = {
            "x": NumericBins.from_sample(everything["features.x"], 8),
            "city": CategoricalBins.from_sample(everything["features.city"]),
        }
        probe: Bins = NumericBins([0.0, 0.2, 0.4, 0.6, 0.8, 1.0] if task != "regression" else [60.0, 90, 100, 110, 140])
        bins[SCORE] = probe
        ahead = None if config.max_ahead is None else int(config.max_ahead.total_seconds() * 1e6)
        counts = [count_columns(part, bins) for part in past]
        losses = [_losses(traffic, part) for part in past]
        estimator = fit_for(traffic, everything, {name: bins[name] for name in ("x", "city")}) if estimated else None

        def fresh() -> ModelMonitor:
            references = [FeatureReference(name, bins[name], tuple(c[name] for c in counts)) for name in ("x", "city")]
            score = FeatureReference(SCORE, probe, tuple(c[SCORE] for c in counts))
            dataset = DatasetMonitor(references, score, losses, config, parts=build_parts(estimator, config))
            watched = Watched(MODEL, "1", "h", task, CLASSES, 100.0, encode(task), start_window)  # type: ignore[arg-type]
            reference = Reference("ref", bins, HOUR, {}, "1", ahead, estimator=estimator)
            return ModelMonitor(watched, reference, dataset, config)

        return Watch(traffic, fresh(), fresh)

    return make


def fit_for(traffic: Traffic, rows: pa.Table, bins: Mapping[str, Bins]) -> Estimator | None:
    """What estimates performance without labels, fitted on rows of a traffic."""
    labels = np.array([encode(traffic.task, traffic.classes)(record.label) for record in traffic.labels(rows)])
    windows = rows["event_time"].cast(pa.int64()).to_numpy() // HOUR
    kept = tuple(np.unique(windows).tolist())
    prediction = prediction_values(rows, traffic.task)
    if traffic.task == "regression":
        columns = {name: rows[f"features.{name}"] for name in bins}
        return fit_regression(columns, bins, prediction, labels, 100.0, windows, kept)
    fitted = fit_classification(traffic.task, prediction, labels, windows, kept)  # type: ignore[arg-type]
    return None if fitted is None else replace(fitted, classes=traffic.classes if traffic.task == "multiclass" else ())


def _losses(traffic: Traffic, rows: pa.Table) -> tuple[int, float, float]:
    labels = np.array([encode(traffic.task, traffic.classes)(record.label) for record in traffic.labels(rows)])
    found = bounded_loss(traffic.task, prediction_values(rows, traffic.task), labels, 100.0)  # type: ignore[arg-type]
    return len(found), float(found.sum()), float((found**2).sum())


@dataclass
class FakeSubmitter:
    """A job server that outlives the monitor: records what was submitted, answers what the test says."""

    submitted: list[str] = field(default_factory=list)
    states: dict[str, JobState] = field(default_factory=dict)

    def submit(self, submission_id: str, decision_id: str) -> None:
        if submission_id not in self.states:
            self.submitted.append(submission_id)
            self.states[submission_id] = "running"

    def state(self, submission_id: str) -> JobState:
        return self.states.get(submission_id, "unknown")


@dataclass
class World:
    """A ledger, a store with bundles, and a service over them that can be killed."""

    config: ProjectConfig
    bundles: list[BundleRef]
    ledger: Ledger
    files: Files
    jobs: FakeSubmitter
    traffic: Traffic
    service: MonitorService
    routes: ModelRoutes
    versions: Sequence[Traffic] = ()
    """What each version answers."""
    hashes: Sequence[str] = ()
    """The configuration of each version."""
    sequence: int = 0
    model: str = MODEL

    def restart(self) -> MonitorService:
        """Kill the service and start another."""
        self.service = MonitorService(self.ledger, self.files, self.jobs)
        self.service.watch(self.model)
        return self.service

    def promote(self, version: int) -> None:
        bundle = self.bundles[version - 1]
        key = self.hashes[version - 1] if len(set(self.hashes)) > 1 else self.routes.config_hash
        routes = ModelRoutes(self.model, 0, Arm(str(version), bundle.uri, bundle.hash), config_hash=key)
        self.routes = commit_routes(self.ledger, routes, self.routes.version)

    def redeploy(self, **sections: Mapping[str, Any]) -> None:
        """Put another configuration in force, of the same champion."""
        content = self.config.model_dump(mode="json")
        for name, changed in sections.items():
            content[name] = {**content[name], **changed}
        key = f"changed-{self.routes.version}"
        payload = {"config": content, "hash": key}
        self.ledger.append(f"{self.model}/config", "config.deployed", f"{self.model}/config/{key}", payload)
        self.routes = commit_routes(self.ledger, replace(self.routes, config_hash=key), self.routes.version)

    def rows_of(self, version: int, window: int, **columns: Any) -> pa.Table:
        """A window of what a version answers; its ids are its own."""
        rows = self.versions[version - 1].window(window, version=str(version), **columns)
        ids = [f"{name}-v{version}" for name in rows["prediction_id"].to_pylist()]
        return rows.set_column(rows.column_names.index("prediction_id"), "prediction_id", pa.array(ids))

    def answer(self, version: int, windows: Iterable[int], labelled: bool = True, **columns: Any) -> None:
        """Let a version answer windows, with labels."""
        for window in windows:
            rows = self.log(self.rows_of(version, window, **columns))
            self.hand_over(rows)
            if labelled:
                self.label(rows, traffic=self.versions[version - 1])

    def log(self, rows: pa.Table) -> pa.Table:
        """Write rows to the prediction log, as a replica does before it hands them over."""
        self.sequence += 1
        days = [str(day.as_py().date()) for day in rows["event_time"]]
        for day in sorted(set(days)):
            part = rows.filter(pa.array([own == day for own in days]))
            self.files.write_table(log_path(self.model, day, "r", self.sequence), part)
        return rows

    def hand_over(self, rows: pa.Table) -> Any:
        """Hand rows over as a sink does: on the reference in force, counted again when it is another."""
        receipt = self.service.handover(
            build_handover(self.model, "r", self.sequence, rows, self.service.reference(self.model))
        )
        assert receipt.accepted
        return receipt

    def serve(self, windows: Iterable[int], **columns: Any) -> None:
        for window in windows:
            self.hand_over(self.log(self.traffic.window(window, **columns)))

    def label(self, rows: pa.Table, traffic: Traffic | None = None, **how: Any) -> None:
        """Write labels to the label log, then give them to the monitor."""
        self.give((traffic or self.traffic).labels(rows, **how))

    def give(self, records: Sequence[LabelRecord]) -> None:
        """The same with labels of one's own."""
        self.sequence += 1
        lines = [
            json.dumps({"id": r.id, "label": r.label, "time": r.time, "arrival": r.arrival}) + "\n" for r in records
        ]
        self.files.write(f"labels/{self.model}/day=2026-01-01/r-{self.sequence}.jsonl", "".join(lines).encode())
        self.service.add_labels(self.model, records)

    def events(self, topic: str, kind: str) -> list[Mapping[str, Any]]:
        return [event.payload for event in self.ledger.read(f"{self.model}/{topic}", kind=kind)]

    @property
    def decisions(self) -> list[Mapping[str, Any]]:
        return self.events("retrain", "retrain.decided")

    @property
    def alarms(self) -> list[str]:
        return [payload["alarm"] for payload in self.events("monitor", "monitor.alarm")]


@pytest.fixture
def make_world(tmp_path: Path) -> Callable[..., World]:
    """Makes a world whose model has been champion from window ``FIRST`` on."""

    def make(
        columns: Mapping[str, Any] | None = None,
        redact: Mapping[str, str] | None = None,
        slices: Sequence[str] = (),
        store: str = "store",
        estimated: bool = True,
        versions: Sequence[Mapping[str, Any]] = ({}, {}),
        windows: Sequence[str] = ("1h", "1h"),
        monitoring: Mapping[str, Any] | None = None,
        evaluation: Mapping[str, Any] | None = None,
        model: str = MODEL,
        beside: World | None = None,
        **over: Any,
    ) -> World:
        root = tmp_path / store
        root.mkdir(exist_ok=beside is not None)
        content = {
            "name": model,
            "store": {"root": str(root)},
            "data": {
                "source": {"path": "rows.parquet"},
                "task": "binary",
                "target": "y",
                "event_time": "time",
                "contract": {"columns": dict(columns or {})},
            },
            "serving": {"log": {"redact": dict(redact or {})}},
            "monitoring": {**MONITORING, **(monitoring or {})},
            "rollout": {"guards": {"slices": list(slices)}},
            "evaluation": dict(evaluation or {}),
            "retraining": {"cool_down": "12h", "window": "24h", "holdout": "2h", "min_rows": 50, **over},
        }
        configs, traffics = [], [Traffic(**version) for version in versions]
        for traffic, window in zip(traffics, windows, strict=True):
            configs.append(build_config(content, {"data.task": traffic.task, "monitoring.window": window}))
        ledger = Ledger(f"sqlite:///{root}/ledger.db") if beside is None else beside.ledger
        files = Files(str(root))
        bundles = [
            _save_bundle(files, config, traffic, seed, estimated)
            for seed, (config, traffic) in enumerate(zip(configs, traffics, strict=True), 1)
        ]
        for config in configs:
            key = config_hash(config)
            payload = {"config": config.model_dump(mode="json"), "hash": key}
            ledger.append(f"{model}/config", "config.deployed", f"{model}/config/{key}", payload)
        config, traffic, hashes = configs[0], traffics[0], [config_hash(config) for config in configs]
        routes = ModelRoutes(model, 0, Arm("1", bundles[0].uri, bundles[0].hash), config_hash=hashes[0])
        routes = commit_routes(ledger, routes, 0)
        jobs = FakeSubmitter() if beside is None else beside.jobs
        service = MonitorService(ledger, files, jobs) if beside is None else beside.service
        service.watch(model)
        return World(config, bundles, ledger, files, jobs, traffic, service, routes, traffics, hashes, model=model)

    return make


def _save_bundle(files: Files, config: ProjectConfig, traffic: Traffic, seed: int, estimated: bool = True) -> BundleRef:
    """A bundle with random weights, whose scores and losses are those of the traffic."""
    past = traffic.windows(range(FIRST - traffic.num_reference, FIRST), **traffic.reference)
    labels = [record.label for record in traffic.labels(past)]
    inputs = {name: past[f"features.{name}"] for name in ("x", "city")}
    table = pa.table({"time": past["event_time"], **inputs, "y": labels})
    features, profile, _ = fit_features_and_profile(table, config.data, config.monitoring)
    values = prediction_values(past, traffic.task)
    encoder = TargetEncoder.fit(table, config.data)
    losses = bounded_loss(traffic.task, values, [encoder.encode_value(label) for label in labels], 100.0)  # type: ignore[arg-type]
    event_us = past["event_time"].cast(pa.int64()).to_numpy()
    scores = values if values.ndim == 1 else values.max(axis=1)
    profile = profile.with_scores(scores, event_us, losses, monitoring=config.monitoring)
    if estimated:
        bins = {name: column.bins for name, column in profile.columns.items()} if traffic.task == "regression" else {}
        profile = replace(profile, estimator=fit_for(traffic, past, bins))
    num_outputs = len(traffic.classes) if traffic.task == "multiclass" else 1
    spec = ModelSpec(traffic.task, len(features.numeric_names), features.categorical_sizes, num_outputs)  # type: ignore[arg-type]
    params = {"hidden": 4, "members": 1, "depth": 1}
    factory = "ray_mlops.training.models:tabular"
    torch.manual_seed(seed)
    manifest = Manifest(MODEL, traffic.task, "y", encoder.classes, factory, params, spec)  # type: ignore[arg-type]
    bundle = ModelBundle(manifest, features, build_model(factory, spec, params), profile, None)  # type: ignore[arg-type]
    return bundle.with_parity(table.slice(0, 32)).save(files)
