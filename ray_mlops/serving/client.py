"""A small HTTP client of the service, for scripts, the command line and the replay."""

import itertools
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
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
    429: OverloadError,
    503: OverloadError,
}
_FULL = frozenset({429, 503})
"""Statuses of a call that was not even begun, so that it may be repeated."""
_LONGEST_PAUSE_S = 10.0
_LOST = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
"""The connection broke under a call: its replica was killed, or the connection was closed while it was idle."""
_PAUSE_OF_LOST_S = 0.1
"""Until the ingress has noticed that a replica is dead."""
_REPEATABLE = frozenset({"/predict", "/feedback"})
"""What may reach the service twice, besides reads: rows and labels are known by their ids."""

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
        sleep: Waits between repeats, seconds.

    Example:
        ``Client("http://127.0.0.1:8000").predict([{"carrier": "UA", "distance": 1400.0}])``
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        token: str | None = None,
        timeout_s: float = 30.0,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        headers = {"content-type": "application/json"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        self._prefix = f"/models/{model}" if model else ""
        self._sleep = sleep
        self._http = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=timeout_s, trust_env=False)

    def predict(
        self,
        instances: Sequence[Mapping[str, Any]],
        *,
        ids: Sequence[str] | None = None,
        routing_key: str | None = None,
    ) -> dict[str, Any]:
        """Ask for predictions; returns ``predictions``, ``ids``, ``model``, ``version`` and ``arm``.

        When the connection breaks, since the replica was killed, the rows are sent once more under the same ids: they
        are logged once.

        Raises:
            RequestError: The rows or ids are wrong; the message names the column and row.
            OverloadError: Try again later.
        """
        body: dict[str, Any] = {"instances": list(instances)}
        if ids is not None:
            body["ids"] = list(ids)
        else:
            body["request_id"] = uuid.uuid4().hex
        if routing_key is not None:
            body["routing_key"] = routing_key
        return self.call("POST", "/predict", body)

    def feedback(
        self, labels: Sequence[Mapping[str, Any]], *, correction: bool = False, patience_s: float = 0.0
    ) -> dict[str, Any]:
        """Send labels; they are durable when it returns. Sending one twice is harmless.

        The first label of an id stands, and another value is counted as `conflicting`. One that says
        ``"correction": True`` replaces the value in force, and the newest correction wins.

        Args:
            labels: ``[{"id": ..., "label": ..., "time": ISO 8601 or None, "correction": bool}]``; only the first two
                must be there.
            correction: All of them are corrections.
            patience_s: See ``call``.

        Returns:
            Counts of labels: ``received``, and what became of them: ``accepted``, ``duplicate``, ``conflicting`` and
            ``corrected``. With ``"monitor": "unavailable"`` nobody could tell new labels from repeats.

        Raises:
            RequestError: One is wrong, and none was taken; the message names its place.

        Example:
            ``client.feedback([{"id": "a-0", "label": 1}])``, and after a mistake was found
            ``client.feedback([{"id": "a-0", "label": 0}], correction=True)``.
        """
        given = [{**label, "correction": True} for label in labels] if correction else list(labels)
        return self.call("POST", "/feedback", {"labels": given}, patience_s=patience_s)

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

    def call(self, method: str, path: str, body: Any = None, *, patience_s: float = 0.0) -> dict[str, Any]:
        """Make one call; anything but a 2xx is raised as one of our errors.

        Args:
            method: ``GET`` or ``POST``.
            path: Below the model's.
            body: Is sent as JSON.
            patience_s: A call that is turned away because the service is full (429 or 503) is repeated until this
                much time has been waited through, each time as long as ``Retry-After`` asks and longer.
        """
        try:
            content = None if body is None else orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        except orjson.JSONEncodeError as error:
            raise RequestError(f"cannot be sent as JSON: {error}", f"{method} {path}") from error
        waited_s = 0.0
        for attempt in itertools.count():
            response = self._request(method, path, content)
            if response.is_success:
                return dict(orjson.loads(response.content))
            pause_s = pause_before_repeat(response.headers.get("retry-after"), attempt)
            if response.status_code not in _FULL or waited_s + pause_s > patience_s:
                break
            self._sleep(pause_s)
            waited_s += pause_s
        raise _error(response, f"{method} {path}")

    def _request(self, method: str, path: str, content: bytes | None) -> httpx.Response:
        may_repeat = method == "GET" or path in _REPEATABLE
        while True:
            try:
                response = self._http.request(method, self._prefix + path, content=content)
                if not may_repeat or not _is_of_ingress(response):
                    return response
            except httpx.TransportError as error:
                if not may_repeat or not isinstance(error, _LOST):
                    place = f"{method} {self._http.base_url}{self._prefix}{path}"
                    remedy = "is the service running? 'ray-mlops status'"
                    raise OverloadError(f"no answer: {error}", place, remedy) from error
            may_repeat = False
            self._sleep(_PAUSE_OF_LOST_S)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def pause_before_repeat(retry_after: str | None, attempt: int) -> float:
    """How long to wait before a call is repeated, seconds: what the service asks, doubled with each attempt.

    Args:
        retry_after: The header's value; half a second where it says no number of seconds.
        attempt: 0 after the first.

    Example:
        >>> [pause_before_repeat(asked, 1) for asked in ("1", None, "Wed, 21 Oct 2026 07:28:00 GMT", "60")]
        [2.0, 1.0, 1.0, 60.0]
    """
    asked_s = float(retry_after) if retry_after is not None and retry_after.isdecimal() else 0.5
    return max(asked_s, min(asked_s * 2.0 ** min(attempt, 10), _LONGEST_PAUSE_S))


def _is_of_ingress(response: httpx.Response) -> bool:
    """Whether the ingress answered because no replica did; what the service says is JSON."""
    return response.status_code >= 500 and "json" not in response.headers.get("content-type", "")


def _error(response: httpx.Response, place: str) -> RayMLOpsError:
    kind = _ERRORS.get(response.status_code, RequestError if response.status_code < 500 else OverloadError)
    try:
        detail = orjson.loads(response.content)["error"]
        kind = _OPERATORS.get(detail.get("type"), kind)
        return kind(detail["message"], detail.get("where") or place, detail.get("remedy") or "")
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return kind(f"HTTP {response.status_code}: {response.text[:200]}", place)
