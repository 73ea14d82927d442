"""Makes routes, aliases and the candidate's process what a rollout's state wants them to be.

Each is compared with what is in force, and nothing is done where they agree: so a repetition is harmless,
and the same code carries a rollout on and repairs it after a crash.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from ray_mlops.config import ProjectConfig
from ray_mlops.errors import ModelNotFoundError, RegistryError
from ray_mlops.ledger import Ledger
from ray_mlops.runtime.files import Files
from ray_mlops.serving.protocol import ModelRoutes
from ray_mlops.serving.rollout.arms import Candidate, WantedArm
from ray_mlops.serving.rollout.record import ModelRecord
from ray_mlops.serving.rollout.shadow import champion_slow_ms
from ray_mlops.serving.rollout.state import ON_TRIAL, RolloutState, desired_aliases, desired_routes, isolated_arms
from ray_mlops.serving.routes import commit_routes
from ray_mlops.serving.routing import rollout_salt
from ray_mlops.serving.slicing import freeze_slices

logger = logging.getLogger(__name__)


class AliasStore(Protocol):
    """The registry's aliases."""

    def aliases(self, model: str) -> Mapping[str, str]: ...
    def set_alias(self, model: str, alias: str, version: str) -> None: ...
    def delete_alias(self, model: str, alias: str) -> None: ...


class Settler:
    """Acts for one model.

    Args:
        record: The model as the ledger tells it; read again after each event that is appended here.
        ledger: Routes and aliases are recorded in it.
        files: The prediction log, from which the latency threshold is taken.
        candidate: Versions outside the gateway.
        aliases: The registry.
        publish: Tells the replicas that routes were committed.
        refresh: Reads the record again.
        stamp: Event time (microseconds) and wall clock (seconds) of events.
        has_applied: Whether every replica of the gateway has a route version.
    """

    def __init__(
        self,
        record: ModelRecord,
        ledger: Ledger,
        files: Files,
        candidate: Candidate,
        aliases: AliasStore,
        publish: Callable[[], Awaitable[None]],
        refresh: Callable[[], None],
        stamp: Callable[[], Mapping[str, Any]],
        has_applied: Callable[[int], bool],
    ) -> None:
        self._record, self._ledger, self._files, self._candidate = record, ledger, files, candidate
        self._aliases, self._publish, self._refresh, self._stamp = aliases, publish, refresh, stamp
        self._has_applied = has_applied
        self._has_checked_registry = False

    async def settle(self, config: ProjectConfig, state: RolloutState | None) -> bool:
        """Do what is left to do; returns whether everything is as the state wants it.

        Raises:
            LedgerConflictError: Somebody else committed routes meanwhile; read the ledger again.
        """
        known = state if state is not None and state.version in self._record.versions else None
        if known is not None:
            await self._settle_routes(config, known)
        elif self._record.routes is not None:
            await self._commit(self._record.routes, self._record.routes)
        await self._settle_arms(config, known)
        return await self._settle_aliases(state)

    async def withdraw(self) -> None:
        """Stop what runs for a model that is served no more."""
        await self._candidate.keep_only({}, None)

    async def _settle_routes(self, config: ProjectConfig, state: RolloutState) -> None:
        routes, registered = self._record.routes, self._record.versions[state.version]
        if routes is None:
            return
        wanted = desired_routes(
            routes,
            state,
            (registered["bundle"], registered["bundle_hash"]),
            salt=rollout_salt(state.rollout_id),
            isolated=config.rollout.isolation == "isolated",
            placement="isolated" if config.serving.placement == "deployment" else "in_replica",
        )
        if wanted.rollout_id != routes.rollout_id:  # the candidate is named for the first time
            guards, champion = config.rollout.guards, routes.champion
            arguments = (self._files, routes.model, champion.version, guards.latency_quantile)
            slow_ms = await asyncio.to_thread(champion_slow_ms, *arguments)
            slices = await asyncio.to_thread(freeze_slices, champion.bundle, guards.slices, guards.max_slice_values)
            wanted = replace(wanted, slow_ms=slow_ms, slices=slices)
        await self._commit(routes, wanted)

    async def _commit(self, routes: ModelRoutes, wanted: ModelRoutes) -> None:
        """Put what is wanted in force, with the shadows that there are, unless others came into force meanwhile."""
        wanted = replace(wanted, shadows=self._record.shadow_arms())
        if wanted != routes:
            commit_routes(self._ledger, wanted, routes.version, **self._stamp())
            self._refresh()
            await self._publish()

    async def _settle_arms(self, config: ProjectConfig, state: RolloutState | None) -> None:
        """Run the versions that the routes or the trial put outside the gateway, shadows included, and no other.

        What is not wanted any more is stopped when every replica of the gateway has the routes that say so.
        """
        routes = self._record.routes
        if routes is None:
            return
        wanted: dict[str, WantedArm] = {version: (bundle, 1.0) for version, bundle in isolated_arms(routes).items()}
        for arm in routes.shadows:
            wanted.setdefault(arm.version, (arm.bundle, 0.0))
        if routes.champion.version in wanted:
            self._candidate.retry(routes.champion.version)
        if state is not None and (state.stage == "preparing" or state.stage in ON_TRIAL):
            wanted[state.version] = self._record.versions[state.version]["bundle"], config.rollout.steps[0]
        if self._has_applied(routes.version):
            await self._candidate.keep_only(wanted, config)
        else:
            for version, each in wanted.items():
                self._candidate.ensure(version, each, config)

    async def _settle_aliases(self, state: RolloutState | None) -> bool:
        routes = self._record.routes
        if routes is None:
            return True
        wanted = desired_aliases(routes, state)
        try:
            known: Mapping[str, str] = self._record.aliases
            if not self._has_checked_registry:
                known = await asyncio.to_thread(self._aliases.aliases, routes.model)
            for alias, version in wanted.items():
                if known.get(alias) != version:
                    await self._set_alias(routes.model, alias, version)
                if self._record.aliases.get(alias) != version:
                    self._record_alias(alias, version, routes, state)
        except RegistryError as error:
            logger.warning("cannot set aliases model=%s wanted=%s error=%s", routes.model, wanted, error)
            return False
        self._has_checked_registry = True
        return True

    async def _set_alias(self, model: str, alias: str, version: str | None) -> None:
        if version is None:
            await asyncio.to_thread(self._aliases.delete_alias, model, alias)
            return
        try:
            await asyncio.to_thread(self._aliases.set_alias, model, alias, version)
        except ModelNotFoundError as error:  # no waiting will bring it back; the ledger still says what is in force
            logger.error("registry lacks version model=%s alias=%s version=%s: %s", model, alias, version, error)

    def _record_alias(self, alias: str, version: str | None, routes: ModelRoutes, state: RolloutState | None) -> None:
        stream = f"{routes.model}/versions"
        moment = f"{state.rollout_id}/{len(state.moves)}" if state else "deployed"
        key = f"{stream}/{alias}={version}@{routes.version}/{moment}"
        self._ledger.append(stream, "alias.set", key, {"alias": alias, "version": version}, **self._stamp())
        self._refresh()
