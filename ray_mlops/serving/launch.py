"""Start the gateway on a cluster, or find the one that is there."""

import logging
import os
import time
from dataclasses import dataclass

import httpx
import ray
from ray import serve
from ray.serve.schema import ApplicationStatus

from ray_mlops.config import ServingConfig, StoreConfig
from ray_mlops.errors import ClusterError, DeadlineError
from ray_mlops.runtime.environment import ingress_host, is_loopback
from ray_mlops.runtime.files import Files
from ray_mlops.runtime.ports import free_port
from ray_mlops.serving.auth import load_tokens
from ray_mlops.serving.deployment import GatewaySettings, gateway_application
from ray_mlops.serving.dialects.grpc_methods import SERVICER
from ray_mlops.serving.protocol import GATEWAY_APP, Hooks
from ray_mlops.serving.serve_apps import QUIET, app_status, run_app

logger = logging.getLogger(__name__)
START_TIMEOUT_S = 120.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class GatewayAddress:
    """Where the gateway listens."""

    url: str
    port: int
    replicas: int
    grpc_port: int | None = None
    """None: gRPC is off."""


def launch_gateway(
    store: StoreConfig, serving: ServingConfig, hooks: Hooks, timeout_s: float = START_TIMEOUT_S
) -> GatewayAddress:
    """Deploy the gateway once for each cluster; a further call only returns its address.

    Ray must be connected. Models come and go by their routes, never by another call of this.

    Args:
        store: The store; its ledger has the routes.
        serving: Host, port, replicas and limits.
        hooks: What the layers above implement.
        timeout_s: Deadline until the gateway answers over HTTP.

    Raises:
        ClusterError: It failed to start, or the gateway that is there works with another ledger.
        DeadlineError: It does not answer in time.
    """
    deadline = time.monotonic() + timeout_s
    found = _find(store, deadline)
    if found is not None:
        if serving.grpc_port is not None and found.grpc_port is None:
            logger.warning("gRPC stays off: Serve runs without it remedy=stop the cluster, and start with it")
        return found
    load_tokens(Files(store.root_uri))
    if serving.predict_auth == "open" and not is_loopback(serving.host):
        logger.warning("open to every host host=%s remedy=set serving.predict_auth to token", serving.host)
    taken = _with_free_ports(serving)
    start_serve(taken)
    url = f"http://{_reachable(serving.host)}:{taken.port}"
    settings = GatewaySettings(store, taken, hooks, url)
    run_app(gateway_application(settings), GATEWAY_APP, "/", deadline - time.monotonic())
    _wait_for_answer(url, deadline)
    logger.info("started gateway url=%s grpc_port=%s replicas=%d", url, taken.grpc_port, serving.num_replicas)
    return GatewayAddress(url, taken.port, serving.num_replicas, taken.grpc_port)


def start_serve(serving: ServingConfig) -> None:
    """Start Serve with its ingress of HTTP, and of gRPC where that is on; nothing happens when it runs already.

    Raises:
        ClusterError: The host cannot be served behind HAProxy.
    """
    node_ip = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    host = ingress_host(serving.host, node_ip, os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1")
    timeout_s = serving.request_timeout_s + 5.0
    http = {"host": host, "port": serving.port, "request_timeout_s": timeout_s}
    grpc = None
    if serving.grpc_port is not None:
        # Without reflection: it would list our messages, which are not in the pool that it looks into.
        grpc = {
            "port": serving.grpc_port,
            "grpc_servicer_functions": [SERVICER],
            "request_timeout_s": timeout_s,
            "enable_reflection": False,
        }
    serve.start(proxy_location="HeadOnly", http_options=http, grpc_options=grpc, logging_config=QUIET)


def shutdown_gateway() -> None:
    """Stop Serve on this cluster, and all that it runs; nothing happens when it does not run."""
    serve.shutdown()  # type: ignore[no-untyped-call]


def _with_free_ports(serving: ServingConfig) -> ServingConfig:
    """The same configuration with the ports that are taken: those asked for, or the next free ones."""
    ports = {"port": serving.port}
    if serving.grpc_port is not None:
        ports["grpc_port"] = serving.grpc_port
    for name, wanted in ports.items():
        ports[name] = free_port(wanted, serving.host)
        if name == "grpc_port" and ports[name] == ports["port"]:
            ports[name] = free_port(ports["port"] + 1, serving.host)
        if wanted not in (0, ports[name]):
            logger.warning("port in use setting=%s wanted=%d taken=%d", name, wanted, ports[name])
    return ServingConfig.model_validate({**serving.model_dump(), **ports})


def _find(store: StoreConfig, deadline: float) -> GatewayAddress | None:
    status, _ = app_status(GATEWAY_APP)
    if status is None:
        return None
    while status in (ApplicationStatus.DEPLOYING, ApplicationStatus.NOT_STARTED):
        if time.monotonic() > deadline:
            raise DeadlineError("another launcher's gateway does not come up", GATEWAY_APP, "see 'serve status'")
        time.sleep(POLL_S)
        status, _ = app_status(GATEWAY_APP)
    if status != ApplicationStatus.RUNNING:
        return None
    handle = serve.get_app_handle(GATEWAY_APP)
    # In throughput mode a handle's router would live in the caller's event loop, and a caller may have none.
    # (A loop made for this one call will not do: serve.shutdown() then fails on a router whose loop is closed.)
    if not handle.is_initialized:
        handle._init(_run_router_in_separate_loop=True)  # type: ignore[no-untyped-call]
    described = handle.describe.remote().result(timeout_s=max(1.0, deadline - time.monotonic()))
    if described["database"] != store.database_url:
        problem = f"the gateway of this cluster works with {described['database']}, not {store.database_url}"
        raise ClusterError(problem, "store.database", "use the same ledger, or a cluster of its own")
    _wait_for_answer(described["url"], deadline)
    replicas = serve.status().applications[GATEWAY_APP].deployments["Gateway"].replica_states
    port = int(described["url"].rpartition(":")[2])
    return GatewayAddress(described["url"], port, sum(replicas.values()), described["grpc_port"])


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::", "localhost") else host


def _wait_for_answer(url: str, deadline: float) -> None:
    """Ask the port that users use: behind HAProxy, Serve calls an application running before it is reachable."""
    reason = ""
    with httpx.Client(timeout=2.0, trust_env=False) as client:
        while time.monotonic() < deadline:
            try:
                response = client.get(f"{url}/healthz")
                if response.status_code == 200:
                    return
                reason = f"HTTP {response.status_code}: {response.text[:200]}"
            except httpx.TransportError as error:
                reason = repr(error)
            time.sleep(POLL_S)
    remedy = "was Serve running before, with another port? see the log of its proxy"
    raise DeadlineError(f"the gateway does not answer: {reason}", url, remedy)
