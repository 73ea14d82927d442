"""The gateway over gRPC: the six calls of the Open Inference Protocol, through the same code as over HTTP."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote

import grpc

from ray_mlops.errors import ForbiddenError, RayMLOpsError
from ray_mlops.runtime.environment import is_loopback
from ray_mlops.serving.app import Gateway
from ray_mlops.serving.dialects.oip_grpc import GrpcDialect, metadata_message
from ray_mlops.serving.dialects.open_inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ServerLiveRequest,
    ServerLiveResponse,
    ServerMetadataRequest,
    ServerMetadataResponse,
    ServerReadyRequest,
    ServerReadyResponse,
)
from ray_mlops.serving.dialects.protocol_pages import describe_server, find_version
from ray_mlops.serving.http.parse import Limits
from ray_mlops.serving.http.paths import Endpoint, Target
from ray_mlops.serving.http.refusal import status_of
from ray_mlops.serving.parts import Parts, Request

logger = logging.getLogger(__name__)
CODES: dict[int, grpc.StatusCode] = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
"""gRPC's code for each HTTP status of an error; any other is ``INTERNAL``."""
MAX_DETAILS = 1000
"""Characters of an error's text: it travels in a trailer, which has a limit."""
Message = TypeVar("Message")


class CallContext(Protocol):
    """What Serve hands over of a call."""

    def invocation_metadata(self) -> Any:
        """Pairs of names and values."""

    def peer(self) -> str:
        """The client's address, such as ``ipv4:127.0.0.1:51000``."""

    def set_code(self, code: Any) -> None:
        """Set the status."""

    def set_details(self, details: str) -> None:
        """Set the status's text."""


class GrpcService:
    """Answers calls with a gateway.

    Args:
        gateway: Its table and its way to predictions are used.
        parts: What the gateway is made of.
    """

    def __init__(self, gateway: Gateway, parts: Parts) -> None:
        self._gateway, self._parts = gateway, parts
        self._dialect = GrpcDialect(Limits.of(parts.serving))
        self._is_local = is_loopback(parts.serving.host)

    async def server_live(self, message: ServerLiveRequest, context: CallContext) -> ServerLiveResponse:
        """Say that the server is alive."""
        return await self._call(self._live, Target("oip_live"), context, ServerLiveResponse())

    async def server_ready(self, message: ServerReadyRequest, context: CallContext) -> ServerReadyResponse:
        """Say whether every model can answer."""
        return await self._call(self._ready, Target("oip_ready"), context, ServerReadyResponse())

    async def server_metadata(self, message: ServerMetadataRequest, context: CallContext) -> ServerMetadataResponse:
        """Say name, version and extensions of the server."""
        return await self._call(self._server, Target("oip_server"), context, ServerMetadataResponse())

    async def model_ready(self, message: ModelReadyRequest, context: CallContext) -> ModelReadyResponse:
        """Say whether a model, or one of its versions, can be asked."""
        target = _target("oip_model_ready", message.name, message.version)
        return await self._call(self._model_ready, target, context, ModelReadyResponse())

    async def model_metadata(self, message: ModelMetadataRequest, context: CallContext) -> ModelMetadataResponse:
        """Describe a model's inputs and outputs."""
        target = _target("oip_model", message.name, message.version)
        return await self._call(self._model, target, context, ModelMetadataResponse())

    async def model_infer(self, message: ModelInferRequest, context: CallContext) -> ModelInferResponse:
        """Predict."""
        target = _target("oip_infer", message.model_name, message.model_version)

        async def infer(request: Request) -> ModelInferResponse:
            response: ModelInferResponse = await self._gateway.predicting.answer_message(
                self._dialect, request, message
            )
            return response

        return await self._call(infer, target, context, ModelInferResponse())

    async def _call(
        self, work: Callable[[Request], Awaitable[Message]], target: Target, context: CallContext, empty: Message
    ) -> Message:
        """Do what a call asks for; an error becomes its status, and the message stays empty."""
        telemetry, table = self._parts.telemetry, self._gateway.table
        token, arrival_s = telemetry.arrive()
        try:
            headers = {_encoded(name).lower(): _encoded(value) for name, value in context.invocation_metadata()}
            self._check_peer(context.peer())
            if target.role is not None:
                self._parts.authenticator.require(target.role, headers)
            transport = headers.get(b"x-request-id")
            identity = None if transport is None else transport.decode("latin-1")
            return await work(Request(target, headers, _no_body, arrival_s, identity, table))
        except RayMLOpsError as error:
            failure = error
        except Exception as error:
            logger.exception("fail to answer call=%s", target.endpoint)
            failure = RayMLOpsError(f"{type(error).__name__}: {error}", "gateway", "see the replica's log")
        finally:
            telemetry.leave(token)
        status = status_of(failure)
        context.set_code(CODES.get(status, grpc.StatusCode.INTERNAL))
        context.set_details(str(failure)[:MAX_DETAILS])
        self._gateway.book_refusal(target.model, status)
        return empty

    def _check_peer(self, peer: str) -> None:
        """Hold what ``serving.host`` says: Serve opens a replica's own gRPC port on every interface.

        Raises:
            ForbiddenError: We serve this machine only, and the client is on another.
        """
        if self._is_local and not is_local_peer(peer):
            problem = "only clients of the same machine are answered"
            raise ForbiddenError(problem, "serving.host", "bind the service to 0.0.0.0 to open it")

    async def _live(self, request: Request) -> ServerLiveResponse:
        return ServerLiveResponse(live=True)

    async def _ready(self, request: Request) -> ServerReadyResponse:
        return ServerReadyResponse(ready=request.loaded.is_ready)

    async def _server(self, request: Request) -> ServerMetadataResponse:
        return ServerMetadataResponse(**describe_server())

    async def _model_ready(self, request: Request) -> ModelReadyResponse:
        find_version(request.loaded, request.target.model, request.target.version)
        return ModelReadyResponse(ready=True)

    async def _model(self, request: Request) -> ModelMetadataResponse:
        loaded = find_version(request.loaded, request.target.model, request.target.version)
        return metadata_message(loaded, request.target.version)


def is_local_peer(peer: str) -> bool:
    """Whether a client's address, as gRPC writes it, is of this machine.

    Example:
        >>> is_local_peer("ipv4:127.0.0.1:51000"), is_local_peer("ipv6:%5B::1%5D:51000"), is_local_peer("unix:")
        (True, True, True)
        >>> is_local_peer("ipv4:10.0.0.7:51000"), is_local_peer("ipv6:[::ffff:10.0.0.7]:1")
        (False, False)
    """
    kind, _, address = unquote(peer).partition(":")
    if kind == "unix":
        return True
    host = address.rpartition(":")[0].strip("[]").removeprefix("::ffff:")
    return is_loopback(host)


def _target(endpoint: Endpoint, model: str, version: str) -> Target:
    return Target(endpoint, model or None, version=version or None)


def _encoded(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "replace")


async def _no_body() -> Any:
    raise RayMLOpsError("a call over gRPC has no body to read", "gateway")
