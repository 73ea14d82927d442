"""The replica of the gateway: how it ends."""

import asyncio
from typing import Any

from ray_mlops.errors import StoreError
from ray_mlops.serving.deployment import GatewayReplica


class Closing:
    """Something that takes a few turns of the event loop to close, or fails at once."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.is_closed = error, False

    async def close(self) -> None:
        if self.error is not None:
            raise self.error
        for _ in range(3):
            await asyncio.sleep(0)
        self.is_closed = True


def test_log_that_cannot_be_closed_does_not_keep_failed_requests_from_being_written(caplog: Any) -> None:
    replica = GatewayReplica(None)  # type: ignore[arg-type]
    replica._log, replica._failures = Closing(StoreError("no space left on device")), Closing()  # type: ignore[assignment]
    asyncio.run(replica._stop())
    assert replica._failures.is_closed  # type: ignore[attr-defined]
    assert "no space left on device" in caplog.text
