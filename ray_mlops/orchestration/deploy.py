"""Put a version behind HTTP, or take a model out of service. Routes are data; nothing is restarted."""

import logging
from dataclasses import dataclass, replace

import ray

from ray_mlops.config import ProjectConfig, config_hash
from ray_mlops.errors import GateRefusedError, ModelNotFoundError, RolloutError
from ray_mlops.ledger import Ledger, approvals, current_routes, registered_versions
from ray_mlops.monitoring.actor import start_monitor
from ray_mlops.orchestration.phases import OnPhase, silent
from ray_mlops.orchestration.service import SUBMITTER, ensure_service, wait_for_version
from ray_mlops.registry import MlflowRegistry
from ray_mlops.runtime.files import Files
from ray_mlops.serving.arm_start import start_arm
from ray_mlops.serving.auth import TOKENS_FILE
from ray_mlops.serving.protocol import Arm, ModelRoutes, Placement
from ray_mlops.serving.routes import commit_routes, start_routes, withdraw_routes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where a model answers."""

    model: str
    version: str
    url: str
    token_file: str
    """A path, or a URI where the store is object storage."""
    grpc_port: int | None = None
    """Of the Open Inference Protocol over gRPC, on the same host; None where it is off (``serving.grpc_port``)."""

    def urls(self) -> dict[str, str]:
        """Addresses for people."""
        host = self.url.partition("://")[2].rpartition(":")[0]
        grpc = {} if self.grpc_port is None else {"grpc": f"{host}:{self.grpc_port}"}
        return {
            "predict": f"{self.url}/models/{self.model}/predict",
            "infer": f"{self.url}/v2/models/{self.model}/infer",
            **grpc,
            "rollout": f"{self.url}/models/{self.model}/rollout",
            "monitoring": f"{self.url}/models/{self.model}/monitoring",
            "console": f"{self.url}/console",
            "metrics": f"{self.url}/metrics",
            "openapi": f"{self.url}/openapi.json",
        }


def deploy(config: ProjectConfig, version: str | None = None, *, on_phase: OnPhase = silent) -> Deployment:
    """Start the service where it is not running, and give the model its champion.

    A model without a champion gets one at once. A model that has one keeps it, and gets the present
    configuration; another version starts a rollout (``ray-mlops rollout start``), never a switch.

    Args:
        config: The configuration; it is recorded and in force from now on.
        version: The version; None takes the champion, else the newest that passed the gate.
        on_phase: Progress.

    Raises:
        ModelNotFoundError: No version passed the gate yet, or there is none of this number.
        GateRefusedError: This version was refused, or waits for approval.
        RolloutError: Another version is champion, or its runtime environment cannot be built.
        ClusterError: With ``serving.placement: deployment``, the champion's application failed to start, or there is
            no room for it.
    """
    ledger = Ledger.open(config.store)
    routes = current_routes(ledger)["models"].get(config.name)
    present = None if routes is None else ModelRoutes.from_json(routes)
    chosen = _first_champion(config, ledger, version) if present is None else _unchanged(present, version)
    on_phase("serve", "gateway")
    address = ensure_service(config)
    on_phase("serve", "routes")
    _record_config(ledger, config)
    wanted = _routes(config, chosen, present)
    if present is None or wanted != present:
        if wanted.champion.placement == "isolated":
            on_phase("serve", "champion")
            start_arm(config.name, wanted.champion.version, wanted.champion.bundle, config, weight=1.0)
        before = ledger.last_version(f"{config.name}/routes")
        wanted = commit_routes(ledger, wanted, expect_version=before)
        ray.get(start_routes(config.store).publish.remote(), timeout=config.cluster.step_timeout_s)
    MlflowRegistry(config.store.tracking_uri).set_alias(config.name, "champion", wanted.champion.version)
    key = f"{config.name}/versions/alias/champion/{wanted.version}"
    payload = {"alias": "champion", "version": wanted.champion.version}
    ledger.append(f"{config.name}/versions", "alias.set", key, payload)
    on_phase("serve", "replicas")
    wait_for_version(address, config.name, wanted.champion.version, config.cluster.step_timeout_s)
    on_phase("serve", "monitor")
    monitor = start_monitor(config.store, SUBMITTER)
    ray.get(monitor.watch.remote(config.name), timeout=config.cluster.step_timeout_s)
    logger.info("deployed model=%s version=%s url=%s", config.name, wanted.champion.version, address.url)
    return Deployment(
        config.name,
        wanted.champion.version,
        address.url,
        Files(config.store.root_uri).uri(TOKENS_FILE),
        address.grpc_port,
    )


def undeploy(config: ProjectConfig, model: str) -> None:
    """Take a model out of service. Its versions, logs and decisions stay.

    Raises:
        ModelNotFoundError: It is not deployed.
    """
    ledger = Ledger.open(config.store)
    if model not in current_routes(ledger)["models"]:
        known = ", ".join(current_routes(ledger)["models"]) or "none"
        raise ModelNotFoundError(f"model {model!r} is not deployed", "routes", f"deployed: {known}")
    withdraw_routes(ledger, model, expect_version=ledger.last_version(f"{model}/routes"))
    ray.get(start_routes(config.store).publish.remote(), timeout=config.cluster.step_timeout_s)
    monitor = start_monitor(config.store, SUBMITTER)
    ray.get(monitor.forget.remote(model), timeout=config.cluster.step_timeout_s)


def _record_config(ledger: Ledger, config: ProjectConfig) -> None:
    content_hash = config_hash(config)
    payload = {"config": config.model_dump(mode="json"), "hash": content_hash}
    ledger.append(f"{config.name}/config", "config.deployed", f"{config.name}/config/{content_hash}", payload)


def _first_champion(config: ProjectConfig, ledger: Ledger, version: str | None) -> Arm:
    records = registered_versions(ledger, config.name)
    passed = [number for number, record in records.items() if record["gate"]["passed"]]
    if version is None and not passed:
        remedy = "train one with 'ray-mlops run'" if not records else "see 'ray-mlops versions' for what was refused"
        raise ModelNotFoundError("no version has passed the gate", config.name, remedy)
    chosen = passed[-1] if version is None else version
    if chosen not in records:
        raise ModelNotFoundError(f"no version {chosen!r}", config.name, f"registered: {', '.join(records) or 'none'}")
    gate = records[chosen]["gate"]
    if not gate["passed"]:
        raise GateRefusedError(f"version {chosen} was refused: {gate['reason']}", config.name, "serve another version")
    if config.gate.require_approval and chosen not in approvals(ledger, config.name):
        remedy = f"ray-mlops approve {chosen} --reason ..."
        raise GateRefusedError(f"version {chosen} waits for approval", config.name, remedy)
    return Arm(chosen, records[chosen]["bundle"], records[chosen]["bundle_hash"])


def _unchanged(present: ModelRoutes, version: str | None) -> Arm:
    if version not in (None, present.champion.version):
        problem = f"version {present.champion.version} is champion"
        raise RolloutError(problem, present.model, f"start a rollout: ray-mlops rollout start {version}")
    return present.champion


def _routes(config: ProjectConfig, champion: Arm, present: ModelRoutes | None) -> ModelRoutes:
    placement: Placement = "isolated" if config.serving.placement == "deployment" else "in_replica"
    placed = replace(champion, placement=placement)
    if present is None:
        return ModelRoutes(config.name, 0, placed, config_hash=config_hash(config))
    return replace(present, champion=placed, config_hash=config_hash(config))
