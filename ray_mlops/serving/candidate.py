"""A version in a process of its own: a Serve deployment without a route, and one with a route for the gate."""

import asyncio
import logging
import os
import resource
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import torch

from ray_mlops.config import ServingConfig
from ray_mlops.errors import BundleError, RayMLOpsError, RequestError
from ray_mlops.serving.arm_replies import Packed, packed
from ray_mlops.serving.http.asgi import (
    AsgiApp,
    Receive,
    Response,
    Scope,
    Send,
    error_response,
    json_response,
    read_body,
    run_lifespan,
    send_response,
)
from ray_mlops.serving.http.parse import InputColumns, Limits, parse_predict
from ray_mlops.serving.predictor import Predictor
from ray_mlops.serving.remote import REQUIRED
from ray_mlops.training.bundle import ModelBundle, Prediction

logger = logging.getLogger(__name__)


class CandidateArm:
    """Answers for one version; its methods are called through a Serve handle.

    Args:
        bundle: Address of the bundle.
        trusted: Modules that the bundle may name code of.
        atol: Tolerance of the parity check, which the version must pass to start.
        gpus: Share of GPUs that Ray has given to this process.

    Raises:
        BundleError: It cannot be loaded, or does not predict what it must.
    """

    def __init__(self, bundle: str, trusted: tuple[str, ...], atol: float, gpus: float = 0.0) -> None:
        device = choose_device(gpus, torch.cuda.is_available())
        self._predictor = Predictor(ModelBundle.load(bundle, trusted, device))
        self._predictor.warm_up()
        self._predictor.self_check(atol)
        self._atol = atol
        self._incarnation = f"{os.getpid()}-{uuid.uuid4().hex}"

    async def predict(self, requests: bytes) -> Packed:
        """Answer several requests [[row]], given as JSON: the champion parses the same and times the same call."""
        calls = (self._predictor.answer(rows) for rows in orjson.loads(requests))
        return packed(await asyncio.gather(*calls, return_exceptions=True))

    async def score(self, table: bytes) -> Prediction:
        """Predict a table, given as an Arrow stream."""
        return await self._predictor.run_apart(self._predictor.predict_table, pa.ipc.open_stream(table).read_all())

    async def check(self) -> str:
        """Let the version answer its parity rows; returns what is wrong, or nothing."""
        try:
            await self._predictor.run_apart(self._predictor.self_check, self._atol)
        except BundleError as error:
            return str(error)
        return ""

    async def schema(self) -> bytes:
        """The raw inputs, as a serialised Arrow schema; those that a row must have are in its metadata."""
        required = orjson.dumps(sorted(self._predictor.required))
        return bytes(self._predictor.schema.with_metadata({REQUIRED: required}).serialize())

    async def ping(self) -> str:
        """Name this incarnation, ``{pid}-{random}``: another name means that it died and was started again."""
        return self._incarnation


def choose_device(gpus: float, is_available: bool) -> str:
    """Choose where a version predicts.

    Args:
        gpus: Share of GPUs that was asked for.
        is_available: Whether torch finds one.

    Example:
        >>> choose_device(0.5, True), choose_device(0.5, False), choose_device(0.0, True)
        ('cuda', 'cpu', 'cpu')
    """
    if gpus > 0.0 and not is_available:
        logger.warning("predict on the CPU gpus=%g remedy=install a torch that finds the GPU", gpus)
    return "cuda" if gpus > 0.0 and is_available else "cpu"


class GateApp:
    """HTTP for the gate: a version's predictions, transformed features and cost, through the code that serves.

    Args:
        load: Loads the version; its time counts as the start.
        serving: Limits.
    """

    def __init__(self, load: Callable[[], Predictor], serving: ServingConfig) -> None:
        self._started = time.time()
        self._predictor = load()
        self._ready = time.time()
        self._limits = Limits.of(serving)
        self._columns = InputColumns(self._predictor.required, frozenset(self._predictor.schema.names))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve ``POST /predict``, ``POST /features`` and ``GET /stats``."""
        if scope["type"] == "lifespan":
            await run_lifespan(receive, send)
        elif scope["type"] == "http":
            try:
                response = await self._respond(scope, receive)
            except RayMLOpsError as error:
                response = error_response(error, error.status if isinstance(error, RequestError) else 400)
            await send_response(send, response)

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        endpoint = f"{scope['method']} {str(scope['path']).rpartition('/')[2]}"
        if endpoint == "GET stats":
            return json_response(self._stats())
        if endpoint not in ("POST predict", "POST features"):
            return error_response(RequestError("expected POST predict, POST features or GET stats", "path"), 404)
        body = await read_body(dict(scope["headers"]), receive, self._limits.body_bytes)
        request = parse_predict(body, self._columns, self._limits)
        if endpoint == "POST features":
            matrix = self._predictor.bundle.features.transform_rows(request.rows)
            # As doubles, so that every bit of a float32 arrives whatever reads them.
            return json_response({"numeric": matrix.numeric.astype(np.float64), "categorical": matrix.categorical})
        answer = await self._predictor.answer(request.rows)
        content = {"predictions": answer.prediction.to_json(), "values": answer.prediction.values}
        return json_response({**content, "model_time_us": round(answer.seconds * 1e6)})

    def _stats(self) -> dict[str, Any]:
        unit = 1 if sys.platform == "darwin" else 1024
        rss_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return {"pid": os.getpid(), "peak_rss_bytes": rss_bytes, "started": self._started, "ready": self._ready}


class GateReplica:
    """The deployment that carries a ``GateApp``.

    Args:
        bundle: Address of the bundle.
        trusted: Modules that the bundle may name code of.
        serving: Limits.
    """

    def __init__(self, bundle: str, trusted: tuple[str, ...], serving: ServingConfig) -> None:
        def load() -> Predictor:
            predictor = Predictor(ModelBundle.load(bundle, trusted))
            predictor.warm_up()
            return predictor

        self._gate = GateApp(load, serving)

    def __serve_build_asgi_app__(self) -> AsgiApp:
        return self._gate
