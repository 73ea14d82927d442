"""The gateway on Ray Serve: one deployment for every model of the cluster."""

import asyncio
import importlib
import logging
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve import Application

from ray_mlops.config import ProjectConfig, ServingConfig, StoreConfig
from ray_mlops.errors import ModelNotFoundError, OverloadError, RayMLOpsError
from ray_mlops.ledger import Ledger, deployed_config
from ray_mlops.runtime.files import Files
from ray_mlops.serving.app import Gateway
from ray_mlops.serving.auth import Authenticator, load_tokens
from ray_mlops.serving.dialects.grpc_methods import GrpcMethods
from ray_mlops.serving.dialects.grpc_service import GrpcService
from ray_mlops.serving.failed_requests import FailedRequests
from ray_mlops.serving.following import RouteFollower, TallyReporter
from ray_mlops.serving.http.asgi import AsgiApp
from ray_mlops.serving.label_log import LabelLog
from ray_mlops.serving.loaded import LoadedTable, ModelSettings, TableLoader, check_complete
from ray_mlops.serving.parts import Parts
from ray_mlops.serving.prediction_log.log import PredictionLog
from ray_mlops.serving.prediction_log.lost_rows import book_lost
from ray_mlops.serving.prediction_log.table import LogFormat
from ray_mlops.serving.protocol import NAMESPACE, ROLLOUTS_ACTOR, ROUTES_ACTOR, Hooks, ModelRoutes, RouteTable, Tally
from ray_mlops.serving.routes import read_table
from ray_mlops.serving.serve_apps import HEALTH_OPTIONS
from ray_mlops.serving.serve_arms import ServeArmClient
from ray_mlops.serving.telemetry import Telemetry
from ray_mlops.training.bundle import ModelBundle

logger = logging.getLogger(__name__)
CONTROL_PLACES = 64
"""Places in a replica beyond those for predictions: health, metrics and operators never queue behind traffic."""
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What a replica needs to build itself, wherever it starts."""

    store: StoreConfig
    serving: ServingConfig
    hooks: Hooks
    url: str
    """Where users reach the gateway."""


class GatewayReplica(GrpcMethods):
    """One replica: builds a ``Gateway`` and keeps it supplied with routes.

    It starts with the ledger's routes and every champion loaded, or not at all.

    Args:
        settings: Where everything is.

    Raises:
        LedgerError: The routes cannot be read.
        ModelNotFoundError: A champion cannot be loaded.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._tasks: list[asyncio.Task[None]] = []

    async def __serve_build_asgi_app__(self) -> AsgiApp:
        store, serving, replica = self._settings.store, self._settings.serving, uuid.uuid4().hex[:12]
        files, ledger, arms = Files(store.root_uri), Ledger.open(store), ServeArmClient()
        tokens = await asyncio.to_thread(load_tokens, files)
        secret = await asyncio.to_thread(files.create, "redaction.key", secrets.token_bytes(32))
        loader = TableLoader(ModelBundle.load, SettingsReader(ledger).read, arms.schema, secret, arms.predict)
        wanted = await asyncio.to_thread(read_table, ledger)
        table = await loader.load(wanted, LoadedTable())
        check_complete(table, wanted)
        hooks, accounts = self._settings.hooks, store.local_root / "accounting"
        sink = load_hook(hooks.prediction_sink, store)
        telemetry = Telemetry(replica)
        log = PredictionLog(files, accounts, replica, serving.log, serving.flush_interval_s, sink)
        settled = await asyncio.to_thread(book_lost, accounts, files, FormatFinder(table).find, sink)
        log.lost_before = settled["lost"]
        control = RolloutsClient()
        failures = FailedRequests(files, replica, serving.log.failed_requests)
        parts = Parts(
            serving=serving,
            telemetry=telemetry,
            predictions=log,
            labels=LabelLog(files, replica),
            authenticator=Authenticator(tokens, serving.predict_auth),
            arms=arms,
            control=control,
            monitor=load_hook(hooks.monitor_view, store),
            label_sink=load_hook(hooks.label_sink, store),
            explainer=load_hook(hooks.explainer, store),
            console=load_hook(hooks.console, store),
            failures=failures,
        )
        self._gateway = Gateway(parts, on_shutdown=self._stop)
        self._gateway.table = table
        self.grpc_service = GrpcService(self._gateway, parts)
        self._log, self._failures = log, failures
        log.start()
        failures.start()
        follower = RouteFollower(
            self._gateway, loader, RoutesClient().wait, lambda: asyncio.to_thread(read_table, ledger)
        )
        reporter = TallyReporter(telemetry, control, self._gateway, serving.flush_interval_s)
        self._tasks = [asyncio.create_task(follower.run()), asyncio.create_task(reporter.run())]
        logger.info("started replica=%s table=%d models=%s", replica, table.version, sorted(table.models))
        return self._gateway

    async def check_health(self) -> None:
        """Be healthy while routes are known, champions loaded, and the tasks beside the answering alive.

        Raises:
            ModelNotFoundError: They are not.
        """
        if not self._gateway.table.is_ready:
            raise ModelNotFoundError("no routes, or a champion is missing", "gateway")
        for task in self._tasks:
            if task.done() and not task.cancelled():
                raise ModelNotFoundError(f"a task of the replica ended: {task.exception()!r}", "gateway")

    async def describe(self) -> dict[str, Any]:
        """What a second launcher must know before it may join."""
        settings = self._settings
        return {
            "database": settings.store.database_url,
            "url": settings.url,
            "grpc_port": settings.serving.grpc_port,
        }

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        closings = asyncio.gather(self._log.close(), self._failures.close(), return_exceptions=True)
        for problem in await asyncio.wait_for(closings, STOP_TIMEOUT_S):
            if problem is not None:  # the next start books what is missing
                logger.error("close in part because=%r", problem)


