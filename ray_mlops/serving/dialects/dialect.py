"""What a protocol is to the gateway: it reads a request for predictions, and writes the answer. Nothing else."""

from typing import Any, Protocol

from ray_mlops.serving.answering import Answered
from ray_mlops.serving.http.asgi import Headers, Response, json_response
from ray_mlops.serving.http.parse import Limits, PredictRequest, parse_predict
from ray_mlops.serving.loaded import LoadedModel
from ray_mlops.serving.parts import Request


class Dialect(Protocol):
    """One protocol. What is between its two halves is the same for all (see ``Predicting``)."""

    def parse(self, content: Any, request: Request, loaded: LoadedModel) -> tuple[PredictRequest, Any]:
        """Read a body (or a message), and what the client said of the answer's form.

        Raises:
            RequestError: Anything that is wrong, with its place.
        """

    def respond(
        self, request: Request, loaded: LoadedModel, parsed: PredictRequest, wanted: Any, answered: Answered
    ) -> Any:
        """Write the answer to what ``parse`` returned."""


class NativeDialect:
    """Our own ``POST /predict``.

    Args:
        limits: How large a request may be.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def parse(self, content: bytes, request: Request, loaded: LoadedModel) -> tuple[PredictRequest, None]:
        """Read ``{"instances": [...]}``."""
        arrival_us = int(request.arrival_s * 1e6)
        parsed = parse_predict(
            content, loaded.columns, self._limits, transport_id=request.transport_id, arrival_us=arrival_us
        )
        return parsed, None

    def respond(
        self, request: Request, loaded: LoadedModel, parsed: PredictRequest, wanted: None, answered: Answered
    ) -> Response:
        """Write ``{"predictions": [...]}``."""
        content = {
            "predictions": answered.answer.prediction.to_json(),
            "ids": parsed.ids,
            "model": loaded.routes.model,
            "version": answered.version,
            "arm": answered.arm,
            "request_id": parsed.request_id,
        }
        return json_response(content, headers=answer_headers(request, loaded, parsed, answered))


def answer_headers(request: Request, loaded: LoadedModel, parsed: PredictRequest, answered: Answered) -> Headers:
    """Who answered, as every protocol over HTTP says it in headers."""
    headers: Headers = (
        (b"x-model-version", answered.version.encode()),
        (b"x-route-version", str(loaded.routes.version).encode()),
    )
    if request.transport_id is None:  # else whoever made the id (Serve's proxy) sends it back
        headers = (*headers, (b"x-request-id", parsed.request_id.encode()))
    return headers
