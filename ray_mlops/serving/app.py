"""The gateway as a raw ASGI application: it knows no Ray, and is tested without it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from ray_mlops.errors import (
    GateRefusedError,
    LedgerConflictError,
    ModelNotFoundError,
    RayMLOpsError,
    RequestError,
    RolloutError,
    UnauthorizedError,
)
from ray_mlops.serving.admission import Admission
from ray_mlops.serving.answering import Answering
from ray_mlops.serving.asgi import (
    TEXT_TYPE,
    Headers,
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
from ray_mlops.serving.label_log import check_label
from ray_mlops.serving.loaded import LoadedTable
from ray_mlops.serving.parse import Limits, parse_command, parse_labels, parse_predict
from ray_mlops.serving.parts import SIDE_TIMEOUT_S, Parts, Request, in_time
from ray_mlops.serving.paths import METHODS, Target, resolve
from ray_mlops.serving.protocol import LabelRecord
from ray_mlops.serving.reading import Reading

logger = logging.getLogger(__name__)
_STATUS: tuple[tuple[type[RayMLOpsError], int], ...] = (
    (RolloutError, 409),
    (GateRefusedError, 409),
    (LedgerConflictError, 409),
    (ModelNotFoundError, 404),
)


class Gateway:
    """Answers HTTP for every model of a table. ``table`` is swapped by one assignment.

    Args:
        parts: What it is made of.
        on_shutdown: Is awaited when the server stops.

    Attributes:
        table: What is served at this moment.
    """

    def __init__(self, parts: Parts, on_shutdown: Callable[[], Awaitable[None]] | None = None) -> None:
        self._on_shutdown = on_shutdown
        self.table = LoadedTable()
        self._parts = parts
        self._limits = Limits.of(parts.serving)
        self._answering = Answering(parts.telemetry, parts.predictions, parts.arms, parts.serving)
        self._admission = Admission(parts.serving.max_ongoing_requests, parts.serving.max_queued_requests)
        self._handlers: dict[str, Callable[[Request], Awaitable[Response]]] = {
            **Reading(parts, self._limits).handlers(),
            "predict": self._predict,
            "feedback": self._feedback,
            "command": self._command,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            await run_lifespan(receive, send, self._on_shutdown)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        telemetry = self._parts.telemetry
        token, arrival_s = telemetry.arrive()
        headers = dict(scope["headers"])
        transport = headers.get(b"x-request-id")
        identity = None if transport is None else transport.decode("latin-1")
        try:
            response = await self._respond(scope, receive, send, headers, arrival_s, identity)
        except ConnectionResetError:
            return
        finally:
            telemetry.leave(token)
        if response is not None:
            await send_response(send, response)

    async def _respond(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: Mapping[bytes, bytes],
        arrival_s: float,
        transport_id: str | None,
    ) -> Response | None:
        target: Target | None = None
        try:
            target = resolve(_relative_path(scope))
            method = scope["method"]
            if not target.allows(method):
                return _wrong_method(target, method)
            if target.endpoint == "console":
                self._parts.authenticator.require("read" if method in ("GET", "HEAD") else "operate", headers)
                return await self._console(scope, receive, send)
            if target.role is not None:
                self._parts.authenticator.require(target.role, headers)
            request = Request(target, headers, receive, arrival_s, transport_id, self.table)
            return await self._handlers[target.endpoint](request)
        except RayMLOpsError as error:
            response = _refusal(error)
        except Exception as error:
            logger.exception("fail to answer path=%s", scope.get("path"))
            response = _refusal(RayMLOpsError(f"{type(error).__name__}: {error}", "gateway", "see the replica's log"))
        model = (target.model if target is not None else None) or ""
        known = self.table.models
        if not model and len(known) == 1:
            model = next(iter(known))
        self._parts.telemetry.book_refusal(model if model in known else "", response.status)
        return response

    # -- predictions and labels -----------------------------------------------------------------------

    async def _predict(self, request: Request) -> Response:
        loaded = request.loaded.find(request.target.model)
        pinned_to = self._pinned_to(request.headers)
        async with self._admission:
            body = await read_body(request.headers, request.receive, self._limits.body_bytes)
            parsed = parse_predict(
                body,
                loaded.columns,
                self._limits,
                transport_id=request.transport_id,
                arrival_us=int(request.arrival_s * 1e6),
            )
            answered = await self._answering.answer(loaded, parsed, request.arrival_s, pinned_to)
        content = {
            "predictions": answered.answer.prediction.to_json(),
            "ids": parsed.ids,
            "model": loaded.routes.model,
            "version": answered.version,
            "arm": answered.arm,
            "request_id": parsed.request_id,
        }
        headers: Headers = (
            (b"x-model-version", answered.version.encode()),
            (b"x-route-version", str(loaded.routes.version).encode()),
        )
        if request.transport_id is None:  # else whoever made the id (Serve's proxy) sends it back
            headers = (*headers, (b"x-request-id", parsed.request_id.encode()))
        return json_response(content, headers=headers)

    def _pinned_to(self, headers: Mapping[bytes, bytes]) -> str | None:
        version = headers.get(b"x-model-version")
        if version is None:
            return None
        self._parts.authenticator.require("operate", headers)
        return version.decode("latin-1")

    async def _feedback(self, request: Request) -> Response:
        loaded = request.loaded.find(request.target.model)
        model = loaded.routes.model
        async with self._admission:
            body = await read_body(request.headers, request.receive, self._limits.body_bytes)
            given = parse_labels(body, self._limits)
            encoder = loaded.champion.bundle.encoder
            for index, (_, label, _) in enumerate(given):
                check_label(encoder, label, f"labels[{index}].label")
            arrival_us = int(request.arrival_s * 1e6)
            records = [LabelRecord(name, label, time, arrival_us) for name, label, time in given]
            await self._parts.labels.append(model, records)
        counts, note = await self._sort_labels(model, records)
        self._parts.telemetry.book_labels(model, counts)
        return json_response({"model": model, "received": len(records), **counts, **note})

    async def _sort_labels(
        self, model: str, records: Sequence[LabelRecord]
    ) -> tuple[Mapping[str, int], dict[str, str]]:
        """Tell new labels from repeats; only the monitor knows, and the labels are safe without it."""
        unsorted = {"accepted": len(records), "duplicate": 0, "conflicting": 0}
        if self._parts.label_sink is None:
            return unsorted, {}
        try:
            async with asyncio.timeout(SIDE_TIMEOUT_S):
                return {**unsorted, **await self._parts.label_sink.accept(model, records)}, {}
        except Exception as error:  # the sink is foreign code, and the labels are durable already
            logger.warning("keep labels from monitor model=%s labels=%d because=%r", model, len(records), error)
            return unsorted, {"monitor": "unavailable"}

    # -- rollout --------------------------------------------------------------------------------------

    async def _command(self, request: Request) -> Response:
        model = request.loaded.find(request.target.model).routes.model
        verb, control = request.target.argument, self._parts.control
        body = await read_body(request.headers, request.receive, self._limits.body_bytes)
        if verb != "start":
            given = parse_command(body, self._limits, {"reason": str, "by": str})
            call = control.command(model, verb, by=given.get("by", "operator"), reason=given.get("reason", ""))
            return json_response(await in_time(call, "rollouts"))
        allowed = {"version": str, "override_gate": str, "skip_shadow": bool, "by": str}
        given = parse_command(body, self._limits, allowed)
        if "version" not in given:
            raise RequestError("the version to put on trial is missing", "version", 'send {"version": "2"}')
        call = control.request(
            model,
            given["version"],
            by=given.get("by", "operator"),
            override_reason=given.get("override_gate"),
            skip_shadow=given.get("skip_shadow", False),
        )
        return json_response(await in_time(call, "rollouts"))

    # -- the console ----------------------------------------------------------------------------------

    async def _console(self, scope: Scope, receive: Receive, send: Send) -> Response | None:
        if self._parts.console is None:
            return Response(404, b"no console is installed\n", TEXT_TYPE)
        root = scope.get("root_path", "")
        await self._parts.console({**scope, "root_path": f"{root}/console"}, receive, send)
        return None


def _relative_path(scope: Scope) -> str:
    root, path = scope.get("root_path", ""), str(scope["path"])
    return path.removeprefix(root) if root and path.startswith(root) else path


def _wrong_method(target: Target, method: str) -> Response:
    allowed = METHODS.get(target.endpoint, "GET")
    error = RequestError(f"{method} is not allowed here", "method", f"use {allowed}")
    return error_response(error, 405, ((b"allow", allowed.encode()),))


def _refusal(error: RayMLOpsError) -> Response:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), None)
    is_unknown = isinstance(error, UnauthorizedError)
    return error_response(error, status, ((b"www-authenticate", b'Basic realm="ray-mlops"'),) if is_unknown else ())
