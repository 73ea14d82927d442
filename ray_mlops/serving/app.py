"""The gateway as a raw ASGI application: it knows no Ray, and is tested without it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ray_mlops.errors import RayMLOpsError, RequestError
from ray_mlops.serving.admission import Admission
from ray_mlops.serving.dialects.protocol_pages import ProtocolPages, repository_index
from ray_mlops.serving.http.asgi import (
    TEXT_TYPE,
    ClientGoneError,
    Receive,
    Response,
    Scope,
    Send,
    json_response,
    run_lifespan,
    send_response,
)
from ray_mlops.serving.http.bodies import BodyReader
from ray_mlops.serving.http.compression import decode_body
from ray_mlops.serving.http.parse import Limits
from ray_mlops.serving.http.parse_operations import parse_command, parse_labels
from ray_mlops.serving.http.paths import METHODS, Target, protocol_of, resolve
from ray_mlops.serving.http.reading import Reading
from ray_mlops.serving.http.refusal import ProtocolName, refusal
from ray_mlops.serving.label_log import check_labels
from ray_mlops.serving.loaded import LoadedModel, LoadedTable
from ray_mlops.serving.parts import SIDE_TIMEOUT_S, Parts, Request, in_time
from ray_mlops.serving.predicting import Predicting
from ray_mlops.serving.protocol import LabelRecord

logger = logging.getLogger(__name__)


class Gateway:
    """Answers HTTP for every model of a table. ``table`` is swapped by one assignment.

    Args:
        parts: What it is made of.
        on_shutdown: Is awaited when the server stops.

    Attributes:
        table: What is served at this moment.
        predicting: Answers requests for predictions, whatever protocol they came by.
    """

    def __init__(self, parts: Parts, on_shutdown: Callable[[], Awaitable[None]] | None = None) -> None:
        self._on_shutdown = on_shutdown
        self.table = LoadedTable()
        self._parts = parts
        self._limits = Limits.of(parts.serving)
        serving = parts.serving
        self._admission = Admission(
            serving.max_ongoing_requests, serving.max_queued_requests, serving.request_timeout_s
        )
        held_bytes = int(serving.max_held_mb * 1024 * 1024)
        self._bodies = BodyReader(self._limits.body_bytes, held_bytes, serving.body_timeout_s)
        self.predicting = Predicting(parts, self._limits, self._admission, self._bodies)
        self._handlers: dict[str, Callable[[Request], Awaitable[Response]]] = {
            **Reading(parts, self._limits).handlers(),
            **ProtocolPages().handlers(),
            **self.predicting.handlers(),
            "feedback": self._feedback,
            "oip_index": self._oip_index,
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
        except ClientGoneError:
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
        path = _relative_path(scope)
        try:
            target = resolve(path)
            method = scope["method"]
            if not target.allows(method):
                return _wrong_method(target, method, protocol_of(path))
            if target.endpoint == "console":
                self._parts.authenticator.require("read" if method in ("GET", "HEAD") else "operate", headers)
                return await self._console(scope, receive, send)
            if target.role is not None:
                self._parts.authenticator.require(target.role, headers)
            request = Request(target, headers, receive, arrival_s, transport_id, self.table)
            return await self._handlers[target.endpoint](request)
        except RayMLOpsError as error:
            response = refusal(error, protocol_of(path))
        except ClientGoneError:
            raise
        except Exception as error:
            logger.exception("fail to answer path=%r", scope.get("path"))
            unknown = RayMLOpsError(f"{type(error).__name__}: {error}", "gateway", "see the replica's log")
            response = refusal(unknown, protocol_of(path))
        self.book_refusal(None if target is None else target.model, response.status)
        return response

    def book_refusal(self, model: str | None, status: int) -> None:
        """Count an answer that is an error, under the model it was meant for if there is such a one."""
        known = self.table.models
        name = model or (next(iter(known)) if len(known) == 1 else "")
        self._parts.telemetry.book_refusal(name if name in known else "", status)

    # -- labels ------------------------------------------------------------------------------------

    async def _feedback(self, request: Request) -> Response:
        loaded = request.loaded.find(request.target.model)
        model = loaded.routes.model
        body = await self._bodies.read(request.headers, request.receive)
        try:
            async with self._admission:
                records = await self._read_labels(request, loaded, body)
                await self._parts.labels.append(model, records)
        finally:
            self._bodies.release(len(body))
        counts, note = await self._sort_labels(model, records)
        self._parts.telemetry.book_labels(model, counts)
        return json_response({"model": model, "received": len(records), **counts, **note})

    async def _read_labels(self, request: Request, loaded: LoadedModel, body: bytes) -> list[LabelRecord]:
        content = await decode_body(request.headers, body, self._limits.body_bytes)
        labels = parse_labels(content, self._limits, int(request.arrival_s * 1e6))
        check_labels(loaded.champion.bundle.encoder, labels)
        return labels

    async def _sort_labels(
        self, model: str, records: Sequence[LabelRecord]
    ) -> tuple[Mapping[str, int], dict[str, str]]:
        """Tell new labels from repeats; only the monitor knows, and the labels are safe without it."""
        unsorted = {"accepted": len(records), "duplicate": 0, "conflicting": 0, "corrected": 0}
        if self._parts.label_sink is None:
            return unsorted, {}
        try:
            async with asyncio.timeout(SIDE_TIMEOUT_S):
                return {**unsorted, **await self._parts.label_sink.accept(model, records)}, {}
        except Exception as error:  # the sink is foreign code, and the labels are durable already
            logger.warning("keep labels from monitor model=%s labels=%d because=%r", model, len(records), error)
            return unsorted, {"monitor": "unavailable"}

    async def _oip_index(self, request: Request) -> Response:
        parse_command(await self._read_small(request), self._limits, {"ready": bool})  # all that is loaded is ready
        return json_response(repository_index(request.loaded))

    # -- rollout --------------------------------------------------------------------------------------

    async def _command(self, request: Request) -> Response:
        model = request.loaded.find(request.target.model).routes.model
        verb, control = request.target.argument, self._parts.control
        body = await self._read_small(request)
        if verb == "shadow":
            return json_response(await in_time(self._shadow(model, body), "rollouts"))
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

    async def _read_small(self, request: Request) -> bytes:
        """A body that is small, and that nobody waits for a place with."""
        body = await self._bodies.read(request.headers, request.receive)
        self._bodies.release(len(body))
        return await decode_body(request.headers, body, self._limits.body_bytes)

    def _shadow(self, model: str, body: bytes) -> Awaitable[Mapping[str, Any]]:
        given = parse_command(body, self._limits, {"version": str, "stop": bool, "reason": str, "by": str})
        if "version" not in given:
            raise RequestError("the version of the shadow is missing", "version", 'send {"version": "2"}')
        by, reason = given.get("by", "operator"), given.get("reason", "")
        return self._parts.control.shadow(model, given["version"], by=by, stop=given.get("stop", False), reason=reason)

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


def _wrong_method(target: Target, method: str, protocol: ProtocolName) -> Response:
    allowed = METHODS.get(target.endpoint, "GET")
    error = RequestError(f"{method} is not allowed here", "method", f"use {allowed}")
    return refusal(error, protocol, 405, ((b"allow", allowed.encode()),))
