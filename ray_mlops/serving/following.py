"""What a replica does beside answering: follow the routes, and report what it has counted."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from ray_mlops.errors import RayMLOpsError
from ray_mlops.serving.app import Gateway
from ray_mlops.serving.loaded import TableLoader
from ray_mlops.serving.parts import RolloutControl
from ray_mlops.serving.protocol import RouteTable
from ray_mlops.serving.telemetry import Telemetry

logger = logging.getLogger(__name__)
WAIT_S = 10.0
"""Length of one long poll."""
RETRY_S = 1.0
"""Between attempts to mend a table that could not be loaded in full, or to reach a publisher that is away."""
REPORT_TIMEOUT_S = 5.0


class RouteFollower:
    """Keeps a gateway's table at the newest routes.

    Args:
        gateway: Its ``table`` is swapped.
        loader: Loads what a table needs.
        wait: Long poll: a table newer than a version, or the present one after so many seconds. Raises
            anything when the publisher is away.
        read: Reads the table from the ledger, for when the publisher is away.
    """

    def __init__(
        self,
        gateway: Gateway,
        loader: TableLoader,
        wait: Callable[[int, float], Awaitable[RouteTable]],
        read: Callable[[], Awaitable[RouteTable]],
    ) -> None:
        self._gateway, self._loader, self._wait, self._read = gateway, loader, wait, read
        self._is_away = False

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            await self.step()

    async def step(self) -> None:
        """Wait for one table and apply it; an older one than is served is left alone."""
        current = self._gateway.table
        table = await self._next(current.version, RETRY_S if current.problems else WAIT_S)
        if table is None or table.version < current.version:
            return
        if table.version == current.version and not current.problems:
            return
        loaded = await self._loader.load(table, current)
        self._gateway.table = loaded
        if loaded.version != current.version:
            logger.info("applied routes version=%d models=%s", loaded.version, sorted(loaded.models))

    async def _next(self, version: int, timeout_s: float) -> RouteTable | None:
        try:
            table = await self._wait(version, timeout_s)
        except Exception as error:  # whatever keeps us from the publisher, the ledger has the routes
            if not self._is_away:
                logger.warning("read routes from ledger because=%r", error)
            self._is_away = True
        else:
            self._is_away = False
            return table
        await asyncio.sleep(RETRY_S)
        with suppress(RayMLOpsError):  # neither is there: the last table stays
            return await self._read()
        return None


class TallyReporter:
    """Sends a replica's totals to the reconciler: what changed, or all after a report that was not heard.

    Args:
        telemetry: Has the totals.
        control: Takes them.
        gateway: Its route versions are reported as applied.
        interval_s: Seconds between reports.
    """

    def __init__(self, telemetry: Telemetry, control: RolloutControl, gateway: Gateway, interval_s: float) -> None:
        self._telemetry, self._control, self._gateway = telemetry, control, gateway
        self._interval_s = interval_s
        self._sequence = 0

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.send()

    async def send(self) -> bool:
        """Send one report; returns whether it was heard."""
        telemetry = self._telemetry
        self._sequence += 1
        watermark_s, tallies = telemetry.watermark_s(), telemetry.changed()
        applied = {name: loaded.routes.version for name, loaded in self._gateway.table.models.items()}
        try:
            async with asyncio.timeout(REPORT_TIMEOUT_S):
                is_heard = await self._control.report(telemetry.replica, self._sequence, tallies, watermark_s, applied)
        except (RayMLOpsError, TimeoutError) as error:
            logger.debug("keep totals because=%r", error)
            telemetry.forget_delivery()
            return False
        if is_heard:
            telemetry.delivered(tallies)
        else:
            telemetry.forget_delivery()
        return is_heard
