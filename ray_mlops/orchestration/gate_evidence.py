"""What only a running replica can show: parity and load over HTTP, and answers to logged traffic."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import orjson
import pyarrow as pa

from ray_mlops.config import ProjectConfig
from ray_mlops.errors import EvaluationError, FeatureError
from ray_mlops.evaluation import (
    PARITY_BATCH_SIZES,
    LoadReport,
    ParityReport,
    ReplayReport,
    ServedAnswers,
    judge_parity,
    judge_replay,
    summarise_load,
)
from ray_mlops.monitoring.labels import prediction_values
from ray_mlops.orchestration.service import ensure_service
from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log.files import read_predictions
from ray_mlops.serving.serve_apps import start_gate, stop_gate
from ray_mlops.training.bundle import BundleRef, ModelBundle

_FEATURE = "features."


def measure_replica(bundle: ModelBundle, ref: BundleRef, config: ProjectConfig) -> tuple[ParityReport, LoadReport]:
    """Serve a bundle in a replica of its own and ask it over HTTP.

    Returns:
        Whether it answers the parity rows as the trainer did, at every batch size, and what it costs.

    Raises:
        ClusterError: The replica failed to start.
        DeadlineError: It did not start within ``gate.load.max_start_s``.
    """
    began = time.monotonic()
    service = ensure_service(config)
    timeout_s = config.gate.load.max_start_s
    asked = time.monotonic()
    prefix = start_gate(config.name, ref.uri, ref.hash, config, timeout_s)
    try:
        with httpx.Client(base_url=service.url + prefix, timeout=60.0, trust_env=False) as client:
            _wait_until_routed(client, began + timeout_s)
            start_s = time.monotonic() - asked
            return _measure_parity(client, bundle, config), _measure_load(client, bundle, config, start_s)
    finally:
        stop_gate(config.name, ref.hash)


def replay_log(bundle: ModelBundle, files: Files, config: ProjectConfig) -> ReplayReport | None:
    """Let a candidate answer the newest logged rows; None where none are wanted."""
    wanted = config.gate.replay_rows
    days = sorted({path.split("/")[2] for path in files.names(f"predictions/{config.name}") if "/day=" in path})
    if not wanted:
        return None
    rows: pa.Table | None = None
    for count in range(1, len(days) + 1):
        rows = read_predictions(files, config.name, (days[-count].removeprefix("day="), "9999-12-31"))
        if rows.num_rows >= wanted:
            break
    if rows is None or rows.num_rows == 0:
        return ReplayReport(rows=0)
    rows = rows.slice(max(0, rows.num_rows - wanted))
    inputs = pa.table({n.removeprefix(_FEATURE): rows[n] for n in rows.column_names if n.startswith(_FEATURE)})
    logged = prediction_values(rows, bundle.task, [str(name) for name in bundle.classes])
    try:
        values = bundle.predict(inputs).values
    except FeatureError:  # a column that the log leaves out (redacted), or of another type: no row can be answered
        values = np.full(logged.shape, np.nan)
    return judge_replay(bundle.task, values, logged, threshold=bundle.threshold)


def _measure_parity(client: httpx.Client, bundle: ModelBundle, config: ProjectConfig) -> ParityReport:
    expected = bundle.parity
    rows = expected.rows.to_pylist()
    got = [_answers(client, rows, size) for size in PARITY_BATCH_SIZES]
    recorded = ServedAnswers(
        expected.batch_rows, expected.values, expected.features.numeric, expected.features.categorical
    )
    return judge_parity(
        bundle.task,
        recorded,
        got,
        atol=config.gate.parity.atol,
        threshold=bundle.threshold,
        numeric_names=bundle.features.numeric_names,
        categorical_names=bundle.features.categorical_names,
    )


def _answers(client: httpx.Client, rows: list[dict[str, Any]], size: int) -> ServedAnswers:
    values, numeric, categorical = [], [], []
    for batch in _batches(rows, size):
        body = orjson.dumps({"instances": batch}, default=str)
        values += _ask(client, "/predict", body)["values"]
        features = _ask(client, "/features", body)
        numeric += features["numeric"]
        categorical += features["categorical"]
    return ServedAnswers(
        size,
        np.array(values, dtype=np.float64),
        np.array(numeric, dtype=np.float64).reshape(len(rows), -1),
        np.array(categorical, dtype=np.int64).reshape(len(rows), -1),
    )


def _measure_load(client: httpx.Client, bundle: ModelBundle, config: ProjectConfig, start_s: float) -> LoadReport:
    rows = bundle.parity.rows.to_pylist()
    latencies_ms, failures = [], 0
    for number in range(config.gate.load.requests):
        body = orjson.dumps({"instances": [rows[number % len(rows)]]}, default=str)
        began = time.perf_counter()
        response = client.post("/predict", content=body)
        if response.is_success:
            latencies_ms.append((time.perf_counter() - began) * 1e3)
        else:
            failures += 1
    stats = orjson.loads(client.get("/stats").content)
    return summarise_load(latencies_ms, failures=failures, memory_mb=stats["peak_rss_bytes"] / 2**20, start_s=start_s)


def _ask(client: httpx.Client, path: str, body: bytes) -> dict[str, Any]:
    response = client.post(path, content=body)
    if not response.is_success:
        problem = f"HTTP {response.status_code}: {response.text[:200]}"
        raise EvaluationError(problem, f"gate replica {path}", "the replica cannot answer the bundle's own parity rows")
    return dict(orjson.loads(response.content))


def _batches(rows: list[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _wait_until_routed(client: httpx.Client, deadline: float) -> None:
    """Wait for the ingress: it learns of a new application a moment after the application runs."""
    while True:
        with contextlib.suppress(httpx.TransportError):
            if client.get("/stats").is_success:
                return
        if time.monotonic() > deadline:
            raise EvaluationError("the ingress does not route to the gate's replica", str(client.base_url))
        time.sleep(0.05)
