"""What is kept of a request that failed: decided here, written by ``failed_requests``."""

from dataclasses import dataclass
from typing import Any

from ray_mlops.errors import RayMLOpsError
from ray_mlops.serving.answering import Answered, blamed
from ray_mlops.serving.failed_requests import KEPT_HEADERS, FailedRequests, Failure
from ray_mlops.serving.http.asgi import Response
from ray_mlops.serving.http.parse import PredictRequest
from ray_mlops.serving.http.refusal import ProtocolName, refusal, status_of
from ray_mlops.serving.loaded import LoadedModel
from ray_mlops.serving.parts import Request

_PROTOCOLS: dict[str, ProtocolName] = {"oip_infer": "oip", "invocations": "mlflow"}


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request for predictions, as far as it came."""

    request: Request
    loaded: LoadedModel
    content: Any
    """Its body; anything but bytes is a message, which is kept as rows."""
    parsed: PredictRequest | None
    """None where it could not be parsed."""


def note_error(failures: FailedRequests, attempt: Attempt, error: Exception) -> None:
    """Note a request whose answer is an error, if such an answer is kept."""
    known = error if isinstance(error, RayMLOpsError) else RayMLOpsError(f"{type(error).__name__}: {error}", "gateway")
    status = status_of(known)
    if not failures.wants(status):
        return
    answer = refusal(known, _PROTOCOLS.get(attempt.request.target.endpoint, "native"))
    version, outcome = blamed(error) or ("", "refused" if status < 500 else "error")
    failures.note(_failure(failures, attempt, answer.body, status, outcome, known, version))


def note_failover(failures: FailedRequests, attempt: Attempt, answered: Answered, response: Any) -> None:
    """Note a request that the candidate failed and the champion answered."""
    failover = answered.failover
    if failover is None or not failures.config.enabled:
        return
    body = response.body if isinstance(response, Response) else None
    failures.note(_failure(failures, attempt, body, 200, failover.outcome, failover.reason, failover.version))


def _failure(
    failures: FailedRequests,
    attempt: Attempt,
    response: bytes | None,
    status: int,
    outcome: str,
    error: object,
    version: str,
) -> Failure:
    request, parsed, content = attempt.request, attempt.parsed, attempt.content
    body = content if isinstance(content, bytes) else None
    is_redacted = bool(attempt.loaded.format.redact)
    is_native = body is not None and request.target.endpoint == "predict"
    rows = None if parsed is None or is_native or is_redacted else parsed.rows
    names = {name: request.headers.get(name.encode()) for name in KEPT_HEADERS}
    return Failure(
        time_us=int(request.arrival_s * 1e6),
        model=attempt.loaded.routes.model,
        endpoint=request.target.endpoint,
        status=status,
        outcome=outcome,
        error=_kind(error, outcome) if is_redacted else str(error),
        version=version,
        request_id="" if parsed is None else parsed.request_id,
        ids=() if parsed is None else tuple(parsed.ids),
        headers={name: value.decode("latin-1") for name, value in names.items() if value is not None},
        body_bytes=0 if body is None else len(body),
        body=None if is_redacted else failures.fits(body),
        instances=failures.rows_that_fit(rows),
        response=None if is_redacted else failures.fits(response),
    )


def _kind(error: object, outcome: str) -> str:
    """What may be said of an error whose text may hold what is redacted."""
    return type(error).__name__ if isinstance(error, Exception) else outcome
