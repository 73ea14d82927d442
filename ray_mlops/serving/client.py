"""A small HTTP client of the service, for scripts, the command line and the replay."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx
import orjson

from ray_mlops.errors import (
    ForbiddenError,
    GateRefusedError,
    ModelNotFoundError,
    NotFoundError,
    OverloadError,
    PayloadTooLargeError,
    RayMLOpsError,
    RequestError,
    RolloutError,
    UnauthorizedError,
)

_ERRORS: dict[int, type[RayMLOpsError]] = {
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    413: PayloadTooLargeError,
    503: OverloadError,
}

_OPERATORS: dict[str, type[RayMLOpsError]] = {
    kind.__name__: kind for kind in (GateRefusedError, ModelNotFoundError, RolloutError)
}
"""Errors that a status does not tell apart from others."""


class Client:
    """Calls one service.

    Args:
        url: Where it listens, ``http://127.0.0.1:8000``.
        model: A model's name; None uses the short paths, which work while one model is deployed.
        token: A bearer token; operators need one.
        timeout_s: Deadline of a call.

    Example:
        ``Client("http://127.0.0.1:8000").predict([{"carrier": "UA", "distance": 1400.0}])``
    """

    def __init__(self, url: str, model: str | None = None, token: str | None = None, timeout_s: float = 30.0) -> None:
        headers = {"content-type": "application/json"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        self._prefix = f"/models/{model}" if model else ""
        self._http = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=timeout_s, trust_env=False)

    def predict(
        self,
        instances: Sequence[Mapping[str, Any]],
        *,
        ids: Sequence[str] | None = None,
        routing_key: str | None = None,
    ) -> dict[str, Any]:
        """Ask for predictions; returns ``predictions``, ``ids``, ``model``, ``version`` and ``arm``.

        Raises:
            RequestError: The rows or ids are wrong; the message names the column and row.
            OverloadError: Try again later.
        """
        body: dict[str, Any] = {"instances": list(instances)}
        if ids is not None:
            body["ids"] = list(ids)
        if routing_key is not None:
            body["routing_key"] = routing_key
        return self.call("POST", "/predict", body)

    def feedback(self, labels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Send labels: ``[{"id": ..., "label": ..., "time": ISO 8601 or None}]``; durable when it returns."""
        return self.call("POST", "/feedback", {"labels": list(labels)})

    def rollout(self) -> dict[str, Any]:
        """The rollout's state, guards and evidence."""
        return self.call("GET", "/rollout")

    def command(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Operate a rollout: ``start``, ``pause``, ``resume``, ``promote``, ``rollback``, ``abort`` or ``shadow``.

        Args:
            verb: What to do.
            arguments: Members of the body, such as ``version``, ``reason`` and ``by``; None leaves one out.

        Raises:
            RolloutError: The rollout's state does not allow it.
            GateRefusedError: The version has not passed the gate.
            ModelNotFoundError: There is no such version.
            UnauthorizedError: Operators need a token.
        """
        given = {name: value for name, value in arguments.items() if value is not None}
        return self.call("POST", f"/rollout/{verb}", given)

    def shadow(self, version: str, *, stop: bool = False, reason: str = "") -> dict[str, Any]:
        """Let a version score logged rows beside the champion, or (``stop``) let it be; it never answers."""
        return self.command("shadow", version=version, stop=stop, reason=reason)

    def abort(self, reason: str = "") -> dict[str, Any]:
        """End the rollout at once, and conclude nothing about the candidate."""
        return self.command("abort", reason=reason)

    def monitoring(self) -> dict[str, Any]:
        """What the monitor sees."""
        return self.call("GET", "/monitoring")

    def explain(self, prediction_id: str) -> dict[str, Any]:
        """What stands behind a prediction."""
        return self.call("GET", f"/explain/{prediction_id}")

    def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Make one call; anything but a 2xx is raised as one of our errors."""
        try:
            content = None if body is None else orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        except orjson.JSONEncodeError as error:
            raise RequestError(f"cannot be sent as JSON: {error}", f"{method} {path}") from error
        try:
            response = self._http.request(method, self._prefix + path, content=content)
        except httpx.TransportError as error:
            place = f"{method} {self._http.base_url}{self._prefix}{path}"
            raise OverloadError(f"no answer: {error}", place, "is the service running? 'ray-mlops status'") from error
        if response.is_success:
            return dict(orjson.loads(response.content))
        raise _error(response, f"{method} {path}")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _error(response: httpx.Response, place: str) -> RayMLOpsError:
    kind = _ERRORS.get(response.status_code, RequestError if response.status_code < 500 else OverloadError)
    try:
        detail = orjson.loads(response.content)["error"]
        kind = _OPERATORS.get(detail.get("type"), kind)
        return kind(detail["message"], detail.get("where") or place, detail.get("remedy") or "")
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return kind(f"HTTP {response.status_code}: {response.text[:200]}", place)
