"""The one way to a prediction, whatever protocol asks: admitted, read, routed, answered, booked, written."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from ray_mlops.serving.admission import Admission
from ray_mlops.serving.answering import Answering
from ray_mlops.serving.dialects.dialect import Dialect, NativeDialect
from ray_mlops.serving.dialects.invocations import MlflowDialect
from ray_mlops.serving.dialects.oip_rest import RestDialect
from ray_mlops.serving.http.asgi import Response
from ray_mlops.serving.http.bodies import BodyReader
from ray_mlops.serving.http.compression import compress_answer, decode_body
from ray_mlops.serving.http.parse import Limits
from ray_mlops.serving.loaded import LoadedModel
from ray_mlops.serving.noting import Attempt, note_error, note_failover
from ray_mlops.serving.parts import Parts, Request

Handler = Callable[[Request], Awaitable[Response]]


class Predicting:
    """Handlers of the endpoints that predict.

    Args:
        parts: What the gateway is made of.
        limits: How large a request may be.
        admission: How many may be worked on at once.
        bodies: Reads what clients send.
    """

    def __init__(self, parts: Parts, limits: Limits, admission: Admission, bodies: BodyReader) -> None:
        self._authenticator, self._limits, self._admission = parts.authenticator, limits, admission
        self._failures = parts.failures
        self._bodies = bodies
        self._answering = Answering(parts.telemetry, parts.predictions, parts.arms, parts.serving)

    def handlers(self) -> dict[str, Handler]:
        """The handler of each endpoint."""
        return {
            "predict": partial(self._predict, NativeDialect(self._limits)),
            "oip_infer": partial(self._compressed, RestDialect(self._limits)),
            "invocations": partial(self._compressed, MlflowDialect(self._limits)),
        }

    async def answer_message(self, dialect: Dialect, request: Request, message: Any) -> Any:
        """Answer a message that is there already, such as one of gRPC.

        Raises:
            RequestError: The client's mistake.
            OverloadError: Try again later.
            RayMLOpsError: The champion failed.
        """
        loaded = request.loaded.find(request.target.model)
        pinned_to = self._pinned_to(request, loaded)
        async with self._admission:
            return await self._answer(dialect, request, loaded, pinned_to, message)

    async def _predict(self, dialect: Dialect, request: Request) -> Response:
        loaded = request.loaded.find(request.target.model)
        pinned_to = self._pinned_to(request, loaded)
        body = await self._bodies.read(request.headers, request.receive)
        try:
            await self._admission.enter(request.receive)
            try:
                content = await decode_body(request.headers, body, self._limits.body_bytes)
                response: Response = await self._answer(dialect, request, loaded, pinned_to, content)
                return response
            finally:
                self._admission.leave()
        finally:
            self._bodies.release(len(body))

    async def _compressed(self, dialect: Dialect, request: Request) -> Response:
        return await compress_answer(request.headers, await self._predict(dialect, request))

    async def _answer(
        self, dialect: Dialect, request: Request, loaded: LoadedModel, pinned_to: str | None, content: Any
    ) -> Any:
        parsed = None
        try:
            parsed, wanted = dialect.parse(content, request, loaded)
            answered = await self._answering.answer(loaded, parsed, request.arrival_s, pinned_to)
            response = dialect.respond(request, loaded, parsed, wanted, answered)
        except Exception as error:  # is only noted here, whatever it is
            if self._failures is not None:
                note_error(self._failures, Attempt(request, loaded, content, parsed), error)
            raise
        if answered.failover is not None and self._failures is not None:
            note_failover(self._failures, Attempt(request, loaded, content, parsed), answered, response)
        return response

    def _pinned_to(self, request: Request, loaded: LoadedModel) -> str | None:
        """The version that a request names. Anyone may name the champion in a path; the rest is for operators."""
        version = request.target.version
        if version is not None and version == loaded.routes.champion.version:
            return version
        if version is None:
            header = request.headers.get(b"x-model-version")
            if header is None:
                return None
            version = header.decode("latin-1")
        self._authenticator.require("operate", request.headers)
        return version
