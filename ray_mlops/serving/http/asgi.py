"""The few pieces of HTTP that the gateway needs on raw ASGI: read a body, send an answer, say an error."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import orjson

from ray_mlops.errors import OverloadError, PayloadTooLargeError, RayMLOpsError, RequestError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

JSON_TYPE = b"application/json"
TEXT_TYPE = b"text/plain; charset=utf-8"
METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class ClientGoneError(ConnectionResetError):
    """Nobody waits for an answer any more: none is made, and nothing is logged."""


@dataclass(slots=True)
class Response:
    """A whole answer. (Not frozen, as nothing that is made for each request: that takes twice as long.)"""

    status: int
    body: bytes
    content_type: bytes = JSON_TYPE
    headers: Headers = ()


def json_response(content: Any, status: int = 200, headers: Headers = ()) -> Response:
    """Write an answer as JSON; numpy numbers and arrays are written as numbers and lists."""
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    return Response(status, orjson.dumps(content, option=options), JSON_TYPE, headers)


def error_response(error: RayMLOpsError, status: int | None = None, headers: Headers = ()) -> Response:
    """Write an error as ``{"error": {"type", "message", "where", "remedy"}}``.

    Args:
        error: What went wrong.
        status: HTTP status; None takes the error's own, else 500.
        headers: Further headers; an overload adds ``Retry-After``.
    """
    if isinstance(error, OverloadError):
        headers = (*headers, (b"retry-after", b"1"))
    if status is None:
        status = error.status if isinstance(error, RequestError | OverloadError) else 500
    name, message = type(error).__name__, error.problem
    content = {"type": name, "message": message, "where": error.where, "remedy": error.remedy}
    return json_response({"error": content}, status, headers)


def _ignore(num_bytes: int) -> None:
    """Nobody counts."""


async def read_body(
    headers: Mapping[bytes, bytes], receive: Receive, limit_bytes: int, count: Callable[[int], None] = _ignore
) -> bytes:
    """Read a request's body as it came, giving up as soon as it is over the limit, chunked or not.

    Args:
        headers: Of the request.
        receive: Gives its next part.
        limit_bytes: The most that it may have.
        count: Is told the bytes of each part that came, before they are kept; what it raises ends the read.

    Raises:
        PayloadTooLargeError: The declared or the actual length is over the limit.
        RequestError: The length is not a number.
        ClientGoneError: The client went away before the body was complete.
    """
    if (declared := headers.get(b"content-length")) is not None:
        if not declared.isdigit():
            raise RequestError("content-length is not a number", "headers")
        if len(declared) > 18 or int(declared) > limit_bytes:
            raise too_large(limit_bytes)
    chunks, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError("the client went away")
        chunk = message.get("body", b"")
        size += len(chunk)
        count(len(chunk))
        if size > limit_bytes:
            raise too_large(limit_bytes)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def send_response(send: Send, response: Response, headers: Headers = ()) -> None:
    """Send an answer, with its length."""
    length = (b"content-length", str(len(response.body)).encode())
    fields = [(b"content-type", response.content_type), length, *response.headers, *headers]
    await send({"type": "http.response.start", "status": response.status, "headers": fields})
    await send({"type": "http.response.body", "body": response.body})


async def run_lifespan(receive: Receive, send: Send, on_shutdown: Callable[[], Awaitable[None]] | None = None) -> None:
    """Answer the server's messages about start and stop; ``on_shutdown`` is awaited before the stop is confirmed."""
    while True:
        message = await receive()
        is_last = message["type"] == "lifespan.shutdown"
        if is_last and on_shutdown is not None:
            await on_shutdown()
        await send({"type": f"{message['type']}.complete"})
        if is_last:
            return


def too_large(limit_bytes: int) -> PayloadTooLargeError:
    """The error for a body over the limit."""
    problem = f"the body is larger than {limit_bytes} bytes"
    return PayloadTooLargeError(problem, "body", "send fewer rows at once or raise serving.max_body_mb")
