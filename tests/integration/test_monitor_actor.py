"""The monitor as a detached actor: rows handed over by a sink, labels, a kill in the middle, and metrics."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch
from prometheus_client.parser import text_string_to_metric_families

from ray_mlops.config import StoreConfig, build_config, config_hash
from ray_mlops.data.profile import fit_features_and_profile
from ray_mlops.data.target import TargetEncoder
from ray_mlops.errors import NotFoundError
from ray_mlops.ledger import Ledger
from ray_mlops.monitoring.actor import MonitorClient, MonitorSink, monitor_actor, start_monitor
from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log.listing import log_path
from ray_mlops.serving.protocol import MONITOR_ACTOR, NAMESPACE, Arm, LabelRecord, ModelRoutes
from ray_mlops.serving.routes import commit_routes
from ray_mlops.training.bundle import Manifest, ModelBundle
from ray_mlops.training.factory import build_model
from ray_mlops.training.models import ModelSpec

HOUR, FIRST, MODEL = 3_600_000_000, 1000, "watched"
STAMP = pa.timestamp("us", tz="UTC")


class IdleSubmitter:
    """Accepts every job and never ends one."""

    def __init__(self, store: StoreConfig) -> None:
        self._files = Files(store.root_uri)

    def submit(self, submission_id: str, decision_id: str) -> None:
        self._files.write(f"submitted/{submission_id}", b"")

    def state(self, submission_id: str) -> str:
        return "running" if self._files.exists(f"submitted/{submission_id}") else "unknown"


def window_rows(window: int, shift: float = 0.0, n: int = 40) -> pa.Table:
    generator = np.random.default_rng(window)
    event_us = window * HOUR + np.sort(generator.integers(0, HOUR, n))
    return pa.table(
        {
            "prediction_id": [f"{window}-{i}" for i in range(n)],
            "request_id": [f"{window}-{i}" for i in range(n)],
            "event_time": pa.array(event_us, STAMP),
            "arrival_time": pa.array(event_us, STAMP),
            "arm": ["champion"] * n,
            "version": ["1"] * n,
            "route_version": [1] * n,
            "pinned": [False] * n,
            "weight": [1.0] * n,
            "features.x": generator.normal(shift, 1, n),
            "prediction": generator.beta(2, 3, n),
        }
    )


@dataclass
class Setup:
    store: StoreConfig
    ledger: Ledger
    files: Files
    sequence: int = 0

    def log(self, rows: pa.Table) -> pa.Table:
        self.sequence += 1
        day = str(rows["event_time"][0].as_py().date())
        self.files.write_table(log_path(MODEL, day, "r", self.sequence), rows)
        return rows


class Receiver(BaseHTTPRequestHandler):
    """Takes notices while it is up, and refuses them for the moment while it is not."""

    is_up = True
    refused = threading.Event()
    accepted: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.is_up:
            self.accepted.append(body)
        else:
            self.refused.set()
        self.send_response(204 if self.is_up else 503)
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def receiver() -> Iterator[int]:
    """A receiver of notices on this machine; its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def setup(ray_cluster: str, receiver: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    store = StoreConfig(root=str(tmp_path_factory.mktemp("store")))
    files, ledger = Files(store.root_uri), Ledger.open(store)
    past = pa.concat_tables([window_rows(window) for window in range(FIRST - 30, FIRST)])
    truth = (past["prediction"].to_numpy() > 0.5).astype(int)
    table = pa.table({"time": past["event_time"], "x": past["features.x"], "y": truth})
    content = {
        "name": MODEL,
        "store": store.model_dump(mode="json"),
        "data": {"source": {"path": "rows.parquet"}, "task": "binary", "target": "y", "event_time": "time"},
        "monitoring": {
            "window": "1h",
            "min_window_rows": 20,
            "reference": {"windows": 30, "min_windows": 8},
            "labels": {"delay": "2h", "horizon": "30h"},
        },
        "retraining": {"cool_down": "12h", "window": "24h", "holdout": "2h", "min_rows": 50},
        "notifications": {
            "targets": [
                {"type": "webhook", "name": "ops", "url": f"http://127.0.0.1:{receiver}/in", "events": ["*"]},
                {"type": "webhook", "name": "dead", "url": "http://127.0.0.1:1/in", "events": ["*"]},
            ]
        },
    }
    config = build_config(content, {})
    features, profile, _ = fit_features_and_profile(table, config.data, config.monitoring)
    event_us = past["event_time"].cast(pa.int64()).to_numpy()
    scores = past["prediction"].to_numpy()
    profile = profile.with_scores(scores, event_us, (scores - truth) ** 2, monitoring=config.monitoring)
    spec = ModelSpec("binary", len(features.numeric_names), features.categorical_sizes, 1)
    params = {"hidden": 4, "members": 1, "depth": 1}
    factory = "ray_mlops.training.models:tabular"
    torch.manual_seed(0)
    manifest = Manifest(MODEL, "binary", "y", TargetEncoder.fit(table, config.data).classes, factory, params, spec)
    model = build_model(factory, spec, params)
    bundle = ModelBundle(manifest, features, model, profile, None)  # type: ignore[arg-type]
    reference = bundle.with_parity(table.slice(0, 32)).save(files)
    key = config_hash(config)
    payload = {"config": config.model_dump(mode="json"), "hash": key}
    ledger.append(f"{MODEL}/config", "config.deployed", f"{MODEL}/config/{key}", payload)
    commit_routes(ledger, ModelRoutes(MODEL, 0, Arm("1", reference.uri, reference.hash), config_hash=key), 0)
    ray.get(start_monitor(store, f"{__name__}:IdleSubmitter").start.remote(), timeout=60)
    yield Setup(store, ledger, files)
    ray.kill(ray.get_actor(MONITOR_ACTOR, namespace=NAMESPACE))


def view() -> Any:
    return asyncio.run(MonitorClient().view(MODEL))  # type: ignore[arg-type]


def wait_for_restart() -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            ray.get(monitor_actor().start.remote(), timeout=10)
            return
        except ray.exceptions.RayError:
            assert time.monotonic() < deadline, "the monitor did not come back"
            time.sleep(0.1)


def test_actor_watches_alarms_survives_a_kill_and_decides_once(setup: Setup) -> None:
    client, sink = MonitorClient(), MonitorSink()
    assert asyncio.run(client.closed_window(MODEL)) is None
    for window in range(FIRST, FIRST + 3):
        sink.accept(MODEL, "1", setup.log(window_rows(window)))
    assert sink.failures == 0
    assert asyncio.run(client.closed_window(MODEL)) == FIRST + 1
    labels = [LabelRecord(f"{FIRST}-{i}", int(i % 2), None, arrival=5) for i in range(40)]
    lines = "".join(json.dumps({"id": r.id, "label": r.label, "time": None, "arrival": 5}) + "\n" for r in labels)
    setup.files.write(f"labels/{MODEL}/day=1970-01-01/r-1.jsonl", lines.encode())
    assert asyncio.run(client.accept(MODEL, labels))["accepted"] == 40
    before = view()

    ray.kill(monitor_actor(), no_restart=False)
    # What is sent to a monitor that is away is kept, or arrives: it is never lost, and never counted twice.
    sink.accept(MODEL, "1", setup.log(window_rows(FIRST + 3)))
    wait_for_restart()
    sink.accept(MODEL, "1", setup.log(window_rows(FIRST + 4, shift=4.0)))
    after = view()
    assert after["rows"] == before["rows"] + 80
    assert after["closed_window"] == FIRST + 3
    assert after["windows"][:2] == before["windows"]
    assert [window["rows"] for window in after["windows"]] == [40] * 4
    assert after["labels"]["accepted"] == 40
    assert asyncio.run(client.labelled(MODEL, 0)).num_rows == 40

    for window in range(FIRST + 5, FIRST + 10):
        sink.accept(MODEL, "1", setup.log(window_rows(window, shift=4.0)))
    decisions = setup.ledger.read(f"{MODEL}/retrain", kind="retrain.decided")
    assert len(decisions) == 1
    assert list(setup.files.names("submitted")) == [f"submitted/{decisions[0].key}"]
    assert [e.payload["alarm"] for e in setup.ledger.read(f"{MODEL}/monitor", kind="monitor.alarm")] == ["drift:inputs"]
    assert asyncio.run(client.status(MODEL))["retraining"]["in_flight"] == decisions[0].key
    families = {f.name: f for f in text_string_to_metric_families(asyncio.run(client.metrics()))}
    assert families["ray_mlops_monitor_rows"].samples[0].value == 400
    assert families["ray_mlops_retraining_in_flight"].samples[0].value == 1


def test_monitor_tells_everything_in_order_and_goes_on_after_a_kill_without_being_called(setup: Setup) -> None:
    setup.ledger.append(f"{MODEL}/versions", "version.approved", "before", {"version": "7", "by": "ann"})
    wait_for(lambda: "before" in told())
    Receiver.is_up = False
    setup.ledger.append(f"{MODEL}/versions", "version.approved", "during", {"version": "8", "by": "ann"})
    assert Receiver.refused.wait(60)
    ray.kill(monitor_actor(), no_restart=False)
    Receiver.is_up = True
    wait_for(lambda: "during" in told())
    in_order = list(dict.fromkeys(told()))
    keys = [event.key for event in setup.ledger.read(prefix=f"{MODEL}/") if event.key in in_order]
    assert in_order == keys
    assert {"config.deployed", "epoch.began", "alarm", "retrain.scheduled"} <= {b["kind"] for b in Receiver.accepted}
    wait_for_restart()
    wait_for(lambda: setup.files.exists(f"checkpoints/monitor-notices/{MODEL}/dead.json"))
    families = {f.name: f for f in text_string_to_metric_families(asyncio.run(MonitorClient().metrics()))}
    samples = families["ray_mlops_notifications"].samples
    sent = {(sample.labels["target"], sample.labels["outcome"]): sample.value for sample in samples}
    assert sent["ops", "delivered"] >= len(in_order)
    assert sent["dead", "delivered"] == 0


def told() -> list[str]:
    """Ids of the notices that the receiver has accepted."""
    return [body["id"] for body in Receiver.accepted]


def wait_for(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline, told()
        time.sleep(0.1)


def test_unknown_model_is_an_error_of_ours_on_the_other_side(setup: Setup) -> None:
    with pytest.raises(NotFoundError, match="not watched"):
        asyncio.run(MonitorClient().view("nobody"))
    sink = MonitorSink()
    sink.accept("nobody", "1", window_rows(FIRST))
    assert sink.failures == 1
