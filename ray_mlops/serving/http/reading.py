"""What can be read from a gateway: models, rollout, monitoring, metrics, explanations, its own description."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from ray_mlops.errors import NotFoundError
from ray_mlops.serving.exposition import ReplicaMetrics, expose, merge_expositions
from ray_mlops.serving.http.asgi import METRICS_TYPE, Response, json_response
from ray_mlops.serving.http.openapi import openapi
from ray_mlops.serving.http.parse import ID_PATTERN, Limits
from ray_mlops.serving.loaded import LoadedModel
from ray_mlops.serving.parts import SIDE_TIMEOUT_S, Parts, Request, in_time
from ray_mlops.serving.prediction_log.log import PredictionLog

logger = logging.getLogger(__name__)


class Reading:
    """Handlers of the endpoints that change nothing.

    Args:
        parts: What the gateway is made of.
        limits: Are described in the OpenAPI document.
    """

    def __init__(self, parts: Parts, limits: Limits) -> None:
        self._parts, self._limits = parts, limits

    def handlers(self) -> dict[str, Callable[[Request], Awaitable[Response]]]:
        """The handler of each endpoint."""
        return {
            "index": self._index,
            "models": self._models,
            "healthz": self._healthz,
            "metrics": self._metrics,
            "openapi": self._openapi,
            "rollout": self._rollout,
            "monitoring": self._monitoring,
            "explain": self._explain,
        }

    async def _rollout(self, request: Request) -> Response:
        model = request.loaded.find(request.target.model).routes.model
        return json_response(await in_time(self._parts.control.view(model), "rollouts"))

    async def _monitoring(self, request: Request) -> Response:
        loaded = request.loaded.find(request.target.model)
        if self._parts.monitor is not None:
            try:
                async with asyncio.timeout(SIDE_TIMEOUT_S):
                    return json_response(await self._parts.monitor.view(loaded.routes.model))
            except Exception as error:  # whatever is wrong with the monitor, this answer says so
                reason = repr(error)
        else:
            reason = "none is configured"
        return json_response({"monitor": "unavailable", "reason": reason, "replica": self._own_counts(loaded)})

    async def _metrics(self, request: Request) -> Response:
        from_monitor = None
        if self._parts.monitor is not None:
            try:
                async with asyncio.timeout(SIDE_TIMEOUT_S):
                    from_monitor = await self._parts.monitor.metrics()
            except Exception as error:  # shown as ray_mlops_monitor_up 0
                logger.info("expose without monitor because=%r", error)
        log, failures = self._parts.predictions, self._parts.failures
        metrics = ReplicaMetrics(
            telemetry=self._parts.telemetry,
            log_rows=_log_rows(log),
            log_retries=log.retries,
            route_versions={name: loaded.routes.version for name, loaded in request.loaded.models.items()},
            sink_failures=log.sink_failures,
            is_monitor_up=from_monitor is not None,
            spilled_bytes=log.spilled_bytes,
            failed_requests={} if failures is None else failures.counts,
        )
        text = expose(metrics)
        return Response(200, (merge_expositions(text, from_monitor) if from_monitor else text).encode(), METRICS_TYPE)

    async def _explain(self, request: Request) -> Response:
        model = request.loaded.find(request.target.model).routes.model
        explainer, name = self._parts.explainer, request.target.argument
        if explainer is None:
            raise NotFoundError("this gateway has no explainer", "explain", "start it with 'ray-mlops serve'")
        if not ID_PATTERN.fullmatch(name):
            raise NotFoundError(f"{name[:60]!r} is no prediction id", "explain")
        call = asyncio.to_thread(explainer.explain, model, name)
        return json_response(await in_time(call, "explain"))

    async def _models(self, request: Request) -> Response:
        models = [_describe(loaded) for _, loaded in sorted(request.loaded.models.items())]
        return json_response({"models": models, "replica": self._parts.telemetry.replica})

    async def _healthz(self, request: Request) -> Response:
        table = request.loaded
        content = {"ready": table.is_ready, "table": table.version, "problems": list(table.problems)}
        return json_response(content, 200 if table.is_ready else 503)

    async def _openapi(self, request: Request) -> Response:
        return json_response(openapi(request.loaded, self._limits))

    async def _index(self, request: Request) -> Response:
        links = ["/models", "/openapi.json", "/metrics", "/healthz", "/console"]
        prefixes = {name: f"/models/{name}" for name in sorted(request.loaded.models)}
        return json_response({"service": "ray-mlops", "models": prefixes, "links": links})

    def _own_counts(self, loaded: LoadedModel) -> dict[str, Any]:
        telemetry, model = self._parts.telemetry, loaded.routes.model
        names = ("arm", "version", "outcome")
        requests = [
            {**dict(zip(names, labels[1:], strict=True)), "requests": count}
            for labels, count in telemetry.requests.items()
            if labels[0] == model
        ]
        log = self._parts.predictions.accounting.states()
        return {"name": telemetry.replica, "requests": requests, "log": log, "route_version": loaded.routes.version}


def _log_rows(log: PredictionLog) -> dict[str, int]:
    """Rows by state; those that the start of this replica found lost with dead ones are shown as its own."""
    states = log.accounting.states()
    return {**states, "lost": states["lost"] + log.lost_before}


def _describe(loaded: LoadedModel) -> dict[str, Any]:
    routes = loaded.routes
    arms = {"champion": routes.champion, "candidate": routes.candidate, "previous": routes.previous}
    shown = {
        name: {"version": arm.version, "weight": arm.weight, "placement": arm.placement}
        for name, arm in arms.items()
        if arm is not None
    }
    return {"name": routes.model, "route_version": routes.version, "rollout_id": routes.rollout_id, **shown}
