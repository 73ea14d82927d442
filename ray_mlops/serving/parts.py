"""What a gateway is made of, and what a handler sees of a request."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ray_mlops.config import ServingConfig
from ray_mlops.errors import OverloadError
from ray_mlops.serving.answering import ArmClient
from ray_mlops.serving.auth import Authenticator
from ray_mlops.serving.failed_requests import FailedRequests
from ray_mlops.serving.http.asgi import AsgiApp, Receive
from ray_mlops.serving.http.paths import Target
from ray_mlops.serving.label_log import LabelLog
from ray_mlops.serving.loaded import LoadedTable
from ray_mlops.serving.prediction_log.log import PredictionLog
from ray_mlops.serving.protocol import Explainer, LabelSink, MonitorView, Tally
from ray_mlops.serving.telemetry import Telemetry

SIDE_TIMEOUT_S = 1.0
"""How long a request waits for the monitor before it is answered without it."""
CONTROL_TIMEOUT_S = 10.0
"""How long an operator's request waits for the actor that it is for."""


class RolloutControl(Protocol):
    """The ``rollouts`` actor, as a replica sees it. Every call raises ``OverloadError`` while it is away."""

    async def request(
        self, model: str, version: str, *, by: str, override_reason: str | None, skip_shadow: bool
    ) -> Mapping[str, Any]:
        """Start a rollout."""

    async def command(self, model: str, command: str, *, by: str, reason: str) -> Mapping[str, Any]:
        """Pause, resume, promote, roll back or abort."""

    async def shadow(self, model: str, version: str, *, by: str, stop: bool, reason: str) -> Mapping[str, Any]:
        """Start or stop a shadow."""

    async def view(self, model: str) -> Mapping[str, Any]:
        """The document of ``GET /rollout``."""

    async def report(
        self,
        replica: str,
        sequence: int,
        tallies: Sequence[Tally],
        watermark_s: float,
        route_versions: Mapping[str, int],
    ) -> bool:
        """Take cumulative totals, and the route versions in force by model; false asks for all once more."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a gateway is made of."""

    serving: ServingConfig
    telemetry: Telemetry
    predictions: PredictionLog
    labels: LabelLog
    authenticator: Authenticator
    arms: ArmClient
    control: RolloutControl
    monitor: MonitorView | None = None
    label_sink: LabelSink | None = None
    explainer: Explainer | None = None
    console: AsgiApp | None = None
    failures: FailedRequests | None = None
    """Keeps requests that failed; None keeps none."""


@dataclass(slots=True)
class Request:
    """One request, before its body is read. (Not frozen: see ``Response``.)"""

    target: Target
    headers: Mapping[bytes, bytes]
    receive: Receive
    arrival_s: float
    transport_id: str | None
    loaded: LoadedTable = field(repr=False)
    """The table that the request sees from beginning to end."""


async def in_time(call: Awaitable[Any], who: str) -> Any:
    """Wait for another process, but not for ever.

    Raises:
        OverloadError: It took longer than ``CONTROL_TIMEOUT_S``.
    """
    try:
        async with asyncio.timeout(CONTROL_TIMEOUT_S):
            return await call
    except TimeoutError:
        raise OverloadError(f"no answer in {CONTROL_TIMEOUT_S:g} s", who, "try again") from None