class SettingsReader:
    """Reads the settings of models from the ledger, each configuration once."""

    def __init__(self, ledger: Ledger) -> None:
        self._config = lru_cache(maxsize=64)(self._read)
        self._ledger = ledger

    def read(self, routes: ModelRoutes) -> ModelSettings:
        """Settings of the configuration that the routes name, else of the newest."""
        return (self._config if routes.config_hash else self._read)(routes.model, routes.config_hash)

    def _read(self, model: str, config_hash: str) -> ModelSettings:
        content = deployed_config(self._ledger, model, config_hash or None)
        return ModelSettings.of(ProjectConfig.model_validate(content))


class FormatFinder:
    """Says how rows of a spool are written: as the model's rows are now."""

    def __init__(self, table: LoadedTable) -> None:
        self._table = table

    def find(self, model: str, bundle: str) -> LogFormat:
        """The format of a model whose champion was this bundle.

        Raises:
            RayMLOpsError: The model is not served any more.
        """
        loaded = self._table.find(model)
        if loaded.format.bundle == bundle:
            return loaded.format
        champion = ModelBundle.load(bundle, loaded.settings.trusted)
        return LogFormat(
            model=model,
            bundle=bundle,
            schema=champion.features.input_schema(),
            task=champion.task,
            classes=tuple(str(name) for name in champion.classes),
            redact=loaded.format.redact,
            secret=loaded.format.secret,
        )


class RoutesClient:
    """The ``routes`` actor, as a replica sees it."""

    async def wait(self, version: int, timeout_s: float) -> RouteTable:
        """Long poll; raises when the actor is away."""
        actor = await asyncio.to_thread(ray.get_actor, ROUTES_ACTOR, NAMESPACE)
        async with asyncio.timeout(timeout_s + 5.0):
            return RouteTable.from_json(await actor.wait.remote(version, timeout_s))


class RolloutsClient:
    """The ``rollouts`` actor, as a replica sees it; implements ``RolloutControl``."""

    def __init__(self) -> None:
        self._actor: Any = None

    async def request(
        self, model: str, version: str, *, by: str, override_reason: str | None, skip_shadow: bool
    ) -> Mapping[str, Any]:
        return dict(
            await self._call("request", model, version, by=by, override_reason=override_reason, skip_shadow=skip_shadow)
        )

    async def command(self, model: str, command: str, *, by: str, reason: str) -> Mapping[str, Any]:
        return dict(await self._call("command", model, command, by=by, reason=reason))

    async def shadow(self, model: str, version: str, *, by: str, stop: bool, reason: str) -> Mapping[str, Any]:
        return dict(await self._call("shadow", model, version, by=by, stop=stop, reason=reason))

    async def view(self, model: str) -> Mapping[str, Any]:
        return dict(await self._call("view", model))

    async def report(
        self,
        replica: str,
        sequence: int,
        tallies: Sequence[Tally],
        watermark_s: float,
        route_versions: Mapping[str, int],
    ) -> bool:
        arguments = (replica, sequence, list(tallies), watermark_s, dict(route_versions))
        return bool(await self._call("report", *arguments))

    async def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        remedy = "start it with 'ray-mlops serve'"
        try:
            if self._actor is None:
                self._actor = await asyncio.to_thread(ray.get_actor, ROLLOUTS_ACTOR, NAMESPACE)
            return await getattr(self._actor, method).remote(*arguments, **options)
        except RayTaskError as error:
            if isinstance(error.cause, RayMLOpsError):
                raise error.cause from error
            raise RayMLOpsError(f"{method} failed: {error.cause!r}", ROLLOUTS_ACTOR) from error
        except (RayError, ValueError) as error:
            self._actor = None
            raise OverloadError(f"the actor is away: {type(error).__name__}", ROLLOUTS_ACTOR, remedy) from error


def load_hook(path: str | None, store: StoreConfig) -> Any:
    """Build what an import path of ``Hooks`` names; None for None."""
    if path is None:
        return None
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)(store)


def gateway_application(settings: GatewaySettings) -> Application:
    """The Serve application of the gateway."""
    serving = settings.serving
    options = {**HEALTH_OPTIONS, "graceful_shutdown_timeout_s": STOP_TIMEOUT_S, "max_constructor_retry_count": 3}
    deployment = serve.deployment(
        name="Gateway",
        num_replicas=serving.num_replicas,
        ray_actor_options={"num_cpus": serving.cpus_per_replica},
        max_ongoing_requests=serving.max_ongoing_requests + serving.max_queued_requests + CONTROL_PLACES,
        **options,
    )(serve.ingress()(GatewayReplica))
    return deployment.bind(settings)
