"""Where the console's pages get their facts: the ledger, the two actors and the explainer.

It runs in a replica that answers predictions. So whatever blocks is done in a few threads of its own, every
wait has an end, and an actor that does not answer is a value that pages can show.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from ray_mlops.errors import OverloadError, RayMLOpsError, StoreError
from ray_mlops.ledger import (
    Ledger,
    LedgerEvent,
    aliases_in_force,
    approvals,
    current_routes,
    deployed_config,
    registered_versions,
)
from ray_mlops.monitoring.actor import MonitorClient, monitor_actor
from ray_mlops.runtime.files import Files
from ray_mlops.serving.deployment import RolloutsClient
from ray_mlops.serving.protocol import Explainer
from ray_mlops.serving.rollout.trail import Trail, trail_path

logger = logging.getLogger(__name__)

ACTOR_TIMEOUT_S = 1.0
READ_TIMEOUT_S = 10.0
_OF_A_MODEL = ("config.deployed", "version.registered", "version.refused", "routes.committed")

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Away:
    """Something that did not answer."""

    reason: str


Document = Mapping[str, Any] | Away
"""What an actor says, or that it is away."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the ledger says of one model."""

    model: str
    routes: Mapping[str, Any] | None = None
    """``ModelRoutes`` in force as JSON; None while it is not served."""
    versions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Payload of ``version.registered`` by version, in order of registration."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    approved: frozenset[str] = frozenset()
    config: Mapping[str, Any] = field(default_factory=dict)
    """The configuration that the routes in force were made with; empty where there is none."""


class ConsoleData(Protocol):
    """What the pages ask for. Everything may raise ``LedgerError`` or ``OverloadError``."""

    async def models(self) -> tuple[str, ...]:
        """Names of all models that were ever trained or served, in order."""

    async def facts(self, model: str) -> ModelFacts:
        """What the ledger says of a model."""

    async def events(
        self,
        *,
        stream: str | None = None,
        prefix: str | None = None,
        kind: str | None = None,
        after_seq: int = 0,
        limit: int | None = None,
        newest_first: bool = True,
    ) -> list[LedgerEvent]:
        """Events of the ledger (see ``Ledger.read``)."""

    async def rollout(self, model: str) -> Document:
        """The document of ``GET /rollout``."""

    async def evidence(self, model: str, rollout_id: str) -> Mapping[str, Any] | None:
        """The evidence of a rollout over time (see ``serving.rollout.trail``); None where none was recorded."""

    async def monitoring(self, model: str) -> Document:
        """The document of ``GET /monitoring``."""

    async def explain(self, model: str, prediction_id: str) -> Mapping[str, Any]:
        """What stands behind a prediction; raises ``NotFoundError`` for an unknown id."""


class StoreData:
    """Implements ``ConsoleData`` over a store and the cluster that the process is part of.

    Args:
        ledger: The store's ledger.
        explainer: Answers ``explain``.
        threads: Where reads are done.
        files: The store; None: it has no recorded evidence.
    """

    def __init__(self, ledger: Ledger, explainer: Explainer, threads: Executor, files: Files | None = None) -> None:
        self._ledger, self._explainer, self._threads, self._files = ledger, explainer, threads, files
        self._rollouts = RolloutsClient()

    async def models(self) -> tuple[str, ...]:
        events = await self._read(self._ledger.newest_by_stream, *_OF_A_MODEL)
        return tuple(sorted({event.stream.rpartition("/")[0] for event in events}))

    async def facts(self, model: str) -> ModelFacts:
        return await self._read(_read_facts, self._ledger, model)

    async def events(
        self,
        *,
        stream: str | None = None,
        prefix: str | None = None,
        kind: str | None = None,
        after_seq: int = 0,
        limit: int | None = None,
        newest_first: bool = True,
    ) -> list[LedgerEvent]:
        def read() -> list[LedgerEvent]:
            return self._ledger.read(
                stream, prefix=prefix, kind=kind, after_seq=after_seq, limit=limit, newest_first=newest_first
            )

        return await self._read(read)

    async def rollout(self, model: str) -> Document:
        return await _ask(lambda: self._rollouts.view(model))

    async def evidence(self, model: str, rollout_id: str) -> Mapping[str, Any] | None:
        if self._files is None:
            return None
        try:
            return await self._read(_read_evidence, self._files, trail_path(model, rollout_id))
        except StoreError as error:
            logger.warning("cannot read evidence rollout=%s error=%s", rollout_id, error)
            return None

    async def monitoring(self, model: str) -> Document:
        async def view() -> Mapping[str, Any]:
            actor = await self._read(monitor_actor)  # looking up a name blocks
            return await MonitorClient(lambda: actor).view(model)

        return await _ask(view)

    async def explain(self, model: str, prediction_id: str) -> Mapping[str, Any]:
        return await self._read(self._explainer.explain, model, prediction_id)

    async def _read(self, function: Callable[..., Result], *arguments: Any) -> Result:
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        except TimeoutError:
            raise OverloadError(f"the store gave no answer in {READ_TIMEOUT_S:g} s", "console", "try again") from None


async def _ask(call: Callable[[], Awaitable[Mapping[str, Any]]]) -> Document:
    if not ray.is_initialized():  # else asking for an actor would start a cluster
        return Away("this process is not part of a cluster")
    try:
        async with asyncio.timeout(ACTOR_TIMEOUT_S):
            return await call()
    except TimeoutError:
        return Away(f"no answer in {ACTOR_TIMEOUT_S:g} s")
    except RayTaskError as error:  # its own text is a traceback
        return Away(str(error.cause).partition("\n")[0])
    except RayMLOpsError as error:
        return Away(str(error))
    except (RayError, ValueError) as error:
        return Away(f"{type(error).__name__}: {error}".partition("\n")[0])


def _read_evidence(files: Files, path: str) -> Mapping[str, Any] | None:
    return Trail.from_json(json.loads(files.read(path))).to_json() if files.exists(path) else None


def _read_facts(ledger: Ledger, model: str) -> ModelFacts:
    routes = current_routes(ledger)["models"].get(model)
    has_config = ledger.last(f"{model}/config", "config.deployed") is not None
    config = deployed_config(ledger, model, (routes or {}).get("config_hash") or None) if has_config else {}
    return ModelFacts(
        model=model,
        routes=routes,
        versions=registered_versions(ledger, model),
        aliases=aliases_in_force(ledger, model),
        approved=frozenset(approvals(ledger, model)),
        config=config,
    )
