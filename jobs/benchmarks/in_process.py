"""A whole service in one process, without Ray: the real gateway, log, label join and reconciler, on a clock we turn.

What Ray carries between processes in production is handed over by calls here; everything that decides, counts,
routes, scores and records is the code that serves.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa

from ray_mlops.config import ProjectConfig, config_hash
from ray_mlops.data.target import TargetEncoder
from ray_mlops.ledger import Ledger
from ray_mlops.monitoring.handover import key_columns
from ray_mlops.monitoring.labels import KEY_COLUMNS, LabelJoin
from ray_mlops.runtime.files import Files
from ray_mlops.serving.app import Gateway
from ray_mlops.serving.auth import Authenticator
from ray_mlops.serving.following import TallyReporter
from ray_mlops.serving.label_log import LabelLog
from ray_mlops.serving.loaded import LoadedTable, ModelSettings, TableLoader
from ray_mlops.serving.parts import Parts
from ray_mlops.serving.prediction_log.log import PredictionLog
from ray_mlops.serving.predictor import Answer, Predictor
from ray_mlops.serving.protocol import Arm, LabelRecord, ModelRoutes, Tally
from ray_mlops.serving.rollout.evidence import ArmHealth, FloatArray
from ray_mlops.serving.rollout.reconciler import Reconciler
from ray_mlops.serving.rollout.shadow import BundleFacts
from ray_mlops.serving.rollout.state import Command
from ray_mlops.serving.routes import commit_routes, read_table
from ray_mlops.serving.telemetry import Telemetry
from ray_mlops.training.bundle import ModelBundle

_HORIZON_US = 10**15
_TICKS = 200
_PASSING = ("pending", "validating", "preparing", "promoting", "rolling_back")


class LocalArms:
    """Candidates and shadows as predictors in this process; implements ``ArmControl`` and ``ArmClient``."""

    def __init__(self, bundles: Mapping[str, ModelBundle]) -> None:
        self._bundles = bundles
        self._running: dict[str, Predictor] = {}

    async def start(self, model: str, version: str, bundle: str, config: ProjectConfig, weight: float) -> None:
        predictor = Predictor(self._bundles[bundle])
        predictor.warm_up()
        self._running[version] = predictor

    async def check(self, model: str, version: str, bundle: str, config: ProjectConfig) -> str:
        self._running[version].self_check(config.gate.parity.atol)
        return ""

    async def scale(self, model: str, version: str, weight: float, config: ProjectConfig) -> str:
        return "it is in this process"

    async def versions(self, model: str) -> frozenset[str]:
        return frozenset(self._running)

    def is_gone(self, model: str, version: str) -> bool:
        return version not in self._running

    async def ready(self, model: str, version: str) -> tuple[ArmHealth, str]:
        return ("ready", "") if version in self._running else ("absent", "")

    async def score(self, model: str, version: str, rows: pa.Table) -> tuple[FloatArray, tuple[str, ...]]:
        found = self._running[version].predict_table(rows)
        return found.values, tuple(str(name) for name in found.classes) if found.task == "multiclass" else ()

    async def facts(self, bundle: str) -> BundleFacts:
        manifest = self._bundles[bundle].manifest
        classes = tuple(str(name) for name in manifest.classes) if manifest.task == "multiclass" else ()
        return BundleFacts(manifest.task, classes, manifest.loss_scale, manifest.threshold)

    async def stop(self, model: str, version: str) -> None:
        self._running.pop(version, None)

    async def predict(self, model: str, version: str, rows: Sequence[Mapping[str, Any]]) -> Answer:
        return await self._running[version].answer([dict(row) for row in rows])

    async def schema(self, model: str, version: str) -> pa.Schema:
        return self._running[version].schema


class LocalMonitor:
    """Joins labels to logged rows by windows that are closed by hand; the part of the monitor that rollouts need."""

    def __init__(self, encoder: TargetEncoder, window_us: int) -> None:
        self._join = LabelJoin(encoder.encode_value, window_us, _HORIZON_US)
        self.closed: int | None = None
        self.rows = 0

    def accept_rows(self, model: str, version: str, rows: pa.Table) -> None:
        self._join.add_predictions(key_columns(rows))
        self.rows += rows.num_rows

    async def accept(self, model: str, labels: Sequence[LabelRecord]) -> Mapping[str, int]:
        return self._join.add_labels(labels)

    async def labelled(self, model: str, after_window: int) -> pa.Table:
        found = None if self.closed is None else self._join.labelled(after_window, self.closed)
        columns = {name: pa.array([], pa.string()) for name in KEY_COLUMNS}
        nothing = pa.table({**columns, "window": pa.array([], pa.int64()), "label": pa.array([], pa.float64())})
        return nothing if found is None else found

    async def closed_window(self, model: str) -> int | None:
        return self.closed

    async def view(self, model: str) -> Mapping[str, Any]:
        return {"closed_window": self.closed}

    async def metrics(self) -> str:
        return ""


class _RowSink:
    """The monitor as the prediction log hands over to it."""

    def __init__(self, monitor: LocalMonitor) -> None:
        self._monitor = monitor

    def accept(self, model: str, version: str, rows: pa.Table) -> None:
        self._monitor.accept_rows(model, version, rows)

    def close(self) -> None:
        """There is nothing left."""


class LocalAliases:
    """A registry's aliases."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def aliases(self, model: str) -> Mapping[str, str]:
        return dict(self._known)

    def set_alias(self, model: str, alias: str, version: str) -> None:
        self._known[alias] = version

    def delete_alias(self, model: str, alias: str) -> None:
        self._known.pop(alias, None)


