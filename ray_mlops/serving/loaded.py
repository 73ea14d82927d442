"""Route tables with everything that is loaded for them: what one request sees, as one reference."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Literal

import pyarrow as pa

from ray_mlops.config import ProjectConfig
from ray_mlops.errors import ModelNotFoundError, NotFoundError, RayMLOpsError
from ray_mlops.serving.http.parse import InputColumns
from ray_mlops.serving.prediction_log.table import LogFormat
from ray_mlops.serving.predictor import Answer, Predictor
from ray_mlops.serving.protocol import Arm, ModelRoutes, RouteTable
from ray_mlops.serving.remote import RemotePredictor, Rows, Version, describe, read_manifest
from ray_mlops.training.bundle import ModelBundle

logger = logging.getLogger(__name__)
SCHEMA_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What the request path needs of one model's configuration."""

    trusted: tuple[str, ...]
    """Beginnings of module names that a bundle may name code of."""
    event_time: str | None = None
    window_us: int = 86_400_000_000
    by_window: bool = False
    """Whether the rollout's epochs are windows of event time, not seconds of arrival."""
    slo_s: float = 1.0
    parity_atol: float = 1e-5
    redact: Mapping[str, Literal["drop", "hash"]] = field(default_factory=dict)
    candidate_timeout_s: float | None = None
    """``of`` always says it: the candidate's own, else ``serving.candidate_timeout_s`` of the model's configuration.
    None, of settings made by hand, takes the gateway's."""
    max_on_trial: int | None = None
    """Requests that one replica lets wait for a version on trial; None: half of what the gateway works on."""

    @classmethod
    def of(cls, config: ProjectConfig) -> "ModelSettings":
        """Pick them from a configuration."""
        return cls(
            trusted=trusted_modules(config),
            event_time=config.data.event_time,
            window_us=config.monitoring.window // timedelta(microseconds=1),
            by_window=config.rollout.evaluate == "window",
            slo_s=config.rollout.guards.latency_slo_ms / 1000.0,
            parity_atol=config.gate.parity.atol,
            redact=config.serving.log.redact,
            candidate_timeout_s=config.rollout.candidate.timeout_s or config.serving.candidate_timeout_s,
            max_on_trial=config.rollout.candidate.max_ongoing_requests,
        )


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """One model's routes with the versions that are loaded in this process."""

    routes: ModelRoutes
    settings: ModelSettings
    predictors: Mapping[str, Version]
    """By version: the champion always, the previous one and a candidate in the replica where they could be."""
    columns: InputColumns
    format: LogFormat

    @property
    def champion(self) -> Version:
        return self.predictors[self.routes.champion.version]

    def versions(self) -> list[str]:
        """Versions that a request may be pinned to."""
        arms = (self.routes.champion, self.routes.candidate, self.routes.previous)
        isolated = [arm.version for arm in arms if arm is not None and arm.placement == "isolated"]
        return sorted({*self.predictors, *isolated})


@dataclass(frozen=True, slots=True)
class LoadedTable:
    """Everything that a replica serves at one moment."""

    version: int = -1
    """Of the route table; -1 before the first is known."""
    models: Mapping[str, LoadedModel] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    """What could not be loaded; a later attempt may mend it."""
    failed: frozenset[str] = frozenset()
    """Models whose champion could not be loaded: absent, or served by the champion before."""

    @property
    def is_ready(self) -> bool:
        """Whether routes are known and every model has a champion that answers."""
        return self.version >= 0 and self.failed <= set(self.models)

    def find(self, name: str | None) -> LoadedModel:
        """A model by name, or the only one there is.

        Raises:
            NotFoundError: There is no such model, or no name was given and there is not exactly one.
        """
        if name is None and len(self.models) == 1:
            return next(iter(self.models.values()))
        if name is not None and name in self.models:
            return self.models[name]
        known = ", ".join(sorted(self.models)) or "none"
        if name is None:
            remedy = "use /models/{model}/... with one of them" if self.models else "deploy one with 'ray-mlops serve'"
            raise NotFoundError(f"the short path needs exactly one model; deployed: {known}", "path", remedy)
        raise NotFoundError(f"no model {name!r}; deployed: {known}", "path")


