"""What we add to each request: routing, monitoring and logging alone, without HTTP, features and model.

Counted is processor time of the event loop's thread, which other processes disturb less than the clock.
"""

import asyncio
import cProfile
import gc
import pstats
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jobs.benchmarks.bundles import build_bundle
from jobs.benchmarks.figures import Figure, Report, Rows
from jobs.benchmarks.options import Options
from ray_mlops.config import ProjectConfig, ServingConfig, build_config
from ray_mlops.runtime.files import Files
from ray_mlops.serving.answering import Answering
from ray_mlops.serving.http.parse import PredictRequest
from ray_mlops.serving.loaded import LoadedModel, LoadedTable, ModelSettings, TableLoader
from ray_mlops.serving.prediction_log.log import PredictionLog
from ray_mlops.serving.predictor import Answer, Predictor
from ray_mlops.serving.protocol import Arm, ModelRoutes, RouteTable
from ray_mlops.serving.telemetry import Telemetry
from ray_mlops.training.bundle import ModelBundle, Prediction

FEATURES = tuple(f"x{index}" for index in range(20))
CHUNK, WEIGHT, NUM_USERS = 2_000, 0.1, 500
LIMIT_US = 5.0


class InstantPredictor(Predictor):
    """Has answered before it was asked; everything around it is as in production."""

    def __init__(self, bundle: ModelBundle) -> None:
        super().__init__(bundle)
        self._answer = Answer(Prediction("regression", np.zeros(1), ()), 0.0001)

    def is_quick(self, num_rows: int) -> bool:
        return True

    async def answer(self, rows: Sequence[Mapping[str, Any]]) -> Answer:
        return self._answer


class _Isolated:
    """Candidates in processes of their own, of which this benchmark has none."""

    async def predict(self, model: str, version: str, rows: Sequence[Mapping[str, Any]]) -> Answer:
        raise ConnectionError("there is no such process")

    def is_gone(self, model: str, version: str) -> bool:
        return True


def measure(options: Options, report: Report) -> None:
    """Measure, and show where the time goes."""
    with tempfile.TemporaryDirectory() as directory:
        figure, profile = asyncio.run(_measure(Path(directory), 40_000 if options.quick else 400_000))
    report.figures.append(figure)
    report.tables["the hot path under a profiler, shares of its time"] = profile


async def _measure(directory: Path, requests: int) -> tuple[Figure, Rows]:
    config = _config(directory)
    loaded = await _load(config)
    telemetry = Telemetry("bench")
    log = PredictionLog(Files(config.store.root_uri), directory / "accounts", "bench", config.serving.log, 3600.0)
    answering = Answering(telemetry, log, _Isolated(), ServingConfig())
    chunks = max(4, requests // CHUNK)
    path_us, empty_us, flush_us = [], [], []
    gc.collect()
    gc.freeze()  # as Serve does in its replicas, in throughput mode
    for index in range(chunks + 1):
        batch = _requests(index)
        start = time.thread_time()
        for _ in batch:
            await loaded.champion.answer([])
        middle = time.thread_time()
        await _serve(answering, telemetry, loaded, batch)
        end, flush_start = time.thread_time(), time.process_time()
        await log.flush()
        telemetry.delivered(telemetry.changed())
        if index:  # the first warms up
            empty_us.append((middle - start) / CHUNK * 1e6)
            path_us.append((end - middle) / CHUNK * 1e6)
            flush_us.append((time.process_time() - flush_start) / CHUNK * 1e6)
    profile = await _profile(answering, telemetry, loaded)
    await log.close()
    each_us = statistics.median(path_us) - statistics.median(empty_us)
    detail = (
        f"median of {chunks} x {CHUNK}, best {min(path_us) - min(empty_us):.2f}; beside it, in a thread of the log, "
        f"{statistics.median(flush_us):.1f} us of Arrow and Parquet a row"
    )
    return Figure("hot_path_us", each_us, at_most=LIMIT_US, detail=detail), profile


async def _serve(
    answering: Answering, telemetry: Telemetry, loaded: LoadedModel, requests: Sequence[PredictRequest]
) -> None:
    """What ``Gateway`` does with a request, from its arrival to its answer."""
    for request in requests:
        token, arrival_s = telemetry.arrive()
        await answering.answer(loaded, request, arrival_s)
        telemetry.leave(token)


async def _profile(answering: Answering, telemetry: Telemetry, loaded: LoadedModel) -> Rows:
    """The most expensive functions, as shares of the whole: absolute times are larger under the profiler."""
    profiler = cProfile.Profile()
    requests = _requests(1_000_000)
    profiler.enable()
    await _serve(answering, telemetry, loaded, requests)
    profiler.disable()
    found: dict[tuple[str, int, str], Any] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    total = sum(own for _, _, own, _, _ in found.values())
    ranked = sorted(found.items(), key=lambda item: -item[1][2])[:12]
    return [
        {
            "function": f"{Path(file).name}:{name}" if line else name,
            "calls": f"{calls / CHUNK:.1f}",
            "own": f"{own / total:.0%}",
        }
        for (file, line, name), (_, calls, own, _, _) in ranked
    ]


def _requests(round_number: int) -> list[PredictRequest]:
    row = {name: float(index) for index, name in enumerate(FEATURES)}
    return [
        PredictRequest(
            rows=[dict(row)],
            ids=[f"{round_number}-{index}-0"],
            request_id=f"{round_number}-{index}",
            is_named=False,
            routing_key=f"user-{index % NUM_USERS}" if index % 2 else None,
        )
        for index in range(CHUNK)
    ]


async def _load(config: ProjectConfig) -> LoadedModel:
    bundles = {str(seed): build_bundle(config, FEATURES, seed) for seed in (1, 2)}

    async def no_schema(model: str, version: str) -> Any:
        raise ConnectionError("there is no such process")

    loader = TableLoader(
        lambda uri, trusted: bundles[uri], lambda routes: ModelSettings.of(config), no_schema, b"secret"
    )
    arms = (Arm("1", "1", "a", weight=1.0 - WEIGHT), Arm("2", "2", "b", "in_replica", WEIGHT))
    routes = ModelRoutes(config.name, 1, *arms, salt=1, rollout_id="r", slow_ms=50.0)
    table = await loader.load(RouteTable(1, {config.name: routes}), LoadedTable())
    model = table.models[config.name]
    instant = {version: InstantPredictor(bundles[version]) for version in model.predictors}
    return LoadedModel(model.routes, model.settings, instant, model.columns, model.format)


def _config(directory: Path) -> ProjectConfig:
    content = {
        "name": "bench",
        "store": {"root": str(directory / "store")},
        "data": {
            "source": {"path": "unused.parquet"},
            "task": "regression",
            "target": "y",
            "features": [{"name": name} for name in FEATURES],
        },
        "training": {"model": "jobs.benchmarks.mlp:perceptron"},
    }
    return build_config(content, {})
