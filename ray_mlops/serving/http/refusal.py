"""An error as the client's protocol says it."""

from typing import Literal

from ray_mlops.errors import (
    GateRefusedError,
    LedgerConflictError,
    ModelNotFoundError,
    OverloadError,
    RayMLOpsError,
    RequestError,
    RequestTimeoutError,
    RolloutError,
    UnauthorizedError,
)
from ray_mlops.serving.http.asgi import Headers, Response, error_response, json_response

ProtocolName = Literal["native", "oip", "mlflow"]
MLFLOW_CODES: dict[int, str] = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
}
"""Names of MLflow's error codes by HTTP status; any other is ``BAD_REQUEST``."""
_STATUS: tuple[tuple[type[RayMLOpsError], int], ...] = (
    (RolloutError, 409),
    (GateRefusedError, 409),
    (LedgerConflictError, 409),
    (ModelNotFoundError, 404),
)
_CHALLENGE: Headers = ((b"www-authenticate", b'Basic realm="ray-mlops"'),)
_RETRY: Headers = ((b"retry-after", b"1"),)
_CLOSE: Headers = ((b"connection", b"close"),)
"""The rest of a body that was given up may come for hours: the server is told not to read it."""


def status_of(error: RayMLOpsError) -> int:
    """The HTTP status of an error; 500 for one that is not the client's.

    Example:
        >>> status_of(RequestError("no such column")), status_of(RayMLOpsError("boom"))
        (400, 500)
    """
    if isinstance(error, RequestError | OverloadError):
        return error.status
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def refusal(
    error: RayMLOpsError, protocol: ProtocolName = "native", status: int | None = None, headers: Headers = ()
) -> Response:
    """Write an error: ours with its parts, the Open Inference Protocol's as one sentence, MLflow's with a code.

    Args:
        error: What went wrong.
        protocol: Whose form it takes.
        status: HTTP status; None takes the error's own.
        headers: Further headers.
    """
    status = status_of(error) if status is None else status
    if isinstance(error, UnauthorizedError):
        headers = (*headers, *_CHALLENGE)
    if isinstance(error, RequestTimeoutError):
        headers = (*headers, *_CLOSE)
    if protocol == "native":
        return error_response(error, status, headers)
    if isinstance(error, OverloadError):
        headers = (*headers, *_RETRY)
    if protocol == "oip":
        return json_response({"error": str(error)}, status, headers)
    code = MLFLOW_CODES.get(status, "BAD_REQUEST")
    return json_response({"error_code": code, "message": str(error)}, status, headers)