class LocalService:
    """One model behind a gateway, and the reconciler of its rollouts.

    Args:
        config: The model's configuration; its store must be an empty directory.
        bundles: By version, in order; the first is champion. All count as having passed the gate.
        data_end_us: Event time of the newest row that any version was trained on.
        start_s: Where the clock starts, unix seconds.
    """

    def __init__(
        self, config: ProjectConfig, bundles: Mapping[str, ModelBundle], data_end_us: int, start_s: float
    ) -> None:
        self.config, self.model, self.now = config, config.name, start_s
        self.ledger, self.files = Ledger.open(config.store), Files(config.store.root_uri)
        window_us = round(config.monitoring.window.total_seconds() * 1e6)
        self.monitor = LocalMonitor(next(iter(bundles.values())).encoder, window_us)
        by_address = self._register(config, bundles, data_end_us)
        self._arms = LocalArms(by_address)
        aliases = LocalAliases()
        self.reconciler = Reconciler(
            self.model, self.ledger, self.files, self._arms, aliases, self._publish, self.monitor, lambda: self.now
        )
        trusted = ModelSettings.of(config)
        self._loader = TableLoader(
            lambda address, _: by_address[address], lambda routes: trusted, self._arms.schema, b""
        )
        self._telemetry = Telemetry("local", lambda: self.now)
        accounts = Path(config.store.local_root) / "accounting"
        serving = config.serving
        self._log = PredictionLog(self.files, accounts, "local", serving.log, 3600.0, _RowSink(self.monitor))
        parts = Parts(
            serving=serving,
            telemetry=self._telemetry,
            predictions=self._log,
            labels=LabelLog(self.files, "local"),
            authenticator=Authenticator({}, "open"),
            arms=self._arms,
            control=self,
            label_sink=self.monitor,
        )
        self._gateway = Gateway(parts)
        self._reporter = TallyReporter(self._telemetry, self, self._gateway, 1.0)
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(self._gateway), base_url="http://local")  # type: ignore[arg-type]

    async def open(self) -> None:
        """Load the champion."""
        await self._publish()
        self._log.start()

    async def close(self) -> None:
        """Write what is left, and close the connection."""
        await self._client.aclose()
        await self._log.close()

    async def predict(self, instances: list[dict[str, Any]], ids: list[str]) -> tuple[int, str]:
        """Post one request; returns its status, and the version that answered."""
        self.now += 1.0
        body = {"instances": instances, "ids": ids, "request_id": ids[0]}
        answer = await self._client.post("/predict", json=body)
        return answer.status_code, str(answer.json().get("version", ""))

    async def feedback(self, labels: list[dict[str, Any]]) -> int:
        """Post labels; returns the status."""
        return (await self._client.post("/feedback", json={"labels": labels})).status_code

    async def close_window(self, window: int) -> str:
        """Write the log, report, let a window be over, and let the rollout deal with it; returns the state."""
        await self._log.flush()
        while self.monitor.rows < self._log.accounting["written"]:  # they are handed over by another thread
            await asyncio.sleep(0.001)
        self.monitor.closed = window
        for _ in range(_TICKS):
            self.now += 5.0
            await self._reporter.send()
            state = str((await self.reconciler.view())["state"])
            await asyncio.sleep(0.005)
            if state not in _PASSING:
                break
        return state

    # -- the rollouts actor, as the gateway sees it ------------------------------------------------------

    async def report(
        self,
        replica: str,
        sequence: int,
        tallies: Sequence[Tally],
        watermark_s: float,
        route_versions: Mapping[str, int],
    ) -> bool:
        version = route_versions.get(self.model)
        return self.reconciler.report(replica, sequence, tallies, watermark_s, version)

    async def request(
        self, model: str, version: str, *, by: str, override_reason: str | None, skip_shadow: bool
    ) -> Mapping[str, Any]:
        await self.reconciler.request(version, by, override_reason=override_reason, skip_shadow=skip_shadow)
        return await self.reconciler.view()

    async def command(self, model: str, command: str, *, by: str, reason: str) -> Mapping[str, Any]:
        known: Command = command  # type: ignore[assignment]
        await self.reconciler.command(known, by, reason)
        return await self.reconciler.view()

    async def shadow(self, model: str, version: str, *, by: str, stop: bool, reason: str) -> Mapping[str, Any]:
        await self.reconciler.shadow(version, by, stop=stop, reason=reason)
        return await self.reconciler.view()

    async def view(self, model: str) -> Mapping[str, Any]:
        return await self.reconciler.view()

    # -- what the ledger holds at the beginning ----------------------------------------------------------

    def _register(
        self, config: ProjectConfig, bundles: Mapping[str, ModelBundle], data_end_us: int
    ) -> dict[str, ModelBundle]:
        digest = config_hash(config)
        deployed = {"config": config.model_dump(mode="json"), "hash": digest}
        self.ledger.append(f"{self.model}/config", "config.deployed", f"{self.model}/config/{digest}", deployed)
        by_address = {}
        for version, bundle in bundles.items():
            ref = bundle.save(self.files)
            by_address[ref.uri] = bundle
            payload = {"version": version, "bundle": ref.uri, "bundle_hash": ref.hash, "data_end_us": data_end_us}
            payload |= {"gate": {"passed": True, "reason": "made for a benchmark"}, "metrics": {}}
            key = f"{self.model}/versions/{version}"
            self.ledger.append(f"{self.model}/versions", "version.registered", key, payload)
        (address, champion), first = next(iter(by_address.items())), next(iter(bundles))
        routes = ModelRoutes(self.model, 0, Arm(first, address, champion.hash), config_hash=digest)
        commit_routes(self.ledger, routes, 0)
        return by_address

    async def _publish(self) -> None:
        gateway = getattr(self, "_gateway", None)
        current = LoadedTable() if gateway is None else gateway.table
        table = await self._loader.load(read_table(self.ledger), current)
        if gateway is not None:
            gateway.table = table
