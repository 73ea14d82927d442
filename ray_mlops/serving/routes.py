"""Route tables: committed to the ledger first, then published to the replicas that wait for them.

The publisher is never the writer of record. It may die, lose a message or be late: the ledger has the
routes, replicas keep the last table, and a new publisher reads the ledger again.
"""

import asyncio
import logging
import os
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray

from ray_mlops.config import StoreConfig
from ray_mlops.errors import LedgerConflictError, LedgerError
from ray_mlops.ledger import Ledger
from ray_mlops.ledger.folds import ROUTES_COMMITTED, ROUTES_WITHDRAWN, current_routes
from ray_mlops.serving.protocol import NAMESPACE, ROUTES_ACTOR, ModelRoutes, RouteTable

logger = logging.getLogger(__name__)

MAX_WAITERS = 10_000
"""Long polls that the actor holds at once; each replica has one."""


def read_table(ledger: Ledger) -> RouteTable:
    """Read the routes in force of every model that is served."""
    return RouteTable.from_json(current_routes(ledger))


def commit_routes(
    ledger: Ledger,
    routes: ModelRoutes,
    expect_version: int,
    *,
    event_time: int | None = None,
    time: float | None = None,
) -> ModelRoutes:
    """Make routes the ones in force, if nobody else has changed them meanwhile.

    Repeating a commit that succeeded gives the same result: its event is found under its key.

    Args:
        ledger: The ledger.
        routes: What is wanted; its ``version`` is not looked at.
        expect_version: Version of the routes that the change starts from; 0 for a model's first.
        event_time: The model's event time, microseconds since 1970 UTC.
        time: Unix seconds; None reads the clock.

    Returns:
        The routes with their version.

    Raises:
        LedgerConflictError: Other routes were committed after ``expect_version``.
    """
    committed = replace(routes, version=expect_version + 1)
    stream = f"{routes.model}/routes"
    event = ledger.append(
        stream,
        ROUTES_COMMITTED,
        f"{stream}/{committed.version}",
        committed.to_json(),
        event_time=event_time,
        expect_version=expect_version,
        time=time,
    )
    if event.kind != ROUTES_COMMITTED or ModelRoutes.from_json(event.payload) != committed:
        raise LedgerConflictError(f"version {committed.version} has been committed by another writer", stream)
    return committed


def withdraw_routes(ledger: Ledger, model: str, expect_version: int) -> None:
    """Take a model out of service: no routes are in force for it until some are committed again.

    Raises:
        LedgerConflictError: Other routes were committed after ``expect_version``.
    """
    stream = f"{model}/routes"
    key = f"{stream}/{expect_version + 1}"
    event = ledger.append(stream, ROUTES_WITHDRAWN, key, {"model": model}, expect_version=expect_version)
    if event.kind != ROUTES_WITHDRAWN:
        raise LedgerConflictError(f"version {expect_version + 1} has been committed by another writer", stream)


class RoutesPublisher:
    """Holds the table in force, and wakes those who wait for the next.

    Args:
        ledger: Read at the start, at each ``publish``, and when a wait ends without news.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._table = read_table(ledger)
        self._changed = asyncio.Condition()

    def table(self) -> RouteTable:
        """The table in force, as far as is known here."""
        return self._table

    async def publish(self) -> RouteTable:
        """Read the ledger and pass on what is new; never goes back to an older table."""
        table = await asyncio.to_thread(read_table, self._ledger)
        async with self._changed:
            if table.version > self._table.version:
                self._table = table
                logger.info("published routes version=%d models=%s", table.version, sorted(table.models))
                self._changed.notify_all()
        return self._table

    async def wait(self, version: int, timeout_s: float) -> RouteTable:
        """Return a table newer than a version as soon as there is one, else the present one after the timeout."""
        async with self._changed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: self._table.version > version), timeout_s)
        # Whoever committed may have died before publishing.
        if self._table.version <= version:
            try:
                await self.publish()
            except LedgerError as error:
                logger.warning("kept routes version=%d ledger=%s", self._table.version, error)
        return self._table


class RoutesActor:
    """The publisher as a detached actor; see ``start_routes``."""

    def __init__(self, store: StoreConfig) -> None:
        self._publisher = RoutesPublisher(Ledger(store.database_url))

    async def pid(self) -> int:
        """The actor's process: another one than before means that it was started again."""
        return os.getpid()

    async def table(self) -> dict[str, Any]:
        """The table in force, as JSON of ``RouteTable``."""
        return self._publisher.table().to_json()

    async def publish(self) -> dict[str, Any]:
        """Read the ledger and pass on what is new."""
        return (await self._publisher.publish()).to_json()

    async def wait(self, version: int, timeout_s: float) -> dict[str, Any]:
        """Return a table newer than a version as soon as there is one; see ``RoutesPublisher.wait``."""
        return (await self._publisher.wait(version, timeout_s)).to_json()


def start_routes(store: StoreConfig) -> Any:
    """Return the cluster's ``routes`` actor; starts it when there is none."""
    options: dict[str, Any] = {
        "name": ROUTES_ACTOR,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "max_restarts": -1,
        "max_task_retries": 0,
        "max_concurrency": MAX_WAITERS,
    }
    return ray.remote(RoutesActor).options(**options).remote(store)