class TableLoader:
    """Loads what a new table needs, and keeps what it still uses.

    Args:
        load_bundle: Reads a bundle, given its address and the trusted modules.
        read_settings: Reads the settings of a model's routes.
        arm_schema: Asks an isolated arm (model, version) for its raw inputs.
        secret: Key of the hash of redacted values.
        ask_arm: Lets an isolated arm (model, version) predict rows, for a champion outside the gateway.
    """

    def __init__(
        self,
        load_bundle: Callable[[str, tuple[str, ...]], ModelBundle],
        read_settings: Callable[[ModelRoutes], ModelSettings],
        arm_schema: Callable[[str, str], Awaitable[pa.Schema]],
        secret: bytes,
        ask_arm: Callable[[str, str, Rows], Awaitable[Answer]] | None = None,
    ) -> None:
        self._ask_arm = ask_arm
        self._load_bundle, self._read_settings = load_bundle, read_settings
        self._arm_schema, self._secret = arm_schema, secret

    async def load(self, table: RouteTable, current: LoadedTable) -> LoadedTable:
        """Load, warm and check every version of a table; the caller then swaps one reference.

        A model whose champion fails keeps what it has now. A version on trial or the previous one that
        fails is left out, and the champion answers for it.
        """
        models: dict[str, LoadedModel] = {}
        problems: list[str] = []
        failed = set()
        for name, routes in table.models.items():
            known = current.models.get(name)
            try:
                models[name] = await self._load_model(routes, known, problems)
            except (RayMLOpsError, ConnectionError, TimeoutError) as error:
                logger.error("keep old routes model=%s version=%s because=%s", name, routes.champion.version, error)
                problems.append(f"{name}: {error}")
                failed.add(name)
                if known is not None:
                    models[name] = known
        return LoadedTable(table.version, models, tuple(problems), frozenset(failed))

    async def _load_model(self, routes: ModelRoutes, known: LoadedModel | None, problems: list[str]) -> LoadedModel:
        settings = await asyncio.to_thread(self._read_settings, routes)
        model = routes.model
        predictors = {routes.champion.version: await self._predictor(model, routes.champion, settings, known)}
        schemas: list[pa.Schema] = []
        for arm in (routes.previous, routes.candidate):
            if arm is None or arm.version in predictors:
                continue
            try:
                if arm.placement == "isolated" and arm is routes.candidate:
                    schemas.append(
                        await asyncio.wait_for(self._arm_schema(routes.model, arm.version), SCHEMA_TIMEOUT_S)
                    )
                else:
                    predictors[arm.version] = await self._predictor(model, arm, settings, known)
            except (RayMLOpsError, TimeoutError, ConnectionError) as error:
                logger.warning("leave out version model=%s version=%s because=%s", routes.model, arm.version, error)
                problems.append(f"{routes.model}, version {arm.version}: {error or 'no answer'}")
        return self._assemble(routes, settings, predictors, schemas)

    async def _predictor(self, model: str, arm: Arm, settings: ModelSettings, known: LoadedModel | None) -> Version:
        if known is not None:
            arms = (known.routes.champion, known.routes.candidate, known.routes.previous)
            is_same = any(a is not None and _identity(a) == _identity(arm) for a in arms)
            if is_same and arm.version in known.predictors:
                return known.predictors[arm.version]
        if arm.placement == "isolated" and self._ask_arm is not None:
            ask_schema = partial(self._arm_schema, model, arm.version)
            bundle = await asyncio.wait_for(
                describe(arm, settings.trusted, ask_schema, read_manifest), SCHEMA_TIMEOUT_S
            )
            return RemotePredictor(bundle, partial(self._ask_arm, model, arm.version))
        return await asyncio.to_thread(self._load_checked, arm, settings)

    def _load_checked(self, arm: Arm, settings: ModelSettings) -> Predictor:
        predictor = Predictor(self._load_bundle(arm.bundle, settings.trusted))
        predictor.warm_up()
        predictor.self_check(settings.parity_atol)
        logger.info("loaded version=%s bundle=%s", arm.version, arm.bundle)
        return predictor

    def _assemble(
        self,
        routes: ModelRoutes,
        settings: ModelSettings,
        predictors: dict[str, Version],
        schemas: Iterable[pa.Schema],
    ) -> LoadedModel:
        champion = predictors[routes.champion.version]
        bundle = champion.bundle
        fields = {item.name: item for schema in (*schemas, *(p.schema for p in predictors.values())) for item in schema}
        extras = [item for name, item in fields.items() if name not in champion.schema.names]
        columns = InputColumns(champion.required, frozenset(fields), settings.event_time)
        style = LogFormat(
            model=routes.model,
            bundle=routes.champion.bundle,
            schema=pa.schema([*champion.schema, *extras]),
            task=bundle.task,
            classes=tuple(str(name) for name in bundle.classes),
            redact=settings.redact,
            secret=self._secret,
        )
        return LoadedModel(routes, settings, predictors, columns, style)


def _identity(arm: Arm) -> tuple[str, str, str]:
    return arm.version, arm.bundle_hash, arm.placement


def trusted_modules(config: ProjectConfig) -> tuple[str, ...]:
    """Modules that the configuration itself names code of; ``ray_mlops.`` always is trusted."""
    paths = [config.training.model, *(f.function for f in config.data.features or [] if f.function is not None)]
    return ("ray_mlops.", *dict.fromkeys(path.partition(":")[0] for path in paths))


def check_complete(table: LoadedTable, wanted: RouteTable) -> None:
    """Check that a replica that has just started may take traffic.

    Raises:
        ModelNotFoundError: A champion could not be loaded.
    """
    if table.failed or set(wanted.models) - set(table.models):
        raise ModelNotFoundError(f"cannot load: {'; '.join(table.problems)}", "gateway", "see the bundle's address")
